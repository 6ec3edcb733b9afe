//! Our own pages in the target: one of code (the injected system call, the trap handler), one of data (the
//! handler's header). They are far away from all code of the program, where no trampoline has to be.

use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use incise_image::{Mapping, MemoryMap};
use incise_isa::Addr;

use super::inject::Caller;
use super::intent;
use super::memory::{Memory, PAGE};
use super::procfs;
use super::ptrace::Tid;
use super::tracees::{MemoryId, Tracees};
use super::x86_64;
use crate::trap::{self, TrapHeader};
use crate::{SpaceError, faults};

/// Where our pages are, and what is in them.
#[derive(Clone, Debug)]
pub(super) struct Runtime {
    /// The first of two pages: code, then data.
    base: Addr,
    /// The table of landings in force.
    pub(super) table: Option<Range<Addr>>,
    /// Tables that were in force before, not unmapped yet.
    pub(super) retired: Vec<Range<Addr>>,
    /// The trap handler is in force.
    pub(super) handling: bool,
}

/// Offset in the code page of memory for the arguments of injected calls.
const ARGUMENTS: u64 = 128;
/// Offset in the code page of the trap handler.
const HANDLER: u64 = 512;

/// How often, a millisecond apart, a thread that can make system calls is looked for.
pub(super) const RETRIES: usize = 100;

impl Runtime {
    /// Pages at `base`, without a handler.
    pub(super) fn at(base: Addr) -> Runtime {
        Runtime { base, table: None, retired: Vec::new(), handling: false }
    }

    /// Where system calls are injected.
    pub(super) fn blob(&self) -> Addr {
        self.base
    }

    /// Memory for what an argument of an injected call points to: 384 bytes, read-only for the target.
    pub(super) fn arguments(&self) -> Addr {
        self.base + ARGUMENTS
    }

    /// Where the image of the trap handler is.
    pub(super) fn handler(&self) -> Addr {
        self.base + HANDLER
    }

    /// Where the trap handler's header is.
    pub(super) fn header(&self) -> Addr {
        self.base + PAGE
    }

    /// Whether the trap handler is in the pages.
    pub(super) fn has_handler(&self, memory: &Memory) -> bool {
        let image = trap::handler_image(self.header());
        memory.read_vec(self.handler(), image.len()).is_ok_and(|there| there == image)
    }

    /// All pages.
    pub(super) fn range(&self) -> Range<Addr> {
        self.base.span(2 * PAGE)
    }
}

