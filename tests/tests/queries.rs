//! Queries: kinds of points, filters over them, and what is counted there, launched, attached, followed and rewritten.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, run, signal, wait};
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::process::Target;
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

/// Calls in and outside of loops, a division, a store on the stack. With an argument, children do the same again; it
/// waits for the end of its input at last.
const TEXT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <sys/wait.h>
volatile int sink;
#define F __attribute__((noinline, noclone))
F int leaf(int x) { sink += x; return x + sink % 2; }
F int other(int x) { sink -= x; return sink; }
F int calls(int n) {
    leaf(n);
    for (int i = 0; i < n; i++) {
        leaf(i); /* in a loop */
        other(i);
    }
    return other(n) + 1;
}
F int nested(int n) {
    for (int i = 0; i < n; i++) { sink++; for (int j = 0; j < 7; j++) sink += j; }
    return sink;
}
F int divide(int n) { return 1000 / n; /* a division */ }
F int work(void) { return calls(20) + nested(10) + divide(7); }
int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("ready\n");
    if (argc > 1 && argv[1][0] == 'w')
        getchar();
    work();
    for (int i = 0; argc > 1 && argv[1][0] == 'f' && i < 3; i++) {
        if (!fork()) { work(); return 0; }
        wait(NULL);
    }
    return 0;
}
"#;

fn compile(scratch: &Scratch, compiler: &Path, name: &str, text: &str, options: &[&str]) -> PathBuf {
    let (source, program) = (scratch.file(&format!("{name}.cc")), scratch.file(name));
    fs::write(&source, text).expect("a new file");
    let language = if compiler.to_string_lossy().contains("++") { "c++" } else { "c" };
    let mut command = Command::new(compiler);
    command.args(["-x", language, "-g"]).args(options).arg("-o").arg(&program).arg(&source);
    let outcome = run(&mut command);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    program
}

/// Runs a count, and reads its report.
fn count(program: &Path, options: &[&str], arguments: &[&str]) -> Report {
    let scratch = Scratch::new();
    let mut command = Command::new(incise());
    command.args(["count", "--json", "-o"]).arg(scratch.file("report")).args(options);
    let outcome = run(command.arg("--").arg(program).args(arguments));
    assert_eq!(outcome.ending, Ending::Exited(0), "{options:?}: {}", outcome.error_text());
    let report = Report::read(&scratch.file("report")).expect("a report");
    assert!(report.refused.is_empty(), "{options:?}: {report:?}");
    report
}

fn total(report: &Report) -> u64 {
    report.counts.iter().map(|count| count.hits).sum()
}

