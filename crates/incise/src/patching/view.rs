//! What can be looked at: the memory of a program, in a file or in a process.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use incise_image::{MemoryMap, MemoryReader, Permissions};
use incise_isa::Addr;
use incise_isa::native::{Insn, MAX_INSN_LEN, decode};

use super::on_disk::file_patches;
use super::{Patch, PatchError};
use crate::{Images, Program};

/// A stretch of readable memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Region {
    /// The addresses.
    pub range: Range<Addr>,
    /// What is allowed.
    pub permissions: Permissions,
    /// The file, or a name in brackets; empty for anonymous memory.
    pub name: String,
}

/// Of memory that is zero when a program begins, so many bytes are shown of each segment of a file.
const ZEROES_MAX: u64 = 1 << 20;

enum Memory {
    /// The file's bytes, and where each segment has which of them.
    File(Vec<u8>, Vec<(Addr, Range<usize>)>),
    /// /proc/PID/mem
    Process(File),
}

/// A program to look at. Addresses of a file are those it is linked at.
pub struct View {
    program: Program,
    regions: Vec<Region>,
    memory: Memory,
    pid: Option<i32>,
    /// The patches that a file carries.
    noted: Vec<Patch>,
}

impl View {
    /// A file.
    ///
    /// # Errors
    /// If it cannot be read, or is no x86-64 program or library.
    pub fn of_file(path: &Path) -> Result<View, PatchError> {
        let bytes = fs::read(path).map_err(|source| PatchError::File { path: path.to_owned(), source })?;
        let noted = file_patches(path).unwrap_or_default();
        Ok(View::of_bytes(path, &bytes)?.with_patches(noted))
    }

    /// The same, with these patches in it.
    pub(super) fn with_patches(self, noted: Vec<Patch>) -> View {
        View { noted, ..self }
    }

    /// The patches that a file carries.
    pub(super) fn noted(&self) -> &[Patch] {
        &self.noted
    }

    /// The contents of a file.
    ///
    /// # Errors
    /// If it is no x86-64 program or library.
    pub fn of_bytes(path: &Path, bytes: &[u8]) -> Result<View, PatchError> {
        let program = Program::of_file(path, bytes)
            .map_err(|source| PatchError::Image { path: path.to_owned(), source })?;
        let (mut regions, mut memory) = (Vec::new(), Vec::new());
        for module in program.modules() {
            for segment in module.image.segments().iter().filter(|segment| segment.mem_size > 0) {
                let start = Addr(segment.link.0);
                let stored = module.image.bytes_at(bytes, segment.link, segment.file_size).unwrap_or(&[]);
                let offset = stored.as_ptr().addr().wrapping_sub(bytes.as_ptr().addr());
                memory.push((start, offset..offset.wrapping_add(stored.len())));
                // What a damaged file says of the rest may be anything.
                let len = segment.mem_size.min(stored.len() as u64 + ZEROES_MAX);
                let (range, name) = (start.span(len), module.path.clone());
                regions.push(Region { range, permissions: segment.permissions, name });
            }
        }
        Ok(View {
            program,
            regions,
            memory: Memory::File(bytes.to_vec(), memory),
            pid: None,
            noted: Vec::new(),
        })
    }

    /// A running process.
    ///
    /// # Errors
    /// If there is none, or it may not be looked at.
    pub fn of_process(pid: i32) -> Result<View, PatchError> {
        View::process(pid, &|map, memory| {
            Program::of_map(map, &pid.to_string(), &mut Images::default(), memory)
        })
    }

    /// The memory of a running process, without names: its files are not read.
    ///
    /// # Errors
    /// If there is none, or it may not be looked at.
    pub(super) fn of_memory(pid: i32) -> Result<View, PatchError> {
        View::process(pid, &|_, _| Program::default())
    }

