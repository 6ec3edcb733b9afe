//! Points inside functions: exits, blocks, calls. What is counted there is what the program does there.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::{run, steady_addresses};
use incise_tests::outcome::Ending;
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

/// Loops, a switch, early returns, a recursion.
const TEXT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) int leaf(int x) {
    if (x % 3 == 0)
        return x * 2;
    return x % 3 == 1 ? x + 5 : -x;
}
__attribute__((noinline)) int loop(int n) {
    int s = 0;
    for (int i = 0; i < n; i++)
        s += i & 1 ? leaf(i) : -leaf(i + 1);
    return s;
}
__attribute__((noinline)) int choose(int x) {
    switch (x) {
    case 0: return 5;
    case 1: return 9;
    case 2: return leaf(3) + 1;
    case 3: return 1;
    case 4: return 7;
    case 5: return 10;
    case 6: return 13;
    }
    return 0;
}
__attribute__((noinline)) int fall(int n) { return n ? fall(n - 1) + leaf(n) : 0; }
int main(int argc, char **argv) {
    int n = atoi(argv[1]), s = fall(50);
    for (int i = 0; i < n; i++)
        s += choose(i % 9);
    printf("%d %d\n", loop(n), s);
    return argc - 2;
}
"#;

/// Hits by the name of the function, offsets left out: their sum, and the most that any one has.
fn sums(report: &Report) -> BTreeMap<String, (u64, u64)> {
    let mut sums = BTreeMap::new();
    for count in &report.counts {
        let name = count.function.split(['+', '-', ' ']).next().unwrap_or_default();
        let (sum, most) = sums.entry(name.to_owned()).or_insert((0, 0));
        *sum += count.hits;
        *most = count.hits.max(*most);
    }
    sums
}

#[test]
fn what_happens_at_a_point_is_counted_there() {
    let Some(compiler) = need_program("gcc") else { return };
    let scratch = Scratch::new();
    let (source, program, report) = (scratch.file("flow.c"), scratch.file("flow"), scratch.file("report"));
    fs::write(&source, TEXT).expect("a new file");
    for level in ["-O0", "-O1", "-O2", "-Os"] {
        let mut compile = Command::new(&compiler);
        // Tail calls would be exits of `choose` and `fall`; here calls are counted.
        compile.args([level, "-fno-optimize-sibling-calls", "-o"]).arg(&program).arg(&source);
        assert_eq!(run(&mut compile).ending, Ending::Exited(0));
        let plain = run(Command::new(&program).arg("900"));
        let count = |kind: &str| {
            let mut command = Command::new(incise());
            command.args(["count", "--json", "--points", kind, "-m", "flow", "-o"]).arg(&report);
            command.args(["leaf", "loop", "choose", "fall", "--"]).arg(&program).arg("900");
            let outcome = run(&mut command);
            assert_eq!((&outcome.stdout, outcome.ending), (&plain.stdout, plain.ending), "{level} {kind}");
            assert!(
                !outcome.error_text().contains("may have more"),
                "{level} {kind}: {}",
                outcome.error_text()
            );
            let report = Report::read(&report).expect("a report");
            assert!(report.refused.is_empty(), "{level} {kind}: {report:?}");
            report
        };
        let entries = sums(&count("entry"));
        let calls = |name: &str| entries.get(name).map_or(0, |sum| sum.0);
        // 900 by `loop`, 100 by `choose`, 50 by `fall`, if the compiler kept them.
        assert_eq!([calls("leaf"), calls("loop"), calls("choose")], [1050, 1, 900], "{level}: {entries:?}");
        for (name, (sum, _)) in sums(&count("exit")) {
            assert_eq!(sum, calls(&name), "{level}: {name} is left as often as it is entered");
        }
        let made = sums(&count("call"));
        assert_eq!(
            made["loop"].0 + made["choose"].0 + made["fall"].0,
            1050 + calls("fall") - 1,
            "{level}: {made:?}"
        );
        let (blocks, ends) = (count("block"), count("block-exit"));
        let instructions = count("instruction");
        let total = |report: &Report| report.counts.iter().map(|count| count.hits).sum::<u64>();
        assert_eq!(total(&blocks), total(&ends), "{level}: a block that begins ends");
        for block in &blocks.counts {
            let at = instructions.counts.iter().find(|count| count.function == block.function);
            assert_eq!(at.map(|at| at.hits), Some(block.hits), "{level}: {}", block.function);
        }
        assert!(total(&instructions) > 2 * total(&blocks), "{level}");
        // The body; where the condition has a block of its own, that has one more.
        assert!((900..=901).contains(&sums(&blocks)["loop"].1), "{level}: {blocks:?}");
    }
}

