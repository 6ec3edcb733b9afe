//! `incise hist` and `incise top`: every value of real programs is in a histogram; times are those of the clock; what is shown live is what
//! the program does.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, run, signal, steady_addresses, wait};
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::process::Snapshot;
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;
use serde_json::Value;

/// A folder with the measured program in it.
struct Measured {
    scratch: Scratch,
    program: PathBuf,
}

impl Measured {
    fn new() -> Measured {
        let scratch = Scratch::new();
        let program = scratch.file("traced");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/targets/traced.c");
        let built = run(Command::new("gcc").args(["-O2", "-pthread", source, "-o"]).arg(&program));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        Measured { scratch, program }
    }

    /// Runs it under `incise hist`. Returns the outcome, and what was written.
    fn hist(&self, options: &[&str], arguments: &[&str]) -> (Outcome, String) {
        let file = self.scratch.file("hist");
        let mut command = Command::new(incise());
        command.arg("hist").args(options).arg("-o").arg(&file).arg("--").arg(&self.program).args(arguments);
        let outcome = run(&mut command);
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let text = fs::read_to_string(&file).unwrap_or_else(|_| panic!("{}", outcome.error_text()));
        (outcome, text)
    }
}

/// Lines of JSON of one type.
fn lines(text: &str, kind: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(parse).filter(|line: &Value| line["type"] == kind).collect()
}

fn one(text: &str, function: &str) -> Value {
    let mut found = lines(text, "histogram").into_iter().filter(|line| line["function"] == function);
    found.next().unwrap_or_else(|| panic!("{function}: {text}"))
}

#[test]
fn every_call_has_its_duration() {
    let measured = Measured::new();
    let (outcome, text) = measured.hist(&["fibonacci", "--json"], &["fibonacci", "15"]);
    assert_eq!(outcome.stdout, b"610\n");
    let fibonacci = one(&text, "fibonacci");
    assert_eq!(fibonacci["count"], 1973);
    let summary = &lines(&text, "summary")[0];
    assert_eq!((&summary["untimed"], &summary["unpaired"]), (&0.into(), &0.into()));
    // usleep(3) sleeps at least as long; 1 % for the calibration.
    let (_, text) = measured.hist(&["outer", "sleeps", "--json"], &["outer", "20"]);
    let (outer, sleeps) = (one(&text, "outer"), one(&text, "sleeps"));
    let sum = |histogram: &Value| histogram["sum"].as_u64().expect("a sum");
    assert_eq!((&outer["count"], &sleeps["count"]), (&1.into(), &2.into()));
    assert!(sum(&sleeps) >= 39_600_000 && sum(&outer) >= sum(&sleeps), "{text}");
    let p50 = sleeps["p50"].as_f64().expect("a number");
    assert!(p50 >= 16e6, "{text}");
}

#[test]
fn arguments_and_results_are_sorted_into_buckets() {
    let measured = Measured::new();
    for (of, expected) in [("arg0", 4950i64), ("return", 3 * 4950)] {
        let (_, text) = measured.hist(&["step", "--of", of, "--json"], &["steps", "100"]);
        let step = one(&text, "step");
        assert_eq!(
            (&step["count"], &step["sum"], &step["of"]),
            (&100.into(), &expected.into(), &of.into()),
            "{text}"
        );
        let scale = if of == "arg0" { 1 } else { 3 };
        for bucket in step["buckets"].as_array().expect("buckets") {
            let [from, to] = ["from", "to"].map(|end| bucket[end].as_i64().expect("a number"));
            let inside = (0..100).filter(|i| (from..to).contains(&(i * scale))).count();
            assert_eq!(bucket["count"], inside, "{of} {bucket}");
        }
    }
}

#[test]
fn expressions_are_measured_and_told_apart() {
    let measured = Measured::new();
    let (_, text) = measured.hist(&["step", "--of", "arg0 * 2 + 1", "--json"], &["steps", "100"]);
    let step = one(&text, "step");
    assert_eq!(
        (&step["count"], &step["sum"], &step["of"]),
        (&100.into(), &10_000.into(), &"arg0 * 2 + 1".into())
    );
    let (_, text) =
        measured.hist(&["step", "--of", "retval", "--by", "retval % 2", "--json"], &["steps", "100"]);
    let all = lines(&text, "histogram");
    let told: Vec<_> = all.iter().map(|line| (line["key"].as_str(), line["count"].as_u64())).collect();
    assert!(
        told.contains(&(Some("0"), Some(50))) && told.contains(&(Some("1"), Some(50))) && told.len() == 2,
        "{text}"
    );
    // Each call of a recursion has its own begin.
    for by in ["comm", "arg0 > 1"] {
        let (outcome, text) = measured.hist(&["fibonacci", "--by", by, "--json"], &["fibonacci", "15"]);
        assert_eq!(outcome.stdout, b"610\n");
        let all = lines(&text, "histogram");
        let counts: Vec<_> = all.iter().map(|line| (line["key"].as_str(), line["count"].as_u64())).collect();
        let wanted = match by {
            "comm" => vec![(Some("traced"), Some(1973))],
            _ => vec![(Some("0"), Some(987)), (Some("1"), Some(986))],
        };
        assert_eq!(counts, wanted, "{text}");
    }
    let (_, text) = measured.hist(&["step", "--of", "arg0", "--by", "arg0 & 1"], &["steps", "100"]);
    assert!(text.contains("step [1]: arg0 of 50 calls, mean 50, "), "{text}");
}

