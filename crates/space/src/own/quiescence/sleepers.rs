//! Looking through threads that sleep in a system call, without waking them.
//!
//! Stopping such a thread would end some calls with EINTR (signal(7)). /proc/self/task/TID/syscall tells
//! a sleeper's stack pointer and instruction pointer; if the thread sleeps at the same place
//! before and after its stack was read, and has not been switched out meanwhile, it did not run in between.

use std::ffi::CString;

use super::scan::{Search, Verdict, read_own};
use crate::sys::{self, Errno};

/// Where a sleeping thread is (proc(5), /proc/PID/syscall).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sleep {
    /// Number of the system call, none if it was stopped or faulted.
    call: Option<i64>,
    /// Its arguments, then the stack pointer and the instruction pointer.
    words: Vec<u64>,
}

impl Sleep {
    /// Nothing if the thread runs.
    fn parse(text: &str) -> Option<Sleep> {
        let mut fields = text.split_whitespace();
        let call = fields.next()?.parse().ok()?;
        let words: Option<Vec<u64>> =
            fields.map(|field| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok()).collect();
        let words = words.filter(|words| words.len() >= 2)?;
        Some(Sleep { call: (call >= 0).then_some(call), words })
    }

    fn stack_pointer(&self) -> u64 {
        self.words[self.words.len() - 2]
    }

    fn instruction_pointer(&self) -> &[u64] {
        &self.words[self.words.len() - 1..]
    }

    /// Whether the thread waits for a child that runs in this memory, on this very stack (vfork(2)).
    fn lends_its_memory(&self) -> bool {
        let flags = match (self.call, self.words.first()) {
            (Some(libc::SYS_vfork), _) => return true,
            (Some(libc::SYS_clone), Some(&flags)) => flags,
            (Some(libc::SYS_clone3), Some(&arguments)) => {
                // struct clone_args begins with the flags.
                let mut flags = [0u64];
                return !read_own(arguments, &mut flags) || flags[0] & libc::CLONE_VFORK as u64 != 0;
            }
            _ => return false,
        };
        flags & libc::CLONE_VFORK as u64 != 0
    }
}

/// Looks through thread `tid` if it sleeps; nothing if it runs.
pub(super) fn look(tid: i32, search: &mut Search<'_>) -> Option<Verdict> {
    let before = match switches(tid) {
        Ok(before) => before,
        Err(Errno(libc::ENOENT | libc::ESRCH)) => return Some(Verdict::Gone),
        Err(_) => return Some(Verdict::Hidden),
    };
    if before.dead {
        return Some(Verdict::Gone);
    }
    let asleep = sleep(tid)?;
    if asleep.lends_its_memory() {
        return Some(Verdict::Hidden);
    }
    let verdict = search.thread(asleep.instruction_pointer(), asleep.stack_pointer());
    let again = sleep(tid)?;
    let after = switches(tid).ok()?;
    (again == asleep && after == before).then_some(verdict)
}

/// Whether thread `tid` runs no code any more.
pub(super) fn has_ended(tid: i32) -> bool {
    match switches(tid) {
        Ok(switches) => switches.dead,
        Err(errno) => matches!(errno, Errno(libc::ENOENT | libc::ESRCH)),
    }
}

fn sleep(tid: i32) -> Option<Sleep> {
    let text = read(tid, "syscall").ok()?;
    Sleep::parse(str::from_utf8(&text).ok()?)
}

/// How often a thread was switched out, and whether it has ended.
#[derive(PartialEq, Eq, Debug)]
struct Switches {
    count: u64,
    dead: bool,
}

fn switches(tid: i32) -> Result<Switches, Errno> {
    let text = read(tid, "status")?;
    let mut switches = Switches { count: 0, dead: false };
    for line in text.split(|&byte| byte == b'\n') {
        let Some((name, value)) = str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else {
            continue;
        };
        match name {
            "State" => switches.dead = value.trim_start().starts_with(['Z', 'X']),
            "voluntary_ctxt_switches" | "nonvoluntary_ctxt_switches" => {
                switches.count += value.trim().parse::<u64>().unwrap_or(0);
            }
            _ => {}
        }
    }
    Ok(switches)
}

fn read(tid: i32, file: &str) -> Result<Vec<u8>, Errno> {
    let path = CString::new(format!("/proc/self/task/{tid}/{file}")).map_err(|_| Errno(libc::EINVAL))?;
    sys::read_file(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_forms_are_understood() {
        let sleep = Sleep::parse("202 0x1 0x2 0x3 0x4 0x5 0x6 0x7ffe00 0x7f1234\n").expect("a sleeper");
        assert_eq!((sleep.call, sleep.stack_pointer(), sleep.words.len()), (Some(202), 0x7ffe00, 8));
        let stopped = Sleep::parse("-1 0x7ffe00 0x7f1234\n").expect("a stopped thread");
        assert_eq!((stopped.call, stopped.stack_pointer()), (None, 0x7ffe00));
        assert_eq!(Sleep::parse("running\n"), None);
    }

    #[test]
    fn a_thread_in_vfork_lends_its_memory_and_one_in_fork_does_not() {
        let lends = |text: &str| Sleep::parse(text).expect("a sleeper").lends_its_memory();
        assert!(lends("58 0x0 0x0 0x0 0x0 0x0 0x0 0x1 0x2"));
        assert!(lends("56 0x4111 0x0 0x0 0x0 0x0 0x0 0x1 0x2"), "CLONE_VFORK | CLONE_VM | SIGCHLD");
        assert!(!lends("56 0x1200011 0x0 0x0 0x0 0x0 0x0 0x1 0x2"), "fork(3)");
        let arguments = [libc::CLONE_VFORK as u64, 0];
        assert!(lends(&format!("435 {:p} 0x58 0x0 0x0 0x0 0x0 0x1 0x2", &arguments)));
        assert!(lends("435 0x10 0x58 0x0 0x0 0x0 0x0 0x1 0x2"), "unreadable");
        let arguments = [libc::CLONE_THREAD as u64, 0];
        assert!(!lends(&format!("435 {:p} 0x58 0x0 0x0 0x0 0x0 0x1 0x2", &arguments)));
    }
}
