//! What can go wrong: one line tells the cause (and what to do, where something can be done), the exit code is the
//! command's own, nothing is half-done and nobody is harmed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use incise_tests::build::incise;
use incise_tests::command::{run, signal};
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::process::{Snapshot, Target, compile};
use incise_tests::scratch::Scratch;
use incise_tests::skip::{need_program, need_root};

/// Exit code for a reason of the command's own.
const OWN: i32 = 125;
/// Exit code of a command line that makes no sense.
const USAGE: i32 = 2;

fn count(arguments: &[&str]) -> Outcome {
    run(Command::new(incise()).arg("count").args(arguments))
}

/// One line of error with `parts` in it, exit code 125, no other output.
fn assert_told(outcome: &Outcome, parts: &[&str]) {
    let text = outcome.error_text();
    assert_eq!(outcome.ending, Ending::Exited(OWN), "{text}");
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    assert!(text.starts_with("incise: "), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(outcome.stdout.is_empty());
}

#[test]
fn a_program_that_is_not_there() {
    let outcome = count(&["main", "--", "/nonexistent/program"]);
    assert_told(&outcome, &["/nonexistent/program", "No such file"]);
    let outcome = count(&["main", "--", "no-program-of-this-name"]);
    assert_told(&outcome, &["no-program-of-this-name", "No such file"]);
}

#[test]
fn files_that_are_no_programs() {
    let scratch = Scratch::new();
    let write = |name: &str, bytes: &[u8], mode: u32| {
        let file = scratch.file(name);
        fs::write(&file, bytes).expect("a new file");
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("our own file");
        file.to_string_lossy().into_owned()
    };
    let mut narrow = fs::read("/bin/true").expect("a program");
    narrow[4] = 1; // ELFCLASS32
    let mut foreign = fs::read("/bin/true").expect("a program");
    foreign[18] = 183; // EM_AARCH64
    let cases = [
        (write("plain", b"text", 0o644), "Permission denied"),
        (write("narrow", &narrow, 0o755), ""),
        (write("foreign", &foreign, 0o755), ""),
        (write("short", b"\x7fELF", 0o755), ""),
        (scratch.path().to_string_lossy().into_owned(), "Permission denied"),
    ];
    for (file, part) in &cases {
        let outcome = count(&["main", "--", file]);
        let text = outcome.error_text();
        assert_ne!(outcome.ending, Ending::Exited(0), "{file}");
        assert!(text.contains(part), "{file}: {text}");
        assert!(!text.contains("panicked"), "{file}: {text}");
    }
    let listed = run(Command::new(incise()).args(["list", "main", &cases[0].0]));
    assert_told(&listed, &["plain"]);
    let listed = run(Command::new(incise()).args(["list", "main", &cases[1].0]));
    assert_told(&listed, &["narrow"]);
    let listed = run(Command::new(incise()).args(["list", "main", "/nonexistent"]));
    assert_told(&listed, &["/nonexistent", "No such file"]);
}

#[test]
fn a_32_bit_program() {
    let scratch = Scratch::new();
    let program = scratch.file("narrow");
    let source = scratch.file("narrow.s");
    // _exit(0) by the 32-bit system call.
    fs::write(&source, ".globl _start\n_start: mov $1, %eax\nxor %ebx, %ebx\nint $0x80\n")
        .expect("a new file");
    let object = scratch.file("narrow.o");
    let assembled = run(Command::new("as").arg("--32").arg("-o").arg(&object).arg(&source));
    assert_eq!(assembled.ending, Ending::Exited(0), "{}", assembled.error_text());
    let linked = run(Command::new("ld").args(["-m", "elf_i386", "-o"]).arg(&program).arg(&object));
    assert_eq!(linked.ending, Ending::Exited(0), "{}", linked.error_text());
    let outcome = count(&["_start", "--", &program.to_string_lossy()]);
    assert_told(&outcome, &["64-bit", "x86-64"]);
}

/// Commands that look at or change a file, which stands for `{}`.
const ON_FILES: [&str; 12] = [
    "list main {}",
    "functions {}",
    "disasm {} main",
    "cfg {} main",
    "parse {}",
    "rewrite {} -o OUT --count main",
    "inspect {}",
    "find {} text",
    "patch {} main --nop -o OUT",
    "patches {}",
    "undo {}",
    "report {}",
];

/// Commands on a process, which stands for `{}`.
const ON_PROCESSES: [&str; 11] = [
    "count main -p {}",
    "list main -p {}",
    "inspect -p {}",
    "find -p {} text",
    "trace main -p {}",
    "hist main -p {}",
    "top -p {}",
    "patch -p {} main --nop",
    "patches -p {}",
    "undo -p {}",
    "set -p {} --at main rax=1",
];

fn on(command: &str, target: &str, scratch: &Scratch) -> Outcome {
    let out = scratch.file("out").to_string_lossy().into_owned();
    let words = command.split(' ').map(|word| match word {
        "{}" => target,
        "OUT" => &out,
        word => word,
    });
    let outcome = run(Command::new(incise()).args(words));
    assert!(!scratch.file("out").exists(), "{command}: something was written");
    outcome
}

#[test]
fn every_command_refuses_files_that_it_cannot_use() {
    let scratch = Scratch::new();
    let program = fs::read("/bin/true").expect("a program");
    let changed = |at: usize, byte: u8| {
        let mut bytes = program.clone();
        bytes[at] = byte;
        bytes
    };
    let cases: [(&str, Option<Vec<u8>>, &str); 6] = [
        ("missing", None, "No such file"),
        ("empty", Some(Vec::new()), "not an ELF file"),
        ("text", Some(b"just text".to_vec()), "not an ELF file"),
        ("narrow", Some(changed(4, 1)), "not a 64-bit ELF file"),
        ("foreign", Some(changed(18, 183)), "x86-64"),
        ("cut", Some(program[..200].to_vec()), "malformed"),
    ];
    for (name, bytes, cause) in cases {
        let file = scratch.file(name);
        bytes.into_iter().for_each(|bytes| fs::write(&file, bytes).expect("a new file"));
        for command in ON_FILES {
            let outcome = on(command, &file.to_string_lossy(), &scratch);
            // What these need is a record that incise left, which these files lack whatever they are.
            let recordless = command.starts_with("undo") || command.starts_with("report");
            let cause = if recordless && name != "missing" { "incise did not write it" } else { cause };
            println!("{command} ({name}): {}", outcome.error_text().trim_end());
            assert_told(&outcome, &[name, cause]);
        }
    }
}

#[test]
fn every_command_refuses_processes_that_are_not_there() {
    let scratch = Scratch::new();
    for command in ON_PROCESSES {
        let outcome = on(command, "99999999", &scratch);
        println!("{command}: {}", outcome.error_text().trim_end());
        assert_told(&outcome, &["99999999", "no", "process"]);
    }
}

#[test]
fn every_command_that_traces_refuses_a_process_that_is_traced_already() {
    let Some(strace) = need_program("strace") else { return };
    let scratch = Scratch::new();
    let program = compile(&scratch, "checksum", &[]);
    let mut command = Command::new(strace);
    let target = Target::start(command.args(["-D", "-o", "/dev/null"]).arg(program).arg("1"));
    let pid = target.pid().to_string();
    for command in ["count work_* -p {}", "patch -p {} main --nop", "undo -p {}", "set -p {} --at main rax=1"]
    {
        assert_told(&on(command, &pid, &scratch), &["already traced", &pid, "end that tracer first"]);
    }
    assert_eq!(target.finish().stdout, b"wrong 0\n");
}

/// `incise find ... | head` is no failure of anybody.
#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let incise = incise().to_string_lossy().into_owned();
    let script = format!("set -o pipefail; {incise} functions /bin/bash | head -1");
    let outcome = run(Command::new("/bin/bash").args(["-c", &script]));
    assert_eq!((outcome.ending, outcome.error_text().as_str()), (Ending::Exited(141), ""));
    assert!(!outcome.stdout.is_empty());
}

