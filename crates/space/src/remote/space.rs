//! The address space of a traced process.

use std::cell::RefCell;
use std::ffi::CStr;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use incise_image::MemoryMap;
use incise_isa::Addr;

use super::divert::StoppedThread;
use super::event::ProcessId;
use super::procfs;
use super::ptrace;
use super::removal::Left;
use super::tracees::{MemoryId, Target, Tracees};
use crate::sys;
use crate::{
    AddressSpace, Applied, DataMapping, Displaced, Edit, Features, Landing, SpaceError, ThreadCells,
};

/// The address space of another process, as one program uses it: after an exec it is of no use any more,
/// and everything fails with [`SpaceError::Gone`].
///
/// Its methods work on a running process: each stops all threads where it has to, for as short as it can, and
/// lets them go on. Several changes can be made in one stop with [`stopped`](Self::stopped), or
/// between [`stop`](Self::stop) and [`resume`](Self::resume); but then the preparations of
/// [`apply`](AddressSpace::apply) and [`publish_landings`](AddressSpace::publish_landings), which
/// otherwise happen while the target runs, count into the stop.
///
/// Processes that share their memory (a child of vfork) share the space.
pub struct RemoteSpace {
    tracees: Rc<RefCell<Tracees>>,
    memory: MemoryId,
    pid: ProcessId,
}

impl RemoteSpace {
    pub(super) fn new(tracees: Rc<RefCell<Tracees>>, memory: MemoryId, pid: ProcessId) -> RemoteSpace {
        RemoteSpace { tracees, memory, pid }
    }

    pub(super) fn with_target<R>(
        &self,
        work: impl FnOnce(&Target) -> Result<R, SpaceError>,
    ) -> Result<R, SpaceError> {
        work(self.tracees.borrow().target(self.memory)?)
    }

    /// The process.
    pub fn pid(&self) -> ProcessId {
        self.pid
    }

