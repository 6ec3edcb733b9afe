//! What the tests of the remote space share: programs to trace, and hand-made probes.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use incise_isa::Addr;
use incise_space::remote::{Event, ProcessId, RemoteSpace, Tracer};
use incise_space::{AddressSpace, Bytes, DataMapping, Edit, Landing, SpaceError};

/// The function the tests change, five bytes of `mov $1, %eax` behind a `nop`, and a table that tells
/// where it is. A test program includes this.
pub const ANSWER: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
extern int answer(void);
__asm__(".text\n.balign 64\n.globl answer\n.type answer,@function\nanswer:\n"
        "  mov $1, %eax\n  ret\n  .balign 64\n.size answer, .-answer\n");
/* Tells where it is, then waits for a line if it is to wait. */
static void ready(void) { printf("ready %p\n", (void *)answer); fflush(stdout); }
static int line(void) { char buffer[64]; return fgets(buffer, sizeof buffer, stdin) != NULL; }
"#;

/// A program that answers each line of input with the result of `answer`, and ends with the input.
pub const ECHO: &str = r#"
int main(void) {
    ready();
    while (line()) { printf("%d\n", answer()); fflush(stdout); }
    return 7;
}
"#;

/// A program whose threads call `answer` all the time, and that ends badly on a result other than 1 and 2.
pub const STORM: &str = r#"
static void *storm(void *unused) {
    for (;;) { int a = answer(); if (a != 1 && a != 2) { dprintf(2, "answer %d\n", a); _exit(99); } }
    return unused;
}
int main(void) {
    pthread_t thread;
    for (int i = 0; i < 4; i++) pthread_create(&thread, NULL, storm, NULL);
    ready();
    while (line()) { printf("%d\n", answer()); fflush(stdout); }
    return 7;
}
"#;

static PROGRAMS: AtomicU32 = AtomicU32::new(0);