#[test]
fn process_ids_that_are_wrong() {
    assert_told(&count(&["main", "-p", "99999999"]), &["99999999", "no process"]);
    assert_told(&count(&["main", "-p", "0"]), &["0"]);
    assert_eq!(count(&["main", "-p", "-5"]).ending, Ending::Exited(USAGE));
    assert_eq!(count(&["main", "-p", "self"]).ending, Ending::Exited(USAGE));
    let listed = run(Command::new(incise()).args(["list", "main", "-p", "99999999"]));
    assert_told(&listed, &["99999999", "no process"]);
}

#[test]
fn a_kernel_thread() {
    if !need_root() {
        return;
    }
    let is_thread = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).is_err();
    let Some(pid) =
        ["2"].into_iter().find(|pid| Path::new(&format!("/proc/{pid}")).exists() && is_thread(pid))
    else {
        return incise_tests::skip::skip("no kernel thread is visible here");
    };
    assert_told(&count(&["main", "-p", pid]), &["kernel"]);
}

#[test]
fn a_zombie() {
    let mut child = Command::new("/bin/true").stdout(Stdio::null()).spawn().expect("true");
    let pid = child.id().to_string();
    let began = Instant::now();
    let is_zombie =
        || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    while !is_zombie() && began.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_told(&count(&["main", "-p", &pid]), &[&pid, "ended"]);
    child.wait().expect("a child");
}

#[test]
fn the_command_itself() {
    // The shell becomes the command, so its id is the command's.
    let incise = incise().to_string_lossy().into_owned();
    let outcome = run(Command::new("/bin/sh").arg("-c").arg(format!("exec {incise} count main -p $$")));
    assert_told(&outcome, &["itself"]);
}

#[test]
fn no_permission() {
    if !need_root() {
        return;
    }
    let Some(setpriv) = need_program("setpriv") else { return };
    let scratch = Scratch::new();
    let target = Target::start(Command::new(compile(&scratch, "checksum", &[])).arg("1"));
    // Where anybody may run it.
    let copy = scratch.file("incise");
    fs::copy(incise(), &copy).expect("a copy");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("our own file");
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    let mut nobody = Command::new(setpriv);
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
    let pid = target.pid().to_string();
    let outcome = run(nobody.args(["count", "work_*", "-p", &pid]));
    assert_told(&outcome, &["not permitted", &pid, "root"]);
    assert_eq!(target.finish().stdout, b"wrong 0\n");
}

