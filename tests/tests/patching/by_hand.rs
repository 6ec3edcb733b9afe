//! What a person comes to while patching: data by name, one patch over another, patch files of live changes.

use std::fs;
use std::process::Command;

use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;

use crate::support::{LONG, Waiting, assert_ends, build, lines, said, text, told};

/// What a command says on standard error; it has to fail.
fn refused(arguments: &[&str]) -> String {
    let outcome = told(arguments);
    assert_eq!(outcome.ending, Ending::Exited(125), "{arguments:?}");
    outcome.error_text()
}

/// What a command shows of a change; it has to succeed.
fn shown(arguments: &[&str]) -> String {
    let outcome = told(arguments);
    assert_eq!(outcome.ending, Ending::Exited(0), "{arguments:?}: {}", outcome.error_text());
    outcome.error_text()
}

#[test]
fn variables_have_names_and_values() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    let diff = shown(&["patch", "-p", &pid, "greeting", "--string", "hello"]);
    assert!(diff.contains("|a greeting in da|") && diff.contains("|hello..........."), "{diff}");
    assert_eq!(waiting.knock().1, "42 hello\n");
    let diff = shown(&["patch", "-p", &pid, "waiting!greeting+4", "--data", "21000000"]);
    assert!(diff.contains("# 111\n") && diff.contains("# 33\n"), "{diff}");
    assert_eq!(waiting.knock().1, "42 hell!\n");
    let listed = said(&["patches", "-p", &pid]);
    assert!(listed.contains("  waiting!greeting  --string \"hello\"\n"), "{listed}");
    assert!(listed.contains("  waiting!greeting+0x4  --data 21000000\n"), "{listed}");
    assert_eq!(lines(&["patches", "--json", "-p", &pid])[1]["place"], "waiting!greeting+0x4");
    let behind = refused(&["patch", "-p", &pid, "greeting+4000", "--data", "00"]);
    assert!(behind.contains("the variable greeting has only"), "{behind}");
    said(&["undo", "-p", &pid]);
    assert_eq!(waiting.knock().1, "42 a greeting in data\n");
    let inspected = said(&["inspect", text(&castle), "main", "-n", "80"]);
    assert!(inspected.contains("greeting \"a greeting in data\""), "{inspected}");
    waiting.finish(1);
}

/// The place behind the first page of a module, as `patches` tells where no symbol is.
#[test]
fn what_is_listed_without_symbols_names_the_place_again() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2", "-s"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    let found = lines(&["find", "--json", "-p", &pid, "a greeting in data"]);
    let at = format!("*{}", found[0]["address"].as_str().expect("an address"));
    shown(&["patch", "-p", &pid, &at, "--string", "hi"]);
    let place = lines(&["patches", "--json", "-p", &pid])[0]["place"].as_str().expect("text").to_owned();
    assert!(place.starts_with("waiting+0x"), "{place}");
    said(&["undo", "-p", &pid]);
    shown(&["patch", "-p", &pid, &place, "--string", "ho"]);
    assert_eq!(waiting.knock().1, "42 ho\n");
    said(&["undo", "-p", &pid]);
    waiting.finish(1);
}

#[test]
fn a_patch_that_is_in_the_way_is_named() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "castle.c", "castle", &["-O0"]);
    let (out, again) = (scratch.file("out"), scratch.file("again"));
    let branch = lines(&["find", "--json", text(&castle), "smooch"]);
    let branch = branch.iter().find(|line| line["type"] == "branch").expect("a branch");
    let at = branch["address"].as_str().expect("an address");
    shown(&["patch", text(&castle), at, "--never", "-o", text(&out)]);
    let told = refused(&["patch", text(&out), at, "--invert", "-o", text(&again)]);
    for part in ["is no conditional branch", "patch 1 (--never) is there", "take it back first"] {
        assert!(told.contains(part), "{told}");
    }
    assert!(!again.exists());
    // What a patch changed is marked, with the original beside.
    let inspected = said(&["inspect", text(&out), at, "-n", "1"]);
    assert!(inspected.starts_with('*') && inspected.contains("patch 1: --never"), "{inspected}");

    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    shown(&["patch", "-p", &pid, "answer", "--return", "77"]);
    let over = shown(&["patch", "-p", &pid, "answer", "--return", "42"]);
    assert!(over.contains(", over patch 1, "), "{over}");
    assert_eq!(waiting.knock().1, "42 a greeting in data\n");
    said(&["undo", "-p", &pid]);
    assert_eq!(waiting.knock().1, "42 a greeting in data\n");
    waiting.finish(1);
}

