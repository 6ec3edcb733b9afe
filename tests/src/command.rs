//! Commands that are run to their end, at most for so long.
//!
//! # Safety
//! The only call that needs it sends a signal to a process group that was made here.

#![allow(unsafe_code, reason = "kills process groups and makes system calls that the standard library lacks")]

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::build::incise;
use crate::outcome::Outcome;
use crate::report::Report;
use crate::scratch::Scratch;

/// The longest that any command may take, with a heavily loaded machine in mind.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `command` with empty input, and waits for its end.
///
/// # Panics
/// If it cannot be started, or takes longer than [`PATIENCE`].
pub fn run(command: &mut Command) -> Outcome {
    let scratch = Scratch::new();
    let (out, err) = (scratch.file("out"), scratch.file("err"));
    let create = |path: &Path| File::create(path).expect("a file in a new folder");
    command.stdin(Stdio::null()).stdout(create(&out)).stderr(create(&err)).process_group(0);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let ending = wait(&mut child, PATIENCE);
    if ending.is_none() {
        kill_group(&child);
        let _ = child.wait();
    }
    let read = |path: &Path| std::fs::read(path).unwrap_or_default();
    let (stdout, stderr) = (read(&out), read(&err));
    let Some(ending) = ending else {
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        panic!("{command:?} did not end in {} s: {stderr}", PATIENCE.as_secs());
    };
    Outcome { ending: ending.into(), stdout, stderr }
}

/// Waits for the end of a child, at most for `patience`.
pub fn wait(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let began = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if began.elapsed() > patience {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Kills a child that leads a process group of its own, with all in it.
pub fn kill_group(child: &Child) {
    // SAFETY: kill(2) takes no pointers; the group is the child's own.
    unsafe { libc::kill(-(child.id() as i32), libc::SIGKILL) };
}

/// Sends a signal to a process that was started here.
pub fn signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) takes no pointers.
    unsafe { libc::kill(pid as i32, signal) };
}

/// What `count` left: the program's outcome and the report.
pub struct Counted {
    /// Output and ending, which are the program's.
    pub outcome: Outcome,
    /// The report, or why there is none.
    pub report: Result<Report, String>,
}

/// Runs `incise count --json` with `options` (patterns among them) on a program. `prepare` sets up where and how
/// the command runs.
pub fn count<S: AsRef<OsStr>>(
    options: &[&str],
    program: &Path,
    arguments: &[S],
    prepare: &dyn Fn(&mut Command),
) -> Counted {
    let scratch = Scratch::new();
    let report = scratch.file("report");
    let mut command = Command::new(incise());
    command.arg("count").arg("--json").arg("-o").arg(&report).args(options);
    command.arg("--").arg(program).args(arguments);
    prepare(&mut command);
    let outcome = run(&mut command);
    Counted { report: Report::read(&report), outcome }
}

/// Reads what is left in a pipe, until all writers have closed it; `None` if that takes longer than
/// [`PATIENCE`].
pub fn read_to_end(mut pipe: impl Read + Send + 'static) -> Option<Vec<u8>> {
    let (send, receive) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    receive.recv_timeout(PATIENCE).ok()
}

/// Makes a command, and all that it starts, use the same addresses each time.
pub fn steady_addresses(command: &mut Command) {
    // SAFETY: personality(2) takes no pointers and is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::personality(libc::ADDR_NO_RANDOMIZE as libc::c_ulong);
            Ok(())
        });
    }
}
