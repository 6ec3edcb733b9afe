//! The same session over another process: counters and machine code put into a program that runs.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise::isa::native::{Gpr, GprSet};
use incise::space::remote::{ProcessId, Tracer};
use incise::{MachineCode, Query, Session, Snippet};

/// Answers each line with the line's first number times ten.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) long times_ten(long n) { return n * 10; }
int main(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) { printf("%ld\n", times_ten(atol(line))); fflush(stdout); }
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
        let folder = tempfile::tempdir().expect("a folder");
        let (source, program) = (folder.path().join("target.c"), folder.path().join("target"));
        std::fs::write(&source, PROGRAM).expect("a file");
        let built =
            Command::new("gcc").arg("-O1").arg("-o").arg(&program).arg(&source).status().expect("gcc");
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
