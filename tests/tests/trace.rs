//! `incise trace`: every call of real programs is told once, with what it was given and what it gave back; what cannot be is
//! counted; the program's output is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, run, signal, steady_addresses, wait};
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;
use serde_json::Value;

/// A folder with the traced program in it.
struct Traced {
    scratch: Scratch,
    program: PathBuf,
}

impl Traced {
    fn new() -> Traced {
        let scratch = Scratch::new();
        let program = scratch.file("traced");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/targets/traced.c");
        let built = run(Command::new("gcc").args(["-O2", "-pthread", source, "-o"]).arg(&program));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        Traced { scratch, program }
    }

    fn trace(&self, options: &[&str], arguments: &[&str]) -> (Outcome, String) {
        let program = [self.program.to_str().expect("a path")];
        trace(&self.scratch, options, &[&program, arguments].concat())
    }
}

/// Traces a program. Returns its outcome, and the trace.
fn trace(scratch: &Scratch, options: &[&str], program: &[&str]) -> (Outcome, String) {
    let file = scratch.file("trace");
    let mut command = Command::new(incise());
    command.arg("trace").args(options).arg("-o").arg(&file).arg("--").args(program);
    steady_addresses(&mut command);
    let outcome = run(command.env("PYTHONHASHSEED", "0"));
    let text = fs::read_to_string(&file).unwrap_or_else(|_| panic!("{}", outcome.error_text()));
    (outcome, text)
}

/// A trace in JSON Lines: its records, and the summary.
fn lines(text: &str) -> (Vec<Value>, Value) {
    let mut lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    let summary = lines.pop().expect("a summary");
    assert_eq!(summary["type"], "summary");
    lines.retain(|line| line["type"] != "refused");
    assert_eq!(summary["records"], lines.len(), "{summary}");
    assert!(lines.is_sorted_by_key(|line| line["time_ns"].as_u64()), "in the order of time");
    (lines, summary)
}

fn of<'a>(lines: &'a [Value], kind: &'a str, function: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line["type"] == kind && line["function"] == function)
}

fn number(value: &Value) -> i64 {
    let text = value.as_str().unwrap_or_else(|| panic!("{value}")).trim_start_matches("0x");
    u64::from_str_radix(text, 16).unwrap_or_else(|error| panic!("{text}: {error}")) as i64
}

