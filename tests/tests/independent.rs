//! Counts at points against those that other tools make of the same program: callgrind and gcov.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::callgrind::Profile;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

/// Every form of control flow that C has.
const C: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
volatile int sink;
#define F __attribute__((noinline, noclone))
F int leaf(int x) { sink += x; return x + sink % 2; }
F int choose(int x) {
    switch (x) {
    case 0: sink += 5; break;
    case 1: sink -= 9;
    case 2: sink ^= 3; break;
    case 3: sink *= 7; break;
    case 4: sink |= 77; break;
    case 5: sink -= 10;
    case 6: sink &= 13; break;
    }
    return sink;
}
F int tail(int x) { if (x % 4) return leaf(x); return sink; }
F int fall(int n) { return n ? fall(n - 1) + leaf(n) : 0; }
F int nested(int n) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 7 && sink != 12345; j++)
            sink += j % 3 ? j : leaf(j);
    return sink;
}
F int ackermann(int m, int n) {
again:
    if (!m) return n + 1;
    if (!n) { m--; n = 1; goto again; }
    return ackermann(m - 1, ackermann(m, n - 1));
}
static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
F int sort(int n) {
    int *all = malloc(n * sizeof *all), sum = 0;
    unsigned seed = 7;
    for (int i = 0; i < n; i++) all[i] = (seed = seed * 1103515245 + 12345) >> 8 & 1023;
    qsort(all, n, sizeof *all, compare);
    do sum = sum * 31 + all[--n]; while (n);
    free(all);
    return sum;
}
static int (*const table[])(int) = { leaf, choose, tail, fall };
int main(void) {
    for (int i = 0; i < 60; i++) { choose(i % 9); tail(i); table[i % 4](i % 5); }
    printf("%d %d %d %d\n", nested(20), fall(30), ackermann(2, 3), sort(100));
    return 0;
}
"#;

/// Virtual calls, templates, lambdas, destructors; nothing is thrown, so that calls come back.
const CXX: &str = r#"
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>
struct Shape { virtual ~Shape() {} virtual int area() const = 0; };
struct Square : Shape { int a; explicit Square(int a) : a(a) {} int area() const override { return a * a; } };
struct Line : Shape { int area() const override { return 0; } };
template <typename T> __attribute__((noinline)) T total(const std::vector<T> &all) {
    T sum{};
    for (const T &one : all) sum += one;
    return sum;
}
int main() {
    std::vector<std::unique_ptr<Shape>> shapes;
    for (int i = 0; i < 40; i++) {
        if (i % 3) shapes.push_back(std::make_unique<Square>(i));
        else shapes.push_back(std::make_unique<Line>());
    }
    std::sort(shapes.begin(), shapes.end(), [](auto &a, auto &b) { return a->area() > b->area(); });
    std::map<std::string, int> names;
    std::vector<int> areas;
    for (auto &shape : shapes) { names[std::to_string(shape->area() % 7)]++; areas.push_back(shape->area()); }
    std::vector<double> halves;
    for (auto &[name, count] : names) halves.push_back(count / 2.0);
    std::printf("%d %g %zu\n", total(areas), total(halves), names.size());
}
"#;

fn compile(scratch: &Scratch, compiler: &Path, text: &str, options: &[&str]) -> PathBuf {
    let language = if compiler.to_string_lossy().contains("++") { "c++" } else { "c" };
    let (source, program) = (scratch.file(&format!("counted.{language}")), scratch.file("counted"));
    fs::write(&source, text).expect("a new file");
    let mut command = Command::new(compiler);
    command.args(["-x", language, "-no-pie"]).args(options).arg("-o").arg(&program).arg(&source);
    let outcome = run(&mut command);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    program
}

/// Counts points of `kind` in the file `module` of a program.
fn count(
    kind: &str,
    module: &str,
    patterns: &[&str],
    program: &Path,
    arguments: &[&str],
) -> (Report, String) {
    let scratch = Scratch::new();
    let mut command = Command::new(incise());
    command.args(["count", "--json", "--explain", "--points", kind, "-m", module]).args(patterns).arg("-o");
    let outcome = run(command.arg(scratch.file("report")).arg("--").arg(program).args(arguments));
    assert_eq!(outcome.ending, Ending::Exited(0), "{kind}: {}", outcome.error_text());
    (Report::read(&scratch.file("report")).expect("a report"), outcome.error_text())
}

