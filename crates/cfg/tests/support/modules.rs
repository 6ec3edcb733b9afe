//! The files a process has mapped.

use std::ops::Range;
use std::sync::Arc;

use incise_image::{Image, Mapping, MemoryMap};

/// The executable mappings of files of process `pid`: range, bias, path.
pub fn mapped(pid: i32) -> Vec<(Range<u64>, u64, String)> {
    let map = MemoryMap::parse(&std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default());
    let mut images = |mapping: &Mapping| {
        let file = std::fs::read(&*mapping.name).ok()?;
        Image::parse(&file).ok().map(Arc::new)
    };
    let modules = incise_image::modules(&map, &mut images);
    let ranges = modules.iter().flat_map(|module| {
        let of =
            |range: &Range<incise_isa::Addr>| (range.start.0..range.end.0, module.bias, module.path.clone());
        module.text.iter().map(of).collect::<Vec<_>>()
    });
    ranges.collect()
}