    fn process(
        pid: i32,
        program: &dyn Fn(&MemoryMap, &dyn MemoryReader) -> Program,
    ) -> Result<View, PatchError> {
        let failed = |error: io::Error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => "there is no such process".to_owned(),
                io::ErrorKind::PermissionDenied => {
                    "not permitted to look at it: run as its user, or as root".to_owned()
                }
                _ => format!("its memory cannot be read: {error}"),
            };
            PatchError::Process { pid, reason }
        };
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(failed)?;
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(failed)?;
        let read = |at: Addr, into: &mut [u8]| memory.read_exact_at(into, at.0).is_ok();
        let map = MemoryMap::parse(&maps);
        let program = program(&map, &read);
        let readable =
            map.iter().filter(|mapping| mapping.permissions.read && !mapping.name.starts_with("[vvar"));
        let regions = readable.map(|mapping| Region {
            range: mapping.range.clone(),
            permissions: mapping.permissions,
            name: mapping.name.to_string(),
        });
        let (regions, memory) = (regions.collect(), Memory::Process(memory));
        Ok(View { regions, program, memory, pid: Some(pid), noted: Vec::new() })
    }

    /// The modules.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Readable memory, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The process, if it is one.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// The region that holds `at`.
    pub fn region(&self, at: Addr) -> Option<&Region> {
        let index = self.regions.partition_point(|region| region.range.end <= at);
        self.regions.get(index).filter(|region| region.range.contains(&at))
    }

    /// Whether instructions may be at `at`.
    pub fn is_code(&self, at: Addr) -> bool {
        self.region(at).is_some_and(|region| region.permissions.execute)
    }

    /// Up to `most` bytes from `at` on: as many as there are.
    pub fn bytes(&self, at: Addr, most: usize) -> Vec<u8> {
        let mut end = at;
        let limit = Addr(at.0.saturating_add(most as u64));
        while end < limit {
            let Some(region) = self.region(end) else { break };
            end = region.range.end.min(limit);
        }
        let mut bytes = vec![0; end.offset_from(at) as usize];
        if self.read(at, &mut bytes) { bytes } else { Vec::new() }
    }

    /// The `len` bytes at `at`, with up to `margin` bytes on either side, as many as there are; and where they begin.
    pub(super) fn bytes_around(&self, at: Addr, len: usize, margin: u64) -> (Addr, Vec<u8>) {
        let before = (0..=margin.min(at.0)).rev();
        let from = before.map(|back| (at - back, back as usize + len + margin as usize));
        let mut whole = from.map(|(start, most)| (start, self.bytes(start, most)));
        let covers = |(start, bytes): &(Addr, Vec<u8>)| at < *start + bytes.len() as u64;
        whole.find(covers).unwrap_or((at, Vec::new()))
    }

    /// The quadword at `at`.
    pub fn quadword(&self, at: Addr) -> Option<u64> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes).then(|| u64::from_le_bytes(bytes))
    }

    /// The instruction at `at`.
    ///
    /// # Errors
    /// If nothing is mapped there, or the bytes are none.
    pub fn insn(&self, at: Addr) -> Result<Insn, PatchError> {
        let bytes = self.bytes(at, MAX_INSN_LEN);
        if bytes.is_empty() {
            return Err(PatchError::Unmapped { at });
        }
        decode(&bytes, at).map_err(|_| PatchError::NoInstruction { at })
    }
}

impl MemoryReader for View {
    fn read(&self, at: Addr, into: &mut [u8]) -> bool {
        match &self.memory {
            Memory::Process(file) => file.read_exact_at(into, at.0).is_ok(),
            Memory::File(file, segments) => {
                let wanted = at..Addr(at.0.saturating_add(into.len() as u64));
                into.fill(0);
                let inside =
                    |region: &&Region| region.range.start < wanted.end && wanted.start < region.range.end;
                let covered: u64 = self
                    .regions
                    .iter()
                    .filter(inside)
                    .map(|region| {
                        let (start, end) =
                            (region.range.start.max(wanted.start), region.range.end.min(wanted.end));
                        end.offset_from(start) as u64
                    })
                    .sum();
                for (start, stored) in segments {
                    let Some(bytes) = file.get(stored.clone()) else { continue };
                    let skip = wanted.start.offset_from(*start);
                    let (from, to) =
                        if skip >= 0 { (skip as usize, 0) } else { (0, skip.unsigned_abs() as usize) };
                    if let (Some(bytes), Some(into)) = (bytes.get(from..), into.get_mut(to..)) {
                        let len = bytes.len().min(into.len());
                        into[..len].copy_from_slice(&bytes[..len]);
                    }
                }
                covered == into.len() as u64
            }
        }
    }
}
