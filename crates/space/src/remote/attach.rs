//! Begins to trace a process that runs already.

use std::collections::HashSet;
use std::{fs, io};

use super::event::ProcessId;
use super::procfs::{self, ProgramKind};
use super::ptrace::{self, Tid};
use super::tracees::{MemoryId, State, Thread, Tracees};
use crate::SpaceError;

impl Tracees {
    /// Traces all threads of `pid`. The process runs on.
    pub(super) fn attach(&mut self, pid: ProcessId) -> Result<(), SpaceError> {
        if self.processes.contains_key(&pid) {
            return Err(SpaceError::AlreadyTraced { pid: pid.0, tracer: std::process::id() as i32 });
        }
        check(pid)?;
        let first = Tid(pid.0);
        let memory = match seize(pid, first)? {
            true => self.add_process(pid, first, State::Running),
            false => self.attach_to_others(pid)?,
        };
        self.target_mut(memory)?.holds = 0;
        let seized = self.seize_others(pid);
        if seized.is_err() {
            self.detach(pid);
        }
        seized
    }

    /// Begins with another thread than the first, which has ended.
    fn attach_to_others(&mut self, pid: ProcessId) -> Result<MemoryId, SpaceError> {
        for tid in procfs::threads(pid.0).map_err(|_| SpaceError::NoProcess { pid: pid.0 })? {
            if tid.0 != pid.0 && !procfs::is_kernel_worker(tid) && seize(pid, tid)? {
                self.threads.insert(Tid(pid.0), Thread::new(pid, State::Buried));
                return Ok(self.add_process(pid, tid, State::Running));
            }
        }
        Err(SpaceError::NoProcess { pid: pid.0 })
    }

    /// Traces the threads beyond the first, until there are no new ones: what traced threads make is
    /// traced from the beginning.
    fn seize_others(&mut self, pid: ProcessId) -> Result<(), SpaceError> {
        let mut workers = HashSet::new();
        loop {
            let mut found = false;
            for tid in procfs::threads(pid.0).map_err(|_| SpaceError::Gone { pid: pid.0 })? {
                if self.threads.contains_key(&tid) || workers.contains(&tid) {
                    continue;
                }
                if procfs::is_kernel_worker(tid) {
                    workers.insert(tid);
                    continue;
                }
                match seize(pid, tid) {
                    Ok(true) => {}
                    // It ends, or its maker is traced already and so is it.
                    Ok(false) => continue,
                    Err(SpaceError::AlreadyTraced { tracer, .. }) if tracer == ptrace::own_tid() => {}
                    Err(error) => return Err(error),
                }
                self.threads.insert(tid, Thread::new(pid, State::Running));
                found = true;
            }
            if !found {
                return Ok(());
            }
        }
    }
}

fn check(pid: ProcessId) -> Result<(), SpaceError> {
    let ProcessId(pid) = pid;
    let not_permitted = |remedy: &str| Err(SpaceError::NotPermitted { pid, remedy: remedy.to_owned() });
    let status = procfs::status(Tid(pid)).map_err(|_| SpaceError::NoProcess { pid })?;
    if pid == std::process::id() as i32 {
        return not_permitted("it is this process itself, which cannot trace itself: use its own space");
    }
    if pid <= 0 || status.process != pid {
        return Err(SpaceError::NoProcess { pid });
    }
    if matches!(status.state, 'Z' | 'X') && procfs::threads(pid).map_or(0, |threads| threads.len()) < 2 {
        return Err(SpaceError::Gone { pid });
    }
    if status.kernel && procfs::is_kernel_worker(Tid(pid)) {
        return not_permitted("it is a thread of the kernel, which has no program to change");
    }
    if status.tracer != 0 {
        return Err(SpaceError::AlreadyTraced { pid, tracer: status.tracer });
    }
    match procfs::program_kind(&format!("/proc/{pid}/exe")) {
        Ok(ProgramKind::Other(found)) => {
            Err(SpaceError::WrongArchitecture { what: format!("process {pid}"), found: found.to_owned() })
        }
        // What cannot be looked at cannot be traced either: that error says more.
        Ok(ProgramKind::X86_64) | Err(_) => Ok(()),
    }
}

/// Traces a thread, unless it has ended or is ending: `false`. The first thread of a process that has others would be ours to bury
/// if it ended while it is traced, also after its process was left.
fn seize(pid: ProcessId, tid: Tid) -> Result<bool, SpaceError> {
    if procfs::is_ending(tid) {
        return Ok(false);
    }
    let Err(error) = ptrace::seize(tid) else { return Ok(true) };
    match procfs::status(tid) {
        _ if ptrace::is_gone(&error) || procfs::is_ending(tid) => Ok(false),
        Ok(status) if status.tracer != 0 => {
            Err(SpaceError::AlreadyTraced { pid: pid.0, tracer: status.tracer })
        }
        _ => Err(SpaceError::NotPermitted { pid: pid.0, remedy: remedy(&error) }),
    }
}

/// What can be done where tracing is refused (ptrace(2), "/proc/sys/kernel/yama/ptrace_scope").
pub(super) fn remedy(error: &io::Error) -> String {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    match scope.trim() {
        "1" => "run as root, or allow it with `sysctl kernel.yama.ptrace_scope=0`".to_owned(),
        "2" => "run as root (kernel.yama.ptrace_scope is 2)".to_owned(),
        "3" => "kernel.yama.ptrace_scope is 3: tracing is off until the next boot".to_owned(),
        _ if error.raw_os_error() == Some(libc::EPERM) => {
            "it belongs to another user or has more privileges: run as root (CAP_SYS_PTRACE)".to_owned()
        }
        _ => format!("the system says: {error}"),
    }
}
