//! The process this code runs in.
//!
//! # Safety
//! Memory is mapped only at addresses that were unused, and unmapped only where this space mapped it; who
//! unmaps code memory has shown by [`OwnSpace::quiescent`] that nobody runs it.

#![allow(unsafe_code, reason = "maps and unmaps memory")]

mod foreign;
mod fragments;
mod handler;
mod handlers;
mod known;
mod landings;
mod memory;
mod pages;
mod poke;
mod quiescence;
mod runs;
mod scratch;
mod signals;
mod swap;
mod sync;
mod unwind;
mod userfault;

use std::collections::HashSet;
use std::ops::Range;
use std::ptr::NonNull;

use incise_image::MemoryMap;
use incise_isa::Addr;
use incise_isa::native::is_illegal;

use crate::sys::{self, Errno};
use crate::{AddressSpace, Applied, DataMapping, Displaced, Edit, Features, Landing, SpaceError};
use fragments::Fragments;
use handler::Handler;
use known::KnownMap;
use landings::Landings;
use memory::CodeWriter;
pub use pages::Pages;

/// Bytes in a page (x86-64 psABI, 3.3.1: the smallest one).
const PAGE: u64 = 4096;

/// How live code is changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Writer {
    /// The one that suits the change: see [`OwnSpace`].
    #[default]
    Auto,
    /// Byte by byte, with traps in between.
    Poke,
    /// Page by page, by replacing mappings.
    Swap,
}

/// Who is told how to unwind out of trampolines. (Frames above a probe need none of it: calls are made from where they were,
/// and callbacks have the probed instruction for their caller. It is for what stops or interrupts a thread in a
/// trampoline.)
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Unwinding {
    /// gdb, of transactions that are small: larger ones take half as long again with it.
    #[default]
    Auto,
    /// Nobody: nothing is encoded.
    Nobody,
    /// gdb, through its interface for just-in-time compilers.
    Debuggers,
    /// The unwinder of this process too, by `__register_frame`: exceptions, backtraces and cancellation that begin in a
    /// signal handler over a trampoline go on into the program. From then on libgcc before 13 takes a lock each time it
    /// looks for a frame: `backtrace` in a signal handler may wait for itself if it interrupts an unwinding.
    Everybody,
}

/// The process this code runs in.
///
/// Two writers change live code (figures of the example `writers`; processor time).
///
/// - **Poke** takes 8 us and 3.5 us a site. It leaves the mappings as they are. A thread that runs a site
///   meanwhile takes a trap, and a thread that has SIGTRAP blocked (the C library blocks it while it creates
///   threads and processes) is killed by that.
/// - **Swap** takes 70 us and 2 us a page. It needs no trap. The pages it replaces belong to no file any more: they
///   are mappings of their own (a bounded number, over all changes), which profilers that go
///   by mappings cannot name, and which the kernel's uprobes do not know. Pages with such a probe in them are
///   therefore never swapped.
///
/// With [`Writer::Auto`] code is poked if there are few sites and no other thread, or where a swap is not possible;
/// else it is swapped.
///
/// Whichever writer: a thread that was interrupted inside a group of instructions under one springboard goes on at a
/// trap, and must not have SIGTRAP blocked.
///
/// Dropping the value changes nothing: what was patched stays so, with the handler in force.
pub struct OwnSpace {
    settings: Builder,
    writer: Writer,
    /// As wanted, or the next kind that turned out to be allowed.
    pages: Pages,
    /// /proc/self/mem can be written to.
    writes_code: bool,
    handler: Handler,
    landings: Landings,
    fragments: Fragments,
    known: KnownMap,
    /// Numbers of the pages that were poked.
    poked: HashSet<u64>,
    /// The code of the kernel in this process; looked for at the first change.
    vdso: Option<Range<Addr>>,
    /// Signal handlers see original instruction pointers.
    original_in_handlers: bool,
    /// What is mapped for the engines.
    reserved: Vec<Range<Addr>>,
    /// The process that used this value last; another one is a forked child.
    pid: i32,
}

/// Settings of an [`OwnSpace`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Builder {
    writer: Writer,
    pages: Pages,
    original_in_handlers: bool,
    unwinding: Unwinding,
}

impl Builder {
    /// Who is told how to unwind out of trampolines. Default: [`Unwinding::Auto`].
    pub fn unwinding(mut self, unwinding: Unwinding) -> Builder {
        self.unwinding = unwinding;
        self
    }

