//! `incise coverage`: every instruction of a program comes back once, with its tactic or the reason; the sums are right;
//! nothing depends on chance.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;
use serde_json::Value;

fn coverage(arguments: &[&str], binary: &Path) -> Outcome {
    run(Command::new(incise()).arg("coverage").args(arguments).arg(binary))
}

/// The sites by address, each with what became of it, and the summary.
struct Lines {
    sites: BTreeMap<u64, (String, String)>,
    summary: Value,
}

fn lines(outcome: &Outcome) -> Lines {
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let (mut sites, mut summary, mut before) = (BTreeMap::new(), None, None);
    for line in String::from_utf8(outcome.stdout.clone()).expect("text").lines() {
        assert!(summary.is_none(), "a line behind the summary: {line}");
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        match value["type"].as_str() {
            Some("site") => {
                let address = text("address").expect("an address");
                let address = u64::from_str_radix(&address[2..], 16).expect("hexadecimal");
                assert!(before < Some(address), "{line}: addresses ascend");
                before = Some(address);
                let (tactic, reason) = (text("tactic"), text("reason").map(|reason| format!("!{reason}")));
                assert!(tactic.is_some() != reason.is_some(), "{line}: a tactic or a reason");
                let function = text("function").expect("a function");
                sites.insert(address, (function, tactic.or(reason).unwrap_or_default()));
            }
            Some("summary") => summary = Some(value),
            _ => panic!("no known type: {line}"),
        }
    }
    Lines { sites, summary: summary.expect("a summary") }
}

impl Lines {
    fn with(&self, is: impl Fn(&str) -> bool) -> u64 {
        self.sites.values().filter(|(_, what)| is(what)).count() as u64
    }

    fn total(&self, name: &str) -> u64 {
        self.summary[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.summary))
    }

    fn assert_sums(&self) {
        assert_eq!(self.total("sites"), self.sites.len() as u64);
        assert_eq!(self.total("refused"), self.with(|what| what.starts_with('!')));
        assert_eq!(self.total("trapped"), self.with(|what| what == "trap"));
        assert_eq!(self.total("patched"), self.with(|what| what != "trap" && !what.starts_with('!')));
    }
}

#[test]
fn every_instruction_is_a_site_and_the_sums_are_right() {
    let (Some(compiler), Some(objdump)) = (need_program("gcc"), need_program("objdump")) else { return };
    let scratch = Scratch::new();
    let (source, program) = (scratch.file("flow.c"), scratch.file("flow"));
    let text = "#include <stdio.h>\n\
        __attribute__((noinline)) int leaf(int x) { return x % 3 ? x + 5 : -x; }\n\
        __attribute__((noinline)) int loop(int n) { int s = 0; for (int i = 0; i < n; i++) s += leaf(i); return s; }\n\
        int main(int argc, char **argv) { return printf(\"%d\\n\", loop(argc * 7)) < 0; }\n";
    fs::write(&source, text).expect("a new file");
    for options in [&["-O2"][..], &["-O0", "-no-pie"], &["-Os", "-static-pie"]] {
        let outcome = run(Command::new(&compiler).args(options).arg("-o").arg(&program).arg(&source));
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let found = lines(&coverage(&["--json"], &program));
        found.assert_sums();
        assert_eq!(found.summary["binary"].as_str(), program.to_str());
        assert!(found.summary["bytes_per_site"].as_f64().is_some_and(|bytes| bytes > 4.0 && bytes < 200.0));
        assert!(found.summary["plan_ms"].as_f64().is_some_and(|time| time > 0.0));
        assert!((1..=64).contains(&found.total("mappings")));
        // Another disassembler says the same of whole functions.
        for function in ["leaf", "loop", "main"] {
            let mut disassemble = Command::new(&objdump);
            disassemble
                .args(["-d", "--no-show-raw-insn"])
                .arg(format!("--disassemble={function}"))
                .arg(&program);
            let listing = String::from_utf8(run(&mut disassemble).stdout).expect("text");
            // Padding behind the end is no code of the function, and is not reached.
            let insns = listing.lines().filter_map(|line| line.strip_prefix(' ')?.split_once(":\t"));
            let insns = insns.filter(|(_, text)| !text.contains("nop") && !text.starts_with("cs "));
            let expected: BTreeSet<u64> = insns
                .map(|(address, _)| u64::from_str_radix(address.trim(), 16).expect("an address"))
                .collect();
            let of = found.sites.iter().filter(|(_, (name, _))| name == function);
            let sites: BTreeSet<u64> = of.map(|(address, _)| *address).collect();
            assert!(
                expected.len() > 4 && expected.is_subset(&sites),
                "{options:?} {function}: {expected:x?} {sites:x?}"
            );
        }
        // The kinds of points are parts of each other.
        let blocks = lines(&coverage(&["--json", "--points", "block"], &program));
        let functions = lines(&coverage(&["--json", "--points", "function"], &program));
        let addresses = |lines: &Lines| lines.sites.keys().copied().collect::<BTreeSet<u64>>();
        assert!(addresses(&functions).is_subset(&addresses(&blocks)));
        assert!(addresses(&blocks).is_subset(&addresses(&found)));
        assert!(functions.sites.len() < blocks.sites.len() && blocks.sites.len() < found.sites.len());
    }
}

