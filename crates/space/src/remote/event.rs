//! What a tracer reports.

use std::fmt;

use incise_isa::Addr;

/// The id of a process (the thread group, not one of its threads).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ProcessId(pub i32);

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Something happened that the owner of a [`Tracer`](super::Tracer) has to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The process runs another program now. It is stopped before the first instruction; its
    /// [`RemoteSpace`](super::RemoteSpace) from before is of no use any more.
    Exec {
        /// The process.
        pid: ProcessId,
    },
    /// A process made another one.
    ///
    /// A child with memory of its own (`vfork` is `false`) is stopped and inherits everything that was
    /// put into its parent. A child that shares its parent's memory runs on; it is traced until it
    /// exits or executes a program.
    Fork {
        /// Who forked.
        parent: ProcessId,
        /// The new process.
        child: ProcessId,
        /// The child shares the parent's memory.
        vfork: bool,
    },
    /// The process came to a gate (see [`Tracer::add_gate`](super::Tracer::add_gate)) and is stopped
    /// at its landing.
    Gate {
        /// The process.
        pid: ProcessId,
        /// The gate.
        at: Addr,
        /// The thread that came there.
        thread: i32,
        /// What it has in rax: behind a call, the result.
        rax: u64,
        /// Its stack pointer: at a function's entry, where the return address is.
        rsp: Addr,
    },
    /// There is no memory for more areas of [`ThreadCells`](crate::ThreadCells), and a thread has none, so that from its
    /// next instruction on it counts in the common area. The process is stopped.
    NoAreas {
        /// The process.
        pid: ProcessId,
    },
    /// The process exited.
    Exited {
        /// The process.
        pid: ProcessId,
        /// Its exit code.
        code: i32,
    },
    /// The process was killed by a signal.
    Killed {
        /// The process.
        pid: ProcessId,
        /// The signal.
        signal: i32,
        /// A core was dumped.
        core: bool,
    },
    /// The flag given to [`Tracer::next_event`](super::Tracer::next_event) was set.
    Interrupted,
    /// The time given to [`Tracer::next_event`](super::Tracer::next_event) is over.
    TimedOut,
    /// Nothing is traced any more.
    Idle,
}
