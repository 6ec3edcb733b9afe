//! How the result is written: whole, or not at all.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;

use crate::support::build;

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