#[test]
fn filters_say_which_points_are_counted() {
    let Some(compiler) = need_program("gcc") else { return };
    let scratch = Scratch::new();
    for level in ["-O0", "-O2"] {
        let program = compile(&scratch, &compiler, "filtered", TEXT, &[level, "-fno-optimize-sibling-calls"]);
        let hits = |kind: &str, filter: &str, functions: &[&str]| {
            let report =
                count(&program, &[&["--points", kind, "--where", filter][..], functions].concat(), &[]);
            assert!(!report.counts.is_empty(), "{level}: {kind} {filter}");
            total(&report)
        };
        let calls = |filter: &str| hits("call", filter, &["calls"]);
        assert_eq!(calls("callee == \"leaf\""), 21, "{level}");
        assert_eq!(calls("callee ~ \"l*f\" && loop_depth == 0"), 1, "{level}");
        assert_eq!(calls("!(callee == \"leaf\") && loop_depth > 0"), 20, "{level}");
        assert_eq!(calls("callee ~ \"*e*\""), 42, "{level}");
        let line = |words: &str| 1 + TEXT.lines().position(|line| line.contains(words)).expect("a line");
        let marked = format!("line == {} && file ~ \"filtered.c*\"", line("in a loop"));
        assert_eq!(calls(&marked), 20, "{level}");
        let division = format!("mnemonic == \"idiv\" && line == {}", line("a division"));
        assert_eq!(hits("instruction", &division, &["calls", "nested", "divide"]), 1, "{level}");
        // Each pass reads and writes `sink` once.
        let memory =
            "reads_memory && writes_memory && operand ~ \"*rel*\" && size == 4 || mnemonic == \"inc\"";
        let stores = "writes_memory && mnemonic == \"mov\" && operand ~ \"*rel*\"";
        let sink = hits("instruction", &format!("({memory} || {stores}) && loop_depth == 2"), &["nested"]);
        assert_eq!(sink, 70, "{level}");
        // A function is left once for each time that it is entered, from blocks without successors.
        assert_eq!(hits("exit", "out_degree == 1", &["leaf", "divide"]), 22, "{level}");
        let decisions = hits("block-exit", "out_degree == 2", &["nested"]);
        let edges = hits("edge", "edge == \"taken\" || edge == \"not-taken\"", &["nested"]);
        assert_eq!(decisions, edges, "{level}: a decision goes one way");
        // Entries too, and instructions that were named.
        let entries = hits("entry", "function ~ \"[ln]e*\" && function_blocks > 1", &["filtered!*"]);
        assert_eq!(entries, 1, "{level}: `nested`");
        if level == "-O0" {
            // Behind `push rbp`.
            let named = hits("entry", "kind == \"instruction\" && offset == 1", &["leaf+0x1", "divide"]);
            assert_eq!(named, 21, "instructions that were named");
        }
    }
}

#[test]
fn what_a_query_matches_is_listed_and_nothing_runs() {
    let scratch = Scratch::new();
    let touched = scratch.file("touched");
    let list = |options: &[&str]| {
        let mut command = Command::new(incise());
        let outcome = run(command.args(["count", "-l"]).args(options).args(["--", "touch"]).arg(&touched));
        (String::from_utf8_lossy(&outcome.stdout).into_owned(), outcome.error_text(), outcome.ending)
    };
    let (found, told, ending) = list(&["libc!memcpy", "malloc"]);
    assert_eq!(ending, Ending::Exited(0), "{told}");
    assert!(found.contains("!malloc") && found.contains("memcpy"), "{found}");
    let (found, _, _) = list(&["--points", "call", "--where", "callee == \"abort\"", "libc!*"]);
    assert!(found.lines().count() > 10 && found.lines().all(|line| line.contains("libc.so.6!")), "{found}");
    let (_, told, ending) = list(&["no_such_function_at_all"]);
    assert_eq!(ending, Ending::Exited(125));
    assert!(told.contains("no_such_function_at_all"), "{told}");
    assert!(!touched.exists(), "it ran");
}

#[test]
fn a_filter_without_a_meaning_is_underlined_and_nothing_runs() {
    let scratch = Scratch::new();
    let touched = scratch.file("touched");
    for (filter, underlined, advice) in [
        ("calee ~ \"mem*\"", "calee", "did you mean `callee`?"),
        ("mnemonic == \"dvi\"", "\"dvi\"", "`div`"),
        ("mnemonic == \"j*\"", "\"j*\"", "write `~`"),
        ("kind == \"exits\"", "\"exits\"", "did you mean `exit`"),
        ("1 < 2 && loop_depth", "loop_depth", "compare it"),
        ("line > 3 && (module ~", "~", ""),
        ("callee = \"x\"", "callee = \"x\"", "write `==`"),
        ("leaf(3)", "leaf(3)", "filters know"),
        ("line > \"x\"", "\"x\"", ""),
        ("writes_memory == true", "writes_memory == true", "write it alone"),
    ] {
        let mut command = Command::new(incise());
        let outcome = run(command.args(["count", "malloc", "--where", filter, "--", "touch"]).arg(&touched));
        let told = outcome.error_text();
        assert_eq!(outcome.ending, Ending::Exited(2), "{filter}: {told}");
        let line = told.lines().find(|line| line.contains("│ ") && line.contains('─')).unwrap_or_default();
        let length = line.chars().filter(|c| "─┬".contains(*c)).count();
        assert!(length == underlined.len() || underlined == "~", "{filter}: {told}");
        assert!(told.contains(advice), "{filter}: {told}");
    }
    assert!(!touched.exists(), "it ran");
}

