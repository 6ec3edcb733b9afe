//! Debugging information of modules, read when it is first asked for.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use incise_image::dwarf::DebugInfo;
use incise_image::{Image, Module, debug_file_candidates};

use crate::flow::contents;

/// Where debug files of installed programs are.
const ROOTS: [&str; 1] = ["/usr/lib/debug"];

/// A file: its path and build-id.
type Key = (String, Option<Vec<u8>>);

/// What was read so far.
#[derive(Default)]
pub(crate) struct DebugFiles(HashMap<Key, Option<Arc<DebugInfo>>>);

impl DebugFiles {
    /// That of a module of process `pid`: in its own file, or apart.
    pub(super) fn of(&mut self, module: &Module, pid: Option<&str>) -> Option<Arc<DebugInfo>> {
        let key: Key = (module.path.clone(), module.image.build_id().map(<[u8]>::to_vec));
        self.0.entry(key).or_insert_with(|| read(module, pid).map(Arc::new)).clone()
    }
}

fn read(module: &Module, pid: Option<&str>) -> Option<DebugInfo> {
    if let Some(info) = contents(module, pid).and_then(|file| DebugInfo::parse(&file).ok()) {
        return Some(info);
    }
    let image = &module.image;
    let apart = debug_file_candidates(&module.path, image.build_id(), image.debug_link(), &ROOTS);
    let same = |file: &Vec<u8>| {
        let id = Image::parse(file).ok().and_then(|found| found.build_id().map(<[u8]>::to_vec));
        // Without an id in the program, the name has to do.
        image.build_id().is_none_or(|own| id.as_deref() == Some(own))
    };
    let files = apart.into_iter().filter_map(|path| fs::read(path).ok()).filter(same);
    files.filter_map(|file| DebugInfo::parse(&file).ok()).next()
}