/// Compiles a program that begins with [`ANSWER`]; `flags` come last.
pub fn compile(source: &str, flags: &[&str]) -> PathBuf {
    let number = PROGRAMS.fetch_add(1, Ordering::Relaxed);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("remote-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory for programs");
    let (code, program) = (dir.join(format!("p{number}.c")), dir.join(format!("p{number}")));
    fs::write(&code, format!("{ANSWER}{source}")).expect("writable");
    let output = Command::new("gcc")
        .args(["-O1", "-pthread", "-o"])
        .arg(&program)
        .arg(&code)
        .args(flags)
        .output()
        .expect("gcc is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// A running test program.
pub struct Program {
    pub child: Child,
    pub pid: ProcessId,
    pub answer: Addr,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// Compiles and starts a program, and waits until it is ready.
    pub fn start(source: &str, flags: &[&str]) -> Program {
        Program::run(&mut Command::new(compile(source, flags)))
    }

    /// Starts a command that is such a program.
    pub fn run(command: &mut Command) -> Program {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let pid = ProcessId(child.id() as i32);
        let mut program = Program { child, pid, answer: Addr(0), input, output };
        program.answer = program.ready();
        program
    }

    fn ready(&mut self) -> Addr {
        let line = self.read_line();
        let address = line.strip_prefix("ready 0x").expect("it says where the function is");
        Addr(u64::from_str_radix(address, 16).expect("an address"))
    }

    pub fn read_line(&mut self) -> String {
        let mut line = String::new();
        if self.output.read_line(&mut line).expect("readable") == 0 {
            panic!("it ended: {:?}", self.child.try_wait());
        }
        line.trim_end().to_owned()
    }

    /// Sends a line, without waiting for the reply.
    pub fn send(&mut self) {
        if let Err(error) = self.input.as_mut().expect("open").write_all(b"\n") {
            std::thread::sleep(Duration::from_millis(50));
            panic!("it ended: {:?} {error}", self.child.try_wait());
        }
    }

    /// What the program computes now. It has to be running.
    pub fn ask(&mut self) -> String {
        self.send();
        self.read_line()
    }

    /// What the program computes now, while `tracer` passes its signals on.
    pub fn ask_traced(&mut self, tracer: &mut Tracer) -> String {
        self.send();
        pump(tracer, Duration::from_millis(20));
        self.read_line()
    }

    /// Ends the input and waits; the program must not be traced.
    pub fn finish(mut self) -> ExitStatus {
        self.input = None;
        self.child.wait().expect("it ends")
    }

    /// Ends the input and waits for the event that it ended.
    pub fn finish_traced(mut self, tracer: &mut Tracer) -> Event {
        self.input = None;
        let event = end_of(tracer, self.pid);
        let _ = self.child.wait();
        event
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// Lets the tracer work for a while; no event may come.
pub fn pump(tracer: &mut Tracer, time: Duration) {
    let started = Instant::now();
    while let Some(rest) = time.checked_sub(started.elapsed()) {
        let event = tracer.next_event(Some(rest), &AtomicBool::new(false)).expect("it traces");
        assert_eq!(event, Event::TimedOut);
    }
}

/// The next event, which must come within ten seconds.
pub fn event(tracer: &mut Tracer) -> Event {
    tracer.next_event(Some(Duration::from_secs(10)), &AtomicBool::new(false)).expect("it traces")
}

/// Waits until a process ended; other events are let go.
pub fn end_of(tracer: &mut Tracer, process: ProcessId) -> Event {
    loop {
        match event(tracer) {
            event @ (Event::Exited { pid, .. } | Event::Killed { pid, .. }) if pid == process => {
                return event;
            }
            event @ (Event::TimedOut | Event::Idle) => return event,
            Event::Exec { pid } | Event::Gate { pid, .. } => tracer.resume(pid).expect("traced"),
            Event::Fork { child, vfork: false, .. } => tracer.resume(child).expect("traced"),
            _ => {}
        }
    }
}

pub const PAGE: u64 = 4096;

/// A probe at `answer`, made by hand: a counter and a result of 2.
pub struct Probe {
    pub code: Addr,
    pub data: DataMapping,
    pub landing: Landing,
    pub edit: Edit,
}

/// What the probe writes at the site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Springboard {
    /// `int3` and the rest of the instruction.
    Trap,
    /// `jmp rel32`.
    Jump,
    /// `ud2`'s relative: a byte that is illegal in 64-bit mode.
    Illegal,
}

impl Probe {
    /// Maps and publishes everything, up to the change of the code.
    pub fn prepare(space: &mut RemoteSpace, answer: Addr, springboard: Springboard) -> Probe {
        Probe::try_prepare(space, answer, springboard).expect("prepared")
    }

    /// The same where something may be in the way.
    pub fn try_prepare(
        space: &mut RemoteSpace,
        answer: Addr,
        springboard: Springboard,
    ) -> Result<Probe, SpaceError> {
        let map = space.mappings()?;
        // Not so low that numbers on the stack look like addresses in it.
        let near = answer.0.saturating_sub(1 << 30).max(1 << 28)..answer.0 + (1 << 30);
        let hole = map
            .holes(Addr(near.start), Addr(near.end))
            .find(|hole| hole.start.align_up(PAGE) + 2 * PAGE < hole.end)
            .expect("a hole");
        let code = hole.start.align_up(PAGE);
        space.map_code(code, PAGE)?;
        let data = space.map_data(code + PAGE, PAGE)?;
        // lock incq counter(%rip); mov $2, %eax; jmp answer+5
        let mut body = vec![0xF0, 0x48, 0xFF, 0x05];
        body.extend(((PAGE - 8) as u32).to_le_bytes());
        body.extend([0xB8, 2, 0, 0, 0, 0xE9]);
        let next = code + body.len() as u64 + 4;
        body.extend(((answer + 5).offset_from(next) as i32).to_le_bytes());
        space.write_code(&[(code, &body)])?;
        let landing = Landing { trap: answer, landing: code };
        space.publish_landings(&[landing])?;
        let old = [0xB8, 1, 0, 0, 0];
        let new = match springboard {
            Springboard::Trap => [0xCC, 1, 0, 0, 0],
            Springboard::Illegal => [0x06, 1, 0, 0, 0],
            Springboard::Jump => {
                let mut new = [0xE9, 0, 0, 0, 0];
                new[1..].copy_from_slice(&(code.offset_from(answer + 5) as i32).to_le_bytes());
                new
            }
        };
        let edit = Edit { at: answer, old: Bytes::new(&old), new: Bytes::new(&new), heads: 1 };
        Ok(Probe { code, data, landing, edit })
    }

    pub fn install(&self, space: &mut RemoteSpace) {
        space.apply(&[self.edit], &|_| None).expect("applied");
    }

    pub fn uninstall(&self, space: &mut RemoteSpace) {
        space.apply(&[self.edit.inverse()], &|_| None).expect("applied");
    }

    pub fn hits(&self) -> u64 {
        self.data.quadword(self.data.addr()).load(Ordering::Relaxed)
    }
}

/// The names and ranges of the mappings of a process, to be compared.
pub fn mappings(space: &RemoteSpace) -> Vec<String> {
    let map = space.mappings().expect("readable");
    map.iter().map(|m| format!("{}-{} {}", m.range.start, m.range.end, m.name)).collect()
}