#[test]
fn functions_of_a_library_are_left_as_often_as_they_are_entered() {
    let Some(program) = need_program("sqlite3") else { return };
    let scratch = Scratch::new();
    let report = scratch.file("report");
    let statements = "create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 500)
        insert into t select i, hex(i * 7919) from n; create index x on t(b); select count(*), max(b) from t where b like '3%';";
    let plain = run(Command::new(&program).args([":memory:", statements]));
    let count = |kind: &str| {
        let mut command = Command::new(incise());
        command
            .args(["count", "--json", "--explain", "--points", kind, "-m", "libsqlite3", "-o"])
            .arg(&report);
        command.args(["sqlite3_*", "--"]).arg(&program).args([":memory:", statements]);
        let outcome = run(&mut command);
        assert_eq!((&outcome.stdout, outcome.ending), (&plain.stdout, plain.ending), "{kind}");
        (sums(&Report::read(&report).expect("a report")), outcome.error_text())
    };
    let (entries, _) = count("entry");
    let (exits, told) = count("exit");
    let mut compared = 0;
    for (name, (sum, _)) in &exits {
        let entered = entries.get(name).map_or(0, |sum| sum.0);
        // One name may begin another: a tail call into a function's middle is no entry.
        if !told.contains(&format!("!{name} ")) && entered > 0 {
            assert_eq!(*sum, entered, "{name}");
            compared += 1;
        }
    }
    println!("{compared} functions compared, {} incomplete", told.lines().count());
    assert!(compared > 30, "{compared}");
}

/// An if, a while, a nested loop, a switch, a recursion and a conditional tail call, each in a function of its own.
const WAYS: &str = r#"
#include <stdio.h>
#include <stdlib.h>
volatile int sink;
#define F __attribute__((noinline, noclone))
F int leaf(int x) { sink += x; return x + sink % 2; }
F int either(int x) { if (x % 3 == 0) sink++; else sink += 2; sink += 3; return sink; }
F int nested(int n) { for (int i = 0; i < n; i++) { sink++; for (int j = 0; j < 7; j++) sink += j; } return sink; }
F int twice(int x) { if (x & 1) leaf(x); leaf(x + 1); return sink; }
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
int main(int argc, char **argv) {
    for (int i = 0; i < 90; i++) { either(i); twice(i); choose(i % 9); tail(i); }
    nested(30);
    fall(50);
    return 0;
}
"#;

#[test]
fn edges_loops_and_returns_of_calls_are_counted() {
    let Some(compiler) = need_program("gcc") else { return };
    let scratch = Scratch::new();
    let (source, program, report) = (scratch.file("ways.c"), scratch.file("ways"), scratch.file("report"));
    fs::write(&source, WAYS).expect("a new file");
    for level in ["-O0", "-O1", "-O2", "-Os"] {
        let mut compile = Command::new(&compiler);
        compile.args([level, "-o"]).arg(&program).arg(&source);
        assert_eq!(run(&mut compile).ending, Ending::Exited(0));
        let count = |kind: &str| {
            let mut command = Command::new(incise());
            command.args(["count", "--json", "--points", kind, "-m", "ways", "-o"]).arg(&report);
            command.args(["either", "nested", "twice", "choose", "tail", "fall", "--"]).arg(&program);
            let outcome = run(&mut command);
            assert_eq!(outcome.ending, Ending::Exited(0), "{level} {kind}: {}", outcome.error_text());
            assert!(!outcome.error_text().contains("may have more"), "{level}: {}", outcome.error_text());
            let report = Report::read(&report).expect("a report");
            assert!(report.refused.is_empty(), "{level} {kind}: {report:?}");
            report
        };
        let (entries, exits) = (sums(&count("entry")), sums(&count("exit")));
        // A conditional tail call is a way out like any other.
        for name in ["either", "nested", "twice", "choose", "tail", "fall"] {
            assert_eq!(exits[name].0, entries[name].0, "{level}: {name}");
        }
        let (made, back) = (sums(&count("call")), sums(&count("after-call")));
        for (name, (sum, _)) in &made {
            assert_eq!(back[name].0, *sum, "{level}: {name}: calls come back");
        }
        // What comes into a block by edges, and by the entry of the function, is what runs there.
        let (edges, blocks) = (count("edge"), count("block"));
        for block in blocks.counts.iter().filter(|block| block.function.contains(['+', '-'])) {
            let into =
                edges.counts.iter().filter(|edge| edge.function.ends_with(&format!("-> {}", block.function)));
            assert_eq!(
                into.map(|edge| edge.hits).sum::<u64>(),
                block.hits,
                "{level}: {}\n{edges:?}",
                block.function
            );
        }
        let (into, out, passes) =
            (sums(&count("loop-entry")), sums(&count("loop-exit")), sums(&count("loop-iteration")));
        // The outer loop once, the inner one thirty times.
        assert_eq!((into["nested"].0, out["nested"].0), (31, 31), "{level}");
        // Bodies: 30 and 210; a condition at the top is tested once more for each entry.
        assert!((240..=271).contains(&passes["nested"].0), "{level}: {passes:?}");
    }
}