#[test]
fn what_is_behind_an_instruction_and_ends_a_pass_is_counted() {
    let Some(compiler) = need_program("gcc") else { return };
    let scratch = Scratch::new();
    for level in ["-O0", "-O2"] {
        let program = compile(&scratch, &compiler, "behind", TEXT, &[level]);
        let all = |kind: &str, filter: &str| {
            let functions = ["leaf", "other", "calls", "nested", "divide"];
            count(&program, &[&["--points", kind, "--where", filter][..], &functions].concat(), &[])
        };
        // Nothing here faults or longjumps: what begins ends.
        let goes_on = all("instruction", "!(mnemonic ~ \"j*\" || mnemonic == \"ret\")");
        let behind = all("after-instruction", "true");
        assert_eq!(total(&behind), total(&goes_on), "{level}");
        assert!(behind.counts.iter().all(|count| count.kind == "after-instruction"), "{behind:?}");
        let (passes, into, back) =
            (all("loop-iteration", "true"), all("loop-entry", "true"), all("loop-iteration-end", "true"));
        assert_eq!(
            total(&passes),
            total(&into) + total(&back),
            "{level}: a pass is the first or follows another"
        );
        // 20 passes in `calls`; 10 and 70 in `nested`; the last of each loop ends on a way out.
        assert!((20 + 80 - 12..=20 + 80).contains(&total(&back)), "{level}: {back:?}");
    }
}

/// Hits of edges by name.
fn by_name(report: &Report) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for count in &report.counts {
        assert!(count.kind == "edge" && count.edge.is_some(), "{count:?}");
        *all.entry(count.function.clone()).or_insert(0) += count.hits;
    }
    all
}

