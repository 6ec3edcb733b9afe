//! Attaches to running processes in every state, without them noticing.
//!
//! # Safety
//! System calls without pointers: they change the rights of this process, or send signals to the tests' own programs.

mod remote_support;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::Duration;

use incise_space::remote::{Event, ProcessId, RemoteSpace, Tracer};
use incise_space::{AddressSpace, SpaceError};
use remote_support::*;

/// Makes injected calls in the target: many stops, and every register in use.
fn disturb(space: &mut RemoteSpace, answer: incise_isa::Addr) {
    for _ in 0..5 {
        let probe = Probe::prepare(space, answer, Springboard::Trap);
        probe.install(space);
        probe.uninstall(space);
        space.unmap(probe.code, 2 * PAGE).expect("mapped");
    }
}

fn attach_error(pid: i32) -> SpaceError {
    Tracer::attach(ProcessId(pid)).map(drop).expect_err("refused")
}

#[test]
fn what_cannot_be_traced_is_refused_with_the_reason() {
    let own = std::process::id() as i32;
    assert!(matches!(attach_error(own), SpaceError::NotPermitted { .. }));
    assert!(matches!(attach_error(0), SpaceError::NoProcess { .. }));
    assert!(matches!(attach_error(-5), SpaceError::NoProcess { .. }));
    assert!(matches!(attach_error(i32::MAX), SpaceError::NoProcess { .. }));
    let mut child = Command::new("true").spawn().expect("it starts");
    std::thread::sleep(Duration::from_millis(100));
    assert!(matches!(attach_error(child.id() as i32), SpaceError::Gone { .. }), "a zombie");
    child.wait().expect("ours");
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
        assert!(matches!(attach_error(2), SpaceError::NotPermitted { .. }), "a kernel thread");
    } else {
        println!("skipped: no kernel threads are visible here");
    }
}

#[test]
fn a_traced_process_is_refused_with_its_tracer() {
    let program = Program::start(ECHO, &[]);
    let (_tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let error = std::thread::spawn(move || attach_error(pid.0)).join().expect("no panic");
    assert!(matches!(error, SpaceError::AlreadyTraced { tracer, .. } if tracer != 0), "{error}");
}

#[test]
fn another_users_process_is_refused_with_a_remedy() {
    // SAFETY: only reads the id.
    if unsafe { libc::getuid() } != 0 {
        return println!("skipped: needs root to become another user");
    }
    let program = Program::start(ECHO, &[]);
    let pid = program.pid.0;
    let error = std::thread::spawn(move || {
        // SAFETY: changes the ids of this thread alone (a raw system call), which ends here.
        unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        attach_error(pid)
    });
    match error.join().expect("no panic") {
        SpaceError::NotPermitted { remedy, .. } => assert!(remedy.contains("root"), "{remedy}"),
        error => panic!("{error}"),
    }
}

#[test]
fn a_program_whose_name_is_no_text_is_traced() {
    let plain = compile(ECHO, &[]);
    let named = plain.with_file_name(OsStr::from_bytes(b"no-\xFF-text"));
    std::fs::copy(&plain, &named).expect("copied");
    let mut program = Program::run(&mut Command::new(&named));
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Jump);
    probe.install(&mut space);
    assert_eq!(program.ask_traced(&mut tracer), "2");
    space.remove().expect("removed");
    tracer.detach(pid).expect("traced");
    assert_eq!(program.finish().code(), Some(7));
    std::fs::remove_file(named).expect("there");
}