/// Exceptions through frames with and without cleanups, caught by type and passed on, and a longjmp.
const THROWS: &str = r#"
#include <csetjmp>
#include <cstdio>
#include <stdexcept>
#include <string>
#define F __attribute__((noinline))
static jmp_buf back;
static volatile long cleaned;
struct Cleans { ~Cleans() { cleaned += 1; } };
F long throws(int n) {
    if (n % 3 == 0) throw std::runtime_error(std::string("three"));
    if (n % 5 == 0) throw n;
    return n;
}
F long passes(int n) { Cleans cleans; return throws(n) + 1; }
F long hands_on(int n) {
    try { return passes(n); } catch (int five) { if (five % 2) throw; return -five; }
}
F void leaps(int n) { if (n % 4 == 1) longjmp(back, n); }
F long tries(int n) {
    try { return hands_on(n); } catch (const std::exception &) { return 3000; } catch (...) { return 5000; }
}
int main() {
    long sum = 0;
    volatile int leapt = 0;
    for (volatile int i = 1; i <= 300; i++) {
        if (setjmp(back)) { leapt++; continue; }
        sum += tries(i);
        leaps(i);
    }
    printf("%ld %ld %d\n", sum, (long)cleaned, leapt);
    return 0;
}
"#;

#[test]
fn exceptions_go_through_probed_code_whichever_engine_lays_it_out() {
    let Some(compiler) = need_program("g++") else { return };
    let scratch = Scratch::new();
    let (source, program, report) =
        (scratch.file("throws.cc"), scratch.file("throws"), scratch.file("report"));
    fs::write(&source, THROWS).expect("a new file");
    for level in ["-O0", "-O2"] {
        let mut compile = Command::new(&compiler);
        compile.args([level, "-o"]).arg(&program).arg(&source);
        assert_eq!(run(&mut compile).ending, Ending::Exited(0));
        let plain = run(&mut Command::new(&program));
        let count = |kind: &str, engine: &str| {
            let mut command = Command::new(incise());
            command.args(["count", "--json", "--points", kind, "--engine", engine, "-m", "throws", "-o"]);
            command.arg(&report).args(["*", "--"]).arg(&program);
            let outcome = run(&mut command);
            assert_eq!(
                (&outcome.stdout, outcome.ending),
                (&plain.stdout, plain.ending),
                "{level} {kind} {engine}"
            );
            Report::read(&report).expect("a report")
        };
        for kind in ["block", "instruction", "edge", "during"] {
            let hits = |engine: &str| {
                let report = count(kind, engine);
                report.counts.into_iter().map(|count| (count.function, count.hits)).collect::<Vec<_>>()
            };
            let out_of_line = hits("out-of-line");
            assert!(out_of_line.iter().any(|(_, hits)| *hits >= 300), "{level} {kind}");
            assert_eq!(hits("in-line"), out_of_line, "{level} {kind}");
            assert_eq!(hits("auto"), out_of_line, "{level} {kind}");
        }
        // 100 are divisible by 3, 40 more by 5. Half of these are thrown again; the longjmp is for 1 of 4 that return.
        let left = sums(&count("no-return", "auto"));
        let of = |name: &str| {
            left.iter().filter(|(known, _)| known.contains(name)).map(|(_, sum)| sum.0).sum::<u64>()
        };
        assert_eq!(of("throws"), 140, "{level}: {left:?}");
        assert_eq!(of("leaps"), 75, "{level}: {left:?}");
        // A cleanup behind each exception.
        assert_eq!(of("passes"), 140, "{level}: {left:?}");
    }
}

