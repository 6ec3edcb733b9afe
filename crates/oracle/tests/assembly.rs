//! What the formatters write, the assembler reads; and it reads the same as GNU as.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use incise_isa::native::Syntax;
use incise_oracle::assembly::{RoundTrips, round_trips, same_bytes};

fn check(syntax: Syntax) -> RoundTrips {
    let found = round_trips(syntax, 1, 2);
    let mut seen = BTreeSet::new();
    for mismatch in found.mismatches.iter().filter(|m| seen.insert(&m.form)).take(20) {
        println!(
            "{}: {:?} from {:02x?} gives {:02x?}",
            mismatch.form, mismatch.text, mismatch.bytes, mismatch.got
        );
    }
    println!(
        "{syntax:?}: {} forms, {} the same bytes, {} other bytes, {} mismatches",
        found.forms,
        found.same_bytes,
        found.other_bytes,
        found.mismatches.len(),
    );
    assert!(found.forms > 4000, "{} forms", found.forms);
    assert!(found.mismatches.is_empty());
    found
}

/// Lets GNU as assemble every `step`th text. What it does not take is its own dialect's business; what it takes has
/// to be the same instruction.
fn compare_with_gnu(found: &RoundTrips, syntax: Syntax, step: usize) {
    if Command::new("as").arg("--version").output().is_err() {
        println!("skipped: GNU as is not installed");
        return;
    }
    let source = std::env::temp_dir().join(format!("incise-assembly-{}-{syntax:?}.s", std::process::id()));
    let mut lines: BTreeMap<usize, &(String, Vec<u8>)> =
        found.texts.iter().step_by(step).enumerate().collect();
    let all = lines.len();
    // Two rounds: what it refuses is taken out after the first.
    for _ in 0..2 {
        let mut text = String::new();
        for index in 0..all {
            text.push_str(lines.get(&index).map_or("", |(text, _)| text.as_str()));
            text.push('\n');
        }
        text.push_str(if syntax == Syntax::Intel { ".att_syntax\n" } else { "\n" });
        let head = if syntax == Syntax::Intel { ".intel_syntax noprefix; " } else { "" };
        fs::write(&source, format!("{head}{text}")).expect("a file");
        for number in refused(&source) {
            lines.remove(&(number - 1));
        }
    }
    let made = listing(&source);
    let _ = fs::remove_file(&source);
    let mut different = Vec::new();
    for (index, (text, ours)) in &lines {
        let theirs = made.get(&(index + 1)).cloned().unwrap_or_default();
        if !same_bytes(ours, &theirs, syntax) && !is_free(text) {
            different.push(format!("{text:?}: {ours:02x?}, GNU as {theirs:02x?}"));
        }
    }
    println!(
        "{syntax:?}: {} of {all} texts also taken by GNU as, {} different",
        lines.len(),
        different.len()
    );
    for line in different.iter().take(20) {
        println!("{line}");
    }
    assert!(lines.len() * 10 > all * 8, "{} of {all}", lines.len());
    assert!(different.is_empty());
}

/// Texts that have two encodings of the same effect which decode differently: the upper half of a register that is
/// zero either way, an absolute address that is in reach of the instruction pointer; and words of the formatter that
/// GNU as takes for names.
fn is_free(text: &str) -> bool {
    let widths = ["sldt", "str ", "smsw", "movmsk", "pinsr", "pextr"];
    widths.iter().any(|word| text.contains(word)) || text.contains(",[0x") || text.contains("far")
}

/// Numbers of the lines that it does not take.
fn refused(source: &Path) -> BTreeSet<usize> {
    let output = Command::new("as").args(["--64", "-o", "/dev/null"]).arg(source).output().expect("as runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let number = |line: &str| line.split(':').nth(1)?.parse().ok();
    told.lines().filter(|line| line.contains("Error:")).filter_map(number).collect()
}

/// The bytes of each line.
fn listing(source: &Path) -> BTreeMap<usize, Vec<u8>> {
    let output =
        Command::new("as").args(["--64", "-aln", "-o", "/dev/null"]).arg(source).output().expect("as runs");
    let mut made: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut words = line.split_whitespace();
        let Some(number) = words.next().and_then(|word| word.parse::<usize>().ok()) else { continue };
        let is_hex = |word: &&str| word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let Some(second) = words.next().filter(is_hex) else { continue };
        // The first line has the offset, those behind it only more bytes.
        let bytes = if made.contains_key(&number) { Some(second) } else { words.next().filter(is_hex) };
        let Some(bytes) = bytes else { continue };
        let pairs = bytes
            .as_bytes()
            .chunks(2)
            .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        made.entry(number).or_default().extend(pairs);
    }
    made
}

#[test]
fn intel_syntax_comes_back() {
    let found = check(Syntax::Intel);
    compare_with_gnu(&found, Syntax::Intel, 17);
}

#[test]
fn att_syntax_comes_back() {
    let found = check(Syntax::Att);
    compare_with_gnu(&found, Syntax::Att, 17);
}