    /// Whether signal handlers see the original instruction pointer and registers where a signal arrives in a trampoline or
    /// is raised by a displaced instruction. For that, each [`apply`](AddressSpace::apply) puts a gate before the handlers
    /// that are installed then, which is what sigaction(2) tells to be the handler from there on. Default: no.
    pub fn original_in_handlers(mut self, original: bool) -> Builder {
        self.original_in_handlers = original;
        self
    }

    /// Which writer to use. Default: [`Writer::Auto`].
    pub fn writer(mut self, writer: Writer) -> Builder {
        self.writer = writer;
        self
    }

    /// How the pages of changed code are made; [`Pages::MemoryFile`] also means never to write through
    /// /proc/self/mem, so there is no poke then. Default: the fastest that this process is allowed.
    pub fn pages(mut self, pages: Pages) -> Builder {
        self.pages = pages;
        self
    }

    /// The space.
    ///
    /// # Errors
    /// None is known; a machine on which code cannot be changed says so when it is tried.
    pub fn build(self) -> Result<OwnSpace, SpaceError> {
        let writes_code = self.pages != Pages::MemoryFile && CodeWriter::works();
        Ok(OwnSpace {
            settings: self,
            writer: self.writer,
            pages: self.pages,
            writes_code,
            handler: Handler::new(),
            landings: Landings::default(),
            fragments: Fragments::default(),
            known: KnownMap::default(),
            poked: HashSet::new(),
            vdso: None,
            original_in_handlers: self.original_in_handlers,
            reserved: Vec::new(),
            pid: own_pid(),
        })
    }
}

impl OwnSpace {
    /// A space with default settings.
    ///
    /// # Errors
    /// As for [`Builder::build`].
    pub fn new() -> Result<OwnSpace, SpaceError> {
        OwnSpace::builder().build()
    }

    /// Settings to choose.
    pub fn builder() -> Builder {
        Builder {
            writer: Writer::Auto,
            pages: Pages::Placed,
            original_in_handlers: false,
            unwinding: Unwinding::Auto,
        }
    }

    /// How it is set up.
    pub fn settings(&self) -> Builder {
        self.settings
    }

    /// Sets it up differently.
    pub fn configure(&mut self, settings: Builder) {
        if settings == self.settings {
            return;
        }
        if settings.pages != self.settings.pages {
            self.pages = settings.pages;
            self.writes_code = settings.pages != Pages::MemoryFile && CodeWriter::works();
        }
        self.writer = settings.writer;
        self.original_in_handlers = settings.original_in_handlers;
        self.settings = settings;
    }

    /// Puts the table for `landings` in force.
    fn put_in_force(&mut self, landings: Landings) -> Result<(), SpaceError> {
        self.handler.publish(&landings.table(), &mut self.pages)?;
        self.landings = landings;
        Ok(())
    }

    /// Sees to it that handlers of the program see original code, if that is wanted.
    fn put_gates(&mut self) -> Result<(), SpaceError> {
        if !self.original_in_handlers {
            return Ok(());
        }
        handlers::put_gates(&|handler| self.handler.is_ours(handler), &mut self.pages)
    }

    /// Notices that this is a forked child of the process that used the value last.
    fn notice_fork(&mut self) {
        let pid = own_pid();
        if pid != self.pid {
            self.pid = pid;
            self.handler.after_fork();
            handlers::after_fork();
        }
    }

    fn is_reserved(&self, mut range: Range<Addr>) -> bool {
        while range.start < range.end {
            match self.reserved.iter().find(|ours| ours.contains(&range.start)) {
                Some(ours) => range.start = ours.end,
                None => return false,
            }
        }
        true
    }

    fn poke(&mut self, edits: &[Edit]) -> Result<(), SpaceError> {
        let pages = |edit: &Edit| edit.at.0 / PAGE..=(edit.at.0 + edit.old.len() as u64 - 1) / PAGE;
        // What somebody else changed before stays theirs.
        let new = edits.iter().flat_map(pages).filter(|page| !self.poked.contains(page));
        let ours = foreign::unchanged(new.collect());
        poke::poke(edits).map_err(|error| self.blame_shared(edits, error))?;
        self.poked.extend(ours);
        Ok(())
    }

    fn swap(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        let map = self.mappings()?;
        // For little, one system call less that waits for the lock on the memory map is worth more than quick pages.
        let mut little = Pages::Forced;
        let is_little = self.pages == Pages::Placed && self.writes_code && edits.len() <= FEW;
        let pages = if is_little { &mut little } else { &mut self.pages };
        swap::swap(edits, &map, &mut self.fragments, &self.poked, pages)
    }

