//! A program in C that answers numbers, to be probed from outside.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use incise::space::remote::Tracer;

/// Reads numbers line by line and prints `answer` of each.
const MAIN: &str = r#"
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) { printf("%ld\n", answer(atol(line))); fflush(stdout); }
    return 0;
}
"#;

/// The running program.
pub struct Answering {
    child: Child,
    answers: Receiver<i64>,
    _folder: tempfile::TempDir,
}

impl Answering {
    /// Compiles `source`, which defines `long answer(long)`, and starts it.
    pub fn start(source: &str) -> Answering {
        Answering::start_with(source, &[])
    }

    /// The same, compiled with some more options.
    pub fn start_with(source: &str, options: &[&str]) -> Answering {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, program) = (folder.path().join("target.c"), folder.path().join("target"));
        std::fs::write(&file, [source, MAIN].concat()).expect("a file");
        let built =
            Command::new("gcc").args(["-O1", "-g", "-o"]).arg(&program).arg(&file).args(options).status();
        assert!(built.expect("gcc").success());
        let mut child =
            Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = sender.send(line.trim().parse().expect("a number"));
            }
        });
        let mut target = Answering { child, answers, _folder: folder };
        // It has to be loaded: what is asked for is looked up in its memory map.
        target.send(0);
        target.answers.recv().expect("an answer");
        target
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn send(&mut self, number: i64) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{number}").expect("the program reads");
    }

    /// What it answers, while `tracer` keeps it going.
    pub fn ask(&mut self, tracer: &mut Tracer, number: i64) -> i64 {
        self.send(number);
        let never = AtomicBool::new(false);
        loop {
            tracer.next_event(Some(Duration::from_millis(5)), &never).expect("tracing goes on");
            match self.answers.try_recv() {
                Ok(answer) => return answer,
                Err(error) => assert_eq!(error, TryRecvError::Empty, "the program ended"),
            }
        }
    }

    /// Lets it end.
    pub fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("it ends").success());
    }
}
