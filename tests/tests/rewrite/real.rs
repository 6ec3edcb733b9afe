//! Real programs and libraries: they do what they did, and their counts are those of `incise count`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use incise_tests::command::{count, run, steady_addresses};
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::{find_program, need_program, skip};

use crate::support::{PROGRAM, counts, rewrite, same, undo};

/// Takes chance out of a program: the time stands still, and random numbers are zeros.
const STEADY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
FILE *fopen64(const char *path, const char *mode) {
    FILE *(*next)(const char *, const char *) = dlsym(RTLD_NEXT, "fopen64");
    return next(strcmp(path, "/dev/urandom") ? path : "/dev/zero", mode);
}
FILE *fopen(const char *path, const char *mode) { return fopen64(path, mode); }
time_t time(time_t *at) { if (at) *at = 1; return 1; }
int gettimeofday(struct timeval *restrict at, void *restrict zone) { at->tv_sec = at->tv_usec = 1; return 0; }
"#;

/// What a real program does with its rewritten self, at the same path, and what `incise count` says of the same run: but for
/// functions in `exempt`, whose counts depend on where memory lies.
fn real(name: &str, file: &Path, patterns: &[&str], arguments: &[&str], exempt: &[&str]) {
    let scratch = Scratch::new();
    let plain = scratch.file(name);
    fs::copy(file, &plain).expect("a copy");
    for folder in ["out", "bin"] {
        fs::create_dir(scratch.file(folder)).expect("a new folder");
    }
    let (out, at) = (scratch.file("out").join(name), scratch.file("bin").join(name));
    fs::copy(file, &at).expect("a copy");
    let report = rewrite(&plain, &out, patterns);
    let (before_len, len) =
        (fs::metadata(&plain).expect("a file").len(), fs::metadata(&out).expect("a file").len());
    assert!(len * 10 <= before_len * 13, "{name}: {before_len} bytes became {len}");
    let all = report.summary.installed + report.summary.refused;
    assert!(report.summary.installed * 100 >= all * 96, "{name}: {:?}", report.summary);
    let steady = scratch.file("steady.so");
    fs::write(scratch.file("steady.c"), STEADY).expect("our own folder");
    let mut compiler = Command::new("gcc");
    compiler.args(["-shared", "-fPIC", "-w", "-o"]).arg(&steady).arg(scratch.file("steady.c"));
    assert_eq!(run(&mut compiler).ending, Ending::Exited(0), "the library that takes chance out");
    let prepare = |command: &mut Command| {
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("PYTHONHASHSEED", "0");
        command.env("PYTHONHOME", "/usr");
        if name == "redis-server" {
            command.env("LD_PRELOAD", &steady);
        }
        command.env("PERL_HASH_SEED", "0").env("HOME", scratch.path()).current_dir(scratch.path());
        steady_addresses(command);
    };
    let start = || {
        let mut command = Command::new(&at);
        prepare(command.args(arguments));
        run(&mut command)
    };
    let before = start();
    assert_eq!(before.ending, Ending::Exited(0), "{name}: {}", before.error_text());
    let options: Vec<&str> = ["-f", "-m", name].into_iter().chain(patterns.iter().copied()).collect();
    let counted = count(&options, &at, arguments, &prepare);
    let theirs = counted.report.unwrap_or_else(|error| panic!("{name}: {error}"));
    fs::copy(&out, &at).expect("a copy");
    same(&before, &start(), name);
    let (mine, _) = counts(&at);
    let hit = mine.counts.iter().filter(|count| count.hits > 0).count();
    assert!(hit >= 3, "{name}: only {hit} functions were called");
    let mut differ = Vec::new();
    for count in &mine.counts {
        // A name may have several functions: then the sums are compared.
        let (a, b) = (mine.hits(&count.function), theirs.hits(&count.function));
        let exempt = exempt.contains(&&*count.function);
        if a != b && theirs.hits(&count.function).is_some() && !exempt {
            differ.push(format!("{}: {a:?}, not {b:?}", count.function));
        }
    }
    assert!(differ.is_empty(), "{name}: {} of {hit}: {}", differ.len(), differ.join("; "));
    println!(
        "{name}: {before_len} bytes became {len}, {} mappings, {} functions, {hit} of them called",
        report.summary.mappings, report.summary.installed
    );
    undo(&plain, &out);
}

