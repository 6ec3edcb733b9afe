//! `cargo xtask test`: the one test command.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::build;
use crate::task::{self, Error, workspace};

/// Arguments of the task.
#[derive(clap::Args)]
pub struct Args {
    /// Run the long variants of tests.
    #[arg(long)]
    long: bool,
    /// Fail where a test would be skipped.
    #[arg(long)]
    no_skip: bool,
    /// Passed on to the test runner, for example the name of a test. The tests of documentation are run
    /// only if there are none.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Installs what tests need, builds what they run, and runs them.
pub fn run(args: &Args) -> Result<(), Error> {
    let began = Instant::now();
    task::run(Command::new(workspace().join("tests/install-packages")).current_dir(workspace()))?;
    // Tests run the command and the library as users get them.
    let built = build::release()?;
    let nextest = has_nextest();
    let report = workspace().join("target/nextest/default/junit.xml");
    // cargo-nextest keeps its reports there, wherever cargo builds. What an earlier run left is not this one's.
    let _ = fs::remove_file(&report);
    let mut tests = if nextest { with_nextest(args) } else { with_cargo(args) };
    args.variables(&mut tests);
    tests.env("INCISE_BIN", &built.command);
    let passed = tests.status().map_err(|source| Error::Start { command: task::text(&tests), source })?;
    let mut passed = passed.success();
    if args.rest.is_empty() && nextest {
        let mut doctests = task::cargo();
        doctests.args(["test", "--doc", "--workspace", "--locked", "--quiet"]);
        args.variables(&mut doctests);
        passed &= task::run(&mut doctests).is_ok();
    }
    println!("\n{} s", began.elapsed().as_secs());
    if let Ok(report) = fs::read_to_string(&report) {
        list("passed only when run again: each is a bug", &flaky(&report));
        list("skipped", &skipped(&report));
    }
    if passed { Ok(()) } else { Err(Error::Tests) }
}

impl Args {
    /// All packages, unless some are named.
    fn scope(&self) -> Option<&'static str> {
        let named =
            self.rest.iter().any(|argument| argument.starts_with("-p") || argument.starts_with("--package"));
        (!named).then_some("--workspace")
    }

    fn variables(&self, command: &mut Command) {
        if self.long {
            command.env("INCISE_LONG", "1");
        }
        if self.no_skip {
            command.env("INCISE_NO_SKIP", "1");
        }
    }
}

fn has_nextest() -> bool {
    let version =
        task::cargo().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn with_nextest(args: &Args) -> Command {
    let mut command = task::cargo();
    command.args(["nextest", "run", "--locked", "--no-fail-fast"]).args(args.scope());
    command.arg("--config-file").arg(workspace().join("xtask/nextest.toml"));
    command.args(&args.rest);
    command
}

/// Shows what passing tests print, for skips are among it. Includes the tests of documentation.
fn with_cargo(args: &Args) -> Command {
    let mut command = task::cargo();
    command.args(["test", "--locked", "--no-fail-fast"]).args(args.scope());
    command.args(&args.rest);
    if !args.rest.iter().any(|argument| argument == "--") {
        command.args(["--", "--show-output"]);
    }
    command
}

fn list(what: &str, lines: &[String]) {
    println!("{} {what}", lines.len());
    lines.iter().for_each(|line| println!("  {line}"));
}

/// The lines of a JUnit report, each with the name of its test.
fn lines_of_tests(report: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut name = "";
    report.lines().map(move |line| {
        if let Some(test) = line.split("<testcase name=\"").nth(1) {
            name = test.split('"').next().unwrap_or("");
        }
        (name, line)
    })
}

/// Tests that failed first and then passed.
fn flaky(report: &str) -> Vec<String> {
    let failures = lines_of_tests(report).filter(|(_, line)| line.contains("<flakyFailure"));
    failures.map(|(name, _)| name.to_owned()).collect()
}

/// The skips, each with the name of its test.
fn skipped(report: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (name, line) in lines_of_tests(report) {
        // The first line of a test's output follows the tag.
        if let Some(at) = line.find("skipped: ")
            && line[..at].chars().next_back().is_none_or(|c| c == '>')
        {
            found.push(format!("{name}: {}", &line[at + "skipped: ".len()..]));
        }
    }
    // One that fails for it tells so twice.
    found.dedup();
    found
}