#[test]
fn recursion_is_told_call_by_call() {
    let traced = Traced::new();
    let (outcome, text) =
        traced.trace(&["fibonacci", "--args=1", "--return", "--duration", "--json"], &["fibonacci", "12"]);
    assert_eq!(
        (outcome.ending, &*outcome.stdout),
        (Ending::Exited(0), &b"144\n"[..]),
        "{}",
        outcome.error_text()
    );
    let (lines, summary) = lines(&text);
    assert_eq!((&summary["dropped"], &summary["unfinished"]), (&0.into(), &0.into()));
    let mut stack: Vec<(i64, u64)> = Vec::new();
    let mut calls = 0;
    let fibonacci = |n: i64| (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0;
    for line in &lines {
        let time = line["time_ns"].as_u64().expect("a time");
        if line["type"] == "entry" {
            assert_eq!(line["depth"], stack.len());
            let n = number(&line["args"][0]);
            assert!(stack.last().is_none_or(|(outer, _)| n == outer - 1 || n == outer - 2));
            stack.push((n, time));
            calls += 1;
        } else {
            let (n, began) = stack.pop().expect("a call ends");
            assert_eq!(line["depth"], stack.len());
            assert_eq!(number(&line["return"]), fibonacci(n), "{n}");
            assert_eq!(line["duration_ns"], time - began);
        }
    }
    assert!(stack.is_empty());
    assert_eq!(calls, 465);
}

#[test]
fn arguments_are_those_of_the_call() {
    let traced = Traced::new();
    for count in 0..=6usize {
        let option = format!("--args={count}");
        let (outcome, text) = traced.trace(&["six", &option, "--json"], &["six", "20"]);
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let (lines, _) = lines(&text);
        assert_eq!(lines.len(), 20);
        for (i, line) in (0..).zip(&lines) {
            let all = [i, -i, 1 << 40, i + 3, i + 4, i + 5];
            let told: Vec<i64> = line["args"].as_array().into_iter().flatten().map(number).collect();
            assert_eq!(told, all[..count], "call {i}");
        }
    }
}

#[test]
fn threads_are_told_apart() {
    let traced = Traced::new();
    let (outcome, text) = traced.trace(&["step", "--args=1", "--return", "--json"], &["threads"]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let (lines, _) = lines(&text);
    let mut threads: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for line in of(&lines, "entry", "step") {
        threads.entry(line["thread"].as_u64().expect("a thread")).or_default().push(number(&line["args"][0]));
    }
    assert_eq!(threads.len(), 4, "{:?}", threads.keys());
    let processes: BTreeSet<u64> = lines.iter().filter_map(|line| line["process"].as_u64()).collect();
    assert_eq!(processes.len(), 1, "{processes:?}");
    assert!(processes.is_disjoint(&threads.keys().copied().collect()), "none of them is the first thread");
    assert!(threads.keys().all(|thread| (1..1 << 22).contains(thread)), "thread ids: {:?}", threads.keys());
    let of: BTreeSet<Vec<i64>> = threads.into_values().collect();
    assert_eq!(of, (0..4).map(|thread| (thread * 1000..(thread + 1) * 1000).collect()).collect());
}

#[test]
fn children_are_followed_or_left_alone() {
    let traced = Traced::new();
    for (options, expected) in
        [(&["step", "--args=1", "--json", "-f"][..], 20), (&["step", "--args=1", "--json"], 10)]
    {
        let (outcome, text) = traced.trace(options, &["forks", "10"]);
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let (lines, _) = lines(&text);
        let told: BTreeSet<i64> = lines.iter().map(|line| number(&line["args"][0])).collect();
        assert_eq!((lines.len(), told.len()), (expected, expected));
        let threads: BTreeSet<u64> = lines.iter().filter_map(|line| line["thread"].as_u64()).collect();
        assert_eq!(threads.len(), if expected == 20 { 11 } else { 1 });
        // Each process has one thread, which has its number.
        assert!(lines.iter().all(|line| line["process"] == line["thread"]), "{lines:?}");
    }
}

#[test]
fn a_full_ring_drops_and_tells() {
    let traced = Traced::new();
    const CALLS: u64 = 2_000_000;
    let (outcome, text) =
        traced.trace(&["step", "--args=1", "--json", "--buffer", "16"], &["steps", &CALLS.to_string()]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let (_, summary) = lines(&text);
    let [records, dropped] = ["records", "dropped"].map(|name| summary[name].as_u64().expect("a number"));
    assert_eq!(records + dropped, CALLS, "{summary}");
    assert!(
        dropped > 0 && outcome.error_text().contains(&format!("{dropped} dropped")),
        "{}",
        outcome.error_text()
    );
    println!("{records} records, {dropped} dropped");
}

/// Names of callers, the nearest first.
fn callers(line: &Value) -> Vec<&str> {
    let stack = line["stack"].as_array().unwrap_or_else(|| panic!("{line}"));
    stack.iter().map(|caller| caller["function"].as_str().expect("a name")).collect()
}

/// The program was compiled without frame pointers. What calls what is known by the exits, too.
#[test]
fn callers_are_told_to_the_outermost() {
    let traced = Traced::new();
    let (outcome, text) =
        traced.trace(&["fibonacci", "--stack", "--duration", "--json"], &["fibonacci", "12"]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let (records, _) = lines(&text);
    for line in of(&records, "entry", "fibonacci") {
        let callers = callers(line);
        let depth = line["depth"].as_u64().expect("a number") as usize;
        assert!(callers[..depth].iter().all(|name| *name == "fibonacci"), "{line}");
        assert_eq!((callers[depth], line["whole"].as_bool()), ("main", Some(true)), "{line}");
        assert!(callers[depth + 1..].contains(&"_start"), "{line}");
    }
    // 1 KiB of stack does not hold what 200 calls need.
    let (_, text) = traced.trace(&["jumps", "--stack=1", "--json"], &["jumps", "5"]);
    let (records, _) = lines(&text);
    assert!(records.iter().all(|line| line["whole"] == true && callers(line).contains(&"catches")), "{text}");
    let (_, text) = traced.trace(&["fibonacci", "--stack=1", "--json"], &["fibonacci", "24"]);
    let (records, _) = lines(&text);
    let cut = of(&records, "entry", "fibonacci").filter(|line| line["whole"] == false);
    assert!(cut.map(|line| callers(line).len()).all(|depth| depth > 10) && text.contains("\"whole\":false"));
}

#[test]
fn callers_are_told_on_any_stack() {
    let traced = Traced::new();
    let chains = [("threads", 4000, &["thread"][..]), ("coroutine", 50, &["coroutine"])];
    for (kind, calls, chain) in chains {
        let (outcome, text) = traced.trace(&["step", "--stack", "--json"], &[kind, "50"]);
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let (lines, _) = lines(&text);
        assert_eq!(lines.len(), calls, "{kind}");
        for line in &lines {
            assert!(callers(line).starts_with(chain) && line["whole"] == true, "{line}");
        }
    }
    let (_, text) = traced.trace(&["step", "--stack", "--format", "folded"], &["jumps", "50"]);
    let folded: Vec<&str> = text.lines().collect();
    assert!(folded.len() == 1 && folded[0].starts_with("_start;"), "{text}");
    assert!(folded[0].ends_with(";main;catches;step 50") || folded[0].ends_with(";main;step 50"), "{text}");
}

#[test]
fn what_longjmp_leaves_is_over() {
    let traced = Traced::new();
    let options = ["catches", "jumps", "step", "--args=1", "--return", "--duration", "--json"];
    let (outcome, text) = traced.trace(&options, &["jumps", "50"]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let (lines, _) = lines(&text);
    assert_eq!(of(&lines, "exit", "jumps").count(), 0);
    assert_eq!(of(&lines, "entry", "jumps").count(), 10 * (1 + 2 + 3 + 4 + 5));
    assert_eq!(of(&lines, "exit", "catches").filter(|line| line["duration_ns"].is_u64()).count(), 50);
    assert!(of(&lines, "entry", "catches").all(|line| line["depth"] == 0));
    assert!(of(&lines, "entry", "step").all(|line| line["depth"] == 1), "called by catches, a tail call");
}

#[test]
fn durations_are_those_of_the_clock() {
    let traced = Traced::new();
    let (outcome, text) = traced.trace(&["outer", "sleeps", "--duration", "--json"], &["outer", "30"]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let (lines, _) = lines(&text);
    let of = |function| of(&lines, "exit", function).filter_map(|line| line["duration_ns"].as_u64());
    let (outer, sleeps): (Vec<u64>, Vec<u64>) = (of("outer").collect(), of("sleeps").collect());
    assert_eq!((outer.len(), sleeps.len()), (1, 2));
    // usleep(3) sleeps at least as long; 1 % for the calibration.
    assert!(sleeps.iter().all(|time| *time >= 29_700_000), "{sleeps:?}");
    assert!(outer[0] >= sleeps.iter().sum(), "{outer:?} {sleeps:?}");
}

#[test]
fn what_a_killed_program_did_is_told() {
    let traced = Traced::new();
    let (outcome, text) = traced.trace(&["step", "--args=1", "--return", "--json"], &["killed", "500"]);
    assert_eq!(outcome.ending, Ending::Killed(libc::SIGKILL), "{}", outcome.error_text());
    let (lines, summary) = lines(&text);
    assert_eq!(lines.len(), 1000);
    assert_eq!(summary["unfinished"], 0);
}

#[test]
fn people_read_one_line_a_call() {
    let traced = Traced::new();
    let (outcome, text) =
        traced.trace(&["outer", "sleeps", "--args=1", "--return", "--duration"], &["outer", "1"]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let mut lines: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().skip(2).collect();
        match lines.last_mut() {
            // Who reads in the middle of a call is told of its beginning first.
            Some(begun) if begun[..] == ["sleeps(1)", "{"] => {
                assert_eq!(words[..2], ["}", "sleeps"], "{text}");
                begun.splice(1.., words[2..].iter().copied());
            }
            _ => lines.push(words),
        }
    }
    let starts = [
        &["outer(1)", "{"][..],
        &["sleeps(1)", "=", "1"],
        &["sleeps(1)", "=", "1"],
        &["}", "outer", "=", "2"],
    ];
    assert_eq!(lines.len(), 4, "{text}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{text}");
    }
    assert!(text.lines().nth(1).is_some_and(|line| line.contains("  sleeps")), "indented: {text}");
}

#[test]
fn other_tools_read_the_trace() {
    let traced = Traced::new();
    let options = ["catches", "jumps", "step", "--args", "--return", "--format"];
    let (outcome, text) = traced.trace(&[&options[..], &["chrome"]].concat(), &["jumps", "50"]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let trace: Value = serde_json::from_str(&text).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events");
    // Calls of jumps are left, not ended; catches leaves by a tail call.
    assert_eq!(events.iter().filter(|event| event["ph"] == "X").count(), 100);
    for event in events {
        assert!(event["ts"].is_number() || event["ph"] == "M", "{event}");
        assert!(event["tid"].is_u64() && event["name"].is_string(), "{event}");
        assert_eq!(event["pid"], event["tid"], "it has one thread");
    }
    let (outcome, text) = traced.trace(&["outer", "sleeps", "--format", "folded"], &["outer", "20"]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let times: BTreeMap<&str, u64> = text
        .lines()
        .map(|line| line.rsplit_once(' ').expect("a chain and its time"))
        .map(|(chain, time)| (chain, time.parse().expect("a number")))
        .collect();
    assert_eq!(times.keys().copied().collect::<Vec<_>>(), ["outer", "outer;sleeps"]);
    assert!(times["outer;sleeps"] >= 39_000_000 && times["outer"] < times["outer;sleeps"], "{times:?}");
}

/// What the format of trace events demands ("Trace Event Format", the document of Chromium's tracing): kinds of events, units, tracks on which
/// calls nest, names of processes and threads.
fn check_events(trace: &Value) -> BTreeMap<(u64, u64), Vec<(f64, f64)>> {
    assert!(["ns", "ms"].contains(&trace["displayTimeUnit"].as_str().expect("a unit")));
    assert!(trace["otherData"].as_object().expect("an object").values().all(Value::is_string));
    let mut tracks: BTreeMap<(u64, u64), Vec<(f64, f64)>> = BTreeMap::new();
    let mut named = Vec::new();
    for event in trace["traceEvents"].as_array().expect("events") {
        let text = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("{key}: {event}"));
        let number = |key: &str| event[key].as_u64().unwrap_or_else(|| panic!("{key}: {event}"));
        let time = |key: &str| {
            event[key].as_f64().filter(|at| *at >= 0.0).unwrap_or_else(|| panic!("{key}: {event}"))
        };
        let track = (number("pid"), number("tid"));
        assert!(event["args"].is_object() && !text("name").is_empty(), "{event}");
        match text("ph") {
            "M" => {
                assert!(event["args"]["name"].is_string(), "{event}");
                match text("name") {
                    "process_name" => named.push((track.0, 0)),
                    "thread_name" => named.push(track),
                    _ => panic!("{event}"),
                }
                continue;
            }
            "X" => tracks.entry(track).or_default().push((time("ts"), time("ts") + time("dur"))),
            // It has no end.
            "B" => tracks.entry(track).or_default().push((time("ts"), f64::INFINITY)),
            "i" => drop(time("ts")),
            _ => panic!("{event}"),
        }
        text("cat");
    }
    for ((pid, tid), calls) in &mut tracks {
        assert!(named.contains(&(*pid, 0)) && named.contains(&(*pid, *tid)), "{pid} has no name");
        calls.sort_by(|a, b| (a.0, -a.1).partial_cmp(&(b.0, -b.1)).expect("numbers"));
        let mut around: Vec<f64> = Vec::new();
        for (from, to) in calls {
            // Nanoseconds are thousandths.
            while around.last().is_some_and(|end| *end <= *from + 1e-4) {
                around.pop();
            }
            assert!(around.last().is_none_or(|end| *to <= *end + 1e-4), "calls of {tid} overlap at {from}");
            around.push(*to);
        }
    }
    tracks
}

#[test]
fn trace_events_are_as_their_format_says() {
    let traced = Traced::new();
    let cases: [(&[&str], &[&str], usize); 4] = [
        (&["fibonacci"], &["fibonacci", "12"], 465),
        (&["step"], &["threads"], 4000),
        (&["step", "-f"], &["forks", "10"], 20),
        (&["catches", "jumps", "step"], &["jumps", "20"], 40),
    ];
    for (options, arguments, calls) in cases {
        let options = [options, &["--args", "--return", "--format", "chrome"]].concat();
        let (outcome, text) = traced.trace(&options, arguments);
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let tracks = check_events(&serde_json::from_str(&text).expect("JSON"));
        let ended = tracks.values().flatten().filter(|(_, to)| to.is_finite()).count();
        assert_eq!(ended, calls, "{arguments:?}");
    }
    // usleep(3): microseconds.
    let (_, text) = traced.trace(&["sleeps", "--format", "chrome"], &["outer", "20"]);
    let tracks = check_events(&serde_json::from_str(&text).expect("JSON"));
    let calls: Vec<f64> = tracks.into_values().flatten().map(|(from, to)| to - from).collect();
    assert!(calls.len() == 2 && calls.iter().all(|took| (19_800.0..10e6).contains(took)), "{calls:?}");
}

/// The counts of `incise count` and the records of `incise trace` are the same, and so is what the program writes.
#[test]
fn real_programs_are_traced_call_by_call() {
    let scratch = Scratch::new();
    let script = "import json; print(json.dumps(sorted(str(n*n) for n in range(2000)))[-60:])";
    let query = "create table t(a,b); with recursive n(i) as (select 1 union all select i+1 from n where i<3000) \
                 insert into t select i, i*i from n; select sum(b), count(distinct a%17) from t;";
    let cases: [(&str, &[&str], &[&str]); 3] = [
        ("ls", &["malloc", "free", "str*"], &["-l", "/usr/bin"]),
        ("python3", &["malloc", "free", "memcmp", "strlen"], &["-S", "-c", script]),
        ("sqlite3", &["malloc", "realloc", "free", "mem*"], &[":memory:", query]),
    ];
    for (name, patterns, arguments) in cases {
        let Some(program) = need_program(name) else { continue };
        let program = [program.to_str().expect("a path")];
        let program = [&program, arguments].concat();
        let steady = |command: &mut Command| {
            steady_addresses(command);
            run(command.env("PYTHONHASHSEED", "0"))
        };
        let plain = steady(Command::new(program[0]).args(&program[1..]));
        let report = scratch.file("report");
        let mut count = Command::new(incise());
        count
            .args(["count", "--json", "-m", "libc.so.6"])
            .args(patterns)
            .arg("-o")
            .arg(&report)
            .arg("--")
            .args(&program);
        let counted = steady(&mut count);
        assert_eq!(counted.ending, Ending::Exited(0), "{}", counted.error_text());
        let report = Report::read(&report).expect("a report");
        let options =
            [&["-m", "libc.so.6", "--args=3", "--return", "--json", "--buffer", "1048576"], patterns]
                .concat();
        let (outcome, text) = trace(&scratch, &options, &program);
        assert_eq!(plain.stdout, outcome.stdout, "{name}");
        assert_eq!(plain.ending, outcome.ending, "{name}: {}", outcome.error_text());
        let (lines, summary) = lines(&text);
        assert_eq!(summary["dropped"], 0, "{name}: {summary}");
        let mut told: BTreeMap<&str, u64> = BTreeMap::new();
        for line in lines.iter().filter(|line| line["type"] == "entry") {
            *told.entry(line["function"].as_str().expect("a name")).or_default() += 1;
        }
        let hits: BTreeMap<&str, u64> =
            report.counts.iter().filter(|count| count.hits > 0).fold(BTreeMap::new(), |mut hits, count| {
                *hits.entry(count.function.as_str()).or_default() += count.hits;
                hits
            });
        assert_eq!(told, hits, "{name}");
        println!("{name}: {summary}");
    }
}

/// The command is killed: the program goes on, and its result is right.
#[test]
fn a_program_survives_who_traces_it() {
    let traced = Traced::new();
    const CALLS: u64 = 60_000_000;
    for verb in [&["trace", "--args=6", "--return"][..], &["hist"]] {
        let mut program = Command::new(&traced.program);
        let program =
            program.args(["steps", &CALLS.to_string()]).stdout(Stdio::piped()).spawn().expect("the program");
        let mut command = Command::new(incise());
        command.args(verb).args(["step", "-o", "/dev/null", "-p", &program.id().to_string()]);
        let mut command = command.stderr(Stdio::null()).spawn().expect("the command");
        sleep(Duration::from_millis(700));
        signal(command.id(), libc::SIGKILL);
        wait(&mut command, PATIENCE);
        let output = program.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{:?}", output.status);
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n", 3 * (CALLS * (CALLS - 1) / 2)));
    }
}

#[test]
fn a_trace_that_cannot_be_written_is_refused_before_anything_runs() {
    let mut command = Command::new(incise());
    command.args(["trace", "malloc", "-o", "/no/such/folder/trace", "--", "/bin/echo", "ran"]);
    let outcome = run(&mut command);
    assert_eq!(outcome.ending, Ending::Exited(125));
    assert!(outcome.stdout.is_empty());
    assert_eq!(outcome.error_text().lines().count(), 1, "{}", outcome.error_text());
    assert!(!Path::new("/no/such/folder").exists());
}