#[test]
fn a_process_that_is_traced_already() {
    let Some(strace) = need_program("strace") else { return };
    let scratch = Scratch::new();
    let program = compile(&scratch, "checksum", &[]);
    let mut command = Command::new(strace);
    let target = Target::start(command.args(["-D", "-o", "/dev/null"]).arg(program).arg("1"));
    let pid = target.pid().to_string();
    assert_told(&count(&["work_*", "-p", &pid]), &["already traced", &pid]);
    assert_eq!(target.finish().stdout, b"wrong 0\n");
}

#[test]
fn unknown_functions_start_nothing() {
    let scratch = Scratch::new();
    let marker = scratch.file("marker");
    let touch = ["--", "/usr/bin/touch", &*marker.to_string_lossy()].map(str::to_owned);
    let count_touch = |patterns: &[&str]| {
        let outcome = run(Command::new(incise()).arg("count").args(patterns).args(&touch));
        assert!(!marker.exists(), "{patterns:?}: the program ran");
        outcome
    };
    assert_told(&count_touch(&["mallok"]), &["mallok", "did you mean", "malloc"]);
    assert_told(&count_touch(&["malloc", "no_such_function_anywhere"]), &["no_such_function_anywhere"]);
    assert_told(&count_touch(&["libc!no_such_function_anywhere"]), &["no_such_function_anywhere"]);
    assert_told(&count_touch(&["malloc+0x100000"]), &["malloc", "bytes"]);
    assert_told(&count_touch(&["*0x1"]), &["0x1"]);
    assert_told(&count_touch(&[""]), &["not a pattern"]);
    assert_told(&count_touch(&["*0xnothing"]), &["not a pattern"]);
    assert_told(&count_touch(&["malloc+0xzz"]), &["not a pattern"]);
}

#[test]
fn a_report_that_cannot_be_written() {
    let scratch = Scratch::new();
    let marker = scratch.file("marker");
    let touch = marker.to_string_lossy();
    let outcome = count(&["malloc", "-o", "/nonexistent/report", "--", "touch", &touch]);
    assert_told(&outcome, &["/nonexistent/report", "No such file"]);
    assert!(!marker.exists(), "the program ran");
}

#[test]
fn a_command_line_that_makes_no_sense() {
    let usage: [&[&str]; 7] = [
        &[],
        &["malloc"],
        &["--", "true"],
        &["malloc", "-p", "1", "--", "true"],
        &["malloc", "--keep", "--", "true"],
        &["malloc", "--trap", "perhaps", "--", "true"],
        &["malloc", "--unknown", "--", "true"],
    ];
    for arguments in usage {
        let outcome = count(arguments);
        assert_eq!(outcome.ending, Ending::Exited(USAGE), "{arguments:?}: {}", outcome.error_text());
        assert!(outcome.stdout.is_empty());
    }
}

#[test]
fn a_failed_attachment_leaves_the_process_as_it_was() {
    let scratch = Scratch::new();
    let target = Target::start(Command::new(compile(&scratch, "checksum", &[])).arg("2"));
    let before = Snapshot::take(target.pid());
    let pid = target.pid().to_string();
    for pattern in ["no_such_function_anywhere", "libnone!work_step", "*0x10", "work_*"] {
        let mut arguments = vec![pattern, "-p", &pid];
        if pattern == "work_*" {
            // Everything is refused where no trap may be and no jump is asked for.
            arguments.extend(["-o", "/nonexistent/report"]);
        }
        assert_told(&count(&arguments), &[]);
        assert_eq!(before.difference(&Snapshot::take(target.pid())), None, "{pattern}");
    }
    assert_eq!(target.finish().stdout, b"wrong 0\n");
}

#[test]
fn a_target_that_is_killed_while_it_is_probed() {
    let scratch = Scratch::new();
    let program = compile(&scratch, "checksum", &[]);
    let mut target = Command::new(&program);
    target.arg("2").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut target = target.spawn().expect("our own program");
    let report = scratch.file("report");
    let mut command = Command::new(incise());
    command.args(["count", "--json", "work_step", "-o"]).arg(&report).args(["-p", &target.id().to_string()]);
    let mut command = command.spawn().expect("the command");
    std::thread::sleep(Duration::from_millis(300));
    signal(target.id(), libc::SIGKILL);
    target.wait().expect("a child");
    let status = incise_tests::command::wait(&mut command, incise_tests::command::PATIENCE);
    // The program's ending is the command's.
    assert_eq!(status.map(Ending::from), Some(Ending::Killed(libc::SIGKILL)));
    let report = incise_tests::report::Report::read(&report).expect("a report");
    assert!(report.hits("work_step").is_some_and(|hits| hits > 0), "{report:?}");
}
