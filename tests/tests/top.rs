//! `incise top` on a terminal: its keys, and what probes that are switched off and on show.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::process::{Snapshot, Target};
use incise_tests::scratch::Scratch;
use incise_tests::terminal::Terminal;

/// One function is called often, one takes long: 60 ms. Its exit is far from its entry, so that each is patched where it is.
const SOURCE: &str = r#"
#include <unistd.h>
__attribute__((noinline)) void quick(void) { __asm__ volatile("nop; nop; nop; nop; nop; nop"); }
__attribute__((noinline)) void slow(void) {
    usleep(60000);
    __asm__ volatile(".rept 5000\n movl %eax, %eax\n .endr");
}
int main(void) {
    for (;;) {
        for (int i = 0; i < 1000; i++) quick();
        slow();
    }
}
"#;

/// The program, and `incise top` on some of its functions.
fn start(scratch: &Scratch, functions: &[&str]) -> (Target, Terminal) {
    let (source, program) = (scratch.file("live.c"), scratch.file("live"));
    fs::write(&source, SOURCE).expect("a file");
    let built = run(Command::new("gcc").arg("-O1").arg("-o").arg(&program).arg(&source));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    let target = Target::start_unready(&mut Command::new(&program));
    sleep(Duration::from_millis(50));
    let mut command = Command::new(incise());
    command.arg("top").args(functions).args(["--interval", "0.2", "-p", &target.pid().to_string()]);
    let top = Terminal::start(&mut command);
    (target, top)
}

/// The place on the screen of the line of a function, and the words before its name.
fn row(lines: &[String], function: &str) -> Option<(usize, Vec<String>)> {
    let name = format!("!{function}");
    let at = lines.iter().position(|line| line.contains(&name))?;
    let words = lines[at].split_whitespace().take_while(|word| !word.contains('!'));
    Some((at, words.map(str::to_owned).collect()))
}

/// The calls of a function so far.
fn calls(lines: &[String], function: &str) -> Option<u64> {
    let (_, words) = row(lines, function)?;
    words.last()?.replace(',', "").parse().ok()
}

/// Its p99, in milliseconds.
fn p99(lines: &[String], function: &str) -> Option<f64> {
    let (_, words) = row(lines, function)?;
    let [.., value, unit, _] = &words[..] else { return None };
    let scale = match unit.as_str() {
        "ns" => 1e-6,
        "us" => 1e-3,
        "ms" => 1.0,
        _ => 1e3,
    };
    Some(value.parse::<f64>().ok()? * scale)
}

fn is_first(lines: &[String], function: &str, other: &str) -> bool {
    match (row(lines, function), row(lines, other)) {
        (Some((first, _)), Some((second, _))) => first < second,
        _ => false,
    }
}

#[test]
fn keys_sort_filter_switch_and_end() {
    let scratch = Scratch::new();
    let (target, mut top) = start(&scratch, &["quick", "slow"]);
    top.until("both functions, by time", |lines| is_first(lines, "slow", "quick"));
    for (key, first, other, by) in [
        ("c", "quick", "slow", "by calls"),
        ("p", "slow", "quick", "by p99"),
        ("n", "quick", "slow", "by name"),
        ("t", "slow", "quick", "by time"),
    ] {
        top.keys(key);
        top.until(by, |lines| lines[0].contains(by) && is_first(lines, first, other));
    }

    top.keys("/qui");
    top.until("the filter", |lines| lines[0].contains("filter: qui_") && row(lines, "slow").is_none());
    // A letter that is a key otherwise.
    top.keys("c\u{7f}\r");
    top.until("the filter is done", |lines| {
        lines[0].ends_with("filter: qui") && row(lines, "quick").is_some()
    });
    top.keys("/");
    top.until("the filter again", |lines| lines[0].contains("filter: qui_"));
    top.keys("\u{1b}");
    top.until("no filter", |lines| !lines[0].contains("filter") && row(lines, "slow").is_some());

    // The first row by name is `quick`.
    top.keys("n");
    top.until("by name", |lines| lines[0].contains("by name"));
    top.keys("\u{1b}[B ");
    top.until("off", |lines| lines.iter().any(|line| line.contains("!quick (off)")));
    sleep(Duration::from_millis(500));
    let rests = calls(&top.lines(), "quick").expect("a number");
    let other = calls(&top.lines(), "slow").expect("a number");
    top.until("the other goes on", |lines| calls(lines, "slow") > Some(other + 5));
    assert_eq!(calls(&top.lines(), "quick"), Some(rests), "{}", top.lines().join("\n"));
    top.keys(" ");
    top.until("on again", |lines| calls(lines, "quick") > Some(rests + 1000));
    assert!(!top.lines().join("\n").contains("(off)"));

    top.keys("q");
    assert_eq!(top.end(), Some(Ending::Exited(0)));
    let after = Snapshot::take(target.pid());
    assert_eq!(after.differs_from_files(target.pid()), None, "every byte of code is as it was");
}

/// Calls that go on while probes are switched: none of them is taken for one that takes as long as the pause.
#[test]
fn a_call_is_not_timed_across_the_pause_of_its_probes() {
    let scratch = Scratch::new();
    let (_target, mut top) = start(&scratch, &["slow"]);
    top.until("calls", |lines| calls(lines, "slow") > Some(1));
    top.keys("\u{1b}[B");
    for _ in 0..4 {
        top.keys(" ");
        top.until("off", |lines| lines.iter().any(|line| line.contains("!slow (off)")));
        sleep(Duration::from_millis(700));
        top.keys(" ");
        let rests = calls(&top.lines(), "slow").expect("a number");
        for next in 1..4 {
            let lines = top.until("on again", |lines| calls(lines, "slow") >= Some(rests + next));
            assert!(p99(&lines, "slow").is_some_and(|p99| p99 < 400.0), "{}", lines.join("\n"));
        }
    }
    top.keys("q");
    assert_eq!(top.end(), Some(Ending::Exited(0)));
}
