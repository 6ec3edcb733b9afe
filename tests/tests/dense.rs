//! Counters at every instruction of programs: the programs do what they did, and every count is what callgrind counts.
//!
//! `INCISE_LONG=1` runs the programs on more.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use incise_tests::build::incise;
use incise_tests::callgrind::Profile;
use incise_tests::command::{run, steady_addresses};
use incise_tests::long;
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

/// Where position-independent programs are loaded when addresses are not random.
const PROGRAM: u64 = 0x5555_5555_4000;

/// The same few variables for everybody: their number and length decides what programs do at their start.
fn plain(command: &mut Command) {
    command.env_clear().envs([("PATH", "/usr/bin:/bin"), ("LC_ALL", "C"), ("PYTHONHASHSEED", "0")]);
    command.env("PERL_HASH_SEED", "0").env("PYTHONDONTWRITEBYTECODE", "1").env("LD_BIND_NOW", "1");
}

/// The environment that valgrind makes of that: it adds variables of its own.
fn like_valgrind(command: &mut Command) {
    static MADE: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let mut command = Command::new("valgrind");
        plain(&mut command);
        command.args(["--quiet", "--tool=callgrind", "--callgrind-out-file=/dev/null", "/usr/bin/env"]);
        let text = String::from_utf8(run(&mut command).stdout).expect("text");
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    });
    command.env_clear().envs(made.iter().map(|(name, value)| (name, value)));
}

/// Runs a program with a counter at every instruction of it.
fn counted(program: &Path, arguments: &[&str]) -> (BTreeMap<u64, u64>, Report, Outcome) {
    let scratch = Scratch::new();
    let report = scratch.file("report");
    let name = program.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
    let mut command = Command::new(incise());
    steady_addresses(&mut command);
    like_valgrind(&mut command);
    command.args(["count", "--json", "--points", "instruction", "-o"]).arg(&report);
    // All of its code, whether symbols tell of it or not.
    let code = code(&fs::read(program).expect("a program"));
    command.arg(format!("{name}!*{:#x}..*{:#x}", code.start, code.end));
    command.arg("--").arg(program).args(arguments);
    let outcome = run(&mut command);
    let report = Report::read(&report).unwrap_or_else(|error| panic!("{error}: {}", outcome.error_text()));
    let bias = if is_fixed(program) { 0 } else { PROGRAM };
    let counts = report.counts.iter().map(|count| (count.address - bias, count.hits)).collect();
    (counts, report, outcome)
}

fn is_fixed(program: &Path) -> bool {
    // ELF header: e_type, ET_EXEC.
    fs::read(program).expect("a program")[16] == 2
}

/// A repeated instruction counts each round for callgrind.
fn is_repeated(bytes: &[u8]) -> bool {
    matches!(bytes, [0xF2 | 0xF3, 0x48, 0xA4..=0xAF, ..] | [0xF2 | 0xF3, 0xA4..=0xAF, ..])
}

/// Compares a run without counters, one with, and one under callgrind. Returns how many instructions ran. Of
/// `tolerated` percent of them the counts may differ.
fn compare(program: &Path, arguments: &[&str], tolerated: usize) -> usize {
    let mut command = Command::new(program);
    steady_addresses(&mut command);
    like_valgrind(&mut command);
    let expected = run(command.args(arguments));
    let (counts, report, outcome) = counted(program, arguments);
    // The command may have to say something itself, on standard error.
    let outcome = Outcome { stderr: expected.stderr.clone(), ..outcome };
    assert_eq!(expected.difference(&outcome), None, "{}", program.display());
    let object = program.to_string_lossy();
    let (profile, _) = Profile::with(program, arguments, &object, &plain);
    // What depends on the environment, which is not quite the same under valgrind, is no matter of counting.
    let (other, _) = Profile::with(program, arguments, &object, &|command| {
        plain(command);
        command.env("ANOTHER_VARIABLE", "with a value");
    });
    let bytes = fs::read(program).expect("a program");
    let (mut ran, mut unsteady, mut wrong) = (0, 0, Vec::new());
    // Linkage stubs and the start of the program belong to no file for callgrind.
    let text = text(&bytes);
    for (&at, &hits) in counts.range(text.clone()) {
        let offset = offset_of(&bytes, at).expect("a segment");
        let expected = profile.runs_at(at);
        ran += usize::from(expected > 0);
        if other.runs_at(at) != expected {
            unsteady += 1;
        } else if hits != expected && !is_repeated(&bytes[offset..offset + 8]) {
            wrong.push((at, expected, hits));
        }
    }
    assert!(unsteady * 20 <= ran, "{}: {unsteady} of {ran} are not comparable", program.display());
    // What ran and was not counted is in no function that is known of, or was refused.
    let known = profile.runs.range(text).count();
    let covered = profile.runs.keys().filter(|at| counts.contains_key(at)).count();
    println!(
        "{}: {} instructions counted, {ran} ran, {unsteady} depend on the environment, {} refused, {} wrong",
        program.display(),
        counts.len(),
        report.refused.len(),
        wrong.len()
    );
    for (at, expected, hits) in wrong.iter().take(20) {
        println!("  {at:#x}: {hits}, callgrind {expected}");
    }
    assert!(wrong.len() * 100 <= ran * tolerated, "{}: {} counts differ", program.display(), wrong.len());
    assert!(covered * 100 >= known * 95, "{covered} of {known} are counted");
    ran
}