#[test]
fn real_programs_do_what_they_did() {
    let everything: &[&str] = &["sub_*"];
    let cases: [(&str, &[&str], &[&str]); 7] = [
        (
            "bash",
            &["*"],
            &["-c", "f() { echo $(($1 * 2)); }; for i in 1 2 3; do f $i; done | sort -r; echo ${PATH%%:*}"],
        ),
        (
            "perl",
            &["*"],
            &["-e", "my %h = map { $_ => $_ ** 2 } 1..200; print join(',', sort values %h), qq(\\n)"],
        ),
        (
            "sqlite3",
            everything,
            &[":memory:", "create table t(a); insert into t values(1),(2); select sum(a) from t"],
        ),
        ("openssl", everything, &["dgst", "-sha256", "/etc/hostname"]),
        ("git", everything, &["--version"]),
        ("redis-server", &["*"], &["--version"]),
        ("nginx", &["*"], &["-v"]),
    ];
    for (name, patterns, arguments) in cases {
        match find_program(name) {
            Some(file) => real(name, &file, patterns, arguments, &[]),
            None => skip(&format!("{name} is not installed")),
        }
    }
}

#[test]
fn an_interpreter_and_a_compiler() {
    if let Some(python) = need_program("python3") {
        let script = "import json, re; print(json.dumps({'a': [1, 2]}), re.sub('a', 'b', 'banana'))";
        // Whether a table of pointers has to grow depends on where the heap lies.
        let tables = ["PyMem_Free", "PyMem_Malloc", "PyMem_Realloc", "PyMem_Calloc"];
        // Not -E, which would seed its hashes with a random number whatever the environment says.
        real("python3", &python, &["*"], &["-S", "-B", "-c", script], &tables);
    }
    let found = run(Command::new("gcc").arg("-print-prog-name=cc1"));
    let compiler = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
    if !compiler.is_file() {
        return skip("gcc has no cc1");
    }
    let scratch = Scratch::new();
    let source = scratch.file("program.c");
    fs::write(&source, PROGRAM.replace("#include <stdio.h>", "int printf(const char *, ...);"))
        .expect("a new folder");
    let source = source.to_string_lossy().into_owned();
    real("cc1", &compiler, &["sub_*"], &["-quiet", "-O2", &source, "-o", "/dev/stdout"], &[]);
}

#[test]
fn libraries_are_replaced_by_rewritten_ones() {
    let scratch = Scratch::new();
    let library = |name: &str| {
        let folders = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"];
        folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
    };
    let cases = [
        ("libc.so.6", "ls", &["-la", "/usr"][..]),
        ("libsqlite3.so.0", "sqlite3", &[":memory:", "select 6*7"]),
    ];
    for (name, program, arguments) in cases {
        let (Some(file), Some(program)) = (library(name), find_program(program)) else {
            skip(&format!("{name} or {program} is not installed"));
            continue;
        };
        let folder = scratch.file(&format!("with-{name}"));
        fs::create_dir(&folder).expect("a new folder");
        let out = folder.join(name);
        let report = rewrite(&file, &out, &["*"]);
        assert!(report.summary.installed > 1000, "{name}: {:?}", report.summary);
        let before = run(Command::new(&program).args(arguments));
        assert_eq!(before.ending, Ending::Exited(0), "{name}");
        same(&before, &run(Command::new(&program).args(arguments).env("LD_LIBRARY_PATH", &folder)), name);
        let (report, processes) = counts(&out);
        assert_eq!(processes, 1, "{name}");
        assert!(report.counts[0].hits > 10, "{name}: {:?}", report.counts[0]);
        undo(&file, &out);
    }
}