#[test]
fn a_function_comes_by_while_it_runs() {
    let Some(compiler) = need_program("gcc") else { return };
    let scratch = Scratch::new();
    let (source, program, report) = (scratch.file("ways.c"), scratch.file("ways"), scratch.file("report"));
    fs::write(&source, WAYS).expect("a new file");
    assert_eq!(
        run(Command::new(&compiler).args(["-O1", "-o"]).arg(&program).arg(&source)).ending,
        Ending::Exited(0)
    );
    let count = |kind: &str| {
        let mut command = Command::new(incise());
        command.args(["count", "--json", "--points", kind, "-m", "ways", "-o"]).arg(&report);
        command.args(["nested", "twice", "fall", "--"]).arg(&program);
        assert_eq!(run(&mut command).ending, Ending::Exited(0), "{kind}");
        sums(&Report::read(&report).expect("a report"))
    };
    let (during, entry, calls, passes) =
        (count("during"), count("entry"), count("after-call"), count("loop-iteration"));
    for name in ["nested", "twice", "fall"] {
        let of = |counts: &BTreeMap<String, (u64, u64)>| counts.get(name).map_or(0, |sum| sum.0);
        assert_eq!(of(&during), of(&entry) + of(&calls) + of(&passes), "{name}");
    }
}

/// What is left out of counters is told as it is: by a program that leaves its functions by `longjmp`, by `exit` and by threads, calls itself, and
/// forks.
#[test]
fn counts_that_follow_from_others_are_those_of_counters() {
    const TEXT: &str = r#"
#include <pthread.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static jmp_buf back;
static volatile int sink;
/* Only where many functions are counted the whole program is looked at. */
#define ONE(n) __attribute__((noinline)) int n(int x) { return x > 2 ? x * 3 : x ? -x : 1; }
#define FIVE(n) ONE(n##0) ONE(n##1) ONE(n##2) ONE(n##3) ONE(n##4)
FIVE(a) FIVE(b) FIVE(c) FIVE(d) FIVE(e) FIVE(f) FIVE(g) FIVE(h)
__attribute__((noinline)) int leave(int n) {
    if (n % 5 == 0)
        longjmp(back, n + 1);
    return n % 3 ? n + 1 : n - 1;
}
__attribute__((noinline)) int deep(int n) {
    int sum = 0;
    for (int i = 0; i < n; i++) {
        if (i & 1)
            sum += leave(i * 7 + n);
        else if (i % 6 == 2)
            continue;
        switch (n + i) {
        case 3: sum ^= 1; break;
        case 4: sum ^= 2;
        case 5: sum += deep(n - 2); break;
        case 6: sum -= 9; break;
        case 7: sum += 4; break;
        case 8: sum *= 3;
        }
    }
    return sum;
}
void *thread(void *unused) {
    for (int i = 0; i < 5000; i++)
        sink += i % 3 ? i : -i;
    pthread_exit(unused);
}
int main(void) {
    pthread_t one;
    pthread_create(&one, 0, thread, 0);
    for (volatile int n = 0; n < 40; n++)
        if (!setjmp(back))
            printf("%d %d\n", deep(n), a0(n) + h4(n - 20));
    pthread_join(one, 0);
    if (!fork()) {
        for (int i = 0; i < 9; i++)
            if (i == 7)
                _exit(3);
    }
    wait(0);
    for (int i = 0;; i++)
        if (i == 20)
            exit(4);
}
"#;
    let Some(compiler) = need_program("gcc") else { return };
    let scratch = Scratch::new();
    let (source, program, report) =
        (scratch.file("leaves.c"), scratch.file("leaves"), scratch.file("report"));
    fs::write(&source, TEXT).expect("a new file");
    for level in ["-O0", "-O2"] {
        let mut compile = Command::new(&compiler);
        compile.args([level, "-pthread", "-o"]).arg(&program).arg(&source);
        assert_eq!(run(&mut compile).ending, Ending::Exited(0));
        for kind in ["block", "instruction"] {
            let count = |more: &[&str]| {
                let mut command = Command::new(incise());
                steady_addresses(&mut command);
                command.args(["count", "--json", "--follow", "--points", kind, "-m", "leaves", "-o"]);
                command.arg(&report).args(more).args(["*", "sub_*", "--"]).arg(&program);
                let outcome = run(&mut command);
                assert_eq!(outcome.ending, Ending::Exited(4), "{level} {kind}: {}", outcome.error_text());
                let report = Report::read(&report).expect("a report");
                assert!(report.refused.is_empty());
                let hits = report.counts.iter().map(|count| (count.address, count.hits));
                let inferred = report.counts.iter().filter(|count| count.tactic == "inferred").count();
                (hits.collect::<BTreeMap<_, _>>(), inferred)
            };
            let (exact, none) = count(&["--exact"]);
            let (found, inferred) = count(&[]);
            assert_eq!(none, 0);
            assert!(inferred > exact.len() / 10, "{inferred} of {}", exact.len());
            assert_eq!(found, exact, "{level} {kind}");
        }
    }
}