#[test]
fn edges_are_counted_alike_in_a_launched_an_attached_a_forking_and_a_rewritten_program() {
    let Some(compiler) = need_program("gcc") else { return };
    let scratch = Scratch::new();
    let program = compile(&scratch, &compiler, "edges", TEXT, &["-O2"]);
    let query = ["--points", "edge", "leaf", "calls", "nested"];
    let once = by_name(&count(&program, &query, &[]));
    assert!(once.values().sum::<u64>() > 100, "{once:?}");
    let followed = by_name(&count(&program, &[&["-f"][..], &query].concat(), &["f"]));
    let four: BTreeMap<String, u64> = once.iter().map(|(name, hits)| (name.clone(), hits * 4)).collect();
    assert_eq!(followed, four, "the parent and three children");

    let target = Target::start(Command::new(&program).arg("w"));
    let (report, told) = (scratch.file("report"), scratch.file("told"));
    let mut command = Command::new(incise());
    command
        .args(["count", "--json", "-v", "-o"])
        .arg(&report)
        .args(query)
        .arg("-p")
        .arg(target.pid().to_string());
    command.stdin(Stdio::null()).stderr(fs::File::create(&told).expect("a new file"));
    let mut counting = command.spawn().expect("the command");
    let began = Instant::now();
    while !fs::read_to_string(&told).unwrap_or_default().contains("probes in place") {
        if began.elapsed() > PATIENCE {
            signal(counting.id(), libc::SIGKILL);
            panic!("{}", fs::read_to_string(&told).unwrap_or_default());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(target.finish().ending, Ending::Exited(0));
    let ended = wait(&mut counting, PATIENCE).map(Ending::from);
    assert_eq!(ended, Some(Ending::Exited(0)), "{}", fs::read_to_string(&told).unwrap_or_default());
    assert_eq!(by_name(&Report::read(&report).expect("a report")), once, "attached");

    let rewritten = scratch.file("edges.counted");
    let mut command = Command::new(incise());
    // Where only a trap fits: it has its handler long before this code runs.
    command
        .arg("rewrite")
        .arg(&program)
        .arg("-o")
        .arg(&rewritten)
        .args(["--trap", "fallback"])
        .args(&query[..2]);
    command.arg("--count").args(&query[2..]);
    let outcome = run(&mut command);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    assert_eq!(run(&mut Command::new(&rewritten)).ending, Ending::Exited(0));
    let outcome: Outcome = run(Command::new(incise()).args(["report", "--json"]).arg(&rewritten));
    let lines = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let counts: Vec<&str> = lines
        .lines()
        .filter(|l| !l.contains("\"type\":\"process\"") && !l.contains("\"type\":\"hits\""))
        .collect();
    assert_eq!(by_name(&Report::parse(&counts.join("\n")).expect("a report")), once, "rewritten");
}

/// An exception for every third call, caught where only one call can throw.
const THROWS: &str = r#"
#include <cstdio>
#define F __attribute__((noinline))
volatile int sink;
F void may_throw(int x) { sink += x; if (x % 3 == 0) throw x; }
F int guarded(int x) {
    try { may_throw(x); } catch (int y) { sink += y; return 1; }
    return 0;
}
int main() {
    int caught = 0;
    for (int i = 0; i < 100; i++) caught += guarded(i);
    std::printf("%d\n", caught);
}
"#;

#[test]
fn exceptions_are_counted_on_the_edges_to_where_they_are_caught() {
    let Some(compiler) = need_program("g++") else { return };
    let scratch = Scratch::new();
    for level in ["-O0", "-O2"] {
        let program = compile(&scratch, &compiler, "throws", THROWS, &[level]);
        let filter = "edge == \"catch\" && callee ~ \"may_throw(*)\"";
        let report = count(&program, &["--points", "edge", "--where", filter, "guarded(*"], &[]);
        assert_eq!(total(&report), 34, "{level}: {report:?}");
        // What was not thrown came back.
        let filter = "callee ~ \"may_throw*\"";
        let back = count(&program, &["--points", "after-call", "--where", filter, "guarded(*"], &[]);
        assert_eq!(total(&back), 66, "{level}: {back:?}");
    }
}

#[test]
fn a_graph_shows_how_often_its_parts_ran() {
    let Some(compiler) = need_program("gcc") else { return };
    let scratch = Scratch::new();
    let program = compile(&scratch, &compiler, "heat", TEXT, &["-O2"]);
    for kind in ["block", "edge", "instruction"] {
        let counts = scratch.file("counts");
        let mut command = Command::new(incise());
        command.args(["count", "--json", "--points", kind, "nested", "-o"]).arg(&counts);
        assert_eq!(run(command.arg("--").arg(&program)).ending, Ending::Exited(0));
        let graph = |format: &str, function: &str| {
            let mut command = Command::new(incise());
            command.arg("cfg").arg(&program).args([function, "--format", format, "--heat"]).arg(&counts);
            run(&mut command)
        };
        let text = String::from_utf8_lossy(&graph("json", "nested").stdout).into_owned();
        let json: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let hits = |part: &serde_json::Value| part["hits"].as_u64();
        let most = json["blocks"].as_array().expect("blocks").iter().filter_map(hits).max();
        assert_eq!(most, Some(70), "{kind}: the inner loop: {text}");
        if kind == "edge" {
            let most = json["edges"].as_array().expect("edges").iter().filter_map(hits).max();
            assert_eq!(most, Some(60), "{text}");
        }
        for format in ["svg", "dot"] {
            let picture = graph(format, "nested");
            let text = String::from_utf8_lossy(&picture.stdout).into_owned();
            assert!(text.contains("ran 70 times") && text.contains("heat.c"), "{kind}: {text}");
            // The hottest block has the hottest colour.
            assert!(text.to_lowercase().contains("#ff7043"), "{kind}: {text}");
        }
        let none = graph("svg", "divide");
        assert_eq!(none.ending, Ending::Exited(125));
        assert!(none.error_text().contains("has no counts of divide"), "{}", none.error_text());
    }
}
