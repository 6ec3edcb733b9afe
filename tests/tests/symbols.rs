//! Names that scripts show of addresses.

use std::fs;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;

/// What has no name is told with its module, so that it can be found, and be written in a pattern.
#[test]
fn functions_without_names_are_shown_with_their_modules() {
    let scratch = Scratch::new();
    let (source, program) = (scratch.file("bare.c"), scratch.file("bare"));
    let text = "#include <stdlib.h>\n\
        __attribute__((noinline)) static void *keep(long n) { void *p = malloc(n); __asm__ volatile(\"\"); return p; }\n\
        int main(int argc, char **argv) { return keep(12345 + argc) == 0; }\n";
    fs::write(&source, text).expect("a new file");
    let built = run(Command::new("gcc").args(["-O1", "-s", "-o"]).arg(&program).arg(&source));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    let script = "function:libc:malloc /arg0 == 12346/ { @[ustack(1)] = count(); }";
    let outcome = run(Command::new(incise()).args(["run", "-e", script, "--"]).arg(&program));
    let shown = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let place = shown.split_whitespace().find_map(|word| word.strip_prefix("bare!sub_"));
    let place = place.unwrap_or_else(|| panic!("{shown}{}", outcome.error_text()));
    let (function, _) = place.split_once('+').expect("an offset");
    let pattern = format!("bare!sub_{function}");
    let counted = run(Command::new(incise()).args(["count", &pattern, "--"]).arg(&program));
    assert!(counted.error_text().contains("installed 1 of 1"), "{}", counted.error_text());
}
