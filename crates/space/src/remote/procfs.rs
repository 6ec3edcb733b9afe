//! Facts about processes from /proc (proc(5)).

use std::fs;
use std::io::{self, Read};

use super::ptrace::Tid;

/// Fields of /proc/PID/status.
#[derive(Clone, Debug, Default)]
pub(super) struct ThreadStatus {
    /// The one-letter state: R, S, D, T, t, Z, X.
    pub(super) state: char,
    /// The process the thread belongs to.
    pub(super) process: i32,
    /// The process that made its process.
    pub(super) parent: i32,
    /// Who traces it, 0 for no one.
    pub(super) tracer: i32,
    /// Signals that are blocked now (PTRACE_GETSIGMASK tells what will be blocked after the system call).
    pub(super) blocked: u64,
    /// Signals with a handler.
    pub(super) caught: u64,
    /// 0 if no seccomp filter is in force.
    pub(super) seccomp: u32,
    /// A kernel thread (it has no memory of its own).
    pub(super) kernel: bool,
    /// A user shadow stack is in use.
    pub(super) shadow_stack: bool,
    /// SIGKILL is pending.
    pub(super) killed: bool,
}

/// The status of a thread or process; an error if there is none.
pub(super) fn status(tid: Tid) -> io::Result<ThreadStatus> {
    let text = text(&format!("/proc/{}/status", tid.0))?;
    let mut status = ThreadStatus { kernel: true, ..ThreadStatus::default() };
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match key {
            "State" => status.state = value.chars().next().unwrap_or('?'),
            "Tgid" => status.process = value.parse().unwrap_or(0),
            "PPid" => status.parent = value.parse().unwrap_or(0),
            "TracerPid" => status.tracer = value.parse().unwrap_or(0),
            "SigBlk" => status.blocked = u64::from_str_radix(value, 16).unwrap_or(0),
            "SigCgt" => status.caught = u64::from_str_radix(value, 16).unwrap_or(0),
            "SigPnd" | "ShdPnd" => {
                status.killed |=
                    u64::from_str_radix(value, 16).is_ok_and(|set| set & 1 << (libc::SIGKILL - 1) != 0);
            }
            "Seccomp" => status.seccomp = value.parse().unwrap_or(0),
            "VmSize" => status.kernel = false,
            "x86_Thread_features" => status.shadow_stack = value.split(' ').any(|word| word == "shstk"),
            _ => {}
        }
    }
    Ok(status)
}

/// The text of a file in /proc, which tells no size: read in large pieces. Names in it may be no UTF-8.
pub(super) fn text(path: &str) -> io::Result<String> {
    const PIECE: usize = 8 << 10;
    let mut file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    loop {
        let done = bytes.len();
        bytes.resize(done + PIECE, 0);
        let read = match file.read(&mut bytes[done..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => None,
            read => Some(read?),
        };
        bytes.truncate(done + read.unwrap_or(0));
        if read == Some(0) {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}

/// The threads of a process.
pub(super) fn threads(process: i32) -> io::Result<Vec<Tid>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        if let Some(tid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            threads.push(Tid(tid));
        }
    }
    Ok(threads)
}

/// Whether the thread is a worker of the kernel inside the process (io_uring): it runs none of its code.
pub(super) fn is_kernel_worker(tid: Tid) -> bool {
    // linux/sched.h.
    const PF_IO_WORKER: u64 = 0x10;
    const PF_USER_WORKER: u64 = 0x4000;
    const PF_KTHREAD: u64 = 0x20_0000;
    flags(tid).is_some_and(|flags| flags & (PF_IO_WORKER | PF_USER_WORKER | PF_KTHREAD) != 0)
}

/// Whether the thread is on its way out of the kernel, never to run code of its program again: it may have given up its
/// memory, and have far to go (a file to be written, a thousand files to be closed) before it is a zombie.
pub(super) fn is_ending(tid: Tid) -> bool {
    // linux/sched.h.
    const PF_EXITING: u64 = 0x4;
    flags(tid).is_none_or(|flags| flags & PF_EXITING != 0)
}

/// The kernel's flags of a thread (/proc/PID/stat); `None` if there is none.
fn flags(tid: Tid) -> Option<u64> {
    let stat = text(&format!("/proc/{}/stat", tid.0)).ok()?;
    // The name in parentheses may hold anything; behind it come state, five numbers, flags.
    stat.rsplit_once(") ")?.1.split(' ').nth(6)?.parse().ok()
}

/// Where a thread sleeps in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Asleep {
    /// The system call it is in, -1 for none (a page fault).
    pub(super) syscall: i64,
    /// The first argument of that call.
    pub(super) argument: u64,
    pub(super) sp: u64,
    pub(super) ip: u64,
}