/// The jump of the first patch has taken the place of more than one instruction.
#[test]
fn a_change_that_goes_on_inside_an_instruction_is_refused() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O1"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    shown(&["patch", "-p", &pid, "answer", "--return", "77"]);
    for change in [&["--nop"][..], &["--bytes", "9090"], &["--call", "stop"], &["mov eax, 3"]] {
        let told = refused(&[&["patch", "-p", &pid, "answer"], change].concat());
        for part in
            ["in the middle of an instruction", "patch 1 (--return 77) is there", "take it back first"]
        {
            assert!(told.contains(part), "{told}");
        }
    }
    assert_eq!(waiting.knock().1, "77 a greeting in data\n");
    said(&["undo", "-p", &pid]);
    waiting.finish(1);
}

/// Changes tried in a process are kept as a patch file, which suits the file on disk and another process.
#[test]
fn live_patches_are_exported() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let (file, out) = (scratch.file("castle.patch"), scratch.file("out"));
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    shown(&["patch", "-p", &pid, "greeting", "--string", "hello"]);
    shown(&["patch", "-p", &pid, "answer", LONG, "-n2"]);
    let exported = said(&["patches", "--export", "-p", &pid]);
    assert!(exported.contains("\nprogram waiting\n") && exported.contains(" 2 "), "{exported}");
    fs::write(&file, &exported).expect("a file");
    assert_eq!(waiting.knock().1, "77 hello\n");
    let occupied = refused(&["apply", text(&file), "-p", &pid, "--check"]);
    assert!(occupied.contains("patch 1") || occupied.contains("patch 2"), "{occupied}");
    said(&["undo", "-p", &pid]);
    waiting.finish(1);

    let mut other = Waiting::start(&castle);
    let pid = other.pid();
    let fits = |what: &str| format!("2 changes fit {what}\n");
    assert_eq!(said(&["apply", text(&file), "-p", &pid, "--check"]), fits(&format!("process {pid}")));
    assert_eq!(other.knock().1, "42 a greeting in data\n");
    said(&["apply", text(&file), "-p", &pid]);
    assert_eq!(other.knock().1, "77 hello\n");
    assert_eq!(said(&["patches", "--export", "-p", &pid]), exported);
    said(&["undo", "-p", &pid]);
    other.finish(1);

    assert_eq!(said(&["apply", text(&file), text(&castle), "--check"]), fits(text(&castle)));
    said(&["apply", text(&file), text(&castle), "-o", text(&out)]);
    let mut patched = Waiting::start(&out);
    assert_eq!(patched.knock().1, "77 hello\n");
    patched.finish(1);
}

/// The jump of an earlier patch is of one process only.
#[test]
fn a_patch_over_another_is_exported_as_if_it_were_alone() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O1"]);
    let file = scratch.file("changes.patch");
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    shown(&["patch", "-p", &pid, "answer", "--return", "42"]);
    shown(&["patch", "-p", &pid, "answer", "--return", "77"]);
    let exported = said(&["patches", "--export", "-p", &pid]);
    assert_eq!(exported.matches("--return").count(), 1, "{exported}");
    fs::write(&file, &exported).expect("a new file");
    said(&["undo", "-p", &pid]);
    said(&["apply", text(&file), "-p", &pid]);
    assert_eq!(waiting.knock().1, "77 a greeting in data\n");
    said(&["undo", "-p", &pid]);

    shown(&["patch", "-p", &pid, "answer", "--return", "42"]);
    said(&["set", "-p", &pid, "--at", "answer", "edi=3"]);
    let told = refused(&["patches", "--export", "-p", &pid]);
    assert!(told.contains("over the jump of patch 1 (--return 42)"), "{told}");
    said(&["undo", "-p", &pid]);
    waiting.finish(1);
}

#[test]
fn a_string_that_no_code_uses_is_told() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "castle.c", "castle", &["-O2"]);
    let outcome = told(&["find", text(&castle), "GCC: ("]);
    let outcome = if outcome.ending == Ending::Exited(0) {
        outcome
    } else {
        told(&["find", text(&castle), "ld-linux"])
    };
    assert!(outcome.error_text().contains("no instruction names it"), "{}", outcome.error_text());
}

/// The change needs the bytes around it, and before the first one there are none.
#[test]
fn the_first_instruction_of_all_is_led_elsewhere() {
    let scratch = Scratch::new();
    let (bare, out) = (scratch.file("bare"), scratch.file("out"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/targets/bare.s");
    let mut compiler = Command::new("gcc");
    let built = run(compiler.args(["-nostdlib", "-static", "-o"]).arg(&bare).arg(source));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    assert_ends(&bare, "", 0);
    let long = "mov edi, 40; add edi, 2; mov ecx, 100; 1: dec ecx; jnz 1b";
    shown(&["patch", text(&bare), "entry", long, "-o", text(&out)]);
    assert_ends(&out, "", 42);
}
