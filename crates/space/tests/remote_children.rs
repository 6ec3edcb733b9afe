//! Processes that fork, vfork and exec while they are traced.

mod remote_support;

use std::time::Duration;

use incise_space::remote::{Event, Left, Tracer};
use incise_space::{AddressSpace, SpaceError};
use remote_support::*;

/// Forks; the child and the parent each exit with what `answer` gives.
const FORK: &str = r#"
int main(void) {
    ready(); line();
    pid_t child = fork();
    if (child == 0) _exit(40 + answer());
    int status; waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) * 2 + answer() : 99;
}
"#;

#[test]
fn a_forked_child_keeps_its_probes() {
    for springboard in [Springboard::Jump, Springboard::Trap] {
        let mut program = Program::start(FORK, &[]);
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        let mut space = tracer.space(pid).expect("traced");
        let probe = Probe::prepare(&mut space, program.answer, springboard);
        probe.install(&mut space);
        program.send();
        let Event::Fork { parent, child, vfork: false } = event(&mut tracer) else { panic!("no fork") };
        assert_eq!(parent, pid);
        tracer.resume(child).expect("traced");
        assert_eq!(event(&mut tracer), Event::Exited { pid: child, code: 42 });
        assert_eq!(event(&mut tracer), Event::Exited { pid, code: 86 });
        assert_eq!(probe.hits(), 2, "both count into the same memory");
    }
}

#[test]
fn a_forked_child_can_be_cleaned_and_left() {
    for springboard in [Springboard::Jump, Springboard::Trap] {
        let mut program = Program::start(FORK, &[]);
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        let mut space = tracer.space(pid).expect("traced");
        let before = mappings(&space);
        let probe = Probe::prepare(&mut space, program.answer, springboard);
        probe.install(&mut space);
        program.send();
        let Event::Fork { child, .. } = event(&mut tracer) else { panic!("no fork") };
        let mut its_space = tracer.space(child).expect("traced");
        assert_eq!(its_space.remove().expect("removed"), Left::default());
        let heap = |line: &String| !line.contains("[heap]");
        let left: Vec<String> = mappings(&its_space).into_iter().filter(heap).collect();
        assert_eq!(left, before.into_iter().filter(heap).collect::<Vec<_>>());
        tracer.detach(child).expect("traced");
        // The child gave 41: its own code is the original.
        assert_eq!(event(&mut tracer), Event::Exited { pid, code: 84 });
        assert_eq!(probe.hits(), 1);
    }
}

