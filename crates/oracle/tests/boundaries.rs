//! Programs that are installed, with a counter at every instruction of parts of them: every original boundary is still a
//! good place to jump to. `INCISE_LONG=1` tries more; the program `boundaries` tries all of them.

use std::path::{Path, PathBuf};

use incise_oracle::boundary::{Options, check};
use incise_patch::{Layout, TrapPolicy};

/// Compiled and hand-written code, with and without frame pointers and unwind tables.
const PROGRAMS: [&str; 4] = [
    "/bin/bash",
    "/lib/x86_64-linux-gnu/libc.so.6",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/bin/git",
];

/// The long variant tries these too.
const MORE: [&str; 3] = ["/usr/bin/gdb", "/usr/bin/python3.11", "/usr/bin/perl"];

fn long() -> bool {
    std::env::var_os("INCISE_LONG").is_some_and(|value| value == "1")
}

fn programs() -> impl Iterator<Item = PathBuf> {
    let more = MORE.iter().filter(|_| long());
    PROGRAMS.iter().chain(more).map(PathBuf::from).filter(|path| {
        let there = path.exists();
        if !there {
            println!("skipped: {} is not installed", path.display());
        }
        there
    })
}

fn options(runs: usize, seed: u64) -> Options {
    Options { run: Some(400), runs: if long() { 50 * runs } else { runs }, seed, ..Options::default() }
}

fn try_out(path: &Path, options: &Options) {
    let tally =
        check(path, options, &|_, _| ()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    println!("{}: {tally}", path.display());
    for finding in tally.findings.iter().take(20) {
        println!("  {finding}");
    }
    assert!(tally.findings.is_empty(), "{}: {} differences", path.display(), tally.findings.len());
    // Most boundaries are tried, and most lead to several others.
    let asked = 400 * options.runs;
    assert!(tally.entered * 10 > asked * 9, "{tally}");
    assert!(options.entered || tally.compared > tally.entered, "{tally}");
}

#[test]
fn every_boundary_of_patched_programs_is_a_good_place_to_jump_to() {
    for (number, path) in programs().enumerate() {
        try_out(&path, &options(1, 0x60 + number as u64));
        try_out(&path, &Options { entered: true, ..options(1, 0xA0 + number as u64) });
    }
}

#[test]
fn functions_that_run_as_copies_are_as_good() {
    for (number, path) in programs().enumerate() {
        let seed = 0xE0 + number as u64;
        try_out(&path, &Options { every: 7, layout: Some(Layout::InLine), ..options(1, seed) });
    }
}

#[test]
fn what_surrounds_lone_probes_is_as_good() {
    for (number, path) in programs().enumerate() {
        try_out(&path, &Options { every: 13, ..options(1, 0xC0 + number as u64) });
    }
}

#[test]
fn the_landings_of_traps_are_as_good() {
    for path in programs().take(2) {
        try_out(&path, &Options { traps: TrapPolicy::Force, ..options(1, 7) });
    }
}

#[test]
fn damaged_trampolines_are_noticed() {
    let Some(path) = programs().next() else { return };
    let spoiled = Options { spoil: 60, ..options(1, 3) };
    let tally = check(&path, &spoiled, &|_, _| ()).expect("a program");
    println!("{tally}");
    assert!(tally.findings.len() > 20, "of 60 damaged bytes: {tally}");
}
