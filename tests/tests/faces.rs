//! The form of what the command says: reports for people and for programs, `list`, `doctor`, what goes to which
//! stream.

use std::fs;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::exported::exported;
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::report::Report;
use incise_tests::scratch::Scratch;
use serde_json::Value;

fn command(arguments: &[&str]) -> Outcome {
    run(Command::new(incise()).args(arguments))
}

const SCRIPT: [&str; 4] = ["--", "/bin/sh", "-c", "echo out; echo err >&2; exit 9"];

#[test]
fn the_report_goes_to_standard_error_and_nothing_to_standard_output() {
    let outcome = command(&[&["count", "write", "getpid"][..], &SCRIPT].concat());
    assert_eq!((outcome.ending, &*outcome.stdout), (Ending::Exited(9), &b"out\n"[..]));
    let text = outcome.error_text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "err", "{text}");
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["hits", "function", "module"], "{text}");
    let summary = lines[lines.len() - 1];
    let words: Vec<&str> = summary.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
    let [installed, of, asked, refused, refused_word, trapped, trapped_word, stopped, us, unit] =
        [0, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(|index| words.get(index).copied().unwrap_or(""));
    assert_eq!(
        [installed, of, refused_word, trapped_word, stopped, unit],
        ["installed", "of", "refused", "trapped", "stopped", "us"],
        "{summary}"
    );
    let number = |word: &str| word.parse::<u64>().unwrap_or_else(|_| panic!("{summary}"));
    assert_eq!(number(words[1]) + number(refused), number(asked), "{summary}");
    assert!(number(trapped) <= number(words[1]) && number(us) > 0, "{summary}");
}

#[test]
fn a_table_is_sorted_and_its_bars_are_in_proportion() {
    let outcome = command(&[&["count", "str*", "mem*", "malloc", "free"][..], &SCRIPT].concat());
    let text = outcome.error_text();
    let rows = text.lines().filter(|line| line.contains('█'));
    let rows: Vec<(u64, usize)> = rows
        .map(|line| {
            let hits = line.split_whitespace().next().unwrap_or("").replace(',', "");
            (hits.parse().unwrap_or_else(|_| panic!("{line}")), line.matches('█').count())
        })
        .collect();
    assert!(rows.len() > 1, "{text}");
    assert!(rows.is_sorted_by(|a, b| a.0 >= b.0), "{text}");
    let (most, widest) = rows[0];
    for (hits, bar) in &rows {
        assert!(bar.abs_diff((*hits as usize * widest) / most as usize) <= 1, "{hits}: {text}");
    }
}

#[test]
fn json_lines_have_the_fields_they_should_have() {
    let outcome = command(&[&["count", "--json", "str*", "mem*", "write"][..], &SCRIPT].concat());
    let text = outcome.error_text();
    let report = Report::parse(text.strip_prefix("err\n").unwrap_or(&text)).expect("a report");
    assert!(report.hits("write").is_some_and(|hits| hits >= 2), "{text}");
    assert!(report.summary.installed > 10 && report.summary.mappings > 0 && report.summary.stop_us > 0);
    let tactics = ["nop", "retarget", "jump", "tail", "group", "pun", "trap"];
    for count in &report.counts {
        assert!(tactics.contains(&&*count.tactic), "{count:?}");
        assert!(count.address != 0 && !count.module.is_empty(), "{count:?}");
    }
}

#[test]
fn a_report_file_gets_the_report_and_no_stream_does() {
    let scratch = Scratch::new();
    let file = scratch.file("report");
    let name = file.to_string_lossy();
    let outcome = command(&[&["count", "--json", "-o", &name, "write"][..], &SCRIPT].concat());
    assert_eq!((&*outcome.stdout, &*outcome.stderr), (&b"out\n"[..], &b"err\n"[..]));
    assert!(Report::read(&file).is_ok());
    let outcome = command(&[&["count", "-o", &name, "write"][..], &SCRIPT].concat());
    assert_eq!(outcome.error_text(), "err\n");
    assert!(fs::read_to_string(&file).is_ok_and(|text| text.contains("installed 1 of 1")));
}

#[test]
fn list_finds_what_binutils_find() {
    let scratch = Scratch::new();
    let libc = "/lib/x86_64-linux-gnu/libc.so.6";
    if !fs::exists(libc).unwrap_or(false) {
        return incise_tests::skip::skip("libc is not where Debian has it");
    }
    let outcome = command(&["list", "--json", "str*", libc]);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let mut listed = Vec::new();
    for line in String::from_utf8_lossy(&outcome.stdout).lines() {
        let value: Value = serde_json::from_str(line).expect("a line of JSON");
        let names = value["symbols"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names = names.chain(value["function"].as_str());
        listed.extend(names.map(|name| name.split('@').next().unwrap_or(name).to_owned()));
    }
    let functions = exported(std::path::Path::new(libc), scratch.path()).expect("binutils");
    for function in functions.iter().filter(|function| function.name.starts_with("str")) {
        assert!(listed.contains(&function.name), "{} is missing", function.name);
    }
    let people = command(&["list", "strtok", libc]);
    let text = String::from_utf8_lossy(&people.stdout).into_owned();
    assert!(text.contains("libc.so.6!strtok") && text.contains("0x"), "{text}");
}

#[test]
fn doctor_has_a_remedy_for_every_no() {
    let outcome = command(&["doctor", "--json"]);
    let mut names = Vec::new();
    let mut well = true;
    for line in String::from_utf8_lossy(&outcome.stdout).lines() {
        let check: Value = serde_json::from_str(line).expect("a line of JSON");
        let ok = check["ok"].as_bool().expect("yes or no");
        assert!(check["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{line}");
        assert!(ok || check["remedy"].is_string(), "{line}");
        names.extend(check["name"].as_str().map(str::to_owned));
        well &= ok;
    }
    assert_eq!(outcome.ending, Ending::Exited(i32::from(!well)));
    for name in ["ptrace", "membarrier", "W^X", "CET"] {
        assert!(names.iter().any(|found| found == name), "{name} is missing: {names:?}");
    }
    let people = command(&["doctor"]);
    assert_eq!((people.ending, people.stdout.is_empty()), (outcome.ending, false));
}
