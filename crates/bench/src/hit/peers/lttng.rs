//! LTTng-UST: an event with three arguments that is compiled into a program.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::Error;
use crate::hit::contender::{Contender, Line};

pub(super) fn lines() -> Vec<Line> {
    vec![Line::new("LTTng-UST: event with 3 arguments", Lttng::start)]
}

/// Answers a number of calls by the nanoseconds of one without and one with the event.
const PROGRAM: &str = r#"
#define TRACEPOINT_CREATE_PROBES
#define TRACEPOINT_DEFINE
#include "event.h"
#include <stdio.h>
#include <time.h>
#define NOIPA __attribute__((noipa))
NOIPA unsigned base(unsigned a, unsigned b) { return a + b + 0x01020304; }
NOIPA unsigned probed(unsigned a, unsigned b)
{
    tracepoint(incise_bench, hit, a, b, a + b);
    return a + b + 0x01020304;
}
static double nanoseconds(unsigned (*function)(unsigned, unsigned), unsigned calls)
{
    struct timespec start, end;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (unsigned n = 0; n < calls; n++)
        function(n, 1);
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((end.tv_sec - start.tv_sec) * 1e9 + (end.tv_nsec - start.tv_nsec)) / calls;
}
int main(void)
{
    unsigned calls;
    while (scanf("%u", &calls) == 1) {
        double first = nanoseconds(base, calls);
        printf("%f %f\n", first, nanoseconds(probed, calls));
        fflush(stdout);
    }
}
"#;

const EVENT: &str = r#"
#undef TRACEPOINT_PROVIDER
#define TRACEPOINT_PROVIDER incise_bench
#undef TRACEPOINT_INCLUDE
#define TRACEPOINT_INCLUDE "./event.h"
#if !defined(INCISE_EVENT) || defined(TRACEPOINT_HEADER_MULTI_READ)
#define INCISE_EVENT
#include <lttng/tracepoint.h>
TRACEPOINT_EVENT(incise_bench, hit, TP_ARGS(unsigned, a, unsigned, b, unsigned, c),
    TP_FIELDS(ctf_integer(unsigned, a, a) ctf_integer(unsigned, b, b) ctf_integer(unsigned, c, c)))
#endif
#include <lttng/tracepoint-event.h>
"#;

struct Lttng {
    _folder: TempDir,
    session: String,
    daemon: Option<Child>,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

fn quietly(command: &mut Command) -> Result<(), Error> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{error} (Debian packages lttng-tools, liblttng-ust-dev)"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into()),
    }
}

fn lttng(arguments: &[&str]) -> Result<(), Error> {
    quietly(Command::new("lttng").args(arguments))
}

impl Lttng {
    fn start() -> Result<Lttng, Error> {
        let session = format!("incise-bench-{}", std::process::id());
        let scratch = tempfile::tempdir()?;
        let folder = scratch.path();
        fs::write(folder.join("event.h"), EVENT)?;
        fs::write(folder.join("program.c"), PROGRAM)?;
        let mut compiler = Command::new("gcc");
        compiler.current_dir(folder);
        quietly(compiler.args(["-O2", "-I.", "program.c", "-o", "program", "-llttng-ust", "-ldl"]))?;
        let daemon = match lttng(&["list"]) {
            Ok(()) => None,
            Err(_) => {
                let mut command = Command::new("lttng-sessiond");
                let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let daemon = command.spawn()?;
                (0..50).find(|_| {
                    std::thread::sleep(std::time::Duration::from_millis(100));
                    lttng(&["list"]).is_ok()
                });
                Some(daemon)
            }
        };
        let place = folder.join("trace");
        lttng(&["create", &session, "--output", place.to_str().ok_or("a strange folder")?])?;
        lttng(&["enable-event", "--session", &session, "-u", "incise_bench:hit"])?;
        lttng(&["add-context", "--session", &session, "-u", "-t", "vtid"])?;
        lttng(&["start", &session])?;
        let mut child =
            Command::new(folder.join("program")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Lttng { _folder: scratch, session, daemon, child, requests, answers })
    }
}

impl Contender for Lttng {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        let requests = self.requests.as_mut().ok_or("it has ended")?;
        writeln!(requests, "{calls}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let (base, probed) = answer.trim_end().split_once(' ').ok_or("it gave no two times")?;
        Ok((base.parse()?, probed.parse()?))
    }
}

impl Drop for Lttng {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.child.wait();
        let _ = lttng(&["destroy", &self.session]);
        if let Some(daemon) = &mut self.daemon {
            // It takes its own children along if it is asked.
            crate::servers::interrupt(daemon.id());
            let _ = daemon.wait();
        }
    }
}
