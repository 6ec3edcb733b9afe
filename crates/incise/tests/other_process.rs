//! The same session over another process: counters and machine code put into a program that runs.

use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise::isa::native::{Gpr, GprSet};
use incise::space::remote::RemoteSpace;
use incise::space::remote::{ProcessId, Tracer};
use incise::space::{AddressSpace, faults};
use incise::{Addr, Counter, MachineCode, Outcome, Point, Position, Query, Session, Snippet, Tactic};

/// Answers each line with the line's first number times ten.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) long plus(long n, long m) { __asm__ volatile(""); return n + m; }
__attribute__((noinline)) long times_ten(long n) { long sum = 0; for (int i = 0; i < 10; i++) sum = plus(sum, n); return sum; }
int main(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) { printf("%ld\n", times_ten(atol(line))); fflush(stdout); }
    return 0;
}
"#;

/// As above, while two threads call a function whose entry has a call so close behind it that a jump there reaches into it.
const NESTED: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
int nested(int n);
__asm__(".text\n.balign 16\n.globl nested\n.type nested,@function\nnested:\n  push %rbx\n  mov %edi, %ebx\n"
        "  call twice\n  add %ebx, %eax\n  lea 1(%rax), %eax\n  pop %rbx\n  ret\n.size nested, . - nested\n"
        ".balign 16\n.type twice,@function\ntwice:\n  lea (%rdi,%rdi), %eax\n  ret\n.size twice, . - twice\n");
static void *run(void *unused) {
    for (int n = 0;; n = (n + 1) & 0xffff) if (nested(n) != 3 * n + 1) abort();
}
int main(void) {
    char line[64];
    pthread_t thread;
    for (int i = 0; i < 2; i++) pthread_create(&thread, NULL, run, NULL);
    while (fgets(line, sizeof line, stdin)) { printf("%d\n", (nested(atoi(line)) - 1) / 3 * 10); fflush(stdout); }
    return 0;
}
"#;

struct Target {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
    _folder: tempfile::TempDir,
}

impl Target {
    fn start() -> Target {
        Target::of(PROGRAM)
    }

    fn of(text: &str) -> Target {
        let folder = tempfile::tempdir().expect("a folder");
        let (source, program) = (folder.path().join("target.c"), folder.path().join("target"));
        std::fs::write(&source, text).expect("a file");
        let built = Command::new("gcc")
            .args(["-O1", "-pthread", "-o"])
            .arg(&program)
            .arg(&source)
            .status()
            .expect("gcc");
        assert!(built.success());
        let mut child =
            Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut target = Target { child, answers, _folder: folder };
        // It has to be loaded: what is asked for is looked up in its memory map.
        target.send(1);
        assert_eq!(target.receive(), 10);
        target
    }

    fn send(&mut self, number: i64) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{number}").expect("the program reads");
    }

    fn receive(&mut self) -> i64 {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim().parse().expect("a number")
    }

    fn ask(&mut self, tracer: &mut Tracer, number: i64) -> i64 {
        self.send(number);
        let never = AtomicBool::new(false);
        tracer.next_event(Some(Duration::from_millis(20)), &never).expect("tracing goes on");
        self.receive()
    }
}

#[test]
fn counters_and_machine_code_work_in_a_running_program_and_leave_no_trace() {
    let mut target = Target::start();
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.child.id() as i32)).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    let points = session.find(Query::functions("times_ten")).expect("the function");
    let hits = session.counter("times_ten");
    let mut batch = session.batch();
    batch.push_back(&points[0], hits.increment());
    // inc rdi: the program multiplies another number.
    let code = MachineCode {
        bytes: [0x48, 0xFF, 0xC7].into(),
        clobbers: GprSet::of(&[]),
        flags: true,
        stack: false,
    };
    let change = batch.push_back(&points[0], Snippet::Code(code));
    batch.commit().expect("commit");
    assert_eq!(target.ask(&mut tracer, 4), 50);
    assert_eq!(target.ask(&mut tracer, 6), 70);
    assert_eq!(hits.read(), 2);
    let mut batch = session.batch();
    batch.remove(change);
    batch.commit().expect("commit");
    assert_eq!(target.ask(&mut tracer, 4), 40);
    assert_eq!(hits.read(), 3);
    assert_eq!(session.remove_all().expect("removal"), 0);
    assert_eq!(target.ask(&mut tracer, 4), 40);
    tracer.space(pid).expect("a space").remove().expect("nothing is left");
    tracer.detach(pid).expect("detached");
    drop(target.child.stdin.take());
    assert!(target.child.wait().expect("it ends").success());
    assert_eq!(Gpr::Rdi.number(), 7, "the argument the machine code changes");
}

