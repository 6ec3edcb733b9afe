//! Functions of real programs replaced by those of a library that is loaded for it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, run};
use incise_tests::outcome::Ending;
use incise_tests::process::{Snapshot, compile};
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;

use crate::support::{said, text, told};

/// sqlite3 compresses by this function of zlib.
const LIBRARY: &str = "int compress(char *to, unsigned long *len, const char *from, unsigned long n) {\n\
    for (int i = 0; i < 5; i++) to[i] = \"hello\"[i];\n    *len = 5; return 0; }\n";
const QUERY: &str = "select length(sqlar_compress(zeroblob(1000)));";
const PLAIN: &str = "17\n";

fn library(scratch: &Scratch) -> PathBuf {
    let (source, library) = (scratch.file("fast.c"), scratch.file("fast.so"));
    fs::write(&source, LIBRARY).expect("a new file");
    let mut compiler = Command::new("gcc");
    let built = run(compiler.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    library
}

/// sqlite3, if it compresses as is expected.
fn sqlite() -> Option<PathBuf> {
    let sqlite = need_program("sqlite3")?;
    let plain = run(Command::new(&sqlite).args([":memory:", QUERY]));
    if plain.stdout != PLAIN.as_bytes() {
        println!("skipped: this sqlite3 has no sqlar_compress");
        return None;
    }
    Some(sqlite)
}

#[test]
fn a_program_that_is_launched_runs_the_function_of_a_library() {
    let Some(sqlite) = sqlite() else { return };
    let scratch = Scratch::new();
    let by = format!("{}!compress", library(&scratch).display());
    let query = "select cast(sqlar_compress(zeroblob(1000)) as text);";
    let outcome = told(&["patch", "compress", "--replace", &by, "--", text(&sqlite), ":memory:", query]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    assert_eq!(outcome.stdout, b"hello\n");
    assert!(outcome.error_text().contains("fast.so is loaded, and stays"), "{}", outcome.error_text());
    let dry =
        told(&["patch", "--dry-run", "compress", "--replace", &by, "--", text(&sqlite), ":memory:", query]);
    assert!(dry.error_text().contains("would be loaded first") && dry.stdout.is_empty());
    for (at, by, part) in [
        ("compress", format!("{by}ed"), "no function matches"),
        ("compress", "/nonexistent.so!f".to_owned(), "there is no library /nonexistent.so"),
        ("no_such_function", by.clone(), "no_such_function"),
    ] {
        let outcome = told(&["patch", at, "--replace", &by, "--", text(&sqlite), ":memory:", query]);
        assert_eq!(outcome.ending, Ending::Exited(125), "{at} {by}");
        assert!(outcome.error_text().contains(part), "{at} {by}: {}", outcome.error_text());
        assert!(outcome.stdout.is_empty(), "it ran");
    }
}

#[test]
fn a_program_that_runs_gets_the_function_of_a_library_and_its_own_back() {
    let Some(sqlite) = sqlite() else { return };
    let scratch = Scratch::new();
    let by = format!("{}!compress", library(&scratch).display());
    let mut command = Command::new(sqlite);
    let mut child =
        command.arg(":memory:").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sqlite3");
    let mut input = child.stdin.take().expect("piped");
    // It has done what was asked once the file is there.
    let mut ask = |number: u32| {
        let done = scratch.file(&format!("done{number}"));
        writeln!(input, "{QUERY}\n.shell touch {}", done.display()).expect("it reads");
        let began = Instant::now();
        while !Path::new(&done).exists() {
            assert!(began.elapsed() < PATIENCE, "it does not answer");
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    let pid = child.id().to_string();
    ask(1);
    let before = Snapshot::take(child.id());
    said(&["patch", "-p", &pid, "compress", "--replace", &by]);
    ask(2);
    let patches = said(&["patches", "-p", &pid]);
    assert!(patches.contains(&format!("--replace {by}")), "{patches}");
    said(&["undo", "-p", &pid]);
    ask(3);
    // A second time the library is there already, and has a function of the same name.
    let again = told(&["patch", "-p", &pid, "libz!compress", "--replace", &by]);
    assert_eq!(again.ending, Ending::Exited(0), "{}", again.error_text());
    assert!(!again.error_text().contains("is loaded"), "{}", again.error_text());
    ask(4);
    said(&["undo", "-p", &pid]);
    let after = Snapshot::take(child.id());
    for (start, bytes) in &before.code {
        assert_eq!(after.code.get(start), Some(bytes), "code at {start:#x}");
    }
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "17\n5\n17\n5\n");
}

#[test]
fn where_no_library_can_be_loaded_it_is_said_why() {
    let scratch = Scratch::new();
    let by = format!("{}!compress", library(&scratch).display());
    let program = compile(&scratch, "checksum", &["-static"]);
    let out = scratch.file("out");
    let outcome = told(&["patch", "main", "--replace", &by, "--", text(&program), "1"]);
    assert_eq!(outcome.ending, Ending::Exited(125));
    assert!(outcome.error_text().contains("it is static"), "{}", outcome.error_text());
    let outcome = told(&["patch", text(&program), "main", "--replace", &by, "-o", text(&out)]);
    assert!(outcome.error_text().contains("for processes"), "{}", outcome.error_text());
    assert!(!out.exists());
    // A function of the program itself needs no library.
    let replaced =
        run(Command::new(incise()).args(["patch", "main", "--replace", "exit", "--", text(&program)]));
    assert_eq!(replaced.ending, Ending::Exited(1), "{}", replaced.error_text());
}