/// Link addresses and place in the file of what an ELF file has loaded, and the flags.
fn loads(file: &[u8]) -> Vec<(Range<u64>, u64, u32)> {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
    let half = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
    // Elf64_Ehdr: e_phoff, e_phentsize, e_phnum; Elf64_Phdr: p_type, p_flags, p_offset, p_vaddr, p_filesz.
    let headers = (0..half(56)).map(|index| word(32) as usize + index * half(54));
    let load = |header: usize| {
        let (start, len) = (word(header + 16), word(header + 32));
        (start..start + len, word(header + 8), u32::from(file[header + 4]))
    };
    headers.filter(|header| file[*header] == 1).map(load).collect()
}

/// Link addresses of the code.
fn code(file: &[u8]) -> Range<u64> {
    let executable = loads(file).into_iter().find(|(_, _, flags)| flags & 1 != 0);
    executable.expect("code").0
}

/// Link addresses of the section that holds the entry point.
fn text(file: &[u8]) -> Range<u64> {
    let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"));
    let half = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
    // Elf64_Ehdr: e_entry, e_shoff, e_shentsize, e_shnum; Elf64_Shdr: sh_addr, sh_size.
    let headers = (0..half(60)).map(|index| word(40) as usize + index * half(58));
    let ranges = headers.map(|header| word(header + 16)..word(header + 16) + word(header + 32));
    ranges.into_iter().find(|range| range.contains(&word(24))).expect("the entry point")
}

/// Where the byte at a link address is in an ELF file.
fn offset_of(file: &[u8], at: u64) -> Option<usize> {
    let load = loads(file).into_iter().find(|(range, ..)| range.contains(&at))?;
    Some((load.1 + at - load.0.start) as usize)
}

