//! The castle, and the command on it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, run, wait};
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::scratch::Scratch;
use serde_json::Value;

pub(crate) const SAVED: &str = "Thank you marrrio, *smooch*!\n";
/// Code that is too long for its place, in place of the function `answer`.
pub(crate) const LONG: &str = "mov eax, 77; push rcx; mov ecx, 100; 1: dec ecx; jnz 1b; pop rcx; ret";

pub(crate) const LOST: &str = "Sorry but our princess is in another castle\n";

/// Every way to build the castle, stripped.
pub(crate) const BUILDS: [&[&str]; 6] = [
    &["-s", "-static"],
    &["-s"],
    &["-s", "-O2"],
    &["-s", "-no-pie"],
    &["-s", "-static-pie"],
    &["-s", "-static", "-O2"],
];

pub(crate) fn build(scratch: &Scratch, source: &str, name: &str, options: &[&str]) -> PathBuf {
    let program = scratch.file(name);
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/targets")).join(source);
    let mut compiler = Command::new("gcc");
    let outcome = run(compiler.arg("-pthread").args(options).arg("-o").arg(&program).arg(source));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    program
}

pub(crate) fn told(arguments: &[&str]) -> Outcome {
    run(Command::new(incise()).args(arguments))
}

/// What a command prints; it has to succeed.
pub(crate) fn said(arguments: &[&str]) -> String {
    let outcome = told(arguments);
    assert_eq!(outcome.ending, Ending::Exited(0), "{arguments:?}: {}", outcome.error_text());
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}

pub(crate) fn lines(arguments: &[&str]) -> Vec<Value> {
    let text = said(arguments);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

pub(crate) fn address(value: &Value, key: &str) -> u64 {
    let text = value[key].as_str().unwrap_or("");
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|_| panic!("no {key} in {value}"))
}

/// The branch nearest to the use of the princess' words, and the option that makes them run.
pub(crate) fn branch(target: &[&str]) -> (String, &'static str) {
    let found = lines(&[&["find", "--json"], target, &["smooch"]].concat());
    let of =
        |kind: &str| found.iter().find(|line| line["type"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    assert!(of("string")["text"].as_str().is_some_and(|text| text.starts_with("Thank you marrrio")));
    let branch = of("branch");
    assert_eq!(branch["use"], of("use")["address"]);
    let option = if branch["taken"] == true { "--always" } else { "--never" };
    (branch["address"].as_str().expect("an address").to_owned(), option)
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("a name in UTF-8")
}

pub(crate) fn assert_ends(program: &Path, output: &str, code: i32) {
    let outcome = run(&mut Command::new(program));
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), output, "{}", program.display());
    assert_eq!(outcome.ending, Ending::Exited(code));
}

/// A castle that waits.
pub(crate) struct Waiting {
    pub(crate) child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    pub(crate) fn start(program: &Path) -> Waiting {
        let mut command = Command::new(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the castle");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut waiting = Waiting { input: child.stdin.take(), output, child };
        assert_eq!(waiting.line(), "ready\n");
        waiting
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("readable");
        line
    }

    /// Knocks: what the castle says, and the line of its own data.
    pub(crate) fn knock(&mut self) -> (String, String) {
        self.input.as_mut().expect("not closed").write_all(b"\n").expect("it reads");
        (self.line(), self.line())
    }

    /// Ends it; no thread may have seen anything wrong.
    pub(crate) fn finish(mut self, code: i32) {
        drop(self.input.take());
        assert_eq!(self.line(), "wrong 0\n");
        assert_eq!(wait(&mut self.child, PATIENCE).map(Ending::from), Some(Ending::Exited(code)));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many mappings a process has.
pub(crate) fn mappings(pid: &str) -> usize {
    fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs").lines().count()
}
