//! Processes that run already: probes go in under load, count, and go out without a trace.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, signal, wait};
use incise_tests::outcome::Ending;
use incise_tests::process::{Snapshot, Target, compile};
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

/// The command, attached to a process.
struct Attached<'a> {
    command: Child,
    scratch: &'a Scratch,
    pid: u32,
}

impl<'a> Attached<'a> {
    fn to(target: &Target, scratch: &'a Scratch, options: &[&str]) -> Attached<'a> {
        let pid = target.pid();
        let mut command = Command::new(incise());
        command.args(["count", "--json", "-v", "-o"]).arg(scratch.file("report")).args(options);
        command.arg("-p").arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(fs::File::create(scratch.file("told")).expect("a new file"));
        let command = command.spawn().expect("the command");
        let attached = Attached { command, scratch, pid };
        attached.wait_for("probes in place");
        attached
    }

    fn told(&self) -> String {
        fs::read_to_string(self.scratch.file("told")).unwrap_or_default()
    }

    fn wait_for(&self, words: &str) {
        let began = Instant::now();
        while !self.told().contains(words) {
            assert!(began.elapsed() < PATIENCE, "it does not say {words:?} but {:?}", self.told());
            sleep(Duration::from_millis(2));
        }
    }

    /// Ctrl-C, and the report.
    fn interrupt(mut self, by: i32) -> Report {
        signal(self.command.id(), by);
        let status = wait(&mut self.command, PATIENCE);
        assert_eq!(status.map(Ending::from), Some(Ending::Exited(0)), "{}", self.told());
        let tracer = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs on");
        assert!(tracer.contains("TracerPid:\t0\n"));
        Report::read(&self.scratch.file("report")).unwrap_or_else(|error| panic!("{error}: {}", self.told()))
    }
}

fn assert_right(target: Target) {
    let outcome = target.finish();
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "wrong 0\n", "{}", outcome.error_text());
    assert_eq!(outcome.ending, Ending::Exited(0));
}

const PATTERNS: [&str; 7] = ["work_*", "malloc", "free", "str*", "mem*", "poll", "pthread_*"];

#[test]
fn nothing_is_left_behind() {
    let scratch = Scratch::new();
    let links: [&[&str]; 4] = [&[], &["-static"], &["-no-pie", "-fno-pie"], &["-static-pie"]];
    for link in links {
        let program = compile(&scratch, "checksum", link);
        for options in [&[][..], &["--trap", "force"], &["-f"]] {
            let target = Target::start(Command::new(&program).arg("3"));
            let before = Snapshot::take(target.pid());
            assert_eq!(before.differs_from_files(target.pid()), None);
            let patterns = if link.contains(&"-static") { &PATTERNS[..1] } else { &PATTERNS[..] };
            let attached = Attached::to(&target, &scratch, &[options, patterns].concat());
            let during = Snapshot::take(target.pid());
            assert!(during.differs_from_files(target.pid()).is_some(), "probes are in the code");
            sleep(Duration::from_millis(50));
            let report = attached.interrupt(libc::SIGINT);
            let hits = report.hits("work_step").unwrap_or(0);
            assert!(hits > 0, "{link:?} {options:?}: {report:?}");
            assert_eq!(before.difference(&Snapshot::take(target.pid())), None, "{link:?} {options:?}");
            let second = report.summary.stop_us < 1_000_000;
            assert!(report.summary.stop_us > 0 && second, "{:?}", report.summary);
            assert_right(target);
        }
    }
}

#[test]
fn again_and_again_under_load() {
    let scratch = Scratch::new();
    let target = Target::start(Command::new(compile(&scratch, "checksum", &[])).args(["4", "fork"]));
    let before = Snapshot::take(target.pid());
    let rounds = if incise_tests::long() { 100 } else { 8 };
    for round in 0..rounds {
        let options = [&["-f"][..], &["--trap", "force"], &[]][round % 3];
        let attached = Attached::to(&target, &scratch, &[options, &PATTERNS[..]].concat());
        sleep(Duration::from_millis(round as u64 % 5 * 10));
        // SIGTERM is as good as Ctrl-C.
        attached.interrupt([libc::SIGINT, libc::SIGTERM][round % 2]);
        assert_eq!(before.difference(&Snapshot::take(target.pid())), None, "round {round}");
    }
    assert_right(target);
}

#[test]
fn calls_in_one_function_are_counted_like_those_of_another() {
    // work_round calls work_step 100 times itself and 20 times by work_recursive, at 21 calls of that.
    let scratch = Scratch::new();
    let target = Target::start(Command::new(compile(&scratch, "checksum", &[])).arg("2"));
    let attached = Attached::to(&target, &scratch, &["work_*"]);
    sleep(Duration::from_millis(200));
    let report = attached.interrupt(libc::SIGINT);
    let hits = |name: &str| report.hits(name).unwrap_or_else(|| panic!("no {name}"));
    let rounds = hits("work_round");
    // Two threads were in the middle of a round when the count began, and two when it ended.
    let near = |hits: u64, each: u64| hits.abs_diff(rounds * each) <= 4 * each;
    assert!(rounds > 10, "{report:?}");
    assert!(near(hits("work_step"), 120) && near(hits("work_recursive"), 21), "{report:?}");
    assert!(near(hits("work_nothing"), 1) && near(hits("work_leaf"), 1), "{report:?}");
    assert_right(target);
}