#[test]
fn threads_children_and_jumps_are_timed() {
    let measured = Measured::new();
    let (_, text) = measured.hist(&["step", "--json"], &["threads"]);
    assert_eq!(one(&text, "step")["count"], 4000);
    let (_, text) = measured.hist(&["step", "main", "--json", "-f"], &["forks", "10"]);
    assert_eq!(one(&text, "step")["count"], 20);
    // The children leave main by _exit(2).
    assert_eq!(one(&text, "main")["count"], 1);
    let (_, text) = measured.hist(&["catches", "jumps", "step", "--json"], &["jumps", "50"]);
    assert_eq!(one(&text, "catches")["count"], 50);
    assert!(lines(&text, "histogram").iter().all(|line| line["function"] != "jumps"), "left by longjmp(3)");
    assert_eq!(lines(&text, "summary")[0]["unpaired"], 0);
}

#[test]
fn people_see_bars() {
    let measured = Measured::new();
    let (_, text) = measured.hist(&["step", "--of", "arg0"], &["steps", "100"]);
    assert!(
        text.lines().next().is_some_and(|line| line.contains("step: arg0 of 100 calls, mean 49")),
        "{text}"
    );
    let counts: Vec<u64> = text
        .lines()
        .skip(1)
        .map(|line| {
            line.split_whitespace()
                .nth(3)
                .and_then(|word| word.parse().ok())
                .unwrap_or_else(|| panic!("{text}"))
        })
        .collect();
    assert_eq!(counts, [1, 1, 2, 4, 8, 16, 32, 36]);
    let (_, text) = measured.hist(&["step", "--of", "arg0", "--format", "svg"], &["steps", "100"]);
    assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
    assert_eq!(text.matches("<rect x=").count(), counts.len());
}

/// As many durations as calls, whatever the program does in them.
#[test]
fn real_programs_are_timed_call_by_call() {
    let scratch = Scratch::new();
    let query = "create table t(a,b); with recursive n(i) as (select 1 union all select i+1 from n where i<3000) \
                 insert into t select i, i*i from n; select sum(b), count(distinct a%17) from t;";
    let cases: [(&str, &[&str]); 2] = [("ls", &["-l", "/usr/bin"]), ("sqlite3", &[":memory:", query])];
    for (name, arguments) in cases {
        let Some(program) = need_program(name) else { continue };
        let patterns = ["malloc", "free", "qsort", "memcmp"];
        let [report, hist] = ["report", "hist"].map(|name| scratch.file(name));
        let mut outputs = Vec::new();
        for (verb, file) in [("count", &report), ("hist", &hist)] {
            let mut command = Command::new(incise());
            command.args([verb, "--json", "-m", "libc.so.6"]).args(patterns).arg("-o").arg(file).arg("--");
            command.arg(&program).args(arguments);
            steady_addresses(&mut command);
            let outcome = run(&mut command);
            assert_eq!(outcome.ending, Ending::Exited(0), "{name}: {}", outcome.error_text());
            outputs.push(outcome.stdout);
        }
        assert_eq!(outputs[0], outputs[1], "{name}");
        let report = Report::read(&report).expect("a report");
        let text = fs::read_to_string(&hist).expect("written");
        for count in report.counts.iter().filter(|count| count.hits > 0) {
            assert_eq!(
                one(&text, &count.function)["count"],
                count.hits,
                "{name}: {}: {text}",
                count.function
            );
        }
        println!("{name}: {}", lines(&text, "summary")[0]);
    }
}

#[test]
fn top_shows_what_a_process_does_now() {
    let measured = Measured::new();
    let mut program = Command::new(&measured.program);
    program.args(["steps", "1000000000000"]).stdout(Stdio::null());
    let mut program = program.spawn().expect("the program");
    sleep(Duration::from_millis(50));
    let before = Snapshot::take(program.id());
    let pid = program.id().to_string();
    let top = |options: &[&str]| run(Command::new(incise()).args(["top", "step", "-p", &pid]).args(options));
    let outcome = top(&["--once", "--interval", "0.3", "--json"]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let text = outcome.error_text();
    let json: String =
        text.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect();
    let functions = lines(&json, "function");
    assert_eq!(functions.len(), 1, "{text}");
    let number = |name: &str| functions[0][name].as_f64().unwrap_or_else(|| panic!("{text}"));
    assert_eq!(functions[0]["function"], "step");
    assert!(
        number("calls_per_second") > 10_000.0 && number("p50") > 0.0 && number("p50") <= number("p99"),
        "{text}"
    );
    let outcome = top(&["--once", "--interval", "0.3"]);
    assert!(outcome.error_text().contains("traced!step"), "{}", outcome.error_text());
    assert_eq!(before.difference(&Snapshot::take(program.id())), None);
    // Interval after interval, until it is interrupted.
    let file = measured.scratch.file("top");
    let mut command = Command::new(incise());
    command.args(["top", "step", "--interval", "0.1", "--json", "-p", &pid, "-o"]).arg(&file);
    let mut running = command.spawn().expect("the command");
    sleep(Duration::from_millis(1500));
    signal(running.id(), libc::SIGINT);
    assert_eq!(wait(&mut running, PATIENCE).map(Ending::from), Some(Ending::Exited(0)));
    let times: Vec<f64> = lines(&fs::read_to_string(&file).expect("written"), "function")
        .iter()
        .filter_map(|line| line["at"].as_f64())
        .collect();
    assert!(times.len() >= 3 && times.is_sorted(), "{times:?}");
    assert_eq!(before.difference(&Snapshot::take(program.id())), None);
    signal(program.id(), libc::SIGKILL);
    wait(&mut program, PATIENCE);
}
