//! Every kind of program and library.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;
use incise_tests::skip::skip;

use crate::support::{FIB, INSIDE, build, counts, rewrite, same, undo, without_sections};

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

/// The dynamic table of some has neither an initialization function nor room for one: it moves.
#[test]
fn libraries_without_an_initialization_function() {
    let scratch = Scratch::new();
    let (library, host) = (scratch.file("answer.c"), scratch.file("host.c"));
    fs::write(&library, "int answer(int n) { return 1000 * n; }\n__asm__(\".globl bare; bare: ret\");\n")
        .expect("a new folder");
    fs::write(
        &host,
        "#include <stdio.h>\nint answer(int);\nvoid bare(void);\n\
         int main(void) { for (int i = 0; i < 10; i++) bare(); printf(\"%d\\n\", answer(21)); return 0; }\n",
    )
    .expect("a new folder");
    let folders = ["before", "after"].map(|folder| scratch.file(folder));
    folders.iter().for_each(|folder| fs::create_dir(folder).expect("a new folder"));
    for spare in ["0", "5"] {
        let [program, out] = folders.each_ref().map(|folder| folder.join("libanswer.so"));
        let shared = ["-shared", "-fPIC", "-O1", "-nostartfiles", "-nostdlib", "-Wl,-soname,libanswer.so"];
        let mut compiler = Command::new("gcc");
        compiler.args(shared).arg(format!("-Wl,--spare-dynamic-tags={spare}")).arg("-o").arg(&program);
        let built = run(compiler.arg(&library));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        let calling = scratch.file("host");
        let mut compiler = Command::new("gcc");
        let built = run(compiler.arg("-o").arg(&calling).arg(&host).arg(&program));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        // The one is counted by a jump, the other by a trap, whose handler has to stay.
        for (trap, counted) in [("forbid", "answer"), ("fallback", "bare")] {
            let mut rewriting = Command::new(incise());
            rewriting.args(["rewrite", "--trap", trap]).arg(&program).arg("-o").arg(&out);
            let outcome = run(rewriting.args(["--count", counted]));
            assert_eq!(outcome.ending, Ending::Exited(0), "{spare} {trap}: {}", outcome.error_text());
            let [before, after] =
                folders.each_ref().map(|folder| run(Command::new(&calling).env("LD_LIBRARY_PATH", folder)));
            assert_eq!(before.stdout, b"21000\n");
            same(&before, &after, trap);
            let hits = if counted == "bare" { 10 } else { 1 };
            assert_eq!(counts(&out).0.hits(counted), Some(hits), "{spare} {trap}");
            let told = run(Command::new("readelf").arg("-dW").arg(&out));
            let table = String::from_utf8_lossy(&told.stdout).into_owned() + &told.error_text();
            assert!(table.contains("(INIT)") && !table.contains("arning"), "{spare} {trap}: {table}");
            undo(&program, &out);
            fs::remove_dir_all(folders[1].join("libanswer.so.counts")).expect("the counts");
        }
    }
}

/// So much memory without bytes in the file that the program header table, behind all of it, would not be found by those
/// who take the whole file to be mapped in one piece: kernels before 5.18, patchelf.
#[test]
fn the_table_of_segments_stays_where_it_is_looked_for() {
    let scratch = Scratch::new();
    let source = scratch.file("large.c");
    fs::write(
        &source,
        "#include <stdio.h>\nstatic char room[64 << 20];\n\
         __attribute__((noipa)) int touch(int n) { return 1000 * n + room[n]; }\n\
         int main(void) { printf(\"%d\\n\", touch(1 << 20)); return 0; }\n",
    )
    .expect("a new folder");
    // As linkers laid programs out before 2018: one segment, and data two MiB away from its place in the file.
    let old = "-Wl,-z,max-page-size=0x200000,-z,noseparate-code";
    for option in ["-pie", "-no-pie", "-static", "-static-pie", old] {
        let (program, out) = (scratch.file("large"), scratch.file("large.out"));
        let built = run(Command::new("gcc").args(["-O1", option, "-o"]).arg(&program).arg(&source));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        rewrite(&program, &out, &["touch"]);
        let length = fs::metadata(&out).expect("the result").len();
        assert!(length < 16 << 20, "{option}: {length} bytes");
        same(&run(&mut Command::new(&program)), &run(&mut Command::new(&out)), option);
        assert_eq!(counts(&out).0.hits("touch"), Some(1), "{option}");
        let bytes = fs::read(&out).expect("the result");
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let table = word(32) as usize;
        let entries = (0..usize::from(bytes[56])).map(|index| table + 56 * index);
        let kind = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let first = entries.clone().find(|&at| kind(at) == 1).expect("a loaded segment");
        let base = word(first + 16) - word(first + 8);
        let expected = base + table as u64;
        let mapped = entries.clone().filter(|&at| kind(at) == 1).any(|at| {
            let offset = (table as u64).wrapping_sub(word(at + 8));
            offset < word(at + 32) && word(at + 16) + offset == expected
        });
        assert!(mapped, "{option}: the table is not at {expected:#x}");
        if need_program("strip").is_some() {
            let stripped = scratch.file("large.stripped");
            let outcome = run(Command::new("strip").arg("-o").arg(&stripped).arg(&out));
            assert_eq!(
                (outcome.ending, outcome.error_text()),
                (Ending::Exited(0), String::new()),
                "{option}"
            );
            same(&run(&mut Command::new(&program)), &run(&mut Command::new(&stripped)), option);
        }
        undo(&program, &out);
        fs::remove_dir_all(scratch.file("large.out.counts")).expect("the counts");
    }
}

/// It runs before anything that would map its counters.
#[test]
fn a_dynamic_linker_is_refused() {
    let scratch = Scratch::new();
    let (linker, out) = (Path::new("/lib64/ld-linux-x86-64.so.2"), scratch.file("out"));
    let outcome =
        run(Command::new(incise()).arg("rewrite").arg(linker).arg("-o").arg(&out).args(["--count", "*"]));
    assert_ne!(outcome.ending, Ending::Exited(0));
    let text = outcome.error_text();
    assert!(text.contains("dynamic linker") && text.contains("incise count"), "{text}");
    assert!(!out.exists());
}