    /// Pokes. If the system does not let us and the user has not said how, swaps.
    fn poke_or_swap(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        match self.poke(edits) {
            Err(SpaceError::System { .. }) if self.writer == Writer::Auto => self.swap(edits),
            result => result.map(|()| 0),
        }
    }

    /// Swaps, but for the vdso: the kernel does not let it be split, and a copy would be no vdso to who
    /// looks for it in the memory map. That is poked.
    fn swap_all(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        if self.vdso.is_none() {
            let map = self.mappings()?;
            let vdso = map.iter().find(|mapping| *mapping.name == *"[vdso]");
            self.vdso = Some(vdso.map_or(Addr(0)..Addr(0), |mapping| mapping.range.clone()));
        }
        let of_kernel = |edit: &&Edit| self.vdso.as_ref().is_some_and(|vdso| vdso.contains(&edit.at));
        let poked: Vec<Edit> = edits.iter().filter(of_kernel).copied().collect();
        let Some(first) = poked.first() else { return self.swap_or_poke(edits) };
        if !self.writes_code || poke::touches_poke(&poked) {
            let reason = "the code of the kernel can only be changed through /proc/self/mem";
            return Err(SpaceError::Unsuitable { at: first.at, reason });
        }
        let swapped: Vec<Edit> = edits.iter().filter(|edit| !of_kernel(edit)).copied().collect();
        self.poke(&poked)?;
        if swapped.is_empty() {
            return Ok(0);
        }
        self.swap_or_poke(&swapped).inspect_err(|_| {
            let inverse: Vec<Edit> = poked.iter().map(Edit::inverse).collect();
            let _ = poke::poke(&inverse);
        })
    }

    /// Swaps. If a copy cannot stand for the code and the user has not said how, pokes.
    fn swap_or_poke(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        match self.swap(edits) {
            Err(SpaceError::Unsuitable { at, .. }) if self.can_poke(edits) && self.is_private(at) => {
                self.poke(edits).map(|()| 0)
            }
            result => result,
        }
    }

    fn can_poke(&self, edits: &[Edit]) -> bool {
        self.writer != Writer::Swap && self.writes_code && !poke::touches_poke(edits)
    }

    /// The kernel does not write to shared memory that is not writable: tells so, if that is the reason.
    fn blame_shared(&self, edits: &[Edit], error: SpaceError) -> SpaceError {
        match edits.iter().find(|edit| !self.is_private(edit.at)) {
            Some(edit) if matches!(error, SpaceError::System { .. }) => {
                SpaceError::Unsuitable { at: edit.at, reason: "the memory is shared" }
            }
            _ => error,
        }
    }

    /// Whether writing to the memory at `at` changes this process's memory only.
    fn is_private(&self, at: Addr) -> bool {
        self.mappings().is_ok_and(|map| map.find(at).is_some_and(|mapping| !mapping.permissions.shared))
    }

    fn choose(&self, edits: &[Edit]) -> Writer {
        match self.writer {
            _ if !self.can_poke(edits) => Writer::Swap,
            Writer::Auto if edits.len() <= FEW && thread_count() == Some(1) => Writer::Poke,
            Writer::Auto => Writer::Swap,
            forced => forced,
        }
    }
}

/// Up to this many sites a poke costs less than a swap, and writing pages less than placing them.
const FEW: usize = 16;

