//! Unwinders go through trampolines: of the C library, of C++ exceptions, of gdb.

use std::fs;
use std::path::Path;
use std::process::Command;

use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

use crate::support::{build, counts, rewrite, same};

/// A backtrace at each instruction, in trampolines too, and an exception from an instruction that was displaced.
#[test]
fn every_instruction_of_trampolines_can_be_unwound() {
    let scratch = Scratch::new();
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/targets/stepped.cc"));
    for (name, options) in [
        ("pie", &["-O2", "-pie"][..]),
        ("fixed", &["-O2", "-no-pie"]),
        ("static", &["-O2", "-static"]),
        ("slow", &["-O0", "-static-pie"]),
        ("stripped", &["-O2", "-s"]),
    ] {
        let (program, out) = (scratch.file(name), scratch.file(&format!("{name}.out")));
        let mut compiler = Command::new("g++");
        compiler.args(["-fnon-call-exceptions", "-o"]).arg(&program).args(options).arg(source);
        let built = run(&mut compiler);
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        let before = run(&mut Command::new(&program));
        assert_eq!(String::from_utf8_lossy(&before.stdout), "equal, 0 wrong, 3 caught\n", "{name}");
        let functions: &[&str] =
            if name == "stripped" { &["sub_*"] } else { &["leaf", "work", "load", "caller"] };
        let report = rewrite(&program, &out, functions);
        assert!(report.summary.installed >= 4, "{name}: {:?}", report.summary);
        let after = run(&mut Command::new(&out));
        let text = String::from_utf8_lossy(&after.stdout).into_owned();
        assert_eq!(text, "equal, 0 wrong, 3 caught\n", "{name}: {}", after.ending);
        // Trampolines were stepped through.
        let steps = |text: String| text.split(' ').next().and_then(|number| number.parse::<u64>().ok());
        assert!(steps(after.error_text()) > steps(before.error_text()), "{name}: {}", after.error_text());
        if name != "stripped" {
            assert_eq!(counts(&out).0.hits("load"), Some(3), "{name}");
        }
    }
}

#[test]
fn a_debugger_unwinds_from_trampolines() {
    if need_program("gdb").is_none() {
        return;
    }
    let scratch = Scratch::new();
    for (name, options) in [("pie", &["-g", "-pie"][..]), ("static", &["-g", "-static"])] {
        let (program, out) = (build(&scratch, name, options), scratch.file(&format!("{name}.out")));
        rewrite(&program, &out, &["fib", "main", "twice"]);
        let debug = |file: &Path, steps: &str| {
            let mut gdb = Command::new("gdb");
            gdb.args(["-nx", "-batch"]).env_remove("DEBUGINFOD_URLS");
            for command in ["break *fib if n == 17", "run argument", steps, "info symbol $pc", "bt"] {
                gdb.args(["-ex", command]);
            }
            let outcome = run(gdb.arg(file));
            String::from_utf8_lossy(&outcome.stdout).into_owned()
        };
        // The breakpoint is at the jump to the trampoline.
        let frames = |text: &str| {
            let frames = text.lines().filter(|line| line.starts_with('#') && line.contains(" fib (n="));
            frames.map(|line| line.split("fib (").nth(1).unwrap_or("").to_owned()).collect::<Vec<_>>()
        };
        let before = frames(&debug(&program, "stepi 0"));
        assert_eq!(before.len(), 4, "{before:?}");
        for steps in ["stepi 1", "stepi 2"] {
            let text = debug(&out, steps);
            assert_eq!(frames(&text), before, "{name}, {steps}: {text}");
            assert!(text.lines().any(|line| line.starts_with('#') && line.contains(" main (")), "{text}");
        }
    }
}

/// What `.eh_frame_hdr` leads to is what there was, and more.
#[test]
fn tables_of_descriptions_are_whole() {
    if need_program("readelf").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let program = build(&scratch, "pie", &["-pie"]);
    let out = scratch.file("out");
    rewrite(&program, &out, &["fib", "main", "twice"]);
    let frames = |file: &Path| {
        let outcome = run(Command::new("readelf").arg("--debug-dump=frames-interp").arg(file));
        assert_eq!((outcome.ending, outcome.error_text()), (Ending::Exited(0), String::new()));
        String::from_utf8_lossy(&outcome.stdout).into_owned()
    };
    let (before, after) = (frames(&program), frames(&out));
    let described = |text: &str| text.lines().filter(|line| line.contains(" FDE ")).count();
    assert!(described(&after) > described(&before), "{after}");
    assert!(after.contains(".debug_frame"), "{after}");
    // The header is where the program headers say.
    let headers = run(Command::new("readelf").arg("-lSW").arg(&out));
    let headers = String::from_utf8_lossy(&headers.stdout).into_owned();
    let word = |line: &str, n: usize| line.split_whitespace().nth(n).map(str::to_owned);
    let segment = headers.lines().find(|line| line.trim().starts_with("GNU_EH_FRAME")).expect("a segment");
    let section = headers.lines().find(|line| line.contains(" .eh_frame_hdr ")).expect("a section");
    let section = section.split(" .eh_frame_hdr ").nth(1).expect("its fields");
    let address = |text: Option<String>| {
        text.and_then(|text| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok())
    };
    assert_eq!(address(word(segment, 2)), address(word(section, 1)), "{headers}");
    same(
        &run(Command::new(&program).arg("argument")),
        &run(Command::new(&out).arg("argument")),
        "with new tables",
    );
    assert!(fs::metadata(&out).is_ok_and(|file| file.len() > 0));
}
