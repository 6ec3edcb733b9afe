//! Signals of the program while it is traced, SIGTRAP and SIGILL above all.

mod remote_support;

use std::time::Duration;

use incise_space::AddressSpace;
use incise_space::remote::{Event, Left, Tracer};
use remote_support::*;

/// Handles SIGTRAP itself: `raise`, an `int3` of its own, and a count of what came.
const OWN_TRAPS: &str = r#"
static volatile int sent, ran;
static void handler(int signal, siginfo_t *info, void *context) {
    if (signal != SIGTRAP || context == NULL) _exit(98);
    if (info->si_code == SI_TKILL && info->si_pid == getpid()) sent++;
    else if (info->si_code == SI_KERNEL) ran++;
    else _exit(97);
}
static void install(void) {
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
    sigaction(SIGTRAP, &action, NULL);
}
static int both(void) {
    int before = sent + ran;
    raise(SIGTRAP);
    __asm__ volatile("int3");
    return sent + ran - before == 2 ? answer() : -1;
}
"#;

#[test]
fn a_program_that_handles_sigtrap_gets_its_own() {
    let source = format!(
        "{OWN_TRAPS} int main(void) {{ install(); ready();
         while (line()) {{ printf(\"%d\\n\", both()); fflush(stdout); }} return 7; }}"
    );
    let mut program = Program::start(&source, &[]);
    assert_eq!(program.ask(), "1");
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
    probe.install(&mut space);
    for _ in 0..5 {
        assert_eq!(program.ask_traced(&mut tracer), "2");
    }
    // The same without a tracer, through the handler in the target.
    tracer.detach(pid).expect("traced");
    for _ in 0..5 {
        assert_eq!(program.ask(), "2");
    }
    assert_eq!(program.finish().code(), Some(7));
}

#[test]
fn a_handler_installed_later_does_not_break_the_probe() {
    let source = format!(
        "{OWN_TRAPS} int main(void) {{ ready(); line(); install();
         do {{ printf(\"%d\\n\", both()); fflush(stdout); }} while (line()); return 7; }}"
    );
    let mut program = Program::start(&source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
    probe.install(&mut space);
    for _ in 0..3 {
        assert_eq!(program.ask_traced(&mut tracer), "2");
    }
    space.secure_handlers().expect("installed");
    tracer.detach(pid).expect("traced");
    for _ in 0..3 {
        assert_eq!(program.ask(), "2");
    }
    assert_eq!(program.finish().code(), Some(7));
}

/// The program's disposition and mask of SIGTRAP as it sees them, and its result.
const BLOCKED: &str = r#"
static int seen(void) {
    sigset_t mask; sigprocmask(0, NULL, &mask);
    return sigismember(&mask, SIGTRAP);
}
int main(void) {
    sigset_t all; sigfillset(&all);
    ready();
    sigprocmask(SIG_BLOCK, &all, NULL);
    while (line()) { int a = answer(); printf("%d %d\n", a, seen()); fflush(stdout); }
    return 7;
}
"#;

#[test]
fn a_trap_with_all_signals_blocked_works_and_leaves_the_mask() {
    for springboard in [Springboard::Trap, Springboard::Illegal] {
        let mut program = Program::start(BLOCKED, &[]);
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        let mut space = tracer.space(pid).expect("traced");
        let probe = Probe::prepare(&mut space, program.answer, springboard);
        probe.install(&mut space);
        for _ in 0..5 {
            assert_eq!(program.ask_traced(&mut tracer), "2 1", "{springboard:?}");
        }
        let caught = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let caught = caught.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
        let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
        assert_eq!(caught >> 3 & 3, 0b11, "the handler is in force again for both signals");
        probe.uninstall(&mut space);
        assert_eq!(program.ask_traced(&mut tracer), "1 1");
        assert_eq!(program.finish_traced(&mut tracer), Event::Exited { pid, code: 7 });
    }
}

#[test]
fn a_trap_that_is_not_ours_still_kills() {
    for (body, signal) in [
        ("__asm__ volatile(\"int3\")", libc::SIGTRAP),
        ("raise(SIGTRAP)", libc::SIGTRAP),
        ("__asm__ volatile(\"ud2\")", libc::SIGILL),
    ] {
        let source = format!("int main(void) {{ ready(); line(); {body}; return 7; }}");
        for traced in [true, false] {
            let mut program = Program::start(&source, &[]);
            let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
            let mut space = tracer.space(pid).expect("traced");
            Probe::prepare(&mut space, program.answer, Springboard::Trap).install(&mut space);
            program.send();
            if traced {
                let end = end_of(&mut tracer, pid);
                assert!(matches!(end, Event::Killed { signal: s, .. } if s == signal), "{body}: {end:?}");
            } else {
                tracer.detach(pid).expect("traced");
                let status = std::os::unix::process::ExitStatusExt::signal(&program.finish());
                assert_eq!(status, Some(signal), "{body}");
            }
        }
    }
}

#[test]
fn actions_are_restored() {
    let source = format!("{OWN_TRAPS} int main(void) {{ install(); static struct sigaction a, b; sigaction(SIGTRAP, NULL, &a);
        ready(); while (line()) {{ sigaction(SIGTRAP, NULL, &b);
        printf(\"%d\\n\", a.sa_handler == b.sa_handler && a.sa_flags == b.sa_flags && !memcmp(&a.sa_mask, &b.sa_mask, 8));
        fflush(stdout); }} return both() == 1 ? 7 : 8; }}");
    let mut program = Program::start(&source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    Probe::prepare(&mut space, program.answer, Springboard::Trap).install(&mut space);
    assert_eq!(program.ask_traced(&mut tracer), "0", "ours is in force");
    assert_eq!(space.remove().expect("removed"), Left::default());
    assert_eq!(program.ask_traced(&mut tracer), "1", "its own is in force again");
    assert_eq!(program.finish_traced(&mut tracer), Event::Exited { pid, code: 7 });
}

/// Signals with values and senders, to itself, as fast as they can be handled.
const STORM_OF_SIGNALS: &str = r#"
static volatile int bad;
static volatile long seen;
static void handler(int signal, siginfo_t *info, void *context) {
    (void)signal; (void)context;
    if (info->si_code != SI_QUEUE || info->si_value.sival_int != 4711 || info->si_pid != getpid()) bad = 1;
    if (answer() > 2) bad = 1;
    seen++;
}
int main(void) {
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
    sigaction(SIGRTMIN, &action, NULL);
    ready();
    for (long i = 1; i <= 20000; i++) {
        sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = 4711 });
        if (seen != i || bad) { dprintf(2, "%ld of %ld, %d\n", seen, i, bad); return 99; }
        answer();
    }
    return 7;
}
"#;

#[test]
fn every_signal_comes_once_with_its_information() {
    let program = Program::start(STORM_OF_SIGNALS, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    for round in 0.. {
        let springboard = if round % 2 == 0 { Springboard::Trap } else { Springboard::Jump };
        let mut step = || -> Result<(), incise_space::SpaceError> {
            let probe = Probe::prepare(&mut space, program.answer, springboard);
            space.apply(&[probe.edit], &|_| None)?;
            space.apply(&[probe.edit.inverse()], &|_| None)?;
            Ok(())
        };
        if round < 10 {
            step().expect("it runs");
            pump(&mut tracer, Duration::from_millis(5));
        } else {
            break;
        }
    }
    assert_eq!(end_of(&mut tracer, pid), Event::Exited { pid, code: 7 });
}