    /// Stops all threads, until [`resume`](Self::resume) was called as often as this.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn stop(&mut self) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().hold(self.memory)
    }

    /// Takes one [`stop`](Self::stop) back.
    pub fn resume(&mut self) {
        self.tracees.borrow_mut().release(self.memory);
    }

    /// Calls `work` with all threads stopped.
    ///
    /// # Errors
    /// Those of [`stop`](Self::stop), and those of `work`.
    pub fn stopped<R>(
        &mut self,
        work: impl FnOnce(&mut RemoteSpace) -> Result<R, SpaceError>,
    ) -> Result<R, SpaceError> {
        self.stop()?;
        let result = work(self);
        self.resume();
        result
    }

    /// Quadwords of which each thread has its own; `None` where a thread uses gs itself, or there is no room for them. No
    /// code of the program may set or read the gs base. They are gone with [`remove`](Self::remove), and while a
    /// process is left they are not to be counted in.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn thread_cells(&mut self) -> Result<Option<ThreadCells>, SpaceError> {
        self.tracees.borrow_mut().thread_cells(self.memory)
    }

    /// Takes the [`thread_cells`](Self::thread_cells) of the threads away: what counts in them from now on counts in the
    /// common one of all. For a program that is going to use gs itself. `counting`: code that still counts in them, which nothing
    /// leads to any more; threads in it keep theirs until they have left it and stopped.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn give_up_areas(&mut self, counting: &[Range<Addr>]) -> Result<(), SpaceError> {
        let mut tracees = self.tracees.borrow_mut();
        tracees.hold(self.memory)?;
        tracees.take_areas(self.memory, counting);
        tracees.release(self.memory);
        Ok(())
    }

    /// A thread that can be [diverted](Self::divert); all threads have to be [stopped](Self::stop).
    ///
    /// # Errors
    /// [`SpaceError::Gone`]; [`SpaceError::System`] if every thread waits in the kernel for something else.
    pub fn divertible(&mut self) -> Result<StoppedThread, SpaceError> {
        self.tracees.borrow_mut().divertible(self.memory)
    }

    /// The threads that could be [diverted](Self::divert); all threads have to be [stopped](Self::stop).
    pub fn stopped_threads(&self) -> Vec<StoppedThread> {
        self.tracees.borrow().stopped_threads(self.memory)
    }

    /// One of the [`stopped_threads`](Self::stopped_threads), as it is once signals that come first were delivered to it.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the thread ended.
    pub fn divertible_thread(&mut self, tid: i32) -> Result<StoppedThread, SpaceError> {
        self.tracees.borrow_mut().divertible_thread(self.memory, ptrace::Tid(tid))
    }

    /// Has a thread that [`divertible`](Self::divertible) told, in the same stop, run `code` before it goes on with its own work. The
    /// code lies at `at`, in memory of [`map_code`](AddressSpace::map_code), with at least 128 bytes of room behind it. It runs
    /// off its end, with the stack pointer, the flags, vector state and the registers that functions keep for their
    /// callers as it found them; of the others it finds and leaves what it likes. What it may change is to be stored by it: nobody
    /// waits for it.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn divert(&mut self, thread: &StoppedThread, at: Addr, code: &[u8]) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().divert(self.memory, thread, at, code)
    }

    /// How long the threads have stood still in all, without the stops that still last.
    pub fn stop_time(&self) -> Duration {
        self.tracees.borrow().target(self.memory).map_or(Duration::ZERO, |target| target.held)
    }

    /// As [`quiescent`](AddressSpace::quiescent), but lets threads that are in `ranges` run out of them, for up
    /// to 20 ms. Not with the threads stopped by the caller: then nothing moves.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn wait_until_quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        self.tracees.borrow_mut().wait_until_quiescent(self.memory, ranges)
    }

    /// Puts every code byte back that [`apply`](AddressSpace::apply) has changed and not changed back. Where the program has
    /// written code of its own over ours since, that stays: returns how many such runs of bytes there are.
    ///
    /// # Errors
    /// [`SpaceError::Changed`] if someone goes on changing them meanwhile; then nothing is put back. Otherwise as for
    /// [`apply`](AddressSpace::apply).
    pub fn restore_code(&mut self) -> Result<usize, SpaceError> {
        self.tracees.borrow_mut().restore_code(self.memory)
    }

    /// Forgets the changes made in `range`, because the target has unmapped it.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn forget(&mut self, range: &Range<Addr>) -> Result<(), SpaceError> {
        let mut tracees = self.tracees.borrow_mut();
        let target = tracees.target_mut(self.memory)?;
        Rc::make_mut(&mut target.journal).forget(range);
        target.swapped.retain(|other| other.end <= range.start || other.start >= range.end);
        Ok(())
    }

    /// Maps the first page of the file at `path`, readable and executable, anywhere: profilers take note of such mappings. It goes with
    /// [`remove`](Self::remove).
    ///
    /// # Errors
    /// [`SpaceError::System`] if the process cannot open or map it, [`SpaceError::Gone`] if it ended.
    pub fn show_file(&mut self, path: &CStr) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().show_file(self.memory, path)
    }

    /// Takes everything out again: the original code bytes and signal actions come back, and all memory that
    /// was mapped is unmapped, but for what a thread may still run in.
    ///
    /// # Errors
    /// As for [`restore_code`](Self::restore_code).
    pub fn remove(&mut self) -> Result<Left, SpaceError> {
        self.tracees.borrow_mut().remove_all(self.memory)
    }

    /// Takes over executable memory that an earlier tracer mapped with [`map_code`](AddressSpace::map_code) and left.
    ///
    /// # Errors
    /// [`SpaceError::NotReserved`] if it is not of that kind.
    pub fn adopt_code(&mut self, range: Range<Addr>) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().adopt_code(self.memory, range)
    }

    /// Where our own pages are, if there are any: what [`adopt_runtime`](Self::adopt_runtime) of a later tracer takes.
    pub fn runtime(&self) -> Option<Addr> {
        self.tracees.borrow().target(self.memory).ok()?.runtime.as_ref().map(|runtime| runtime.blob())
    }

    /// Where pages are that an earlier tracer left before it had put a trap handler into them, or with no landings, for
    /// [`adopt_runtime`](Self::adopt_runtime).
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn idle_runtimes(&self) -> Result<Vec<Addr>, SpaceError> {
        self.tracees.borrow().idle_runtimes(self.memory)
    }

    /// Memory for code that an earlier tracer mapped and was killed before it wrote to it, by the pages that were
    /// [adopted](Self::adopt_runtime).
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn left_blank(&self) -> Result<Option<Range<Addr>>, SpaceError> {
        self.tracees.borrow().left_blank(self.memory)
    }

    /// The landings of traps that earlier tracers have left in force, ascending.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn left_landings(&self) -> Result<Vec<Landing>, SpaceError> {
        self.tracees.borrow().left_landings(self.memory)
    }

    /// Takes over the pages that an earlier tracer left at `base`, with its trap handler and its landings, which are kept.
    /// Returns whether that could be: not if there are pages already, or others, or not its handler is in force. Nothing
    /// is lost then: what that tracer left goes on working by itself.
    ///
    /// # Errors
    /// [`SpaceError::Busy`] if a thread is about to run code in them; [`SpaceError::Gone`] if the process ended.
    pub fn adopt_runtime(&mut self, base: Addr) -> Result<bool, SpaceError> {
        self.tracees.borrow_mut().adopt_runtime(self.memory, base)
    }

    /// Keeps the landings that are published now: they are part of whatever is published later.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn keep_landings(&mut self) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().keep_landings(self.memory)
    }

    /// Whether any landing is in force.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn has_landings(&self) -> Result<bool, SpaceError> {
        Ok(!self.tracees.borrow().target(self.memory)?.landings.is_empty())
    }

    /// Drops the kept landings that lead into `ranges`; no others than kept ones are in force then.
    ///
    /// # Errors
    /// If they cannot be published; they are kept then.
    pub fn drop_landings(&mut self, ranges: &[Range<Addr>]) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().drop_landings(self.memory, ranges)
    }

    /// The id of a thread, and its thread pointer (the base of segment fs), as it is now.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn thread_pointer(&mut self) -> Result<(i32, Addr), SpaceError> {
        self.stopped(|space| {
            let tracees = space.tracees.borrow();
            let tid = tracees.live_thread(space.memory)?;
            let registers = ptrace::registers(tid).map_err(|_| space.memory.gone())?;
            Ok((tid.0, Addr(registers.0.fs_base)))
        })
    }

    /// Changes data, whatever the protection of its pages, while all threads stand still. Nobody puts it back: it is
    /// not among what [`restore_code`](Self::restore_code) knows.
    ///
    /// # Errors
    /// [`SpaceError::Changed`] if `old` is not there; [`SpaceError::BadEdit`] if `new` is of another length.
    pub fn write_data(&mut self, at: Addr, old: &[u8], new: &[u8]) -> Result<(), SpaceError> {
        if old.len() != new.len() {
            return Err(SpaceError::BadEdit { at, reason: "it does not replace bytes by as many" });
        }
        self.tracees.borrow_mut().write_data(self.memory, at, old, new)
    }

    /// Makes sure that the traps work without a tracer, over handlers that the program has installed
    /// meanwhile: to be called before a process is left with traps in it.
    ///
    /// # Errors
    /// [`SpaceError::Gone`] if the process ended or runs another program.
    pub fn secure_handlers(&mut self) -> Result<(), SpaceError> {
        let mut tracees = self.tracees.borrow_mut();
        let handling = tracees.target(self.memory)?.runtime.as_ref().is_some_and(|runtime| runtime.handling);
        if handling { tracees.install_handlers(self.memory) } else { Ok(()) }
    }
}