#[test]
fn every_kind_of_point_counts_what_callgrind_does() {
    let Some(_) = need_program("valgrind") else { return };
    for (compiler, text) in [("gcc", C), ("g++", CXX)] {
        let Some(compiler) = need_program(compiler) else { return };
        for level in ["-O0", "-O1", "-O2", "-Os"] {
            let scratch = Scratch::new();
            let program = compile(&scratch, &compiler, text, &[level]);
            let (profile, outcome) = Profile::of(&program, &[], "counted");
            assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
            let mut compared: BTreeMap<&str, u64> = BTreeMap::new();
            let mut by_function: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
            for kind in KINDS {
                let (report, told) = count(kind, "counted", &["*"], &program, &[]);
                assert!(report.refused.is_empty(), "{level} {kind}: {:?}", report.refused);
                assert!(!told.contains("may have more") || text == CXX, "{level} {kind}: {told}");
                // Callgrind does not tell what runs in `.init` and `.fini`.
                let told = |name: &str| !name.starts_with("_init") && !name.starts_with("_fini");
                for point in report.counts.iter().filter(|point| told(&point.function)) {
                    let name = point.function.split(['+', '-', ' ']).next().unwrap_or_default().to_owned();
                    *by_function.entry(kind).or_default().entry(name).or_insert(0) += point.hits;
                    let expected = match (kind, point.edge) {
                        (_, Some((from, to))) => profile.went(from, to),
                        ("call", None) => profile.calls.get(&point.address).copied().unwrap_or(0),
                        // On one way out of the instruction.
                        ("exit" | "loop-exit" | "after-call", None) => continue,
                        (_, None) => profile.runs_at(point.address),
                    };
                    let (name, at) = (&point.function, point.address);
                    let ends = point.edge.map(|(from, to)| format!("{from:#x} -> {to:#x} "));
                    assert_eq!(point.hits, expected, "{level} {kind}: {at:#x} {ends:?} {name}");
                    *compared.entry(kind).or_insert(0) += u64::from(point.hits > 0);
                }
            }
            println!("{} {level}: {compared:?}", compiler.display());
            for kind in ["entry", "block", "block-exit", "instruction", "call", "edge", "loop-iteration"] {
                assert!(compared.get(kind).is_some_and(|n| *n > 3), "{level} {kind}: {compared:?}");
            }
            // Nothing is thrown, and only the start of the program never returns.
            let sums = |kind: &str| {
                let mut sums = by_function[kind].clone();
                sums.retain(|name, sum| *sum > 0 && name != "_start");
                sums
            };
            assert_eq!(sums("exit"), sums("entry"), "{compiler:?} {level}: what is entered is left");
            assert_eq!(sums("after-call"), sums("call"), "{compiler:?} {level}: what is called comes back");
        }
    }
}

/// Every kind of point that is told by an instruction or an edge.
const KINDS: [&str; 12] = [
    "entry",
    "exit",
    "block",
    "block-exit",
    "instruction",
    "call",
    "after-call",
    "edge",
    "loop-entry",
    "loop-exit",
    "loop-iteration",
    "loop-iteration-end",
];

/// Link addresses of the calls in a file, by the name that reports have for them.
fn calls_of(file: &Path, patterns: &[&str]) -> BTreeMap<String, u64> {
    let outcome =
        run(Command::new(incise()).args(["list", "--json", "--points", "call"]).args(patterns).arg(file));
    let mut calls = BTreeMap::new();
    for line in String::from_utf8_lossy(&outcome.stdout).lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let (Some(name), Some(at)) = (line["function"].as_str(), line["address"].as_str()) else { continue };
        let at = at.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        calls.insert(name.to_owned(), at.expect("an address"));
    }
    calls
}

