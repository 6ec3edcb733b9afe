//! Programs rewritten with counters: they do what they did, the counts are right and survive a kill, tools find
//! nothing to complain of, and the original comes back bit for bit.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use incise_tests::build::incise;
use incise_tests::command::{count, run, signal, steady_addresses};
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::process::{Target, compile};
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use incise_tests::skip::{find_program, need_program, skip};

const PROGRAM: &str = r#"
#include <stdio.h>
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
const FIB: u64 = 21_891;

fn build(scratch: &Scratch, name: &str, options: &[&str]) -> PathBuf {
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
fn rewrite(program: &Path, out: &Path, patterns: &[&str]) -> Report {
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
fn counts(out: &Path) -> (Report, usize) {
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
fn undo(program: &Path, out: &Path) {
    let outcome = run(Command::new(incise()).arg("undo").arg(out));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let (before, after) = (fs::read(program).expect("the program"), fs::read(out).expect("the result"));
    assert!(before == after, "{} did not come back", program.display());
}

fn same(before: &Outcome, after: &Outcome, what: &str) {
    assert_eq!(before.ending, after.ending, "{what}: {}", after.error_text());
    assert!(before.stdout == after.stdout, "{what}: the output differs");
    assert_eq!(before.error_text(), after.error_text(), "{what}");
}

/// Takes the section headers away, as sstrip does.
fn without_sections(program: &Path) {
    let mut bytes = fs::read(program).expect("the program");
    bytes[40..48].fill(0);
    bytes[58..64].fill(0);
    fs::write(program, bytes).expect("the program");
}

#[test]
fn every_kind_of_program() {
    let scratch = Scratch::new();
    let kinds: [(&str, &[&str]); 7] = [
        ("pie", &["-pie"]),
        ("fixed", &["-no-pie"]),
        ("static", &["-static"]),
        ("static-pie", &["-static-pie"]),
        ("stripped", &["-s", "-pie"]),
        ("stripped-static", &["-s", "-static"]),
        ("bare", &["-s", "-pie"]),
    ];
    for (name, options) in kinds {
        let program = build(&scratch, name, options);
        if name == "bare" {
            without_sections(&program);
        }
        fs::set_permissions(&program, fs::Permissions::from_mode(0o750)).expect("our own file");
        let out = scratch.file(&format!("{name}.out"));
        let nameless = name.starts_with("stripped") || name == "bare";
        let report = rewrite(&program, &out, if nameless { &["sub_*"] } else { &["fib", "main", "twice"] });
        assert!(report.summary.installed >= 3, "{name}: {report:?}");
        let mode = fs::metadata(&out).expect("the result").permissions().mode();
        assert_eq!(mode & 0o777, 0o750, "{name}");
        let before = run(Command::new(&program).arg("argument").env("A", "B"));
        assert_eq!(before.ending, Ending::Exited(3), "{name}");
        for runs in 1..=2 {
            same(&before, &run(Command::new(&out).arg("argument").env("A", "B")), name);
            let (report, processes) = counts(&out);
            let hits: Vec<u64> = report.counts.iter().map(|count| count.hits).collect();
            assert_eq!(processes, runs, "{name}");
            assert!(
                hits.contains(&(FIB * runs as u64)) && hits.contains(&(100 * runs as u64)),
                "{name}: {hits:?}"
            );
        }
        // Nothing can be counted: it runs on all the same.
        for folder in ["", "/proc/nowhere"] {
            let after = run(Command::new(&out).arg("argument").env("A", "B").env("INCISE_COUNTS", folder));
            same(&before, &after, name);
        }
        let elsewhere = scratch.file(&format!("{name}.elsewhere"));
        run(Command::new(&out).arg("argument").env("INCISE_COUNTS", &elsewhere));
        assert_eq!(fs::read_dir(&elsewhere).expect("a folder of counts").count(), 1, "{name}");
        assert_eq!(counts(&elsewhere).1, 1, "{name}");
        assert_eq!(counts(&out).1, 2, "{name}");
        undo(&program, &out);
    }
}

const INSIDE: &str = r#"
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

#[test]
fn traps_have_a_handler_of_their_own() {
    let scratch = Scratch::new();
    let source = scratch.file("inside.c");
    fs::write(&source, INSIDE).expect("a new folder");
    for (name, options) in
        [("pie", "-pie"), ("fixed", "-no-pie"), ("static", "-static"), ("static-pie", "-static-pie")]
    {
        let (program, out) = (scratch.file(name), scratch.file(&format!("{name}.out")));
        let built = run(Command::new("gcc").args(["-O1", options, "-o"]).arg(&program).arg(&source));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        let report = rewrite(&program, &out, &["after", "leaf"]);
        assert_eq!(report.tactic("after"), Some("group"), "{name}");
        assert!(report.reason("leaf").is_some_and(|reason| reason.contains("trap")), "{name}: {report:?}");
        // Into a run that a jump covers: the trap byte in the jump leads to the displaced instruction.
        let before = run(&mut Command::new(&program));
        assert_eq!(before.stdout, b"42 43\n");
        same(&before, &run(&mut Command::new(&out)), name);
        assert_eq!(counts(&out).0.hits("after"), Some(1), "{name}: it was entered behind its entry once");
        undo(&program, &out);
        fs::remove_dir_all(scratch.file(&format!("{name}.out.counts"))).expect("the counts");
        let mut command = Command::new(incise());
        command.args(["rewrite", "--trap", "fallback"]).arg(&program).arg("-o").arg(&out);
        let outcome = run(command.args(["--count", "after", "leaf"]));
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        same(&before, &run(&mut Command::new(&out)), name);
        let (report, _) = counts(&out);
        assert_eq!((report.tactic("leaf"), report.hits("leaf")), (Some("trap"), Some(50)), "{name}");
    }
}

#[test]
fn exceptions_go_through_rewritten_programs_and_libraries() {
    let scratch = Scratch::new();
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/programs/exceptions.cc"));
    let (program, out) = (scratch.file("exceptions"), scratch.file("exceptions.out"));
    let built = run(Command::new("g++").args(["-O2", "-o"]).arg(&program).arg(source));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    let before = run(Command::new(&program).arg("200"));
    assert_eq!(before.ending, Ending::Exited(0));
    rewrite(&program, &out, &["*"]);
    same(&before, &run(Command::new(&out).arg("200")), "the program");
    assert_eq!(counts(&out).0.hits("catcher(int)"), Some(200));
    for library in ["libstdc++.so.6", "libgcc_s.so.1"] {
        let file = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"]
            .map(|folder| Path::new(folder).join(library));
        let Some(file) = file.iter().find(|file| file.is_file()) else {
            skip(&format!("{library} is not there"));
            continue;
        };
        rewrite(file, &scratch.file(library), &["*"]);
    }
    same(
        &before,
        &run(Command::new(&out).arg("200").env("LD_LIBRARY_PATH", scratch.path())),
        "with its libraries",
    );
}

/// Which functions have the same counts in a rewritten program as under `incise count`.
#[derive(Clone, Copy)]
enum Equal {
    /// All but these, which depend on where memory lies.
    But(&'static [&'static str]),
    /// The program does something random.
    Unknown,
}

/// What a real program does with its rewritten self, at the same path, and what `incise count` says of the same run.
fn real(name: &str, file: &Path, patterns: &[&str], arguments: &[&str], equal: Equal) {
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
    let prepare = |command: &mut Command| {
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").env("PYTHONHASHSEED", "0");
        command.env("PYTHONHOME", "/usr");
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
        let exempt = matches!(equal, Equal::But(functions) if functions.contains(&&*count.function));
        if a != b && theirs.hits(&count.function).is_some() && !exempt {
            differ.push(format!("{}: {a:?}, not {b:?}", count.function));
        }
    }
    let known = matches!(equal, Equal::But(_));
    assert!(!known || differ.is_empty(), "{name}: {} of {hit}: {}", differ.len(), differ.join("; "));
    println!(
        "{name}: {len} of {before_len} bytes, {} mappings, {hit} functions hit, {} differ",
        report.summary.mappings,
        differ.len()
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
            // It seeds its hash tables with a random number.
            Some(file) if name == "redis-server" => real(name, &file, patterns, arguments, Equal::Unknown),
            Some(file) => real(name, &file, patterns, arguments, Equal::But(&[])),
            None => skip(&format!("{name} is not installed")),
        }
    }
}

#[test]
fn an_interpreter_and_a_compiler() {
    if let Some(python) = need_program("python3") {
        let script = "import json, re; print(json.dumps({'a': [1, 2]}), re.sub('a', 'b', 'banana'))";
        // Whether a table of pointers has to grow depends on where the heap lies.
        let tables = Equal::But(&["PyMem_Free", "PyMem_Malloc", "PyMem_Realloc", "PyMem_Calloc"]);
        // Not -E, which would seed its hashes with a random number whatever the environment says.
        real("python3", &python, &["*"], &["-S", "-B", "-c", script], tables);
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
    real("cc1", &compiler, &["sub_*"], &["-quiet", "-O2", &source, "-o", "/dev/stdout"], Equal::But(&[]));
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

#[test]
fn counts_are_read_while_it_runs_and_survive_a_kill() {
    let scratch = Scratch::new();
    let program = compile(&scratch, "checksum", &[]);
    let out = scratch.file("checksum.out");
    rewrite(&program, &out, &["work_*"]);
    let target = Target::start(Command::new(&out).args(["1", "1000000"]));
    let total = || counts(&out).0.counts.iter().map(|count| count.hits).sum::<u64>();
    let began = Instant::now();
    let mut last = 0;
    while last < 1000 && began.elapsed() < Duration::from_secs(20) {
        last = total();
    }
    assert!(last >= 1000, "only {last} calls were seen while it runs");
    signal(target.pid(), libc::SIGKILL);
    let outcome = target.finish();
    assert_eq!(outcome.ending, Ending::Killed(libc::SIGKILL));
    let after = total();
    assert!(after >= last, "{after} after the kill, {last} before");
    assert_eq!(total(), after);
}

#[test]
fn children_count_into_the_file_of_their_parent_and_executed_programs_into_their_own() {
    let scratch = Scratch::new();
    let Some(bash) = need_program("bash") else { return };
    let out = scratch.file("bash");
    rewrite(&bash, &out, &["main", "execute_command"]);
    let script =
        format!("(echo sub); {} -c 'echo other'; exec {} -c 'echo last'", out.display(), out.display());
    let outcome = run(Command::new(&out).args(["-c", &script]));
    assert_eq!(outcome.stdout, b"sub\nother\nlast\n", "{}", outcome.error_text());
    let (report, processes) = counts(&out);
    assert_eq!((processes, report.hits("main")), (3, Some(3)));
}

/// What a tool says on standard error, with the name of the file taken out.
fn complaints(tool: &[&str], file: &Path) -> Vec<String> {
    let outcome = run(Command::new(tool[0]).args(&tool[1..]).arg(file));
    let (errors, output) = (outcome.error_text(), String::from_utf8_lossy(&outcome.stdout).into_owned());
    // elflint complains on standard output.
    let text = if tool[0] == "eu-elflint" { output + &errors } else { errors };
    text.lines().map(|line| line.replace(&*file.to_string_lossy(), "FILE")).collect()
}

#[test]
fn tools_complain_of_nothing_new() {
    let scratch = Scratch::new();
    let mut files = vec![build(&scratch, "pie", &["-g"]), build(&scratch, "static", &["-static"])];
    files.extend(find_program("git"));
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let out = scratch.file(&format!("{name}.out"));
        rewrite(&file, &out, if name == "git" { &["sub_*"] } else { &["fib", "main", "twice"] });
        let tools: [&[&str]; 5] = [
            &["readelf", "-aW"],
            &["objdump", "-dw"],
            &["objdump", "-x"],
            &["eu-elflint", "--gnu-ld"],
            &["eu-readelf", "-a"],
        ];
        for tool in tools {
            if find_program(tool[0]).is_none() {
                skip(&format!("{} is not installed", tool[0]));
                continue;
            }
            let known = complaints(tool, &file);
            let new = complaints(tool, &out);
            let new: Vec<&String> = new.iter().filter(|line| !known.contains(line)).collect();
            assert!(new.is_empty(), "{tool:?} on {name}: {new:#?}");
        }
        let stripped = scratch.file(&format!("{name}.stripped"));
        let outcome = run(Command::new("strip").arg("-o").arg(&stripped).arg(&out));
        assert_eq!((outcome.ending, outcome.error_text()), (Ending::Exited(0), String::new()), "{name}");
        let arguments: &[&str] = if name == "git" { &["--version"] } else { &["argument"] };
        same(&run(Command::new(&file).args(arguments)), &run(Command::new(&stripped).args(arguments)), &name);
        let undone = run(Command::new(incise()).arg("undo").arg(&stripped));
        assert_eq!(undone.ending, Ending::Exited(125), "{name}: a stripped file has no original");
        assert!(undone.error_text().contains("strip"), "{name}: {}", undone.error_text());
    }
}

#[test]
fn sections_of_programs_with_landings_match_their_segments() {
    if need_program("eu-elflint").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let source = scratch.file("inside.c");
    fs::write(&source, INSIDE).expect("a new folder");
    for option in ["-pie", "-no-pie", "-static", "-static-pie"] {
        let (program, counted, patched) =
            (scratch.file("program"), scratch.file("counted"), scratch.file("patched"));
        let built = run(Command::new("gcc").args(["-O1", option, "-o"]).arg(&program).arg(&source));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        let mut rewriting = Command::new(incise());
        rewriting.args(["rewrite", "--trap", "fallback"]).arg(&program).arg("-o").arg(&counted);
        rewriting.args(["--count", "after", "leaf"]);
        // Too long for its place, so that the engine leads there: with landings, and without counters.
        let mut patching = Command::new(incise());
        patching
            .arg("patch")
            .arg(&program)
            .args(["after+1", "mov rbx, rdi; mov rcx, rcx; mov rdx, rdx; nop"]);
        patching.arg("-o").arg(&patched);
        let lint = ["eu-elflint", "--gnu-ld"];
        let known = complaints(&lint, &program);
        for (mut command, out) in [(rewriting, counted), (patching, patched)] {
            let outcome = run(&mut command);
            assert_eq!(outcome.ending, Ending::Exited(0), "{option}: {}", outcome.error_text());
            let sections = run(Command::new("readelf").arg("-SW").arg(&out));
            let sections = String::from_utf8_lossy(&sections.stdout).into_owned();
            assert!(
                sections.contains(".incise.data") && sections.contains(".incise.bss"),
                "{option}: {sections}"
            );
            let new = complaints(&lint, &out);
            let new: Vec<&String> = new.iter().filter(|line| !known.contains(line)).collect();
            assert!(new.is_empty(), "{option}, {}: {new:#?}", out.display());
            same(&run(&mut Command::new(&program)), &run(&mut Command::new(&out)), option);
        }
    }
}

/// patchelf moves the program header table back behind the file header, and tells where it is in memory by the
/// distance the old one had.
#[test]
fn programs_are_edited_with_patchelf_afterwards() {
    if need_program("patchelf").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let mut files = vec![build(&scratch, "pie", &["-pie"]), build(&scratch, "fixed", &["-no-pie"])];
    // With so large a .bss that memory and file do not agree behind it.
    files.extend(["git", "python3", "redis-server"].into_iter().filter_map(find_program));
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let out = scratch.file(&format!("{name}.out"));
        let small = scratch.path().join(&name) == file;
        let functions: &[&str] = match &*name {
            "git" => &["sub_*"],
            _ if small => &["fib", "main", "twice"],
            _ => &["*"],
        };
        rewrite(&file, &out, functions);
        let edited = run(Command::new("patchelf").args(["--set-rpath", "/nowhere"]).arg(&out));
        assert_eq!(edited.ending, Ending::Exited(0), "{name}: {}", edited.error_text());
        let path = run(Command::new("patchelf").arg("--print-rpath").arg(&out));
        assert_eq!(path.stdout, b"/nowhere\n", "{name}");
        let argument = if small { "argument" } else { "--version" };
        same(&run(Command::new(&file).arg(argument)), &run(Command::new(&out).arg(argument)), &name);
    }
}

#[test]
fn a_debugger_sees_the_program_as_before() {
    let scratch = Scratch::new();
    if need_program("gdb").is_none() {
        return;
    }
    let program = build(&scratch, "pie", &["-g"]);
    let out = scratch.file("out");
    rewrite(&program, &out, &["fib", "main", "twice"]);
    let commands = ["break fib if n == 1", "run argument", "bt", "info symbol fib", "delete", "continue"];
    let debug = |file: &Path| {
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch"]).env_remove("DEBUGINFOD_URLS");
        for command in commands {
            gdb.args(["-ex", command]);
        }
        let outcome = run(gdb.arg(file));
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let kept = text.lines().filter(|line| line.starts_with('#') || line.starts_with("fib in"));
        kept.map(|line| line.split(" of ").next().unwrap_or(line).to_owned()).collect::<Vec<_>>()
    };
    let before = debug(&program);
    assert!(before.len() > 15, "{before:?}");
    assert_eq!(before, debug(&out));
}

#[test]
fn a_program_is_not_replaced_unasked_and_not_half_written() {
    let scratch = Scratch::new();
    let program = build(&scratch, "program", &[]);
    let original = fs::read(&program).expect("the program");
    let refused = run(Command::new(incise())
        .arg("rewrite")
        .arg(&program)
        .arg("-o")
        .arg(&program)
        .args(["--count", "fib"]));
    assert_eq!(refused.ending, Ending::Exited(125));
    assert!(fs::read(&program).expect("the program") == original);
    let none = run(Command::new(incise()).arg("undo").arg(&program));
    assert_eq!(none.ending, Ending::Exited(125));
    assert!(none.error_text().contains("no record"), "{}", none.error_text());
    // Killed at any time, the file is the old or the new one.
    let mut command = Command::new(incise());
    let start = |command: &mut Command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command")
    };
    let began = Instant::now();
    command.arg("rewrite").arg("--in-place").arg(&program).args(["--count", "fib", "main"]);
    assert!(start(&mut command).wait().expect("a child").success());
    let whole = began.elapsed();
    let rewritten = fs::read(&program).expect("the program");
    assert!(rewritten != original);
    let (mut old, mut new) = (0, 0);
    let kills = if incise_tests::long() { 300 } else { 60 };
    for kill in 0..kills {
        let mut file = fs::File::create(&program).expect("our own file");
        file.write_all(&original).expect("our own file");
        drop(file);
        let mut child = start(&mut command);
        std::thread::sleep(whole * kill / kills);
        let _ = child.kill();
        let _ = child.wait();
        match fs::read(&program).expect("the program") {
            found if found == original => old += 1,
            found if found == rewritten => new += 1,
            found => panic!("kill {kill} left {} bytes that are neither", found.len()),
        }
    }
    println!("{old} old, {new} new");
    assert!(old > 0, "no kill came before the end");
    undo_in_place(&program, &original, &rewritten);
}

fn undo_in_place(program: &Path, original: &[u8], rewritten: &[u8]) {
    fs::write(program, rewritten).expect("our own file");
    let outcome = run(Command::new(incise()).arg("undo").arg(program));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    assert!(fs::read(program).expect("the program") == original);
}
