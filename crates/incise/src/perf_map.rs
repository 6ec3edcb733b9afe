//! Trampolines in the file where perf(1) looks for code that belongs to no file: /tmp/perf-PID.map, a line
//! `ADDRESS SIZE NAME` for each (Linux, tools/perf/Documentation/jit-interface.txt).

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use incise_isa::Addr;
use incise_patch::Engine;
use rustc_hash::FxHashSet;

use crate::program::Program;

/// The map of one process.
pub(crate) struct PerfMap {
    file: BufWriter<File>,
    written: FxHashSet<Addr>,
}

/// A file in a folder that is everyone's, to append to: nobody may lead it elsewhere.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    options.open(path)
}

/// The function that holds `site`, or the address.
pub(crate) fn name(program: &Program, site: Addr) -> String {
    let found = program.module_at(site).and_then(|module| {
        let (function, _) = module.function_at(site)?;
        let name = module.image.names(function).next()?.text.to_owned();
        Some(name)
    });
    found.unwrap_or_else(|| format!("{:#x}", site.0))
}

/// Where the map of a process is.
pub(crate) fn path(pid: i32) -> PathBuf {
    PathBuf::from(format!("/tmp/perf-{pid}.map"))
}

impl PerfMap {
    /// The map of `pid`. One that is there is continued if the process was running before, and may have written it; else it
    /// is left over from an earlier process.
    pub(crate) fn open(pid: i32, running: bool) -> io::Result<PerfMap> {
        let file = create(&path(pid))?;
        if !running {
            file.set_len(0)?;
        }
        Ok(PerfMap { file: BufWriter::new(file), written: FxHashSet::default() })
    }

    /// Adds the trampolines that are not in it yet.
    pub(crate) fn add(&mut self, engine: &Engine, program: &Program) -> io::Result<()> {
        for (range, site) in engine.trampolines() {
            if !self.written.insert(range.start) {
                continue;
            }
            let name = name(program, site);
            let size = range.end.offset_from(range.start);
            writeln!(self.file, "{:x} {size:x} incise:{name}", range.start.0)?;
        }
        self.file.flush()
    }
}