impl Tracees {
    /// Calls `work` with a thread that can make system calls; all threads of `memory` stand still meanwhile.
    pub(super) fn with_caller<R>(
        &mut self,
        memory: MemoryId,
        work: impl FnOnce(&mut Caller<'_>, &Runtime) -> Result<R, SpaceError>,
    ) -> Result<R, SpaceError> {
        let mut work = Some(work);
        let mut retries = RETRIES;
        loop {
            self.hold(memory)?;
            let result = self.runtime(memory).and_then(|runtime| {
                let mut caller = self.caller(memory, runtime.blob())?;
                match work.take() {
                    Some(work) => work(&mut caller, &runtime).map(Some),
                    None => Ok(None),
                }
            });
            self.release(memory);
            match result {
                Ok(Some(result)) => return Ok(result),
                Err(error) if !is_busy(&error) || work.is_none() || retries == 0 => return Err(error),
                _ => retries -= 1,
            }
            thread::sleep(Duration::from_millis(1));
            self.take_reports_on(memory);
        }
    }

    /// Our pages, made if need be. The threads are stopped.
    pub(super) fn runtime(&mut self, memory: MemoryId) -> Result<Runtime, SpaceError> {
        if let Some(runtime) = &self.target(memory)?.runtime {
            return Ok(runtime.clone());
        }
        let map = self.memory_map(memory)?;
        let base = far_hole(&map, 2 * PAGE, PAGE)?;
        let runtime = Runtime::at(base);
        let mut mapped = false;
        let result = self.with_caller_in_slack(memory, |caller| {
            if let Some(range) = caller.blank_pages(&map) {
                caller.unmap(range.start, range.end.offset_from(range.start) as u64)?;
            }
            let (code, data) = (base, base + PAGE);
            caller.announce_pages(base)?;
            caller.map(code, PAGE, libc::PROT_READ | libc::PROT_EXEC)?;
            caller.map(data, PAGE, libc::PROT_READ | libc::PROT_WRITE).inspect_err(|_| {
                drop(caller.unmap(code, PAGE));
            })?;
            mapped = true;
            // From here on they are known by this.
            caller.copy_to(base)
        });
        if mapped {
            self.target_mut(memory)?.runtime = Some(runtime.clone());
        }
        result.map(|()| runtime)
    }

    /// Where pages of earlier tracers are.
    pub(super) fn left_runtimes(&self, memory: MemoryId) -> Result<Vec<Addr>, SpaceError> {
        let target = &self.target(memory)?.memory;
        Ok(blobs(&self.memory_map(memory)?, target).iter().map(|blob| blob.start).collect())
    }

    /// Those of them that have no handler in them yet, or no landings any more.
    pub(super) fn idle_runtimes(&self, memory: MemoryId) -> Result<Vec<Addr>, SpaceError> {
        let target = &self.target(memory)?.memory;
        let mut left = self.left_runtimes(memory)?;
        left.retain(|base| {
            let runtime = Runtime::at(*base);
            !runtime.has_handler(target)
                || target.read_u64(runtime.header() + TrapHeader::TABLE as u64).is_ok_and(|table| table == 0)
        });
        Ok(left)
    }

    /// Calls `work` with a thread that can make system calls, outside our own pages. The threads are stopped.
    ///
    /// # Errors
    /// [`SpaceError::Busy`] if an earlier tracer was killed a moment ago while a thread made a call for it,
    /// and the thread still is about to: that call would come between ours.
    pub(super) fn with_caller_in_slack(
        &mut self,
        memory: MemoryId,
        work: impl FnOnce(&mut Caller<'_>) -> Result<(), SpaceError>,
    ) -> Result<(), SpaceError> {
        let target = Rc::clone(&self.target(memory)?.memory);
        let map = self.memory_map(memory)?;
        let slack = slack(&map, &target)?;
        let mut calls = blobs(&map, &target);
        if self.target(memory)?.runtime.is_some() {
            // Only this is about to be overwritten; whose the others are was asked before.
            calls.clear();
        }
        calls.push(slack.span(x86_64::BLOB_LEN as u64));
        calls.sort_by_key(|range| range.start);
        let quiescent = self.quiescent(memory, &calls)?;
        if let Some((range, _)) = calls.iter().zip(quiescent).find(|(_, quiescent)| !quiescent) {
            return Err(SpaceError::Busy { at: range.start });
        }
        let before = intent::without_note(target.read_vec(slack, intent::SLACK_LEN)?);
        let result = self.caller(memory, slack).and_then(|mut caller| work(&mut caller));
        let stopped = self.live_thread(memory)?;
        let restored = target.write(slack, &before, Some(stopped));
        result.and(restored.or_else(|_| target.write(slack, &before, Some(stopped))))
    }

    /// The mappings of a memory.
    pub(super) fn memory_map(&self, memory: MemoryId) -> Result<MemoryMap, SpaceError> {
        faults::trip().map_err(|errno| SpaceError::system("reading the memory map", errno))?;
        let maps = |tid: Tid| procfs::text(&format!("/proc/{}/maps", tid.0)).ok();
        // A thread that is ending has no mappings before its end is told.
        let text = self.live_threads(memory).into_iter().filter_map(maps).find(|text| !text.is_empty());
        Ok(MemoryMap::parse(&text.ok_or_else(|| memory.gone())?))
    }
}

pub(super) fn is_busy(error: &SpaceError) -> bool {
    match error {
        SpaceError::Busy { .. } => true,
        SpaceError::System { source, .. } => source.raw_os_error() == Some(libc::EBUSY),
        _ => false,
    }
}

/// A hole of `len` bytes, beginning at a multiple of `align`, as far as can be from all executable memory.
pub(super) fn far_hole(map: &MemoryMap, len: u64, align: u64) -> Result<Addr, SpaceError> {
    // User space ends at 2^47 (47-bit addresses are all that mmap gives without being asked for more).
    const LOW: Addr = Addr(1 << 32);
    const HIGH: Addr = Addr((1 << 47) - (1 << 21));
    let code: Vec<Addr> =
        map.iter().filter(|mapping| mapping.permissions.execute).map(|mapping| mapping.range.start).collect();
    let distance =
        |at: Addr| code.iter().map(|&c| at.offset_from(c).unsigned_abs()).min().unwrap_or(u64::MAX);
    let candidates = map.holes(LOW, HIGH).filter_map(|hole| {
        let room = hole.end.0.checked_sub(hole.start.align_up(align).0)?.checked_sub(len)?;
        Some((hole.start.align_up(align) + room / 2).align_down(align))
    });
    candidates.max_by_key(|&at| distance(at)).ok_or_else(|| {
        SpaceError::system("finding free addresses", io::Error::from_raw_os_error(libc::ENOMEM))
    })
}

/// The code for injected calls in the pages of earlier tracers.
fn blobs(map: &MemoryMap, memory: &Memory) -> Vec<Range<Addr>> {
    let ours = |mapping: &&Mapping| {
        let permissions = mapping.permissions;
        let mut code = [0; x86_64::BLOB_LEN];
        permissions.execute
            && !permissions.write
            && mapping.inode == 0
            && memory.read(mapping.range.start, &mut code).is_ok()
            && x86_64::is_blob(&code)
    };
    map.iter().filter(ours).map(|mapping| mapping.range.start.span(x86_64::BLOB_LEN as u64)).collect()
}

/// Executable bytes that belong to no code: behind the end of what the file of a mapping has for its last
/// page. The vdso always has some.
fn slack(map: &MemoryMap, memory: &Memory) -> Result<Addr, SpaceError> {
    let private = map.iter().filter(|m| m.permissions.execute && !m.permissions.shared);
    let vdso = private.clone().filter(|m| *m.name == *"[vdso]");
    vdso.chain(private.filter(|m| m.inode != 0))
        .find_map(|mapping| {
            let first = match &*mapping.name {
                "[vdso]" => mapping,
                _ => map
                    .iter()
                    .find(|m| m.inode == mapping.inode && m.device == mapping.device && m.file_offset == 0)?,
            };
            let end = content_end(memory, first.range.start, mapping.file_offset)?;
            let behind = mapping.range.start + end.checked_sub(mapping.file_offset)?;
            let behind = (behind + 16).align_up(16);
            let room = mapping.range.end.offset_from(behind);
            (room >= intent::SLACK_LEN as i64 && room < PAGE as i64).then_some(behind)
        })
        .ok_or_else(|| {
            let full = io::Error::from_raw_os_error(libc::ENOSPC);
            SpaceError::system("finding room for the first injected system call", full)
        })
}

/// The file offset behind all that the ELF file mapped at `base` has for the executable segment that begins
/// in the page `offset`: its last byte, and for the vdso (offset 0) also its section headers (ELF
/// specification, file header and program headers).
fn content_end(memory: &Memory, base: Addr, offset: u64) -> Option<u64> {
    const PT_LOAD: u32 = 1;
    const PF_X: u32 = 1;
    let header = memory.read_vec(base, 64).ok()?;
    let half = |at: usize| Some(u64::from(u16::from_le_bytes(header.get(at..at + 2)?.try_into().ok()?)));
    let word = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (programs, count, sections) = (word(32)?, half(56)?.min(64), word(40)?);
    let sections_end = sections.checked_add(half(58)? * half(60)?)?;
    let mut end = None;
    for index in 0..count {
        let program = memory.read_vec(base + programs + index * 56, 56).ok()?;
        let word = |at: usize| Some(u64::from_le_bytes(program.get(at..at + 8)?.try_into().ok()?));
        let (kind, flags) = (word(0)? as u32, (word(0)? >> 32) as u32);
        let (from, size) = (word(8)?, word(32)?);
        if kind == PT_LOAD && flags & PF_X != 0 && from & !(PAGE - 1) == offset {
            let sections_end = if offset == 0 { sections_end } else { 0 };
            end = Some(from.checked_add(size)?.max(sections_end));
        }
    }
    end
}
