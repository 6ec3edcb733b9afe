//! Launches programs and reports how they end.
//!
//! # Safety
//! The only unsafe call sends a signal to a program that the test launched.

mod remote_support;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise_isa::Addr;
use incise_space::remote::{Event, LaunchOptions, ProcessId, Tracer};
use incise_space::{AddressSpace, SpaceError};
use remote_support::*;

/// Runs a program to its end: its output, and the last event.
fn run(program: impl AsRef<OsStr>, arguments: &[&str], mut options: LaunchOptions) -> (String, Event) {
    let (read, write) = std::io::pipe().expect("a pipe");
    options.stdio[1] = Some(OwnedFd::from(write));
    let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
    let (mut tracer, pid) = Tracer::launch(program.as_ref(), &arguments, &options).expect("it starts");
    drop(options);
    tracer.resume(pid).expect("traced");
    let end = end_of(&mut tracer, pid);
    let mut output = String::new();
    File::from(OwnedFd::from(read)).read_to_string(&mut output).expect("text");
    (output, end)
}

fn exited(code: i32) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::Exited { code: c, .. } if *c == code)
}

#[test]
fn output_and_exit_code_come_through() {
    let (output, end) = run("sh", &["-c", "echo one two; exit 42"], LaunchOptions::default());
    assert_eq!(output, "one two\n");
    assert!(exited(42)(&end), "{end:?}");
}

#[test]
fn death_by_signal_comes_through() {
    let (_, end) = run("sh", &["-c", "kill -TERM $$"], LaunchOptions::default());
    assert!(matches!(end, Event::Killed { signal: libc::SIGTERM, .. }), "{end:?}");
    let crash = compile("int main(void) { *(volatile int *)8 = 0; }", &[]);
    let (_, end) = run(crash, &[], LaunchOptions::default());
    assert!(matches!(end, Event::Killed { signal: libc::SIGSEGV, .. }), "{end:?}");
}

#[test]
fn the_environment_and_directory_are_as_asked() {
    let options = LaunchOptions {
        env: Some(vec![("PATH".into(), "/usr/bin:/bin".into()), ("X".into(), "y z".into())]),
        current_dir: Some("/usr/share".into()),
        ..LaunchOptions::default()
    };
    let (output, _) = run("sh", &["-c", "echo \"$X\"; pwd"], options);
    assert_eq!(output, "y z\n/usr/share\n");
}

#[test]
fn signal_actions_and_mask_are_as_a_shell_would_leave_them() {
    let source = r#"int main(void) {
        for (int i = 1; i < 32; i++) {
            struct sigaction action; sigset_t mask;
            sigaction(i, NULL, &action); sigprocmask(0, NULL, &mask);
            if (action.sa_handler != SIG_DFL || sigismember(&mask, i)) printf("%d ", i);
        }
    }"#;
    let program = compile(source, &[]);
    let plain = Command::new(&program).output().expect("it runs").stdout;
    let (output, _) = run(&program, &[], LaunchOptions::default());
    assert_eq!(output.as_bytes(), plain);
}

/// An executable file. Copied by another process: a file that a child of this one has inherited open for
/// writing, for an instant, could not be run.
fn executable(name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let draft = path.with_extension("draft");
    fs::write(&draft, contents).expect("writable");
    let copied =
        Command::new("install").args(["-m", "755"]).args([&draft, &path]).status().expect("coreutils");
    assert!(copied.success());
    path
}

#[test]
fn scripts_run_with_and_without_an_interpreter_line() {
    for (name, head) in [("remote-script", "#!/bin/sh\n"), ("remote-bare-script", "")] {
        let script = executable(&format!("{name}-{}", std::process::id()), format!("{head}echo script $1\n"));
        let (output, end) = run(&script, &["x"], LaunchOptions::default());
        assert_eq!(output, "script x\n", "{name}");
        assert!(exited(0)(&end), "{end:?}");
    }
}