/// Where a thread sleeps; `None` if it runs (/proc/PID/syscall).
pub(super) fn asleep(tid: Tid) -> Option<Asleep> {
    parse_asleep(&text(&format!("/proc/{}/syscall", tid.0)).ok()?)
}

fn parse_asleep(text: &str) -> Option<Asleep> {
    let hex = |field: &&str| u64::from_str_radix(field.strip_prefix("0x")?, 16).ok();
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let syscall = fields.first()?.parse().ok()?;
    let argument = fields.get(1).and_then(hex).filter(|_| fields.len() > 3).unwrap_or(0);
    let [.., sp, ip] = fields.as_slice() else { return None };
    Some(Asleep { syscall, argument, sp: hex(sp)?, ip: hex(ip)? })
}

/// What kind of program a process runs, or a file holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ProgramKind {
    X86_64,
    Other(&'static str),
}

/// Reads the kind from the ELF header of the file (ELF specification: e_ident, e_machine).
pub(super) fn program_kind(path: &str) -> io::Result<ProgramKind> {
    const EM_386: u16 = 3;
    const EM_X86_64: u16 = 62;
    let mut header = Vec::with_capacity(20);
    fs::File::open(path)?.take(20).read_to_end(&mut header)?;
    Ok(match header.as_slice() {
        [0x7F, b'E', b'L', b'F', class, data, _, _, _, _, _, _, _, _, _, _, _, _, low, high] => {
            match (class, data, u16::from_le_bytes([*low, *high])) {
                (2, 1, EM_X86_64) => ProgramKind::X86_64,
                (1, 1, EM_386) => ProgramKind::Other("a 32-bit x86 program"),
                (1, 1, EM_X86_64) => ProgramKind::Other("an x32 program"),
                _ => ProgramKind::Other("a program for another processor"),
            }
        }
        _ => ProgramKind::Other("not an ELF file"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_this_process() {
        let pid = std::process::id() as i32;
        let status = status(Tid(pid)).expect("it runs");
        assert_eq!(status.process, pid);
        assert!(!status.kernel, "it has memory");
        assert!(threads(pid).expect("it runs").contains(&Tid(pid)));
        assert_eq!(program_kind("/proc/self/exe").expect("readable"), ProgramKind::X86_64);
    }

    #[test]
    fn where_a_thread_sleeps() {
        let read = Asleep { syscall: 0, argument: 5, sp: 0x7ffe_3c50, ip: 0x7f1d_c01a };
        assert_eq!(parse_asleep("0 0x5 0x7ffe3d 0x1 0x0 0x0 0x0 0x7ffe3c50 0x7f1dc01a\n"), Some(read));
        let fault = Asleep { syscall: -1, argument: 0, ..read };
        assert_eq!(parse_asleep("-1 0x7ffe3c50 0x7f1dc01a\n"), Some(fault));
        assert_eq!(parse_asleep("running\n"), None);
    }

    #[test]
    fn kernel_threads_are_told_apart() {
        // Process 2 is kthreadd wherever process ids are not namespaced.
        let Ok(status) = status(Tid(2)) else { return eprintln!("skipped: no process 2") };
        let name = fs::read_to_string("/proc/2/comm").unwrap_or_default();
        if name.trim() != "kthreadd" {
            return eprintln!("skipped: process 2 is not the kernel's");
        }
        assert!(status.kernel && is_kernel_worker(Tid(2)));
    }
}