impl AddressSpace for RemoteSpace {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
        self.tracees.borrow().target(self.memory)?.memory.read(at, into)
    }

    fn mappings(&self) -> Result<MemoryMap, SpaceError> {
        self.tracees.borrow().memory_map(self.memory)
    }

    fn map_code(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().map_code(self.memory, at, len)
    }

    fn map_data(&mut self, at: Addr, len: u64) -> Result<DataMapping, SpaceError> {
        self.tracees.borrow_mut().map_data(self.memory, at, len)
    }

    fn map_private(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().map_private(self.memory, at, len)
    }

    fn unmap(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().unmap(self.memory, at, len)
    }

    fn write_code(&mut self, runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().write_code(self.memory, runs)
    }

    fn write_byte(&mut self, at: Addr, byte: u8) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().write_code(self.memory, &[(at, &[byte])])
    }

    fn note_displaced(&mut self, displaced: &[Displaced]) {
        self.tracees.borrow_mut().note_displaced(self.memory, displaced);
    }

    fn original_ip(&self, ip: Addr) -> Option<Addr> {
        self.tracees.borrow().target(self.memory).ok()?.original_ip(ip)
    }

    fn publish_landings(&mut self, landings: &[Landing]) -> Result<(), SpaceError> {
        self.tracees.borrow_mut().publish(self.memory, landings)
    }

    fn apply(
        &mut self,
        edits: &[Edit],
        landing_of: &dyn Fn(Addr) -> Option<Addr>,
    ) -> Result<Applied, SpaceError> {
        self.tracees.borrow_mut().apply(self.memory, edits, landing_of)
    }

    fn quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        self.tracees.borrow_mut().quiescent(self.memory, ranges)
    }

    fn features(&self) -> Features {
        let tracees = self.tracees.borrow();
        let status = tracees.live_thread(self.memory).ok().and_then(|tid| procfs::status(tid).ok());
        let shadow_stack = status.is_some_and(|status| status.shadow_stack);
        let bounded = sys::is_bounded(self.pid.0);
        Features { shadow_stack, bounded, still: true, bytes: true, ..Features::default() }
    }
}