#[test]
fn probes_that_are_kept_stay_right() {
    let scratch = Scratch::new();
    for options in [&["--keep"][..], &["--keep", "--trap", "force"]] {
        let target = Target::start(Command::new(compile(&scratch, "checksum", &[])).args(["2", "fork"]));
        let attached = Attached::to(&target, &scratch, &[options, &PATTERNS[..]].concat());
        sleep(Duration::from_millis(300));
        let report = attached.interrupt(libc::SIGINT);
        assert!(report.hits("work_step").is_some_and(|hits| hits > 0), "{report:?}");
        let after = Snapshot::take(target.pid());
        assert!(after.differs_from_files(target.pid()).is_some(), "the probes are still there");
        sleep(Duration::from_millis(50));
        assert_right(target);
    }
}

#[test]
fn a_debugger_goes_through_trampolines_that_are_kept() {
    let Some(gdb) = need_program("gdb") else { return };
    let scratch = Scratch::new();
    let target = Target::start(&mut Command::new(compile(&scratch, "faulting", &[])));
    let options = ["--keep", "--debug-file", "--points", "instruction", "load", "middle"];
    Attached::to(&target, &scratch, &options).interrupt(libc::SIGINT);
    let file = format!("/tmp/incise-{}.debug", target.pid());
    let mut command = Command::new(gdb);
    command.args(["-batch", "-nx", "-iex", "set debuginfod enabled off", "-p", &target.pid().to_string()]);
    let (add, attached) = (format!("add-symbol-file {file} -o 0"), scratch.file("attached"));
    let tell = format!("shell touch {}", attached.display());
    for text in [&*add, &tell, "continue", "echo stopped\\n", "info symbol $pc", "bt"] {
        command.args(["-ex", text]);
    }
    let said = scratch.file("gdb");
    let output = fs::File::create(&said).expect("a new file");
    let mut debugger =
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null()).spawn().expect("gdb");
    let text = || fs::read_to_string(&said).unwrap_or_default();
    let began = Instant::now();
    while !attached.exists() {
        assert!(began.elapsed() < PATIENCE, "{}", text());
        sleep(Duration::from_millis(10));
    }
    drop(target.finish());
    wait(&mut debugger, PATIENCE);
    let text = text();
    fs::remove_file(file).expect("written");
    let (_, stopped) = text.split_once("stopped\n").unwrap_or_else(|| panic!("it did not stop: {text}"));
    assert!(stopped.contains("incise:load"), "the trampoline has a name: {text}");
    let at =
        |name: &str| stopped.find(&format!(" in {name} (")).unwrap_or_else(|| panic!("no {name}: {text}"));
    assert!(at("load") < at("middle") && at("middle") < at("outer") && at("outer") < at("main"), "{text}");
}

#[test]
fn a_process_that_ends_while_it_is_probed() {
    let scratch = Scratch::new();
    let target = Target::start(Command::new(compile(&scratch, "checksum", &[])).arg("2"));
    let mut attached = Attached::to(&target, &scratch, &["work_*"]);
    assert_right(target);
    let status = wait(&mut attached.command, PATIENCE);
    assert_eq!(status.map(Ending::from), Some(Ending::Exited(0)));
    let report = Report::read(&scratch.file("report")).expect("a report");
    assert!(report.hits("work_step").is_some_and(|hits| hits > 0), "{report:?}");
}

#[test]
fn a_stopped_process_stays_stopped() {
    let scratch = Scratch::new();
    let target = Target::start(Command::new(compile(&scratch, "checksum", &[])).arg("2"));
    signal(target.pid(), libc::SIGSTOP);
    let state = || {
        let status = fs::read_to_string(format!("/proc/{}/status", target.pid())).expect("it lives");
        status.lines().find(|line| line.starts_with("State:")).unwrap_or("").to_owned()
    };
    let began = Instant::now();
    while !state().contains('T') && began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(1));
    }
    let attached = Attached::to(&target, &scratch, &["work_*"]);
    let report = attached.interrupt(libc::SIGINT);
    assert_eq!(report.counts.iter().map(|count| count.hits).sum::<u64>(), 0, "nothing ran");
    assert!(state().contains("stopped"), "{}", state());
    signal(target.pid(), libc::SIGCONT);
    assert_right(target);
}

