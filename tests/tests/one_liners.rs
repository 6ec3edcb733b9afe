//! One-liners as users of bpftrace type them: those of its tutorial that concern programs, and others, on real programs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::{need_program, skip};

/// A program with debugging information, in a folder of its own (targets/scripted.c).
fn compiled() -> Option<(Scratch, PathBuf)> {
    compiled_of("scripted")
}

/// The program of a source in `targets`.
fn compiled_of(name: &str) -> Option<(Scratch, PathBuf)> {
    need_program("gcc")?;
    let scratch = Scratch::new();
    let program = scratch.file(name);
    let source = format!("{}/targets/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let built = run(Command::new("gcc").args(["-O2", "-g", &source, "-o"]).arg(&program));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    Some((scratch, program))
}

/// What a script shows on a program, apart from what the program writes.
fn shown_by(program: &Path, script: &str) -> String {
    let out = program.with_file_name("shown");
    let mut command = Command::new(incise());
    let outcome = run(command.args(["run", "-e", script, "-o"]).arg(&out).arg("--").arg(program));
    assert_eq!(outcome.ending, Ending::Exited(0), "{script}\n{}", outcome.error_text());
    assert_eq!(outcome.error_text(), "", "{script}");
    std::fs::read_to_string(&out).expect("what it shows")
}

/// The one-liners of the manual, each with a program that has what it probes.
#[test]
fn the_one_liners_of_the_manual_run() {
    let manual = include_str!("../../docs/language.md");
    let (_, part) = manual.split_once("## One-liners").expect("the section");
    let part = part.split("\n## ").next().unwrap_or_default();
    let blocks = part.split("```incise\n").skip(1).filter_map(|block| block.split_once("```"));
    let scripts: Vec<&str> = blocks.map(|(script, _)| script).collect();
    assert!(scripts.len() >= 10, "{}", scripts.len());
    let Some(scripted) = compiled() else { return };
    for script in scripts {
        let script =
            script.replace("pid == 18644", "pid > 1").replace("function:open_path", "function:length_of");
        let mut command = Command::new(incise());
        let outcome = run(command.args(["run", "-e", &script, "--", "ls", "/proc/self/fd"]));
        let shown = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let (ending, error) = (outcome.ending, outcome.error_text());
        if script.contains("function:length_of") {
            shown_by(&scripted.1, &script);
            continue;
        }
        assert_eq!(ending, Ending::Exited(0), "{script}\n{error}");
        let shows = ["@", "hello world", "ls /proc/", "ls writes "]
            .iter()
            .any(|wanted| shown.lines().any(|line| line.starts_with(wanted)));
        // Nothing of this name is called.
        let shows = shows || script.contains("sched*");
        assert!(shows, "{script}\n{shown}\n{error}");
    }
}

/// What is shown, where all of it is known: `step_by` is called with 3, 0, 5, 0, 2, 1, `put` with 1, 2, 4, … 1024 and two texts.
#[test]
fn what_users_of_bpftrace_type_is_what_they_get() {
    let Some((_scratch, program)) = compiled() else { return };
    for (script, wanted) in [
        (
            "uprobe:./scripted:step_by { @[arg0] = count(); }",
            "\n@[1]: 1\n@[2]: 1\n@[3]: 1\n@[5]: 1\n@[0]: 2\n",
        ),
        (
            "uprobe:scripted:step_by { @[arg0 > 2 ? \"big\" : \"small\"] = count(); }",
            "\n@[big]: 2\n@[small]: 4\n",
        ),
        (
            "u:scripted:step_by { $s = \"none\"; if (arg0 > 2) { $s = \"more\"; } @[$s] = count(); }",
            "\n@[more]: 2\n@[none]: 4\n",
        ),
        (
            "uprobe:scripted:put { $s = str(arg0, 5); @[$s == \"short\", comm] = count(); }",
            "\n@[1, scripted]: 4\n@[0, scripted]: 7\n",
        ),
        ("uprobe:scripted:put /arg1 <= 8/ { printf(\"%s|\", str(arg0, arg1)); }", "s|sh|shor|short|"),
        (
            "uprobe:scripted:step_by { printf(\"%d %d %d,\", args.by, args->by, reg(\"di\")); }",
            "3 3 3,0 0 0,5 5 5,0 0 0,2 2 2,1 1 1,",
        ),
        (
            "uprobe:scripted:step_by { @n = count(); @s = sum(arg0); @l = min(arg0); @m = max(arg0); } \
          END { printf(\"%d %d %d %d\\n\", @n, @s, @l, @m); clear(@n); clear(@s); clear(@l); clear(@m); }",
            "6 11 0 5\n",
        ),
        (
            "uprobe:scripted:step_by { @n = count(); if (@n > 4) { printf(\"%d\\n\", @n); clear(@n); exit(); } }",
            "5\n",
        ),
        (
            "uretprobe:scripted:step_by { @ = lhist(retval, 0, 6, 2); }",
            "\n@: \n[0, 2)                  3 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|\n\
          [2, 4)                  2 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@                  |\n\
          [4, 6)                  1 |@@@@@@@@@@@@@@@@@                                   |\n",
        ),
        ("uprobe:scripted:put { @ = hist(arg1); } END { print(@); clear(@); }", "[512, 1K)"),
        ("uprobe:scripted:put { @x[arg1] = count(); } END { print(@x, 2); clear(@x); }", "@x[1024]: 1\n"),
        (
            "BEGIN { @x = 1; printf(\"start\\n\") } END { printf(\"end %d\\n\", @x); clear(@x) }",
            "start\nend 1\n",
        ),
        (
            "uprobe:scripted:step_by { unroll(2) { @++; } $i = 0; while ($i < 3) { $i++; @w++; } }",
            "\n@: 12\n\n@w: 18\n",
        ),
        (
            "uprobe:scripted:step_by { printf(\"%5d|%-5d|%x|%c|%5s|%-5s|\", arg0, arg0, 255, 65, \"ab\", \"cd\"); exit(); }",
            "    3|3    |ff|A|   ab|cd   |",
        ),
        ("uprobe:scripted:length_of { @[ustack(perf, 1)] = count(); }", "    main+"),
        (
            "uprobe:scripted:put { @a[arg1] = 1; delete(@a, arg1); $x = *uptr((char *)arg0); @c[$x, sizeof(uint64)] = count(); }",
            "\n@c[115, 8]: 4\n@c[97, 8]: 7\n",
        ),
        (
            "uprobe:scripted:step_by /arg0 == 5/ { printf(\"%s %s|\", ntop(0x0100007f), ntop(2, 5)); @[ntop(arg0)] = count(); }",
            "127.0.0.1 5.0.0.0|\n@[5.0.0.0]: 1\n",
        ),
        ("BEGIN { printf(\"%s %d\", strftime(\"%Y|\", nsecs), $#); }", "| 0"),
        ("interval:10ms { @ = count(); exit(); }", ""),
        ("uretprobe:scripted:half { printf(\"%.2f %.2f|\", retval, fretval * 2); }", "4.25 8.50|"),
        (
            "uprobe:scripted:put { @[arg1] = hist(arg1); } END { print(@, 1); clear(@); }",
            "\n@[1024]: \n[1K, 2K)                1 |",
        ),
    ] {
        let text = shown_by(&program, script);
        assert!(text.contains(wanted), "{script}\nwanted:\n{wanted}\nshown:\n{text}");
    }
}

/// Functions of C++ outside of all namespaces by their names alone; members by the names of their classes.
#[test]
fn functions_of_cpp_have_the_names_of_their_source() {
    if need_program("g++").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let (source, program) = (scratch.file("names.cc"), scratch.file("names"));
    let text = "#include <string>\n\
        struct Box { int sides = 6; __attribute__((noinline)) int roll(int n) { return n % sides; } };\n\
        __attribute__((noipa)) int total(const std::string &text, Box &box) { return text.size() + box.roll(8); }\n\
        __attribute__((noipa)) static int total_twice(Box &box) { return 2 * total(\"four\", box); }\n\
        int main() { Box box; return total_twice(box); }\n";
    std::fs::write(&source, text).expect("a source");
    let built = run(Command::new("g++").args(["-O1", "-g"]).arg(&source).arg("-o").arg(&program));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    let script = "uprobe:./names:total { @[str(text._M_dataplus._M_p), args.box.sides] = count(); } \
        function:total_*, function:Box::roll { @by[probe] = count(); }";
    let mut command = Command::new(incise());
    let outcome = run(command.args(["run", "-e", script, "--"]).arg(&program));
    let shown = String::from_utf8_lossy(&outcome.stdout).into_owned();
    assert_eq!(outcome.ending, Ending::Exited(12), "{}", outcome.error_text());
    assert!(shown.contains("@[four, 6]: 1\n"), "{shown}");
    assert!(shown.contains("total_twice(Box&)]: 1\n") && shown.contains("Box::roll(int)]: 1\n"), "{shown}");
}

/// `-c` as bpftrace has it, and what is said where it does otherwise.
#[test]
fn the_command_line_is_as_one_who_knows_bpftrace_guesses() {
    let out = |arguments: &[&str]| {
        let outcome = run(Command::new(incise()).arg("run").args(arguments));
        (outcome.ending, String::from_utf8_lossy(&outcome.stdout).into_owned(), outcome.error_text())
    };
    let script = "function:libc:write { @ = count(); }";
    let (ending, shown, told) = out(&["-e", script, "-c", "/bin/sh -c '/bin/echo \"a  b\"; exit 3'", "-f"]);
    assert_eq!(ending, Ending::Exited(3), "{told}");
    assert!(shown.contains("a  b\n") && shown.contains("@: 1\n"), "{shown}");
    for (arguments, wanted) in [
        (&[script, "--", "ls"][..], "given by -e"),
        (&["-l", "uprobe:libc:mall*"], "incise list"),
        (&["-e", script, "-c", "ls 'a"], "has no end"),
        (&["-e", "kprobe:vfs_read { @ = count(); }"], "not in the kernel"),
        (&["-e", "uprobe:./a.out:main.c:12 { @ = count(); }"], "lines of the source"),
        (&["-e", "profile:hz:99 { @[ustack] = count(); }"], "no timers in the program"),
    ] {
        let (ending, _, told) = out(arguments);
        assert_eq!(ending, Ending::Exited(125), "{arguments:?}");
        assert!(told.contains(wanted), "{arguments:?}\n{told}");
    }
}

/// A library that comes when stacks are walked already is walked through as well.
#[test]
fn stacks_go_through_libraries_that_are_loaded_later() {
    if need_program("gcc").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let build = |arguments: &[&str], name: &str, source: &str| {
        let (file, made) = (scratch.file(&format!("{name}.c")), scratch.file(name));
        std::fs::write(&file, source).expect("a source");
        let built = run(Command::new("gcc").args(arguments).arg(&file).arg("-o").arg(&made));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        made
    };
    let plugin = "int through(int (*back)(int), int n) { return back(n + 1) + 1; }";
    build(&["-O2", "-shared", "-fPIC"], "plugin.so", plugin);
    let main = "#include <dlfcn.h>\n#include <stdio.h>\n\
        __attribute__((noipa)) int reached(int n) { return n; }\n\
        int main(int argc, char **argv) {\n\
            int sum = reached(argc);\n\
            int (*through)(int (*)(int), int) = dlsym(dlopen(argv[1], RTLD_NOW), \"through\");\n\
            for (int i = 0; i < 3; i++) sum += through(reached, i);\n\
            printf(\"%d\\n\", sum);\n\
            return 0;\n\
        }\n";
    let program = build(&["-O2"], "loader", main);
    let mut command = Command::new(incise());
    command.args(["run", "-e", "function:reached { @[ustack] = count(); }", "--"]).arg(&program);
    let outcome = run(command.arg(scratch.file("plugin.so")));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let stacks: Vec<&str> = text.split("@[").skip(1).collect();
    let loaded = stacks.iter().find(|stack| stack.contains("through+")).expect(&text);
    let frames: Vec<&str> = loaded.lines().map(str::trim).filter(|line| line.contains("+0x")).collect();
    assert!(frames[0].contains("through+") && frames[1].contains("main+"), "{text}");
    assert!(frames.last().is_some_and(|last| last.contains("_start")), "{text}");
    assert!(loaded.ends_with("]: 3\n"), "{text}");
}

/// Clauses of the tool may name maps of clauses whose library is not there yet, or never comes.
#[test]
fn maps_of_clauses_to_come_are_empty() {
    let Some((_scratch, program)) = compiled() else { return };
    let script = "BEGIN { if (@n > 0 || has_key(@k, 3)) { printf(\"wrong\\n\"); } print(@n); clear(@k); } \
        uprobe:scripted:step_by { @n = count(); @k[arg0] = hist(arg0); } \
        uprobe:libnever:f { @never[comm] = stats(arg0); @last[tid] = arg0; } \
        END { printf(\"%d %d\\n\", @n, @last[3]); print(@never, 3); clear(@never); zero(@last); delete(@last[3]); \
              clear(@k); clear(@n); }";
    let out = program.with_file_name("shown");
    let mut command = Command::new(incise());
    let outcome = run(command.args(["run", "-e", script, "-o"]).arg(&out).arg("--").arg(&program));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    assert!(outcome.error_text().contains("libnever"), "{}", outcome.error_text());
    assert_eq!(std::fs::read_to_string(&out).expect("what it shows"), "6 0\n");
}

/// `uprobe:FILE:0x…` is the address in the file, wherever that is mapped.
#[test]
fn places_of_files_are_named_by_their_addresses() {
    let Some((_scratch, program)) = compiled() else { return };
    if need_program("nm").is_none() {
        return;
    }
    let symbols = String::from_utf8(run(Command::new("nm").arg(&program)).stdout).expect("text");
    let line = symbols.lines().find(|line| line.ends_with(" T step_by")).expect("the function");
    let at = line.split(' ').next().expect("an address").trim_start_matches('0');
    for module in ["scripted", program.to_str().expect("a path")] {
        let script = format!("uprobe:{module}:0x{at} {{ @[func, arg0] = count(); }}");
        let text = shown_by(&program, &script);
        assert!(text.contains("@[step_by, 0]: 2\n"), "{script}\n{text}");
    }
}

/// What is misspelt gets a suggestion, or the cause is told.
#[test]
fn slips_are_answered_with_what_was_meant() {
    let Some((_scratch, program)) = compiled() else { return };
    for (script, wanted) in [
        ("function:step_by:ext { @ = count(); }", "did you mean `function:step_by:exit`?"),
        ("function:step_by:foo { @ = count(); }", "`foo` is no place in the function `step_by`"),
        ("uprobe:scripted:step_by { @ = mood == ANGYR; }", "did you mean `ANGRY`?"),
        ("uprobe:scripted:step_by { @ = totla; }", "did you mean `total`?"),
        ("uprobe:scripted:length_of { @ = args.lits->number; }", "did you mean `list`?"),
        ("uprobe:scripted:length_of { @ = list->nxet; }", "did you mean `next`?"),
        ("uprobe:scripted:length_of { @ = ((struct itme *)arg0)->number; }", "did you mean `item`?"),
        ("uprobe:scripted:step_by { @bytes = count(); @x = @byets; }", "did you mean `@bytes`?"),
        ("uprobe:scripted:step_by { @bytes = count(); } END { clear(@btyes); }", "did you mean `@bytes`?"),
        ("uprobe:scripted:step_by { print(@nothing); }", "nothing is put into @nothing anywhere"),
        ("uprobe:scripted:step_by { $start = 3; @ = $strat; }", "did you mean `$start`?"),
        ("uprobe:scripted:step_by { @[ppid] = count(); }", "inf`getppid()"),
        ("uprobe:scripted:step_by { @ = nsecs(boot); }", "leave out the brackets"),
        ("uprobe:scripted:step_by { @[strftime(\"%S\", nsecs)] = count(); }", "as a key take the number"),
        ("uprobe:scripted:step_by { printf(\"%s\", ntop(10, arg0)); }", "AF_INET"),
        ("fn f() { }", "written in each"),
    ] {
        let mut command = Command::new(incise());
        let outcome = run(command.args(["run", "-e", script, "--"]).arg(&program));
        assert_eq!(outcome.ending, Ending::Exited(125), "{script}\n{}", outcome.error_text());
        assert!(outcome.error_text().contains(wanted), "{script}\n{}", outcome.error_text());
        assert_eq!(outcome.stdout, b"", "{script}: the program does not run");
    }
}

/// Probes of the programmer, with and without a counter that switches them.
#[test]
fn probes_of_programmers_have_arguments() {
    let Some((_scratch, program)) = compiled_of("noted") else { return };
    for (script, wanted) in [
        (
            "usdt:./noted:noted:step { @[str(arg1), arg0] = sum(arg2); }",
            "\n@[even, -2]: 70\n@[even, 0]: 70\n@[odd, -1]: 70\n@[odd, 1]: 70\n",
        ),
        ("usdt:noted:plain { printf(\"%d %d,\", arg0, (int32)arg1); }", "-5 -2,-5 -1,-5 0,-5 1,"),
        ("U:*:noted:st* { @[probe] = count(); }", "@[usdt:noted:noted:step]: 4\n"),
    ] {
        let mut text = shown_by(&program, script);
        if script.contains("str(") {
            let mut lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
            lines.sort_unstable();
            text = format!("\n{}\n", lines.join("\n"));
        }
        assert!(text.contains(wanted), "{script}\n{text}");
    }
    for (script, wanted) in [
        ("usdt:noted:stpe { @ = count(); }", "did you mean `step`?"),
        ("usdt:noted:none { @ = count(); }", "there are noted:plain, noted:step"),
        ("usdt:libc:none { @ = count(); }", "has no notes"),
        ("usdt:none:none { @ = count(); }", "usdt:none:none: the program had no such probe"),
        ("usdt:noted:step { @ = arg3; }", "no argument `arg3`"),
    ] {
        let outcome = run(Command::new(incise()).args(["run", "-e", script, "--"]).arg(&program));
        // A library that is not there may still be loaded.
        let code = if script.contains("none:none") { 0 } else { 125 };
        assert_eq!(outcome.ending, Ending::Exited(code), "{script}");
        assert!(outcome.error_text().contains(wanted), "{script}\n{}", outcome.error_text());
    }
}

/// The counter that switches a probe is what it was when nobody looks any more.
#[test]
fn counters_of_probes_are_put_back() {
    let Some((_scratch, program)) = compiled_of("noted") else { return };
    let mut command = Command::new(program);
    let mut noted = command.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let pid = noted.id().to_string();
    let script = "usdt:noted:step { @ = count(); if (@ == 1) { exit(); } }";
    let outcome = run(Command::new(incise()).args(["run", "-e", script, "-p", &pid]));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    assert!(String::from_utf8_lossy(&outcome.stdout).starts_with("\n@: "), "{outcome:?}");
    drop(noted.stdin.take());
    let said = noted.wait_with_output().expect("its output").stdout;
    assert!(String::from_utf8_lossy(&said).ends_with(", watched 0\n"), "{said:?}");
}

/// The scripts of docs/examples.md, each with the command that stands above it.
#[test]
fn the_examples_show_what_they_say() {
    let page = include_str!("../../docs/examples.md");
    let scratch = Scratch::new();
    let (script, typed) = (scratch.file("script"), scratch.file("typed"));
    std::fs::write(&typed, "echo typed\n").expect("a file");
    let mut run_through = 0;
    for example in page.split("<!-- test: ").skip(1) {
        let (command, rest) = example.split_once(" -->\n```incise\n").expect("a script behind the command");
        let (command, wanted) = command.rsplit_once(" ; ").expect("what is to be shown");
        let text = rest.split("```").next().expect("a script");
        // Those whose program is not installed are told.
        let program = command.split(' ').next().expect("a program");
        if need_program(program).is_none() || (program == "ruby" && !has_usdt_of_ruby()) {
            continue;
        }
        std::fs::write(&script, text).expect("a file");
        let command = command.replace("< typed", &format!("< {}", typed.display()));
        let command = command.replace(" socket", &format!(" {}", scratch.file("socket").display()));
        let out = scratch.file("out");
        let mut incise = Command::new(incise());
        incise.args(["run", "-f", "-o"]).arg(&out).arg(&script);
        let arguments: &[&str] = if text.contains("$1") { &["1000"] } else { &[] };
        let outcome = run(incise.args(arguments).args(["--", "sh", "-c", &command]));
        let shown = std::fs::read_to_string(&out).unwrap_or_default();
        assert!(shown.contains(wanted), "{command}\n{text}\n{shown}\n{}", outcome.error_text());
        run_through += 1;
    }
    assert!(run_through >= 10, "{run_through}");
}

/// Whether the Ruby that is installed was built with probes.
fn has_usdt_of_ruby() -> bool {
    let script = "usdt:libruby:ruby:object__create { @ = count(); }";
    let outcome = run(Command::new(incise()).args(["run", "-e", script, "--", "ruby", "-e", "1"]));
    let there = String::from_utf8_lossy(&outcome.stdout).contains("@: ");
    if !there {
        skip("this ruby has no probes");
    }
    there
}
