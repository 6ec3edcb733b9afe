//! The examples do what they say.

use std::path::PathBuf;
use std::process::Command;

use incise_tests::build::example;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;

fn told(name: &str, arguments: &[&str]) -> String {
    let outcome = run(Command::new(example(name)).args(arguments).env("HOME", "/"));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    String::from_utf8(outcome.stdout).expect("text")
}

/// A program with a branch that goes one way three times out of four, of 4,000.
fn steps(scratch: &Scratch) -> PathBuf {
    let (source, program) = (scratch.file("steps.c"), scratch.file("steps"));
    let text = "__attribute__((noipa)) int step(int n) { if (n % 4) return n + 1; return n / 2; }
        int main(void) { int sum = 0; for (int n = 0; n < 4000; n++) sum += step(n); return sum == 1; }";
    std::fs::write(&source, text).expect("a new file");
    let outcome = run(Command::new("gcc").args(["-O0", "-o"]).arg(&program).arg(&source));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    program
}

#[test]
fn both_ways_of_each_branch_are_counted() {
    let scratch = Scratch::new();
    let told = told("branches", &["steps!step", steps(&scratch).to_str().expect("a plain name")]);
    let rows: Vec<Vec<&str>> = told.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let [row] = &rows[..] else { panic!("{told}") };
    assert_eq!(row[..2], ["1000", "3000"], "{told}");
    assert!(row[2].starts_with("step+"), "{told}");
}

#[test]
fn a_wrapped_function_is_told_of_until_it_is_itself_again() {
    assert_eq!(told("environment", &[]), "\"HOME\" is set\n\"NO_SUCH_VARIABLE\" is not set\n");
}

#[test]
fn allocations_are_counted_by_size() {
    let told = told("allocations", &[]);
    for row in ["   128 of less than 256 bytes", "   256 of less than 512 bytes"] {
        assert!(told.lines().any(|line| line == row), "{told}");
    }
}

#[test]
fn a_rewritten_copy_counts_its_calls() {
    let scratch = Scratch::new();
    let told = told("rewritten", &[steps(&scratch).to_str().expect("a plain name")]);
    assert_eq!(told.lines().next().map(str::trim_start), Some("4000  step"), "{told}");
}