impl AddressSpace for OwnSpace {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
        memory::read(at, into)
    }

    fn mappings(&self) -> Result<MemoryMap, SpaceError> {
        self.known.read()
    }

    fn map_code(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        map_exactly(at, len, prot, libc::MAP_PRIVATE | libc::MAP_NORESERVE)?;
        sys::name_memory(at.0, len, c"incise code");
        self.reserved.push(at.span(len));
        Ok(())
    }

    fn map_data(&mut self, at: Addr, len: u64) -> Result<DataMapping, SpaceError> {
        map_exactly(at, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_NORESERVE)?;
        sys::name_memory(at.0, len, c"incise data");
        self.reserved.push(at.span(len));
        let view = NonNull::new(at.0 as *mut u8).ok_or(SpaceError::Occupied { at, len })?;
        // SAFETY: just mapped; the view is the memory itself, which lives until `unmap`.
        Ok(unsafe { DataMapping::new(at, len, view, |_, _| ()) })
    }

    fn map_private(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        map_exactly(at, len, protection, libc::MAP_PRIVATE | libc::MAP_NORESERVE)?;
        sys::name_memory(at.0, len, c"incise data");
        self.reserved.push(at.span(len));
        Ok(())
    }

    fn unmap(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        let Some(index) = self.reserved.iter().position(|range| *range == at.span(len)) else {
            return Err(SpaceError::NotReserved { at, len });
        };
        unwind::forget(at.span(len));
        handlers::forget(at.span(len));
        // SAFETY: ours, and the caller has shown that nobody uses it.
        unsafe { sys::munmap(at.0, len) }.map_err(|errno| SpaceError::system("unmapping memory", errno))?;
        self.reserved.swap_remove(index);
        Ok(())
    }

    fn write_code(&mut self, runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
        for &(at, bytes) in runs {
            if !self.is_reserved(at.span(bytes.len() as u64)) {
                return Err(SpaceError::NotReserved { at, len: bytes.len() as u64 });
            }
        }
        if !self.writes_code {
            return swap::fill(runs, &mut self.pages);
        }
        let writer = CodeWriter::open()?;
        for (at, bytes) in runs {
            // SAFETY: memory of `map_code` that no thread runs.
            unsafe { writer.write(*at, bytes) }?;
        }
        Ok(())
    }

    fn write_byte(&mut self, at: Addr, byte: u8) -> Result<(), SpaceError> {
        if !self.is_reserved(at.span(1)) {
            return Err(SpaceError::NotReserved { at, len: 1 });
        }
        if !self.writes_code {
            return Err(SpaceError::Unsuitable { at, reason: "/proc/self/mem cannot be written to" });
        }
        // SAFETY: one byte is one store; the caller says that either value is right.
        unsafe { CodeWriter::open()?.write(at, &[byte]) }
    }

    fn note_displaced(&mut self, displaced: &[Displaced]) {
        handlers::note_displaced(displaced);
        const SMALL: usize = 1000;
        match self.settings.unwinding {
            Unwinding::Auto if displaced.len() <= SMALL => unwind::describe(displaced, false),
            Unwinding::Auto | Unwinding::Nobody => unwind::replace(displaced),
            Unwinding::Debuggers => unwind::describe(displaced, false),
            Unwinding::Everybody => unwind::describe(displaced, true),
        }
    }

    fn original_ip(&self, ip: Addr) -> Option<Addr> {
        handlers::original_ip(ip)
    }

    fn publish_landings(&mut self, landings: &[Landing]) -> Result<(), SpaceError> {
        self.notice_fork();
        if !landings.is_empty() {
            self.put_gates()?;
        }
        self.put_in_force(self.landings.with_published(landings))
    }

    fn apply(&mut self, edits: &[Edit], _: &dyn Fn(Addr) -> Option<Addr>) -> Result<Applied, SpaceError> {
        self.notice_fork();
        check(edits)?;
        if edits.is_empty() {
            return Ok(Applied::default());
        }
        let writer = self.choose(edits);
        // The program may have put another handler over ours since the landings were published.
        self.handler.install(libc::SIGTRAP, &mut self.pages)?;
        self.handler.install_for_faults(&mut self.pages)?;
        self.put_gates()?;
        for at in edits.iter().flat_map(illegal_bytes) {
            self.handler.install(libc::SIGILL, &mut self.pages)?;
            self.landings.note_illegal(at);
        }
        let mappings = match writer {
            Writer::Poke => self.poke_or_swap(edits)?,
            Writer::Swap | Writer::Auto => self.swap_all(edits)?,
        };
        Ok(Applied { mappings: mappings.max(0) as usize, ..Applied::default() })
    }

    fn quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        self.notice_fork();
        self.handler.free_retired();
        let reachable: Vec<bool> = ranges.iter().map(|range| self.landings.leads_into(range)).collect();
        if reachable.iter().all(|&reachable| reachable) {
            return Ok(vec![false; ranges.len()]);
        }
        let with_way = |range: &Range<Addr>| {
            std::iter::once(range.clone()).chain(self.landings.on_the_way(range)).collect()
        };
        let mut places: Vec<Vec<Range<Addr>>> = ranges.iter().map(with_way).collect();
        let tables = unwind::retired();
        places.extend(tables.iter().map(|table| vec![table.clone()]));
        let Some(mut idle) = quiescence::idle(&places, || self.mappings()) else {
            return Ok(vec![false; ranges.len()]);
        };
        unwind::free_retired(&tables, &idle.split_off(ranges.len()));
        idle.iter_mut().zip(reachable).for_each(|(idle, reachable)| *idle &= !reachable);
        let idle_ranges: Vec<&Range<Addr>> = ranges.iter().zip(&idle).filter(|x| *x.1).map(|x| x.0).collect();
        if let Some(landings) = self.landings.without(&idle_ranges) {
            self.put_in_force(landings)?;
            if self.landings.is_empty() {
                // No trap is left and no thread is on its way from one.
                self.handler.uninstall();
                handlers::take_gates();
            }
        }
        Ok(idle)
    }

    fn features(&self) -> Features {
        const ARCH_SHSTK_STATUS: usize = 0x5005;
        const ARCH_SHSTK_SHSTK: u64 = 1;
        let mut enabled = 0u64;
        let arguments = [ARCH_SHSTK_STATUS, &raw mut enabled as usize, 0, 0, 0, 0];
        // SAFETY: writes `enabled`, if the kernel knows the call.
        let known = unsafe { sys::call(libc::SYS_arch_prctl, arguments) }.is_ok();
        let shadow_stack = known && enabled & ARCH_SHSTK_SHSTK != 0;
        Features { shadow_stack, bounded: sys::is_bounded(0), ..Features::default() }
    }
}