#[test]
fn a_plan_is_the_same_each_time_and_with_any_number_of_threads() {
    let Some(program) = need_program("ls") else { return };
    let first = lines(&coverage(&["--json", "-j", "1"], &program));
    first.assert_sums();
    for threads in ["1", "2", "7"] {
        let mut again = lines(&coverage(&["--json", "-j", threads], &program));
        assert!(first.sites == again.sites, "other tactics with {threads} threads");
        again.summary["plan_ms"] = first.summary["plan_ms"].clone();
        assert_eq!(first.summary, again.summary, "{threads} threads");
    }
}

#[test]
fn a_plan_is_as_good_wherever_the_program_is_loaded() {
    let Some(program) = need_program("ls") else { return };
    let first = lines(&coverage(&["--json"], &program));
    for base in ["0x55d3f1a6b000", "7f3a10c48000"] {
        let other = lines(&coverage(&["--json", "--base", base], &program));
        assert!(first.sites == other.sites, "other tactics at {base}");
    }
    for (base, part) in
        [("0x1234", "no page"), ("0x7ffffffff000", "no process"), ("0x7ffff7c00000", "something else")]
    {
        let outcome = coverage(&["--base", base], &program);
        assert_eq!(outcome.ending, Ending::Exited(125));
        assert!(outcome.error_text().contains(part), "{base}: {}", outcome.error_text());
    }
}

#[test]
fn the_trap_policy_decides_about_sites_where_no_jump_fits() {
    let Some(program) = need_program("ls") else { return };
    let fallback = lines(&coverage(&["--json"], &program));
    let forbid = lines(&coverage(&["--json", "--trap", "forbid"], &program));
    let force = lines(&coverage(&["--json", "--trap", "force"], &program));
    forbid.assert_sums();
    force.assert_sums();
    assert!(fallback.total("patched") * 10 > fallback.total("sites") * 9, "{}", fallback.summary);
    assert_eq!(forbid.total("trapped"), 0);
    assert_eq!(force.total("patched"), 0);
    assert_eq!(force.total("trapped") + force.total("refused"), fallback.total("sites"));
    // The table has the same numbers.
    let table = String::from_utf8(coverage(&["--trap", "forbid"], &program).stdout).expect("text");
    let number = |text: &str| text.replace(',', "").parse::<u64>();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("  "));
    let rows: BTreeMap<&str, u64> = rows
        .map(|row| {
            let mut words = row.split_whitespace();
            let tactic = words.next().expect("a tactic");
            (tactic, number(words.next().expect("a number")).expect("a number"))
        })
        .collect();
    assert_eq!(rows.values().sum::<u64>(), forbid.total("sites"), "{table}");
    assert_eq!(rows.get("refused").copied().unwrap_or(0), forbid.total("refused"), "{table}");
    let reasons = table.lines().filter_map(|line| line.strip_prefix("refused ")?.split_once(':'));
    let reasons: u64 = reasons.map(|(digits, _)| number(digits.trim()).expect("a number")).sum();
    assert_eq!(reasons, forbid.total("refused"), "{table}");
}

#[test]
fn what_is_no_program_is_told_in_one_line_and_does_not_keep_the_others_back() {
    let Some(program) = need_program("true") else { return };
    let scratch = Scratch::new();
    let original = fs::read(&program).expect("a program");
    let write = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = original.clone();
        change(&mut bytes);
        fs::write(scratch.file(name), &bytes).expect("a new file");
        scratch.file(name)
    };
    let cases = [
        (write("text", &|bytes| *bytes = b"#!/bin/sh\n".to_vec()), "not an ELF file"),
        (write("empty", &Vec::clear), "not an ELF file"),
        (write("narrow", &|bytes| bytes[4] = 1), "not a 64-bit ELF file"),
        (write("foreign", &|bytes| bytes[18] = 183), "another processor"),
        (write("object", &|bytes| bytes[16] = 1), "neither a program nor a shared library"),
        (write("cut", &|bytes| bytes.truncate(bytes.len() / 3)), "malformed ELF file"),
        (write("data", &|bytes| take_execution_away(bytes)), "no code"),
        (scratch.file("nothing"), "No such file"),
    ];
    for (file, part) in &cases {
        let outcome = coverage(&["--json"], file);
        let text = outcome.error_text();
        assert_eq!(outcome.ending, Ending::Exited(125), "{}: {text}", file.display());
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(part) && text.contains(&*file.to_string_lossy()), "{part}: {text}");
        assert!(outcome.stdout.is_empty());
    }
    let mut both = Command::new(incise());
    both.args(["coverage", "--json"]).arg(&cases[0].0).arg(&program);
    let outcome = run(&mut both);
    assert_eq!(outcome.ending, Ending::Exited(125));
    let last = String::from_utf8_lossy(&outcome.stdout).lines().last().map(str::to_owned).unwrap_or_default();
    assert!(last.contains(r#""type":"summary""#) && last.contains("true"), "{last}");
}

/// Clears the execute flag of every segment and section.
fn take_execution_away(bytes: &mut [u8]) {
    let word =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
    let half = |bytes: &[u8], at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    // Elf64_Ehdr: e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum; p_flags, sh_flags.
    let (segments, sections) = (word(bytes, 32), word(bytes, 40));
    for index in 0..half(bytes, 56) {
        bytes[segments + index * half(bytes, 54) + 4] &= !1;
    }
    for index in 0..half(bytes, 60) {
        bytes[sections + index * half(bytes, 58) + 8] &= !4;
    }
}
