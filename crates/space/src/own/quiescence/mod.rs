//! Showing that no thread can run some code any more.
//!
//! The code is out of reach: no springboard and no landing leads into it. So a thread that is once seen
//! outside, with no address of the code in its registers or on its stack, never comes back, and
//! threads can be looked through one by one. A thread that such a thread creates is outside as well; one that was
//! created by a thread inside is listed by the time its creator is seen outside. So when a listing of
//! all threads shows none that was not looked through, all are outside.
//!
//! 1. List the threads. Those not seen before are looked through:
//! 2. the calling thread directly;
//! 3. a thread that sleeps in a system call from outside, without waking it ([`sleepers`]);
//! 4. the others by stopping each for a moment ([`stopper`]).
//! 5. Repeat until a listing shows no new thread.
//!
//! Not seen: the stack of a coroutine that no thread is on, and processes that share this memory without being its
//! threads. A thread in vfork(2) has lent its memory to such a process; then nothing is shown.
//!
//! # Safety
//! One system call without arguments.

mod scan;
mod sleepers;
mod stopper;

use std::collections::HashSet;
use std::ops::Range;

use incise_image::MemoryMap;
use incise_isa::Addr;

use crate::SpaceError;
use crate::sys::{self, Errno, File};
use scan::{Search, Span, Verdict};

/// How often threads are listed before it is given up.
const ROUNDS: usize = 16;

/// Which of `places` no thread's registers or stacks point into; `None` if that could not be shown. Each place
/// is a list of ranges.
pub(super) fn idle(
    places: &[Vec<Range<Addr>>],
    map: impl Fn() -> Result<MemoryMap, SpaceError>,
) -> Option<Vec<bool>> {
    let mut spans: Vec<Span> = Vec::new();
    for (index, place) in places.iter().enumerate() {
        spans.extend(place.iter().map(|range| Span { start: range.start.0, end: range.end.0, index }));
    }
    spans.sort();
    let mut found = vec![false; places.len()];
    let mut buffer = vec![0; 2048];
    let mut seen = HashSet::new();
    for _ in 0..ROUNDS {
        let new: Vec<i32> = threads().ok()?.into_iter().filter(|tid| !seen.contains(tid)).collect();
        if new.is_empty() {
            return Some(found.into_iter().map(|found| !found).collect());
        }
        let memory = stack_memory(&map().ok()?);
        let mut search = Search { spans: &spans, memory: &memory, found: &mut found, buffer: &mut buffer };
        if !look(&new, &mut search, &mut seen) {
            return None;
        }
    }
    None
}

/// Looks through `threads`, and adds those seen to `seen`. `false` if one can never be seen.
fn look(threads: &[i32], search: &mut Search<'_>, seen: &mut HashSet<i32>) -> bool {
    // SAFETY: no arguments.
    let own = unsafe { sys::raw(libc::SYS_gettid, [0; 6]) } as i32;
    let mut running = Vec::new();
    let mut verdicts = Vec::new();
    for &tid in threads {
        if tid == own {
            let here = 0u64;
            verdicts.push((tid, search.thread(&[], (&raw const here).addr() as u64)));
        } else {
            match sleepers::look(tid, search) {
                Some(verdict) => verdicts.push((tid, verdict)),
                None => running.push(tid),
            }
        }
    }
    if !running.is_empty() {
        match stopper::look(&running, search) {
            Ok(more) => verdicts.extend(running.into_iter().zip(more)),
            Err(_) => return false,
        }
    }
    // The kernel refuses to stop a thread that has just ended (EPERM, kernel/ptrace.c).
    for (tid, verdict) in &mut verdicts {
        if *verdict == Verdict::Hidden && sleepers::has_ended(*tid) {
            *verdict = Verdict::Gone;
        }
    }
    seen.extend(
        verdicts.iter().filter(|v| matches!(v.1, Verdict::Seen | Verdict::Gone)).map(|verdict| verdict.0),
    );
    verdicts.iter().all(|verdict| verdict.1 != Verdict::Hidden)
}

/// Where a stack can be.
fn stack_memory(map: &MemoryMap) -> Vec<Range<u64>> {
    let writable = |permissions: incise_image::Permissions| permissions.read && permissions.write;
    map.iter().filter(|m| writable(m.permissions)).map(|m| m.range.start.0..m.range.end.0).collect()
}

/// The threads of this process.
fn threads() -> Result<Vec<i32>, Errno> {
    let folder = File::open(c"/proc/self/task", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut threads = Vec::new();
    let mut buffer = [0u8; 8192];
    loop {
        let len = folder.read_folder(&mut buffer)?;
        if len == 0 {
            return Ok(threads);
        }
        // struct linux_dirent64: inode 8, offset 8, length of the record 2, type 1, name up to a zero.
        let mut rest = buffer.get(..len).unwrap_or_default();
        while let Some(&[low, high]) = rest.get(16..18) {
            let record = usize::from(u16::from_le_bytes([low, high]));
            let name = rest.get(19..record).unwrap_or_default();
            let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
            threads.extend(str::from_utf8(name).ok().and_then(|name| name.parse::<i32>().ok()));
            rest = rest.get(record.max(19)..).unwrap_or_default();
        }
    }
}
