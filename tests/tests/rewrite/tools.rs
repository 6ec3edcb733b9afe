//! Other tools find nothing to complain of.

use std::fs;
use std::path::Path;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::{find_program, need_program, skip};

use crate::support::{INSIDE, build, rewrite, same};

/// What a tool says on standard error, with the name of the file taken out.
fn complaints(tool: &[&str], file: &Path) -> Vec<String> {
    let outcome = run(Command::new(tool[0]).args(&tool[1..]).arg(file));
    let (errors, output) = (outcome.error_text(), String::from_utf8_lossy(&outcome.stdout).into_owned());
    // elflint complains on standard output.
    let text = if tool[0] == "eu-elflint" { output + &errors } else { errors };
    text.lines().map(|line| line.replace(&*file.to_string_lossy(), "FILE")).collect()
}

#[test]
fn tools_complain_of_nothing_new() {
    let scratch = Scratch::new();
    let mut files = vec![build(&scratch, "pie", &["-g"]), build(&scratch, "static", &["-static"])];
    // The last segment of bash ends where no quadword does.
    files.extend(["git", "bash"].into_iter().filter_map(find_program));
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let out = scratch.file(&format!("{name}.out"));
        let installed = name == "git" || name == "bash";
        rewrite(&file, &out, if installed { &["sub_*"] } else { &["fib", "main", "twice"] });
        let tools: [&[&str]; 5] = [
            &["readelf", "-aW"],
            &["objdump", "-dw"],
            &["objdump", "-x"],
            &["eu-elflint", "--gnu-ld"],
            &["eu-readelf", "-a"],
        ];
        for tool in tools {
            if find_program(tool[0]).is_none() {
                skip(&format!("{} is not installed", tool[0]));
                continue;
            }
            let known = complaints(tool, &file);
            let new = complaints(tool, &out);
            let new: Vec<&String> = new.iter().filter(|line| !known.contains(line)).collect();
            assert!(new.is_empty(), "{tool:?} on {name}: {new:#?}");
        }
        let stripped = scratch.file(&format!("{name}.stripped"));
        let outcome = run(Command::new("strip").arg("-o").arg(&stripped).arg(&out));
        assert_eq!((outcome.ending, outcome.error_text()), (Ending::Exited(0), String::new()), "{name}");
        let arguments: &[&str] = if installed { &["--version"] } else { &["argument"] };
        same(&run(Command::new(&file).args(arguments)), &run(Command::new(&stripped).args(arguments)), &name);
        let undone = run(Command::new(incise()).arg("undo").arg(&stripped));
        assert_eq!(undone.ending, Ending::Exited(125), "{name}: a stripped file has no original");
        assert!(undone.error_text().contains("strip"), "{name}: {}", undone.error_text());
    }
}

#[test]
fn sections_of_programs_with_landings_match_their_segments() {
    if need_program("eu-elflint").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let source = scratch.file("inside.c");
    fs::write(&source, INSIDE).expect("a new folder");
    for option in ["-pie", "-no-pie", "-static", "-static-pie"] {
        let (program, counted, patched) =
            (scratch.file("program"), scratch.file("counted"), scratch.file("patched"));
        let built = run(Command::new("gcc").args(["-O1", option, "-o"]).arg(&program).arg(&source));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        let mut rewriting = Command::new(incise());
        rewriting.args(["rewrite", "--trap", "fallback"]).arg(&program).arg("-o").arg(&counted);
        rewriting.args(["--count", "after", "leaf"]);
        // Too long for its place, so that the engine leads there: with landings, and without counters.
        let mut patching = Command::new(incise());
        patching
            .arg("patch")
            .arg(&program)
            .args(["after+1", "mov rbx, rdi; mov rcx, rcx; mov rdx, rdx; nop"]);
        patching.arg("-o").arg(&patched);
        let lint = ["eu-elflint", "--gnu-ld"];
        let known = complaints(&lint, &program);
        for (mut command, out) in [(rewriting, counted), (patching, patched)] {
            let outcome = run(&mut command);
            assert_eq!(outcome.ending, Ending::Exited(0), "{option}: {}", outcome.error_text());
            let sections = run(Command::new("readelf").arg("-SW").arg(&out));
            let sections = String::from_utf8_lossy(&sections.stdout).into_owned();
            assert!(
                sections.contains(".incise.data") && sections.contains(".incise.bss"),
                "{option}: {sections}"
            );
            let new = complaints(&lint, &out);
            let new: Vec<&String> = new.iter().filter(|line| !known.contains(line)).collect();
            assert!(new.is_empty(), "{option}, {}: {new:#?}", out.display());
            same(&run(&mut Command::new(&program)), &run(&mut Command::new(&out)), option);
        }
    }
}

/// patchelf moves the program header table back behind the file header, and tells where it is in memory by the
/// distance the old one had.
#[test]
fn programs_are_edited_with_patchelf_afterwards() {
    if need_program("patchelf").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let mut files = vec![build(&scratch, "pie", &["-pie"]), build(&scratch, "fixed", &["-no-pie"])];
    // With so large a .bss that memory and file do not agree behind it.
    files.extend(["git", "python3", "redis-server"].into_iter().filter_map(find_program));
    for file in files {
        let name = file.file_name().expect("a file").to_string_lossy().into_owned();
        let out = scratch.file(&format!("{name}.out"));
        let small = scratch.path().join(&name) == file;
        let functions: &[&str] = match &*name {
            "git" => &["sub_*"],
            _ if small => &["fib", "main", "twice"],
            _ => &["*"],
        };
        rewrite(&file, &out, functions);
        let edited = run(Command::new("patchelf").args(["--set-rpath", "/nowhere"]).arg(&out));
        assert_eq!(edited.ending, Ending::Exited(0), "{name}: {}", edited.error_text());
        let path = run(Command::new("patchelf").arg("--print-rpath").arg(&out));
        assert_eq!(path.stdout, b"/nowhere\n", "{name}");
        let argument = if small { "argument" } else { "--version" };
        same(&run(Command::new(&file).arg(argument)), &run(Command::new(&out).arg(argument)), &name);
    }
}

#[test]
fn a_debugger_sees_the_program_as_before() {
    let scratch = Scratch::new();
    if need_program("gdb").is_none() {
        return;
    }
    let program = build(&scratch, "pie", &["-g"]);
    let out = scratch.file("out");
    rewrite(&program, &out, &["fib", "main", "twice"]);
    let commands = ["break fib if n == 1", "run argument", "bt", "info symbol fib", "delete", "continue"];
    let debug = |file: &Path| {
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-batch"]).env_remove("DEBUGINFOD_URLS");
        for command in commands {
            gdb.args(["-ex", command]);
        }
        let outcome = run(gdb.arg(file));
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let kept = text.lines().filter(|line| line.starts_with('#') || line.starts_with("fib in"));
        kept.map(|line| line.split(" of ").next().unwrap_or(line).to_owned()).collect::<Vec<_>>()
    };
    let before = debug(&program);
    assert!(before.len() > 15, "{before:?}");
    assert_eq!(before, debug(&out));
}