#[test]
fn calls_of_real_programs_are_those_that_callgrind_saw() {
    let Some(_) = need_program("valgrind") else { return };
    let scratch = Scratch::new();
    let data = scratch.file("data");
    let text: String = (0..3000u32).map(|n| format!("{} ", n.wrapping_mul(2_654_435_761))).collect();
    fs::write(&data, text).expect("a new file");
    let data = data.to_string_lossy().into_owned();
    let statements =
        "create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 90)
        insert into t select i, hex(i * 7919) from n; create index x on t(b);
        select count(*), max(b), sum(length(b)) from t where b like '3%' group by a % 7;";
    for (name, module, patterns, arguments) in [
        // One has no symbols, the other one names what it exports.
        ("gzip", "gzip", &["sub_*"][..], vec!["-kc", &data]),
        ("sqlite3", "libsqlite3.so.0", &["*", "sub_*"], vec![":memory:", statements]),
    ] {
        let Some(program) = need_program(name) else { continue };
        let library = Path::new("/usr/lib/x86_64-linux-gnu").join(module);
        let file = if module == name { program.clone() } else { library };
        let Ok(file) = file.canonicalize() else {
            incise_tests::skip::skip(&format!("{} is not there", file.display()));
            continue;
        };
        let object = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (profile, _) = Profile::of(&program, &arguments, &object);
        let places = calls_of(&file, patterns);
        let (report, _) = count("call", module, patterns, &program, &arguments);
        let (mut compared, mut different) = (0, Vec::new());
        for point in &report.counts {
            let Some(at) = places.get(&point.function) else { continue };
            let expected = profile.calls.get(at).copied().unwrap_or(0);
            compared += u64::from(expected > 0);
            if point.hits != expected {
                different.push(format!("{} at {at:#x}: {}, not {expected}", point.function, point.hits));
            }
        }
        println!("{name}: {compared} calls compared");
        assert!(different.is_empty(), "{name}: {} of {compared}: {different:#?}", different.len());
        assert!(compared > 60, "{name}: {compared} calls compared, {} counted", report.counts.len());
    }
}

#[test]
fn functions_and_lines_run_as_often_as_gcov_says() {
    let (Some(compiler), Some(gcov)) = (need_program("gcc"), need_program("gcov")) else { return };
    let scratch = Scratch::new();
    let covered = compile(&scratch, &compiler, C, &["-O0", "--coverage"]);
    assert_eq!(run(&mut Command::new(&covered)).ending, Ending::Exited(0));
    let mut command = Command::new(gcov);
    command.args(["--json-format", "--stdout", "counted.gcda"]).current_dir(scratch.path());
    let outcome = run(&mut command);
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let found: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("gcov: {error}: {text} {}", outcome.error_text());
    });
    let program = compile(&scratch, &compiler, C, &["-O0", "-g"]);
    let (entries, _) = count("entry", "counted", &["*"], &program, &[]);
    let files = found["files"].as_array().expect("files");
    let of_program =
        |file: &&serde_json::Value| file["file"].as_str().is_some_and(|f| f.ends_with("counted.c"));
    let file = files.iter().find(of_program).unwrap_or_else(|| panic!("not the program's file: {text}"));
    let functions = file["functions"].as_array().expect("functions");
    for function in functions {
        let name = function["name"].as_str().expect("a name");
        assert_eq!(entries.hits(name), function["execution_count"].as_u64(), "{name}");
    }
    assert!(functions.len() > 8);
    // Lines of one block: all their instructions run as often.
    let mut lines = 0;
    for line in file["lines"].as_array().expect("lines") {
        let (number, hits) = (line["line_number"].as_u64().expect("a number"), line["count"].as_u64());
        let text = C.lines().nth(number as usize - 1).unwrap_or_default();
        if text.contains(['{', '?', ':'])
            || ["for", "do ", "if", "case"].iter().any(|word| text.contains(word))
        {
            continue;
        }
        let report = scratch.file("report");
        let filter = format!("line == {number}");
        let mut command = Command::new(incise());
        command.args([
            "count",
            "--json",
            "--points",
            "instruction",
            "--where",
            &filter,
            "-m",
            "counted",
            "*",
            "-o",
        ]);
        let outcome = run(command.arg(&report).arg("--").arg(&program));
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let report = Report::read(&report).expect("a report");
        assert!(!report.counts.is_empty(), "{number}: {text}");
        for point in &report.counts {
            assert_eq!(Some(point.hits), hits, "line {number}: {text}: {}", point.function);
        }
        lines += 1;
    }
    assert!(lines > 5, "{lines}");
}