#[test]
fn forks_while_the_code_changes() {
    let source = r#"
static void *forking(void *x) {
    for (;;) {
        pid_t child = fork();
        if (child == 0) { int a = answer(); _exit(a == 1 || a == 2 ? 0 : 99); }
        int status; waitpid(child, &status, 0);
        if (status) { dprintf(2, "child: %x\n", status); _exit(99); }
    }
    return x;
}
int main(void) {
    pthread_t thread;
    for (int i = 0; i < 2; i++) pthread_create(&thread, NULL, forking, NULL);
    ready(); line();
    return 7;
}"#;
    let mut program = Program::start(source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
    let mut forks = 0;
    for round in 0..150 {
        if round % 2 == 0 {
            probe.install(&mut space)
        } else {
            probe.uninstall(&mut space)
        }
        for _ in 0..10 {
            let never = std::sync::atomic::AtomicBool::new(false);
            match tracer.next_event(Some(Duration::from_millis(2)), &never).expect("it traces") {
                Event::Fork { child, .. } => {
                    forks += 1;
                    if forks % 3 == 0 {
                        tracer.space(child).expect("traced").remove().expect("removed");
                        tracer.detach(child).expect("traced");
                    } else {
                        tracer.resume(child).expect("traced");
                    }
                }
                Event::Exited { pid: child, code } => {
                    assert!(child != pid && code == 0, "{child} exited with {code}");
                }
                Event::TimedOut => break,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(forks > 50, "{forks}");
    program.send();
    assert_eq!(end_of(&mut tracer, pid), Event::Exited { pid, code: 7 });
}

#[test]
fn a_child_of_vfork_runs_probed_code_and_executes() {
    let source = r#"
int main(int count, char **arguments) {
    if (count > 1) return 30 + answer();
    ready(); line();
    pid_t child = vfork();
    if (child == 0) {
        char *again[] = { arguments[0], "again", NULL };
        if (answer() != 2) _exit(99);
        execv("/proc/self/exe", again);
        _exit(98);
    }
    int status; waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) + answer() : 99;
}"#;
    for springboard in [Springboard::Jump, Springboard::Trap] {
        let mut program = Program::start(source, &[]);
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        let mut space = tracer.space(pid).expect("traced");
        let probe = Probe::prepare(&mut space, program.answer, springboard);
        probe.install(&mut space);
        program.send();
        let Event::Fork { child, vfork: true, .. } = event(&mut tracer) else { panic!("no vfork") };
        assert_eq!(event(&mut tracer), Event::Exec { pid: child });
        let its_space = tracer.space(child).expect("traced");
        let mut byte = [0];
        if its_space.read(program.answer, &mut byte).is_ok() {
            assert_ne!(byte[0], probe.edit.new[0], "a fresh program");
        }
        tracer.resume(child).expect("traced");
        // The new program has no probes: 31.
        assert_eq!(event(&mut tracer), Event::Exited { pid: child, code: 31 });
        assert_eq!(event(&mut tracer), Event::Exited { pid, code: 33 });
        assert_eq!(probe.hits(), 2);
    }
}

#[test]
fn code_changes_while_a_child_of_vfork_runs_in_it() {
    let source = r#"
int main(void) {
    ready(); line();
    for (int i = 0; i < 30; i++) {
        pid_t child = vfork();
        if (child == 0) {
            struct timespec start, now;
            clock_gettime(CLOCK_MONOTONIC, &start);
            do {
                int a = answer(); if (a != 1 && a != 2) _exit(99);
                clock_gettime(CLOCK_MONOTONIC, &now);
            } while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < 20);
            _exit(0);
        }
        int status; waitpid(child, &status, 0);
        if (status) return 99;
    }
    return 7;
}"#;
    let mut program = Program::start(source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
    program.send();
    let mut changes = 0;
    let end = loop {
        let never = std::sync::atomic::AtomicBool::new(false);
        match tracer.next_event(Some(Duration::from_millis(1)), &never).expect("it traces") {
            Event::Fork { vfork: true, .. } => {}
            Event::Exited { pid: child, code: 0 } if child != pid => {}
            Event::TimedOut => {
                let edit = if changes % 2 == 0 { probe.edit } else { probe.edit.inverse() };
                match space.apply(&[edit], &|_| None) {
                    Ok(_) => changes += 1,
                    Err(SpaceError::Gone { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            end => break end,
        }
    };
    assert_eq!(end, Event::Exited { pid, code: 7 });
    assert!(changes > 10 && probe.hits() > 0, "{changes} changes");
}

#[test]
fn exec_makes_a_fresh_space() {
    let source = r#"
static char *again[] = { "again", "again", NULL };
static void *other(void *x) { line(); execv("/proc/self/exe", again); return x; }
static void *busy(void *x) { for (;;) answer(); return x; }
int main(int count, char **arguments) {
    (void)arguments;
    if (count > 1) return 30 + answer();
    pthread_t thread;
    pthread_create(&thread, NULL, busy, NULL);
    pthread_create(&thread, NULL, other, NULL);
    ready();
    pause();
}"#;
    let mut program = Program::start(source, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
    probe.install(&mut space);
    program.send();
    assert_eq!(event(&mut tracer), Event::Exec { pid }, "by a thread that was not the first");
    let error = space.publish_landings(&[]).expect_err("an old space");
    assert!(matches!(error, SpaceError::Gone { .. }), "{error}");
    // The new program can be changed before it runs.
    let mut space = tracer.space(pid).expect("traced");
    let map = space.mappings().expect("readable");
    let far = map.holes(incise_isa::Addr(1 << 32), incise_isa::Addr(1 << 46)).next().expect("a hole");
    space.map_code(far.start.align_up(PAGE), PAGE).expect("free");
    tracer.resume(pid).expect("traced");
    assert_eq!(event(&mut tracer), Event::Exited { pid, code: 31 });
}

#[test]
fn a_gate_reports_and_goes_on_at_its_landing() {
    let mut program = Program::start(ECHO, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, program.answer, Springboard::Trap);
    tracer.add_gate(pid, program.answer).expect("traced");
    probe.install(&mut space);
    for hits in 1..4 {
        program.send();
        assert!(
            matches!(event(&mut tracer), Event::Gate { pid: of, at, .. } if of == pid && at == program.answer)
        );
        assert_eq!(probe.hits(), hits - 1, "stopped at the landing");
        // It can be changed while it stands there.
        let code = space
            .mappings()
            .expect("readable")
            .holes(incise_isa::Addr(1 << 32), incise_isa::Addr(1 << 46))
            .next();
        let code = code.expect("a hole").start.align_up(PAGE);
        space.map_code(code, PAGE).expect("free");
        tracer.resume(pid).expect("traced");
        pump(&mut tracer, Duration::from_millis(20));
        assert_eq!(program.read_line(), "2");
        assert_eq!(probe.hits(), hits);
    }
    tracer.remove_gate(pid, program.answer).expect("traced");
    assert_eq!(program.ask_traced(&mut tracer), "2");
    // Without a tracer it is a trap like any other.
    tracer.add_gate(pid, program.answer).expect("traced");
    tracer.detach(pid).expect("traced");
    assert_eq!(program.ask(), "2");
    assert_eq!(program.finish().code(), Some(7));
}
