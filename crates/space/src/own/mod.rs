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
mod settings;
mod signals;
mod swap;
mod sync;
mod unwind;
mod userfault;
mod writers;

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
pub use settings::{Builder, Unwinding, Writer};

/// Bytes in a page (x86-64 psABI, 3.3.1: the smallest one).
const PAGE: u64 = 4096;

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
        Builder::default()
    }

    fn with(settings: Builder) -> OwnSpace {
        OwnSpace {
            settings,
            writer: settings.writer,
            pages: settings.pages,
            writes_code: writes_code(&settings),
            handler: Handler::new(),
            landings: Landings::default(),
            fragments: Fragments::default(),
            known: KnownMap::default(),
            poked: HashSet::new(),
            vdso: None,
            original_in_handlers: settings.original_in_handlers,
            reserved: Vec::new(),
            pid: own_pid(),
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
            self.writes_code = writes_code(&settings);
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
}

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
            Unwinding::Auto if displaced.len() <= SMALL => unwind::describe(displaced, &self.reserved, false),
            Unwinding::Auto | Unwinding::Nobody => unwind::replace(displaced),
            Unwinding::Debuggers => unwind::describe(displaced, &self.reserved, false),
            Unwinding::Everybody => unwind::describe(displaced, &self.reserved, true),
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
        // The program may have put another handler over ours since the landings were published.
        self.handler.install(libc::SIGTRAP, &mut self.pages)?;
        self.handler.install_for_faults(&mut self.pages)?;
        self.put_gates()?;
        for at in edits.iter().flat_map(illegal_bytes) {
            self.handler.install(libc::SIGILL, &mut self.pages)?;
            self.landings.note_illegal(at);
        }
        let mappings = self.write(edits)?;
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

/// Whether code is written through /proc/self/mem.
fn writes_code(settings: &Builder) -> bool {
    settings.pages != Pages::MemoryFile && CodeWriter::works()
}
