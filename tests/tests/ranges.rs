//! Ranges of instructions: what begins in them is found and counted, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::{count, run};
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;
use serde_json::Value;

const TEXT: &str = r#"
#include <stdio.h>
#include <stdlib.h>
__attribute__((noinline)) int leaf(int x) { return x % 3 == 0 ? x * 2 : -x; }
int main(int argc, char **argv) {
    int n = atoi(argv[1]), s = 0;
    for (int i = 0; i < n; i++)
        s += leaf(i);
    printf("%d\n", s);
    return argc - 2;
}
"#;

/// Addresses of the instructions of a function, in another disassembler's view.
fn listing(program: &Path, function: &str) -> Vec<u64> {
    let mut command = Command::new("objdump");
    command.args(["-d", "--no-show-raw-insn"]).arg(format!("--disassemble={function}")).arg(program);
    let text = String::from_utf8(run(&mut command).stdout).expect("text");
    let insns = text.lines().filter_map(|line| line.strip_prefix(' ')?.split_once(":\t"));
    let insns = insns.filter(|(_, text)| !text.contains("nop") && !text.starts_with("cs "));
    insns.map(|(address, _)| u64::from_str_radix(address.trim(), 16).expect("an address")).collect()
}

/// The program of [`TEXT`], compiled; `None` where that cannot be done.
fn compiled(scratch: &Scratch, name: &str, optimization: &str) -> Option<PathBuf> {
    let (compiler, _) = (need_program("gcc")?, need_program("objdump")?);
    let (source, program) = (scratch.file(&format!("{name}.c")), scratch.file(name));
    fs::write(&source, TEXT).expect("a new file");
    let outcome = run(Command::new(&compiler).args([optimization, "-o"]).arg(&program).arg(&source));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    Some(program)
}

fn list(options: &[&str], program: &Path) -> Vec<(u64, String)> {
    let outcome = run(Command::new(incise()).args(["list", "--json"]).args(options).arg(program));
    assert_eq!(outcome.ending, Ending::Exited(0), "{options:?}: {}", outcome.error_text());
    let lines = String::from_utf8(outcome.stdout).expect("text");
    let values = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let of = |value: Value| {
        let address = value["address"].as_str().expect("an address")[2..].to_owned();
        let function = value["function"].as_str().expect("a name").to_owned();
        (u64::from_str_radix(&address, 16).expect("hexadecimal"), function)
    };
    values.map(of).collect()
}

#[test]
fn a_range_means_every_instruction_that_begins_in_it() {
    let scratch = Scratch::new();
    let Some(program) = compiled(&scratch, "range", "-O2") else { return };
    let leaf = listing(&program, "leaf");
    assert!(leaf.len() > 4);
    let addresses =
        |options: &[&str]| list(options, &program).into_iter().map(|(at, _)| at).collect::<Vec<_>>();
    // The whole function, with and without the kind of point.
    assert_eq!(addresses(&["leaf+0..leaf+END"]), leaf);
    assert_eq!(addresses(&["--points", "instruction", "leaf+0..leaf+END"]), leaf);
    assert_eq!(addresses(&["--points", "exit", "l?af+0..l?af+END"]), leaf);
    let names = list(&["leaf+0..leaf+END"], &program);
    assert_eq!(
        (names[0].1.as_str(), names[1].1.as_str()),
        ("leaf", &*format!("leaf+{:#x}", leaf[1] - leaf[0]))
    );
    // From the second instruction to before the last: its ends count, the byte before them does not.
    let (from, last) = (leaf[1] - leaf[0], leaf[leaf.len() - 1] - leaf[0]);
    let inner = &leaf[1..leaf.len() - 1];
    assert_eq!(addresses(&[&format!("leaf+{from}..leaf+{last:#x}")]), inner);
    assert_eq!(addresses(&[&format!("leaf+{from}..leaf+{}", last + 1)]), leaf[1..]);
    assert_eq!(addresses(&[&format!("*{:#x}..*{:#x}", leaf[1], leaf[leaf.len() - 1])]), inner);
    assert_eq!(addresses(&[&format!("range!*{:#x}..*{:#x}", leaf[1], leaf[leaf.len() - 1])]), inner);
    // Both functions at once, by address.
    let main = listing(&program, "main");
    let both =
        format!("*{:#x}..*{:#x}", main[0].min(leaf[0]), main[main.len() - 1].max(leaf[leaf.len() - 1]) + 1);
    let found = addresses(&[&both]);
    assert!(leaf.iter().chain(&main).all(|at| found.contains(at)), "{found:x?}");
    // With another pattern that names the same entry, all of what each means is there.
    let entry_and_range = addresses(&["leaf", "leaf+0..leaf+END"]);
    assert_eq!(entry_and_range, leaf);
    // Counted: as often as the single instructions are.
    let hits = |patterns: &[&str]| {
        let counted = count(patterns, &program, &["900"], &|_| ());
        let report = counted.report.expect("a report");
        report.counts.into_iter().map(|count| (count.function, count.hits)).collect::<BTreeMap<_, _>>()
    };
    let all = hits(&["-m", "range", "leaf+0..leaf+END"]);
    assert_eq!(all.len(), leaf.len());
    assert_eq!(all["leaf"], 900);
    for at in &leaf[1..] {
        let name = format!("leaf+{:#x}", at - leaf[0]);
        assert_eq!(hits(&["-m", "range", &name])[&name], all[&name], "{name}");
    }
}

#[test]
fn a_range_that_is_none_is_told() {
    let Some(program) = need_program("true") else { return };
    let cases = [
        ("main+0..main+0", "the range is empty"),
        ("main+0..other+8", "the same function"),
        ("*0x1000..main+8", "ends with an address"),
        ("*0x10..*0x20", "not in the code"),
    ];
    for (pattern, part) in cases {
        let outcome = run(Command::new(incise()).args(["list", pattern]).arg(&program));
        let text = outcome.error_text();
        assert_eq!(outcome.ending, Ending::Exited(125), "{pattern}: {text}");
        assert!(text.contains(part) && text.lines().count() == 1, "{pattern}: {text}");
    }
}

#[test]
fn an_address_inside_an_instruction_is_refused() {
    let scratch = Scratch::new();
    // Without padding between blocks.
    let Some(program) = compiled(&scratch, "inside", "-Os") else { return };
    let main = listing(&program, "main");
    for offset in 1..main[main.len() - 1] - main[0] {
        let place = format!("main+{offset}");
        let outcome = run(Command::new(incise()).args(["list", &place]).arg(&program));
        let begins = main.contains(&(main[0] + offset));
        assert_eq!(outcome.ending == Ending::Exited(0), begins, "{place}: {}", outcome.error_text());
        assert_eq!(outcome.error_text().contains("is inside the instruction `"), !begins, "{place}");
    }
}
