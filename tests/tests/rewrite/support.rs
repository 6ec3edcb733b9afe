//! Programs to rewrite, and what every test does with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;

pub(crate) const PROGRAM: &str = r#"
#include <stdio.h>
char odd[3] = "od"; // The data ends at an odd address.
__attribute__((noinline)) int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
__attribute__((noinline)) int twice(int n) { __asm__ volatile(""); return 2 * n; }
int main(int argc, char **argv) {
    int sum = 0;
    for (int i = 0; i < 100; i++) sum += twice(i);
    printf("%d %d %d %s\n", fib(20), sum, argc, argv[1]);
    return 3;
}
"#;

/// Calls of `fib` that `fib(20)` makes, itself included.
pub(crate) const FIB: u64 = 21_891;

pub(crate) fn build(scratch: &Scratch, name: &str, options: &[&str]) -> PathBuf {
    let (source, program) = (scratch.file("program.c"), scratch.file(name));
    fs::write(&source, PROGRAM).expect("a new folder");
    let mut compiler = Command::new("gcc");
    let outcome = run(compiler
        .args(["-O1", "-falign-functions=16"])
        .args(options)
        .arg("-o")
        .arg(&program)
        .arg(&source));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    program
}

/// Rewrites a program with counters where `patterns` match, and returns the report.
pub(crate) fn rewrite(program: &Path, out: &Path, patterns: &[&str]) -> Report {
    let mut command = Command::new(incise());
    let outcome = run(command
        .arg("rewrite")
        .arg("--json")
        .arg(program)
        .arg("-o")
        .arg(out)
        .arg("--count")
        .args(patterns));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}: {}", program.display(), outcome.error_text());
    Report::parse(&String::from_utf8_lossy(&outcome.stdout)).unwrap_or_else(|error| panic!("{error}"))
}

/// What `incise report` says of all processes, and how many there were.
pub(crate) fn counts(out: &Path) -> (Report, usize) {
    let outcome = run(Command::new(incise()).arg("report").arg("--json").arg(out));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let text = String::from_utf8_lossy(&outcome.stdout);
    let of_processes =
        |line: &&str| line.starts_with(r#"{"type":"process""#) || line.starts_with(r#"{"type":"hits""#);
    let processes = text.lines().filter(|line| line.starts_with(r#"{"type":"process""#)).count();
    let sum: Vec<&str> = text.lines().filter(|line| !of_processes(line)).collect();
    (Report::parse(&sum.join("\n")).unwrap_or_else(|error| panic!("{error}")), processes)
}

/// Undoes `out` in place and compares it with `program`.
pub(crate) fn undo(program: &Path, out: &Path) {
    let outcome = run(Command::new(incise()).arg("undo").arg(out));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let (before, after) = (fs::read(program).expect("the program"), fs::read(out).expect("the result"));
    assert!(before == after, "{} did not come back", program.display());
}

pub(crate) fn same(before: &Outcome, after: &Outcome, what: &str) {
    assert_eq!(before.ending, after.ending, "{what}: {}", after.error_text());
    assert!(before.stdout == after.stdout, "{what}: the output differs");
    assert_eq!(before.error_text(), after.error_text(), "{what}");
}

/// Takes the section headers away, as sstrip does.
pub(crate) fn without_sections(program: &Path) {
    let mut bytes = fs::read(program).expect("the program");
    bytes[40..48].fill(0);
    bytes[58..64].fill(0);
    fs::write(program, bytes).expect("the program");
}

pub(crate) const INSIDE: &str = r#"
#include <stdio.h>
long after(long n), behind_push(long n);
void leaf(void), other(void);
__asm__(
    ".text; .balign 16; .globl after; .type after, @function; after: push %rbx; mov %rdi, %rbx;"
    "lea 1(%rbx), %rax; pop %rbx; ret; .size after, . - after;"
    // Goes on at the second instruction of the one before, whose first it has done itself.
    ".globl behind_push; .type behind_push, @function; behind_push: push %rbx; lea after + 1(%rip), %rax; jmp *%rax;"
    ".size behind_push, . - behind_push;"
    // No room for anything but a trap.
    ".globl leaf; .type leaf, @function; leaf: ret; .size leaf, 1;"
    ".globl other; .type other, @function; other: ret; .size other, 1; nop; nop; nop; nop; nop");
int main(void) {
    for (int i = 0; i < 50; i++) leaf(), other();
    printf("%ld %ld\n", after(41), behind_push(42));
    return 0;
}
"#;
