//! Trampolines, with their code, in the file from which `perf inject --jit` makes ELF files: /tmp/jit-PID.dump (Linux,
//! tools/perf/Documentation/jitdump-specification.txt).
//!
//! perf learns of the file by a mapping of it in the process ([`RemoteSpace::show_file`]), and orders what is in it by CLOCK_MONOTONIC: samples
//! have to be recorded with `perf record -k mono`.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use incise_isa::Addr;
use incise_patch::Engine;
use incise_space::AddressSpace;
use incise_space::remote::RemoteSpace;
use rustc_hash::FxHashSet;

use crate::perf_map::{create, name};
use crate::program::Program;
use crate::session::Error;
use crate::wall::nanoseconds;

/// "JiTD", as a number of the machine.
const MAGIC: u32 = 0x4A69_5444;
const VERSION: u32 = 1;
/// Bytes of the header.
const HEADER: u32 = 40;
/// ELF: EM_X86_64.
const MACHINE: u32 = 62;
/// The kind of a record: code that is there now.
const JIT_CODE_LOAD: u32 = 0;
/// Bytes of such a record before the name.
const LOAD: usize = 16 + 40;

/// The dump of one process.
pub(crate) struct JitDump {
    path: PathBuf,
    file: File,
    pid: u32,
    written: FxHashSet<Addr>,
}

impl JitDump {
    /// A new dump of the process of `space`, which maps it.
    ///
    /// # Errors
    /// If the file cannot be written, or not be mapped.
    pub(crate) fn open(space: &mut RemoteSpace) -> Result<JitDump, Error> {
        let pid = space.pid().0 as u32;
        let path = PathBuf::from(format!("/tmp/jit-{pid}.dump"));
        let started = || -> io::Result<File> {
            let mut file = create(&path)?;
            file.set_len(0)?;
            file.write_all(&header(pid, nanoseconds()))?;
            Ok(file)
        };
        let file = started().map_err(|error| at(&path, error))?;
        let shown = CString::new(path.as_os_str().as_bytes()).map_err(|error| at(&path, error.into()))?;
        space.show_file(&shown)?;
        Ok(JitDump { path, file, pid, written: FxHashSet::default() })
    }

    /// Adds the trampolines that are not in it yet.
    ///
    /// # Errors
    /// If their code cannot be read, or the file not be written.
    pub(crate) fn add(
        &mut self,
        engine: &Engine,
        program: &Program,
        space: &RemoteSpace,
    ) -> Result<(), Error> {
        let mut records = Vec::new();
        for (range, site) in engine.trampolines() {
            if !self.written.insert(range.start) {
                continue;
            }
            let mut code = vec![0; range.end.offset_from(range.start) as usize];
            space.read(range.start, &mut code)?;
            let name = format!("incise:{}", name(program, site));
            let index = self.written.len() as u64;
            load(&mut records, self.pid, nanoseconds(), (range.start, &code), (index, &name));
        }
        self.file.write_all(&records).map_err(|error| at(&self.path, error))
    }
}

fn at(path: &Path, error: io::Error) -> Error {
    Error::Output(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn header(pid: u32, time: u64) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        [MAGIC, VERSION, HEADER, MACHINE, 0, pid].iter().flat_map(|word| word.to_le_bytes()).collect();
    // Then flags, none.
    bytes.extend([time, 0].iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// Appends the record of `code`, the index-th, whose name is `name`.
fn load(out: &mut Vec<u8>, pid: u32, time: u64, (start, code): (Addr, &[u8]), (index, name): (u64, &str)) {
    let len = LOAD + name.len() + 1 + code.len();
    out.extend([JIT_CODE_LOAD, len as u32].iter().flat_map(|word| word.to_le_bytes()));
    out.extend(time.to_le_bytes());
    // The process, and a thread of it.
    out.extend([pid, pid].iter().flat_map(|word| word.to_le_bytes()));
    out.extend([start.0, start.0, code.len() as u64, index].iter().flat_map(|word| word.to_le_bytes()));
    out.extend(name.bytes());
    out.push(0);
    out.extend(code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_as_long_as_they_say() {
        assert_eq!(header(7, 9).len(), HEADER as usize);
        let mut out = Vec::new();
        load(&mut out, 7, 9, (Addr(0x1000), &[0x90, 0xC3]), (1, "incise:f"));
        let word = |at: usize| u32::from_le_bytes(out[at..at + 4].try_into().expect("4 bytes"));
        assert_eq!((word(0), word(4) as usize), (JIT_CODE_LOAD, out.len()));
        assert_eq!(out[LOAD..], *b"incise:f\0\x90\xC3");
    }
}
