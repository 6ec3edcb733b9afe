//! Source lines through DWARF.

use std::fs;
use std::path::Path;

use incise_image::{Image, LinkAddr, Module, debug_file_candidates};

/// Source lines by address.
pub struct Lines(addr2line::Loader);

/// Where debug files of installed programs are.
const ROOTS: [&str; 1] = ["/usr/lib/debug"];

impl Lines {
    /// The lines that the program or debug file at `path` tells; `None` if it cannot be read.
    pub fn open(path: &Path) -> Option<Lines> {
        addr2line::Loader::new(path).ok().map(Lines)
    }

    /// Those of a module of process `pid` (or of a file): in itself, or in its debug file.
    pub(super) fn of(module: &Module, pid: Option<&str>) -> Option<Lines> {
        let image = &module.image;
        let rooted = pid.map(|pid| format!("/proc/{pid}/root{}", module.path));
        let own: Vec<String> = rooted.into_iter().chain([module.path.clone()]).collect();
        let apart = debug_file_candidates(&module.path, image.build_id(), image.debug_link(), &ROOTS);
        let has_lines = |path: &String| {
            let Ok(file) = fs::read(path) else { return false };
            let same = Image::parse(&file).is_ok_and(|found| found.build_id() == image.build_id());
            // The names of sections come last in a file.
            const NAME: &[u8] = b".debug_line\0";
            same && file.windows(NAME.len()).rev().any(|bytes| bytes == NAME)
        };
        let path = own.into_iter().chain(apart).find(has_lines)?;
        Lines::open(Path::new(&path))
    }

    /// File and line of the instruction at `at`.
    pub fn at(&self, at: LinkAddr) -> Option<(String, u32)> {
        let location = self.0.find_location(at.0).ok()??;
        Some((location.file?.to_owned(), location.line?))
    }
}