/// The bytes in `range`, and the program's executable mappings.
fn state(tracer: &mut Tracer, pid: ProcessId, range: &Range<Addr>) -> (Vec<u8>, Vec<String>) {
    let space = tracer.space(pid).expect("a space");
    let mut bytes = vec![0; range.end.offset_from(range.start) as usize];
    space.read(range.start, &mut bytes).expect("readable");
    let map = space.mappings().expect("the map");
    let executable = map.iter().filter(|mapping| mapping.permissions.execute);
    (bytes, executable.map(|mapping| format!("{:?} {}", mapping.range, mapping.name)).collect())
}

#[test]
fn whatever_call_of_a_transaction_fails_the_program_is_as_it_was() {
    let mut target = Target::start();
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.child.id() as i32)).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    let points: Vec<Point> = ["times_ten", "plus", "main"]
        .into_iter()
        .flat_map(|name| session.find(Query::functions(name)).expect("the function"))
        .collect();
    let hits = session.counter("hits");
    let put_in = |hits: &Counter<RemoteSpace>| {
        let mut batch = session.batch();
        for point in &points {
            batch.push_back(point, hits.increment());
        }
        batch.commit()
    };
    let map = tracer.space(pid).expect("a space").mappings().expect("the map");
    let range = map.find(points[0].addr).expect("mapped").range.clone();
    let (text, mappings) = state(&mut tracer, pid, &range);
    let mut failures = 0;
    for errno in [libc::ENOMEM, libc::EPERM] {
        for n in 0.. {
            faults::fail_nth(n, errno);
            let result = put_in(&hits);
            let (_, happened) = faults::disarm();
            let context = format!("call {n} of putting in, errno {errno}: {result:?}");
            assert!(result.is_ok() || happened, "{context}");
            if result.is_err() {
                failures += 1;
                assert!(state(&mut tracer, pid, &range).0 == text, "{context}");
                assert_eq!(target.ask(&mut tracer, 4), 40, "{context}");
                put_in(&hits).expect(&context);
            }
            let before = hits.read();
            assert_eq!(target.ask(&mut tracer, 5), 50, "{context}");
            assert_eq!(hits.read() - before, 11, "{context}");
            let probed = state(&mut tracer, pid, &range).0;
            faults::fail_nth(n, errno);
            let result = session.remove_all();
            let gone = faults::disarm().1;
            let context = format!("call {n} of removal, errno {errno}: {result:?}");
            assert!(result.is_ok() || gone, "{context}");
            if result.is_err() {
                failures += 1;
                let now = state(&mut tracer, pid, &range).0;
                assert!(now == probed || now == text, "{context}");
                assert_eq!(target.ask(&mut tracer, 6), 60, "{context}");
                session.remove_all().expect(&context);
            }
            assert!(state(&mut tracer, pid, &range).0 == text, "{context}");
            if !happened && !gone {
                break;
            }
        }
    }
    assert!(failures > 50, "{failures}");
    assert_eq!(target.ask(&mut tracer, 4), 40);
    tracer.space(pid).expect("a space").remove().expect("nothing is left");
    assert_eq!(state(&mut tracer, pid, &range), (text, mappings));
    tracer.detach(pid).expect("detached");
    drop(target.child.stdin.take());
    assert!(target.child.wait().expect("it ends").success());
}

#[test]
fn a_jump_into_a_call_comes_and_goes_while_threads_run_it() {
    let mut target = Target::of(NESTED);
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.child.id() as i32)).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    let entry = session.find(Query::functions("nested")).expect("the function")[0].addr;
    let code = entry..entry + 15;
    let (text, _) = state(&mut tracer, pid, &code);
    assert_eq!((text[0], text[3], text[14]), (0x53, 0xE8, 0xC3), "push, call, ret");
    let hits = session.counter("hits");
    for round in 0..20 {
        let mut batch = session.batch();
        for offset in [0, 1, 3, 8, 10, 13, 14] {
            batch.insert(entry + offset, hits.increment(), Position::Last);
        }
        let report = batch.commit().expect("commit");
        let tactic = |outcome: &Outcome| matches!(outcome, Outcome::Installed(Tactic::Pun));
        assert!(tactic(&report.entries[0].outcome), "{report:?}");
        let (now, _) = state(&mut tracer, pid, &code);
        assert_eq!((now[0], now[3]), (0xE9, 0xE8), "a jump whose displacement has the call's opcode");
        let before = hits.read();
        assert_eq!(target.ask(&mut tracer, round), 10 * round);
        assert!(hits.read() > before);
        // A thread may be in the trampoline.
        session.remove_all().expect("removal");
        assert_eq!(state(&mut tracer, pid, &code).0, text);
        assert_eq!(target.ask(&mut tracer, round), 10 * round);
    }
    let left = (0..100).map(|round| {
        target.ask(&mut tracer, round);
        session.remove_all().expect("removal")
    });
    assert!(left.into_iter().any(|left| left == 0), "a thread does not leave");
    tracer.space(pid).expect("a space").remove().expect("nothing is left");
    tracer.detach(pid).expect("detached");
    drop(target.child.stdin.take());
    assert!(target.child.wait().expect("it ends").success());
}