#[test]
fn a_running_process_evaluates_what_it_is_asked() {
    let scratch = Scratch::new();
    let source = "#include <stdio.h>\n#include <unistd.h>\nlong level = 7; double part = 0.25;\n\
                  const char *name = \"castle\";\n\
                  long twice(long n) { __asm__ volatile(\"\"); return 2 * n; }\n\
                  long step(long n) { __asm__ volatile(\"\"); return n + 1; }\n\
                  int main(void) { char c; while (read(0, &c, 1) == 1) printf(\"%ld\\n\", twice(level)), fflush(stdout);\n\
                  return 0; }\n";
    let program = scratch.file("asked");
    fs::write(scratch.file("asked.c"), source).expect("a new file");
    let built =
        Command::new("gcc").args(["-g", "-O1", "-o"]).arg(&program).arg(scratch.file("asked.c")).status();
    assert!(built.expect("gcc").success());
    let mut target =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program");
    let pid = target.id();
    let waits = || fs::read_to_string(format!("/proc/{pid}/wchan")).is_ok_and(|at| at.contains("pipe"));
    let began = Instant::now();
    while !waits() && began.elapsed() < Duration::from_secs(2) {
        sleep(Duration::from_millis(2));
    }
    let maps = || fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs").lines().count();
    let before = maps();
    let eval = |text: &str| {
        let output = Command::new(incise()).args(["eval", "-p", &pid.to_string(), text]).output();
        let output = output.expect("the command");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).into_owned(), told, output.status.code())
    };
    assert_eq!(eval("global`level"), ("7\n".to_owned(), String::new(), Some(0)));
    assert_eq!(eval("inf`twice(21)").0, "42\n");
    // The C library, in which the thread waits, has an old function of this name.
    assert_eq!(eval("inf`step(41)").0, "42\n");
    assert_eq!(eval("str(global`name)").0, "castle\n");
    assert_eq!(eval("inf`strlen(\"a text of ours\")").0, "14\n");
    assert_eq!(eval("global`level = 50").0, "50\n");
    assert_eq!(eval(r#"printf("%d and %d\n", pid, tid);"#).0, format!("{pid} and {pid}\n"));
    let (_, told, code) = eval("*(long *)16");
    assert!(told.contains("memory that is not there") && code == Some(125), "{told}");
    let (_, told, _) = eval("global`levle");
    assert!(told.contains("`levle` is not known here"), "{told}");
    assert_eq!(maps(), before, "nothing is left behind");
    use std::io::Write;
    target.stdin.take().expect("a pipe").write_all(b"x").expect("it reads");
    let output = target.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "100\n", "it went on with what it did");
}

#[test]
fn what_a_condition_refuses_is_not_counted() {
    let scratch = Scratch::new();
    let source = "#include <stdlib.h>\nint main(void) { for (long i = 1; i <= 200; i++) free(malloc(i)); return 0; }\n";
    fs::write(scratch.file("some.c"), source).expect("a new file");
    let program = scratch.file("some");
    let built = Command::new("gcc").args(["-O0", "-o"]).arg(&program).arg(scratch.file("some.c")).status();
    assert!(built.expect("gcc").success());
    let hits = |condition: &str, name: &str| {
        let report = scratch.file("report");
        let mut command = Command::new(incise());
        command.args(["count", "--json", "-o"]).arg(&report).args(["--if", condition, name, "--"]);
        let output = command.arg(&program).output().expect("the command");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        let report = Report::read(&report).unwrap_or_else(|error| panic!("{error}"));
        let libc = report.counts.iter().filter(|count| count.module.starts_with("libc."));
        libc.filter(|count| count.function == name).map(|count| count.hits).sum::<u64>()
    };
    let all = hits("1", "malloc");
    let over = hits("arg0 > 100 && arg0 <= 200", "malloc");
    assert_eq!(over, 100);
    assert_eq!(hits("arg0 % 2 == 0 && arg0 <= 200 && arg0 > 100", "malloc"), 50);
    assert!(all >= 200, "{all}");
    assert_eq!(hits("*(long *)16 == 1", "malloc"), 0);
    // The results of calls whose entries are shown, and no others.
    let traced = scratch.file("traced");
    let mut command = Command::new(incise());
    command.args(["trace", "--json", "--args=1", "--return", "-o"]).arg(&traced);
    command.args(["--where", "arg0 > 195 && arg0 <= 200", "libc!malloc", "--"]);
    assert!(command.arg(&program).status().expect("the command").success());
    let traced = fs::read_to_string(&traced).expect("a trace");
    let kinds = |kind: &str| traced.lines().filter(|line| line.contains(kind)).count();
    assert_eq!((kinds("\"type\":\"entry\""), kinds("\"type\":\"exit\"")), (5, 5), "{traced}");
    let mut wrong = Command::new(incise());
    wrong.args(["count", "--if", "arg0 >", "malloc", "--"]).arg(&program);
    let output = wrong.output().expect("the command");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the condition has no meaning"));
}
