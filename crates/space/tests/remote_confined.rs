//! Programs that confine themselves: seccomp filters, no writable-and-executable memory.
//!
//! # Safety
//! The raw system calls change the capabilities of a thread of their own, which ends after its one attempt.

mod remote_support;

use incise_space::remote::{Left, Tracer};
use incise_space::{AddressSpace, SpaceError};
use remote_support::*;

/// Allows itself read, write and exit, and dies of anything else.
const FILTERED: &str = r#"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#define ALLOW(name) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_##name, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
int main(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(read), ALLOW(write), ALLOW(exit_group), ALLOW(restart_syscall), ALLOW(rt_sigreturn),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    char buffer[64];
    setvbuf(stdout, malloc(4096), _IOFBF, 4096);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 9;
    ready();
    while (read(0, buffer, sizeof buffer) > 0) {
        buffer[0] = '0' + answer(); buffer[1] = '\n';
        write(1, buffer, 2);
    }
    if (answer() == 9) getppid();
    return 7;
}
"#;

#[test]
fn a_filtered_program_is_probed_and_stays_filtered() {
    let mut program = Program::start(FILTERED, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    for springboard in [Springboard::Jump, Springboard::Trap] {
        let probe = Probe::prepare(&mut space, program.answer, springboard);
        probe.install(&mut space);
        assert_eq!(program.ask_traced(&mut tracer), "2");
        assert_eq!(space.remove().expect("removed"), Left::default());
        assert_eq!(program.ask_traced(&mut tracer), "1");
    }
    // A trap without a tracer: the handler makes no call the filter does not know.
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
    probe.install(&mut space);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    assert!(status.contains("Seccomp:\t2"), "the filter is in force");
    tracer.detach(pid).expect("traced");
    assert_eq!(program.ask(), "2");
    assert_eq!(program.finish().code(), Some(7));
}

#[test]
fn the_filter_bites_again_afterwards() {
    let source = FILTERED.replace("== 9", "== 2");
    let mut program = Program::start(&source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Jump);
    probe.install(&mut space);
    assert_eq!(program.ask_traced(&mut tracer), "2");
    tracer.detach(pid).expect("traced");
    let signal = std::os::unix::process::ExitStatusExt::signal(&program.finish());
    assert_eq!(signal, Some(libc::SIGSYS), "its getppid was not allowed");
}

/// Takes capabilities from this thread alone.
fn drop_capabilities(capabilities: &[u32]) {
    /// linux/capability.h.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: raw system calls, which concern the calling thread.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()), 0);
        for capability in capabilities {
            sets[*capability as usize / 32][0] &= !(1 << (capability % 32));
        }
        assert_eq!(libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()), 0);
    }
}

#[test]
fn without_the_privilege_a_filter_is_refused_before_anything_happens() {
    const CAP_SYS_ADMIN: u32 = 21;
    let mut program = Program::start(FILTERED, &[]);
    let (pid, answer) = (program.pid, program.answer);
    std::thread::spawn(move || {
        drop_capabilities(&[CAP_SYS_ADMIN]);
        let tracer = match Tracer::attach(pid) {
            Ok((tracer, _)) => tracer,
            Err(error) => return println!("skipped: may not trace here: {error}"),
        };
        let mut space = tracer.space(pid).expect("traced");
        let error = space.map_code(answer.align_down(PAGE) - (1 << 24), PAGE).expect_err("refused");
        assert!(matches!(error, SpaceError::Seccomp { .. }), "{error}");
    })
    .join()
    .expect("no panic");
    assert_eq!(program.ask(), "1");
    assert_eq!(program.finish().code(), Some(7));
}

/// A program that has as many files open as it may.
fn full() -> String {
    format!(
        r#"
#include <sys/resource.h>
#define main the_program
{ECHO}
#undef main
int main(void) {{
    struct rlimit limit = {{ 64, 64 }};
    setrlimit(RLIMIT_NOFILE, &limit);
    while (open("/dev/null", O_RDONLY) >= 0) {{}}
    return the_program();
}}"#
    )
}

#[test]
fn a_program_that_may_open_no_more_files_is_probed() {
    let mut program = Program::start(&full(), &[]);
    let mut files = std::fs::read_dir("/proc/self/map_files").into_iter().flatten().flatten();
    if files.all(|file| std::fs::File::open(file.path()).is_err()) {
        return println!("skipped: files that are mapped cannot be opened here (CAP_CHECKPOINT_RESTORE)");
    }
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Jump);
    probe.install(&mut space);
    for hits in 1..4 {
        assert_eq!(program.ask_traced(&mut tracer), "2");
        assert_eq!(probe.hits(), hits, "counted in memory that is shared");
    }
    assert_eq!(space.remove().expect("removed"), Left::default());
    tracer.detach(pid).expect("traced");
    assert_eq!(program.finish().code(), Some(7));
}

#[test]
fn without_the_privilege_a_program_that_may_open_no_more_files_is_refused_with_a_remedy() {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_CHECKPOINT_RESTORE: u32 = 40;
    let mut program = Program::start(&full(), &[]);
    let (pid, answer) = (program.pid, program.answer);
    std::thread::spawn(move || {
        drop_capabilities(&[CAP_SYS_ADMIN, CAP_CHECKPOINT_RESTORE]);
        let tracer = match Tracer::attach(pid) {
            Ok((tracer, _)) => tracer,
            Err(error) => return println!("skipped: may not trace here: {error}"),
        };
        let mut space = tracer.space(pid).expect("traced");
        let before = space.mappings().expect("readable");
        let at = answer.align_down(PAGE) - (1 << 24);
        let error = space.map_data(at, PAGE).map(drop).expect_err("refused");
        let told = error.to_string();
        assert!(matches!(error, SpaceError::TooManyFiles { .. }) && told.contains("prlimit"), "{told}");
        assert!(space.mappings().expect("readable").find(at).is_none() && before.find(at).is_none());
    })
    .join()
    .expect("no panic");
    assert_eq!(program.ask(), "1");
    assert_eq!(program.finish().code(), Some(7));
}

#[test]
fn a_program_without_writable_and_executable_memory_is_probed() {
    let source = format!(
        r#"
#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#endif
#define main the_program
{ECHO}
#undef main
int main(void) {{ if (prctl(PR_SET_MDWE, 1, 0, 0, 0)) {{ puts("no"); return 0; }} return the_program(); }}"#
    );
    let supported = std::process::Command::new(compile(&source, &[])).output().expect("it runs");
    if supported.stdout == b"no\n" {
        return println!("skipped: this kernel has no PR_SET_MDWE");
    }
    let mut program = Program::start(&source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    for springboard in [Springboard::Jump, Springboard::Trap] {
        let probe = Probe::prepare(&mut space, program.answer, springboard);
        probe.install(&mut space);
        assert_eq!(program.ask_traced(&mut tracer), "2");
        for mapping in space.mappings().expect("readable").iter() {
            assert!(!(mapping.permissions.write && mapping.permissions.execute), "{mapping:?}");
        }
        assert_eq!(space.remove().expect("removed"), Left::default());
    }
    tracer.detach(pid).expect("traced");
    assert_eq!(program.finish().code(), Some(7));
}