#[test]
fn what_cannot_run_is_an_error() {
    let launch = |program: &str| {
        Tracer::launch(program.as_ref(), &[], &LaunchOptions::default()).map(drop).expect_err("refused")
    };
    for (program, kind) in [
        ("no-such-program-anywhere", std::io::ErrorKind::NotFound),
        ("/no/such/program", std::io::ErrorKind::NotFound),
        ("/etc/passwd", std::io::ErrorKind::PermissionDenied),
        ("", std::io::ErrorKind::NotFound),
    ] {
        match launch(program) {
            SpaceError::Launch { source, .. } => assert_eq!(source.kind(), kind, "{program}"),
            other => panic!("{program}: {other}"),
        }
    }
}

/// A 32-bit program that exits, made without a compiler for it.
fn program_of_32_bits() -> PathBuf {
    let mut elf = vec![0x7F, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend(value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend(value.to_le_bytes());
    half(&mut elf, 2);
    half(&mut elf, 3);
    for value in [1, 0x0804_8054, 52, 0, 0] {
        word(&mut elf, value);
    }
    for value in [52, 32, 1, 0, 0, 0] {
        half(&mut elf, value);
    }
    for value in [1, 0, 0x0804_8000, 0x0804_8000, 4096, 4096, 5, 4096] {
        word(&mut elf, value);
    }
    // jmp to itself
    elf.extend([0xEB, 0xFE]);
    elf.resize(4096, 0);
    executable(&format!("remote-32-{}", std::process::id()), elf)
}

#[test]
fn a_32_bit_program_is_refused() {
    let program = program_of_32_bits();
    let mut child = match Command::new(&program).spawn() {
        Ok(child) => child,
        Err(error) => return println!("skipped: this kernel runs no 32-bit programs: {error}"),
    };
    std::thread::sleep(Duration::from_millis(50));
    let error = Tracer::attach(ProcessId(child.id() as i32)).map(drop).expect_err("refused");
    assert!(matches!(error, SpaceError::WrongArchitecture { .. }), "{error}");
    child.kill().expect("ours");
    child.wait().expect("ours");
    let error = Tracer::launch(program.as_os_str(), &[], &LaunchOptions::default());
    let error = error.map(drop).expect_err("refused");
    assert!(matches!(error, SpaceError::WrongArchitecture { .. }), "{error}");
}

#[test]
fn a_probe_is_there_before_the_first_instruction() {
    let program = compile("int main(void) { return answer() + answer(); }", &["-static"]);
    let symbols = Command::new("nm").arg(&program).output().expect("binutils are there").stdout;
    let line = String::from_utf8(symbols).expect("text");
    let line = line.lines().find(|line| line.ends_with(" T answer")).expect("the symbol");
    let answer = Addr(u64::from_str_radix(&line[..16], 16).expect("an address"));
    let (mut tracer, pid) =
        Tracer::launch(program.as_os_str(), &[], &LaunchOptions::default()).expect("it starts");
    let mut space = tracer.space(pid).expect("traced");
    let probe = Probe::prepare(&mut space, answer, Springboard::Jump);
    probe.install(&mut space);
    tracer.resume(pid).expect("traced");
    assert_eq!(end_of(&mut tracer, pid), Event::Exited { pid, code: 4 });
    assert_eq!(probe.hits(), 2);
    assert!(matches!(space.read(answer, &mut [0]), Err(SpaceError::Gone { .. })));
    assert_eq!(tracer.next_event(None, &AtomicBool::new(false)).expect("it traces"), Event::Idle);
}

#[test]
fn a_flag_interrupts_the_waiting() {
    let sleeper = ["10".into()];
    let (mut tracer, pid) =
        Tracer::launch("sleep".as_ref(), &sleeper, &LaunchOptions::default()).expect("it starts");
    tracer.resume(pid).expect("traced");
    let flag = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            flag.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(tracer.next_event(None, &flag).expect("it traces"), Event::Interrupted);
    });
    // SAFETY: a child that was not waited for.
    unsafe { libc::kill(pid.0, libc::SIGKILL) };
    assert!(matches!(end_of(&mut tracer, pid), Event::Killed { signal: libc::SIGKILL, .. }));
}