/// A program whose threads each check that their registers, flags and stacks stay as they are: the
/// memory below the stack pointer, beyond the red zone, belongs to someone else.
const REGISTERS: &str = r#"
static void *check(void *stack) {
    uint64_t bad;
    memset(stack, 0x5A, 4096);
    __asm__ volatile(
        "mov %%rsp, %%r15\n mov %%rbp, %%r14\n lea 2048(%%rdi), %%rsp\n"
        "mov $0x1111, %%rax\n mov $0x2222, %%rbx\n mov $0x3333, %%rcx\n mov $0x4444, %%rdx\n"
        "mov $0x5555, %%rsi\n mov $0x6666, %%rbp\n mov $0x7777, %%r8\n mov $0x8888, %%r9\n"
        "mov $0x9999, %%r10\n mov $0xaaaa, %%r11\n mov $0xbbbb, %%r12\n mov $0, %%r13\n"
        "movq %%rax, %%xmm7\n stc\n"
        "1: jnc 2f\n"
        "cmp $0x1111, %%rax\n jne 2f\n cmp $0x2222, %%rbx\n jne 2f\n cmp $0x3333, %%rcx\n jne 2f\n"
        "cmp $0x4444, %%rdx\n jne 2f\n cmp $0x5555, %%rsi\n jne 2f\n cmp $0x6666, %%rbp\n jne 2f\n"
        "cmp $0x7777, %%r8\n jne 2f\n cmp $0x8888, %%r9\n jne 2f\n cmp $0x9999, %%r10\n jne 2f\n"
        "cmp $0xaaaa, %%r11\n jne 2f\n cmp $0xbbbb, %%r12\n jne 2f\n"
        "movq %%xmm7, %%r13\n cmp $0x1111, %%r13\n jne 2f\n"
        "lea -2048(%%rsp), %%r13\n"
        "3: cmpb $0x5A, (%%r13)\n jne 2f\n inc %%r13\n cmp %%rsp, %%r13\n jb 3b\n"
        "stc\n jmp 1b\n"
        "2: mov %%r15, %%rsp\n mov %%r14, %%rbp\n"
        : "=a"(bad) : "D"(stack)
        : "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm7", "memory", "cc");
    dprintf(2, "a register, flag or stack byte changed\n");
    _exit(99);
}
int main(void) {
    pthread_t thread;
    for (int i = 0; i < 2; i++)
        pthread_create(&thread, NULL, check, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ready();
    pthread_exit(NULL);
}
"#;

#[test]
fn registers_flags_and_stacks_stay_as_they_are() {
    let mut program = Program::start(REGISTERS, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    for _ in 0..20 {
        disturb(&mut space, program.answer);
        pump(&mut tracer, Duration::from_millis(2));
    }
    tracer.detach(pid).expect("traced");
    std::thread::sleep(Duration::from_millis(20));
    assert!(program.child.try_wait().expect("ours").is_none(), "it runs");
}

/// Each thread blocks in one system call, and ends the program if that fails or ends too early.
const BLOCKED: &str = r#"
#include <poll.h>
#include <linux/futex.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/sem.h>
static int futex;
static int pipes[2];
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static void fail(const char *what, long result) { dprintf(2, "%s: %ld %s\n", what, result, strerror(errno)); _exit(99); }
#define FOREVER(name, call) static void *name(void *x) { long r = call; fail(#name, r); return x; }
#define SECOND(name, call) static void *name(void *x) { double t = now(); long r = call; t = now() - t; \
    if (r != 0 && !(r == -1 && (errno == ETIMEDOUT || errno == EAGAIN))) fail(#name, r); \
    if (t < 0.99) fail(#name " was too short", (long)(t * 1000)); \
    if (t > 4.0) fail(#name " was too long", (long)(t * 1000)); return x; }
static struct timespec second = { 1, 0 };
static struct timeval second_too = { 1, 0 };
static char byte;
FOREVER(blocked_read, read(pipes[0], &byte, 1))
FOREVER(blocked_futex, syscall(SYS_futex, &futex, FUTEX_WAIT, 0, NULL, NULL, 0))
FOREVER(blocked_epoll, ({ struct epoll_event e; epoll_wait(epoll_create1(0), &e, 1, -1); }))
FOREVER(blocked_semop, ({ struct sembuf b = { 0, -1, 0 }; int s = semget(IPC_PRIVATE, 1, 0600);
    semop(s, &b, 1); }))
FOREVER(blocked_pause, pause())
SECOND(second_nanosleep, nanosleep(&second, NULL))
SECOND(second_futex, syscall(SYS_futex, &futex, FUTEX_WAIT, 0, &second, NULL, 0))
SECOND(second_poll, poll(NULL, 0, 1000))
SECOND(second_select, select(0, NULL, NULL, NULL, &second_too))
SECOND(second_epoll, ({ struct epoll_event e; epoll_wait(epoll_create1(0), &e, 1, 1000); }))
SECOND(second_sigwait, ({ sigset_t s; sigemptyset(&s); sigaddset(&s, SIGUSR2); sigtimedwait(&s, NULL, &second); }))
int main(void) {
    void *(*calls[])(void *) = { blocked_read, blocked_futex, blocked_epoll, blocked_semop, blocked_pause };
    void *(*seconds[])(void *) = { second_nanosleep, second_futex, second_poll, second_select, second_epoll,
        second_sigwait };
    pthread_t thread, ends[6];
    pipe(pipes);
    ready();
    for (int i = 0; i < 5; i++) pthread_create(&thread, NULL, calls[i], NULL);
    for (int i = 0; i < 6; i++) pthread_create(&ends[i], NULL, seconds[i], NULL);
    for (int i = 0; i < 6; i++) pthread_join(ends[i], NULL);
    printf("good\n"); fflush(stdout);
    line();
    return 7;
}
"#;

#[test]
fn blocked_system_calls_do_not_notice() {
    let mut program = Program::start(BLOCKED, &[]);
    std::thread::sleep(Duration::from_millis(50));
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    for _ in 0..5 {
        disturb(&mut space, program.answer);
        pump(&mut tracer, Duration::from_millis(50));
    }
    pump(&mut tracer, Duration::from_millis(3000));
    assert_eq!(program.read_line(), "good");
    assert_eq!(program.finish_traced(&mut tracer), Event::Exited { pid, code: 7 });
}

#[test]
fn a_blocked_call_still_fails_when_a_signal_comes() {
    let source = r#"
#include <sys/epoll.h>
static void handler(int signal) { (void)signal; }
int main(void) {
    struct sigaction action = { .sa_handler = handler };
    struct epoll_event e;
    sigset_t none, usr1;
    sigemptyset(&none); sigemptyset(&usr1); sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    sigaction(SIGUSR1, &action, NULL);
    ready();
    int fd = epoll_create1(0);
    for (;;) {
        int result = epoll_pwait(fd, &e, 1, -1, &none);
        printf("%d %s\n", result, errno == EINTR ? "interrupted" : "?"); fflush(stdout);
    }
}"#;
    let mut program = Program::start(source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    for round in 0..20 {
        disturb(&mut space, program.answer);
        // SAFETY: a child of ours.
        let send = || assert_eq!(unsafe { libc::kill(pid.0, libc::SIGUSR1) }, 0);
        if round % 2 == 0 {
            send();
        } else {
            // The call was interrupted by the stop, and the signal comes before it is over.
            pump(&mut tracer, Duration::from_millis(5));
            space.stop().expect("traced");
            send();
            space.resume();
        }
        disturb(&mut space, program.answer);
        pump(&mut tracer, Duration::from_millis(20));
        assert_eq!(program.read_line(), "-1 interrupted");
    }
}

#[test]
fn threads_come_and_go_while_tracing_begins() {
    let source = r#"
static void *short_lived(void *x) { if (answer() == 99) abort(); return x; }
static void *maker(void *x) {
    for (;;) {
        pthread_t t[4];
        for (int i = 0; i < 4; i++) pthread_create(&t[i], NULL, short_lived, NULL);
        for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    }
    return x;
}
int main(void) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) pthread_create(&thread, NULL, maker, NULL);
    ready();
    while (line()) { printf("%d\n", answer()); fflush(stdout); }
    return 7;
}"#;
    let mut program = Program::start(source, &[]);
    for _ in 0..10 {
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        let mut space = tracer.space(pid).expect("traced");
        let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
        probe.install(&mut space);
        pump(&mut tracer, Duration::from_millis(20));
        assert!(probe.hits() > 0);
        assert_eq!(program.ask_traced(&mut tracer), "2");
        space.remove().expect("removed");
        tracer.detach(pid).expect("traced");
        assert_eq!(program.ask(), "1");
    }
    assert_eq!(program.finish().code(), Some(7));
}

#[test]
fn a_process_whose_first_thread_ended() {
    let source = r#"
static void *storm(void *x) { for (;;) if (answer() == 99) abort(); return x; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, storm, NULL);
    ready();
    pthread_exit(NULL);
}"#;
    let program = Program::start(source, &[]);
    std::thread::sleep(Duration::from_millis(50));
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Jump);
    probe.install(&mut space);
    pump(&mut tracer, Duration::from_millis(20));
    assert!(probe.hits() > 0);
    // SAFETY: a child of ours.
    unsafe { libc::kill(pid.0, libc::SIGTERM) };
    assert!(matches!(end_of(&mut tracer, pid), Event::Killed { signal: libc::SIGTERM, .. }));
}

#[test]
fn a_parent_hears_of_the_end_of_a_process_whose_first_thread_ended_while_it_was_traced() {
    let source = r#"
static void *stay(void *x) { for (;;) pause(); return x; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, stay, NULL);
    ready();
    line();
    syscall(SYS_exit, 0);
}"#;
    let program = compile(source, &[]);
    let mut shell = Program::run(Command::new("sh").args(["-c", "\"$0\"; exit 9"]).arg(program));
    let children = format!("/proc/{0}/task/{0}/children", shell.pid.0);
    let child = std::fs::read_to_string(children).expect("it runs").trim().parse().expect("one child");
    let (mut tracer, pid) = Tracer::attach(ProcessId(child)).expect("permitted");
    shell.send();
    pump(&mut tracer, Duration::from_millis(50));
    assert_eq!(state(pid), 'Z', "its first thread ended");
    tracer.detach(pid).expect("traced");
    // SAFETY: a child of a child of ours, which waits for it.
    unsafe { libc::kill(pid.0, libc::SIGTERM) };
    let waited = std::time::Instant::now();
    while shell.child.try_wait().expect("ours").is_none() {
        assert!(waited.elapsed() < Duration::from_secs(10), "its parent waits for it for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(shell.finish().code(), Some(9));
}

fn state(pid: ProcessId) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).expect("a state")
}

#[test]
fn stopping_and_continuing_still_works() {
    let mut program = Program::start(STORM, &[]);
    let signal = |signal| {
        // SAFETY: a child of ours.
        unsafe { libc::kill(program.pid.0, signal) };
    };
    // Stopped before, and attached to while stopped.
    signal(libc::SIGSTOP);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
    probe.install(&mut space);
    pump(&mut tracer, Duration::from_millis(50));
    assert_eq!(probe.hits(), 0, "it is stopped, all the time");
    signal(libc::SIGCONT);
    pump(&mut tracer, Duration::from_millis(50));
    assert!(probe.hits() > 0);
    // Stopped while traced.
    for _ in 0..3 {
        signal(libc::SIGTSTP);
        pump(&mut tracer, Duration::from_millis(50));
        let hits = probe.hits();
        probe.uninstall(&mut space);
        probe.install(&mut space);
        pump(&mut tracer, Duration::from_millis(50));
        assert_eq!(probe.hits(), hits, "it is stopped");
        signal(libc::SIGCONT);
        pump(&mut tracer, Duration::from_millis(50));
        assert!(probe.hits() > hits, "it goes on");
    }
    // Left while stopped: it stays so.
    signal(libc::SIGSTOP);
    pump(&mut tracer, Duration::from_millis(50));
    space.remove().expect("removed");
    tracer.detach(pid).expect("traced");
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(state(pid), 'T');
    signal(libc::SIGCONT);
    assert_eq!(program.ask(), "1");
    assert_eq!(program.finish().code(), Some(7));
}

/// Its first thread takes long to end: it alone has many files open.
const LEADERLESS: &str = r#"
#include <sched.h>
#include <sys/resource.h>
static void *stay(void *x) { for (;;) pause(); return x; }
int main(void) {
    pthread_t thread;
    struct rlimit limit;
    pthread_create(&thread, NULL, stay, NULL);
    unshare(CLONE_FILES);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (long files = limit.rlim_max < 50000 ? limit.rlim_max : 50000; files > 100; files--)
        open("/dev/null", O_RDONLY);
    ready();
    syscall(SYS_exit, 0);
}
"#;

#[test]
fn a_process_whose_first_thread_is_ending_is_traced() {
    for round in 0..10 {
        let mut program = Program::start(LEADERLESS, &[]);
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        disturb(&mut tracer.space(pid).expect("traced"), program.answer);
        tracer.detach(pid).expect("traced");
        assert!(program.child.try_wait().expect("ours").is_none(), "it runs: round {round}");
    }
}