/// Checks what [`AddressSpace::apply`] asks of its edits.
fn check(edits: &[Edit]) -> Result<(), SpaceError> {
    for (index, edit) in edits.iter().enumerate() {
        let in_order = index == 0 || {
            let before = &edits[index - 1];
            before.at + before.old.len() as u64 <= edit.at
        };
        let reason = match () {
            () if !in_order => "it is not behind the edit before it",
            () if edit.old.is_empty() || edit.old.len() != edit.new.len() => {
                "its old and new bytes differ in number"
            }
            () => continue,
        };
        return Err(SpaceError::BadEdit { at: edit.at, reason });
    }
    Ok(())
}

/// The heads that become illegal bytes: inside the displacement of a springboard, where `int3` would lead
/// out of reach.
fn illegal_bytes(edit: &Edit) -> impl Iterator<Item = Addr> + '_ {
    edit.head_offsets().filter(|&head| is_illegal(edit.new[head])).map(|head| edit.at + head as u64)
}

fn map_exactly(at: Addr, len: u64, prot: i32, flags: i32) -> Result<(), SpaceError> {
    // SAFETY: takes unused addresses, or fails.
    match unsafe { sys::mmap_anonymous(at.0, len, prot, flags | libc::MAP_FIXED_NOREPLACE) } {
        Ok(got) if got == at.0 => Ok(()),
        Ok(elsewhere) => {
            // A kernel older than 4.17 takes the address for a hint.
            // SAFETY: just mapped, nobody knows of it.
            let _ = unsafe { sys::munmap(elsewhere, len) };
            Err(SpaceError::Occupied { at, len })
        }
        Err(Errno(libc::EEXIST)) => Err(SpaceError::Occupied { at, len }),
        Err(errno) => Err(SpaceError::system("mapping memory", errno)),
    }
}

fn own_pid() -> i32 {
    // SAFETY: no arguments.
    unsafe { sys::raw(libc::SYS_getpid, [0; 6]) as i32 }
}

/// How many threads the process has, if that can be told: its folder of them has two links more (fs/proc/base.c,
/// `proc_task_getattr`). /proc/self/stat tells it too, but adds up the times of all threads first.
fn thread_count() -> Option<u64> {
    let path = c"/proc/self/task";
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    let arguments = [libc::AT_FDCWD as usize, path.as_ptr() as usize, stat.as_mut_ptr() as usize, 0, 0, 0];
    // SAFETY: the path ends in a zero byte; the call fills `stat`.
    unsafe { sys::call(libc::SYS_newfstatat, arguments) }.ok()?;
    // SAFETY: filled.
    unsafe { stat.assume_init() }.st_nlink.checked_sub(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted() {
        let tasks = || std::fs::read_dir("/proc/self/task").expect("threads").count() as u64;
        // Other tests may run in this process.
        let agree = || (0..1000).any(|_| thread_count() == Some(tasks()));
        assert!(agree());
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert!(agree() && thread_count() > Some(1));
        drop(stop);
        thread.join().expect("no panic").expect_err("nothing was sent");
    }
}
