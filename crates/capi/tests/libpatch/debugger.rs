//! gdb sees the program's frames from inside a probe and from inside a trampoline.

use std::process::Command;

use crate::support::{Program, have, library_dir};

/// The functions of a backtrace.
fn functions(backtrace: &str) -> Vec<&str> {
    let frames = backtrace.lines().filter(|line| line.starts_with('#'));
    let names = frames.filter_map(|line| {
        let line = line.split_once(' ')?.1.trim_start();
        let line = if line.starts_with("0x") { line.split_once(" in ")?.1 } else { line };
        line.split_once(" (").map(|(name, _)| name)
    });
    names.collect()
}

#[test]
fn a_backtrace_of_gdb_goes_through_probes_and_trampolines() {
    let Some(program) = Program::new("debugged.c").flags("-O1 -g -Wall -Wextra -Werror").compile("") else {
        return;
    };
    if !have("gdb") {
        return;
    }
    let mut gdb = Command::new("timeout");
    gdb.args(["--signal=KILL", "60", "gdb", "-batch", "-nx", "-iex", "set debuginfod enabled off"]);
    for command in ["break probe", "run", "echo == probe\\n", "bt", "continue", "echo == fault\\n", "bt"] {
        gdb.args(["-ex", command]);
    }
    let output = gdb.arg(program).env("LD_LIBRARY_PATH", library_dir()).output().expect("timeout(1)");
    let text = String::from_utf8_lossy(&output.stdout);
    let (_, text) = text.split_once("== probe\n").unwrap_or_else(|| panic!("no probe in {text}"));
    let (probe, fault) = text.split_once("== fault\n").unwrap_or_else(|| panic!("no fault in {text}"));
    let own = |names: Vec<&'_ str>| {
        let known = ["probe", "load", "middle", "outer", "main"];
        names.into_iter().filter(|name| known.contains(name)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(own(functions(probe)), "probe middle outer main", "{probe}");
    assert_eq!(own(functions(fault)), "load middle outer main", "{fault}");
}
