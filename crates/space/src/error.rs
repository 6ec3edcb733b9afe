//! What can go wrong in an address space, and who is at fault.

use std::io;

use incise_isa::Addr;

/// Who has to act for an operation to succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The request: a wrong pid, a file that is no program.
    Caller,
    /// The target does not allow it, or changed under our hands.
    Target,
    /// The machine: permissions, limits, kernel configuration.
    System,
}

/// Why an address space could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// Memory that is not mapped readable.
    #[error("cannot read {len} bytes at {at}: not mapped readable")]
    Unreadable {
        /// First byte asked for.
        at: Addr,
        /// Bytes asked for.
        len: usize,
    },
    /// The place for a new mapping is taken.
    #[error("cannot map {len} bytes at {at}: the address range is in use")]
    Occupied {
        /// First byte asked for.
        at: Addr,
        /// Bytes asked for.
        len: u64,
    },
    /// Code is not what it was when the change was planned.
    #[error("the code at {at} changed: expected {expected:02x?}, found {found:02x?}")]
    Changed {
        /// Address of the edit.
        at: Addr,
        /// Bytes the plan was made for.
        expected: Vec<u8>,
        /// Bytes found.
        found: Vec<u8>,
    },
    /// Code that this writer must not change.
    #[error("the code at {at} cannot be changed: {reason}")]
    Unsuitable {
        /// Address of the edit.
        at: Addr,
        /// What stands against it.
        reason: &'static str,
    },
    /// An edit that breaks the rules of [`AddressSpace::apply`](crate::AddressSpace::apply).
    #[error("the edit at {at} is malformed: {reason}")]
    BadEdit {
        /// Address of the edit.
        at: Addr,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Memory that this space did not map.
    #[error("{len} bytes at {at} are not memory of this address space's own")]
    NotReserved {
        /// First byte.
        at: Addr,
        /// Bytes asked for.
        len: u64,
    },
    /// A thread stands where the change cannot be made, and does not leave.
    #[error("a thread stays at {at}, inside the code that is to be changed")]
    Busy {
        /// The thread's instruction pointer.
        at: Addr,
    },
    /// There is no such process.
    #[error("there is no process {pid}")]
    NoProcess {
        /// The process id that was given.
        pid: i32,
    },
    /// Not allowed to trace the process.
    #[error("not permitted to trace process {pid}: {remedy}")]
    NotPermitted {
        /// The process id that was given.
        pid: i32,
        /// What the user can do about it.
        remedy: String,
    },
    /// Another debugger has the process.
    #[error("process {pid} is already traced by process {tracer}: end that tracer first")]
    AlreadyTraced {
        /// The process id that was given.
        pid: i32,
        /// The tracing process.
        tracer: i32,
    },
    /// The program to launch could not be run.
    #[error("cannot run {program}: {source}")]
    Launch {
        /// What was to be run.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The target is of an architecture this build does not work on.
    #[error("{what} is not a 64-bit x86 ELF program ({found}): only x86-64 Linux programs can be changed")]
    WrongArchitecture {
        /// The file or process.
        what: String,
        /// What was found instead.
        found: String,
    },
    /// The target's seccomp filter is in the way.
    #[error(
        "the seccomp filter of process {pid} stands in the way of {action}: run incise as root (CAP_SYS_ADMIN)"
    )]
    Seccomp {
        /// The target.
        pid: i32,
        /// What was to be done.
        action: &'static str,
    },
    /// The target has as many files open as it may.
    #[error(
        "process {pid} has as many files open as it may, so it cannot open memory to share: let it open more \
         (prlimit --pid {pid} --nofile=SOFT), or run incise as root (CAP_CHECKPOINT_RESTORE)"
    )]
    TooManyFiles {
        /// The target.
        pid: i32,
    },
    /// The target ended.
    #[error("process {pid} ended")]
    Gone {
        /// The target.
        pid: i32,
    },
    /// A system call failed for a reason none of the others names.
    #[error("{action} failed: {source}")]
    System {
        /// What was to be done.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl SpaceError {
    /// A [`SpaceError::System`] from any error that is an OS error.
    pub fn system(action: &'static str, source: impl Into<io::Error>) -> SpaceError {
        SpaceError::System { action, source: source.into() }
    }

    /// Whether there is no memory, or the target may not have more: a smaller mapping may succeed.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, SpaceError::System { source, .. } if source.raw_os_error() == Some(libc::ENOMEM))
    }

    /// Who has to act.
    pub fn fault(&self) -> Fault {
        match self {
            SpaceError::NoProcess { .. }
            | SpaceError::Launch { .. }
            | SpaceError::WrongArchitecture { .. }
            | SpaceError::BadEdit { .. }
            | SpaceError::NotReserved { .. } => Fault::Caller,
            SpaceError::Unreadable { .. }
            | SpaceError::Occupied { .. }
            | SpaceError::Changed { .. }
            | SpaceError::Busy { .. }
            | SpaceError::Unsuitable { .. }
            | SpaceError::AlreadyTraced { .. }
            | SpaceError::Seccomp { .. }
            | SpaceError::TooManyFiles { .. }
            | SpaceError::Gone { .. } => Fault::Target,
            SpaceError::NotPermitted { .. } | SpaceError::System { .. } => Fault::System,
        }
    }
}