/// Loops entered in the middle, a jump table, recursion, calls through pointers, string instructions, a fault that is
/// handled, longjmp out of the middle of a function.
const TEXT: &str = r#"
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static jmp_buf back;
__attribute__((noinline)) int leaf(int x) { return x % 3 == 0 ? x * 2 : x % 3 == 1 ? x + 5 : -x; }
__attribute__((noinline)) int choose(int x) {
    switch (x) {
    case 0: return 5;
    case 1: return leaf(x) + 9;
    case 2: return leaf(3) + 1;
    case 3: return 1;
    case 4: return 7;
    case 5: longjmp(back, x);
    case 6: return 13;
    }
    return 0;
}
__attribute__((noinline)) int fall(int n) { return n ? fall(n - 1) + leaf(n) : 0; }
/* A duff's device: control enters the body of the loop in its middle. */
__attribute__((noinline)) int copy(char *to, const char *from, int count) {
    int n = (count + 7) / 8;
    switch (count % 8) {
    case 0: do { *to++ = *from++;
    case 7: *to++ = *from++;
    case 6: *to++ = *from++;
    case 5: *to++ = *from++;
    case 4: *to++ = *from++;
    case 3: *to++ = *from++;
    case 2: *to++ = *from++;
    case 1: *to++ = *from++;
        } while (--n > 0);
    }
    return n;
}
static int compare(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
int main(int argc, char **argv) {
    int n = atoi(argv[1]), s = fall(50);
    char text[64] = {0};
    int numbers[40];
    for (volatile int i = 0; i < n; i++) {
        if (setjmp(back) == 0)
            s += choose(i % 9);
        s += copy(text, "the quick brown fox jumps over the lazy dog", 1 + i % 40);
        s += (int)strlen(text);
    }
    for (int i = 0; i < 40; i++)
        numbers[i] = (i * 7919) % 101;
    qsort(numbers, 40, sizeof *numbers, compare);
    printf("%d %s %d\n", s, text, numbers[3]);
    return argc - 2;
}
"#;

#[test]
fn every_instruction_of_a_compiled_program_counts_what_it_runs() {
    let (Some(compiler), Some(_)) = (need_program("gcc"), need_program("valgrind")) else { return };
    let scratch = Scratch::new();
    let (source, program) = (scratch.file("dense.c"), scratch.file("dense"));
    fs::write(&source, TEXT).expect("a new file");
    for options in [&["-O0"][..], &["-O2"], &["-Os", "-no-pie"], &["-O3", "-fno-omit-frame-pointer"]] {
        let outcome =
            run(Command::new(&compiler).args(options).args(["-w", "-o"]).arg(&program).arg(&source));
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        assert!(compare(&program, &["700"], 0) > 150, "{options:?}");
    }
}

/// A script with loops, functions, patterns, arithmetic, a here-document and a pipe of built-in commands.
const SCRIPT: &str = r#"
total=0
add() { total=$((total + $1)); }
for i in $(eval echo {1..$1}); do
    add "$i"
    case $i in *5*) list="$list $i" ;; *) list=${list#?} ;; esac
done
while read -r word rest; do echo "${word^^}:$rest"; done <<END
alpha one
beta two
END
printf '%s %d\n' "$list" "$total"
[[ abc =~ ^a(.)c$ ]] && echo "${BASH_REMATCH[1]}"
"#;

/// The program and its arguments, for as much work as `INCISE_LONG` wants.
fn work(scratch: &Scratch) -> Vec<(&'static str, Vec<String>)> {
    let times = if long() { 4 } else { 1 };
    let file = |name: &str, contents: &str| {
        fs::write(scratch.file(name), contents).expect("a new file");
        scratch.file(name).to_string_lossy().into_owned()
    };
    let script = file("script", SCRIPT);
    let lines: String = (0..400 * times).map(|n| format!("line {n} of {}\n", n * 7919 % 1000)).collect();
    let text = file("text", &lines);
    let all = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
    vec![
        ("bash", all(&["--norc", "--noprofile", &script, &(20 * times).to_string()])),
        ("gzip", all(&["-nc", &text])),
        ("bzip2", all(&["-c", &text])),
        ("xz", all(&["-0c", &text])),
        (
            "perl",
            all(&[
                "-e",
                &format!(
                    "my %h; $h{{$_ % 7}} += $_ for 1..{}; print join ',', map {{ $h{{$_}} }} sort keys %h",
                    300 * times
                ),
            ]),
        ),
        (
            "sqlite3",
            all(&[
                ":memory:",
                "create table t(a,b); insert into t values(1,'x'),(2,'y'),(3,'z'); select sum(a), group_concat(b) from t where a > 1;",
            ]),
        ),
        (
            "python3",
            all(&["-S", "-E", "-c", &format!("print(sum(i * i % 7 for i in range({})))", 200 * times)]),
        ),
    ]
}

#[test]
fn installed_programs_do_what_they_did_and_count_what_callgrind_counts() {
    if need_program("valgrind").is_none() {
        return;
    }
    let scratch = Scratch::new();
    // Small ones by default: planning takes its time, and callgrind too.
    let chosen: &[&str] = if long() {
        &["bash", "gzip", "bzip2", "xz", "perl", "sqlite3", "python3"]
    } else {
        &["gzip", "bzip2"]
    };
    for (name, arguments) in work(&scratch).into_iter().filter(|(name, _)| chosen.contains(name)) {
        let Some(program): Option<PathBuf> = need_program(name) else { continue };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // The order of its variables in tables depends on the process id and on the order of the environment.
        let tolerated = usize::from(name == "bash");
        assert!(compare(&program, &arguments, tolerated) > 300, "{name}");
    }
}
