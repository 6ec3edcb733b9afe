//! What the command tells of a start that can come to nothing: a module that is not there, a program that is a script.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, read_to_end, run, signal, wait};
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;

#[test]
fn a_module_that_is_not_there_is_told_while_the_program_runs() {
    let commands: [&[&str]; 4] = [
        &["count", "malloc", "-m", "libv"],
        &["trace", "malloc", "-m", "libv"],
        &["hist", "malloc", "-m", "libv", "--of", "arg0"],
        &["run", "-e", "function:libv:malloc { @ = count(); }"],
    ];
    for arguments in commands {
        let mut command = Command::new(incise());
        command.args(arguments).args(["--", "/bin/sleep", "1000"]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the command");
        let mut errors = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        errors.read_line(&mut line).expect("readable");
        for part in ["no module is called `libv`", "did you mean libc.so.6", "waiting"] {
            assert!(line.contains(part), "{arguments:?}: {line}");
        }
        assert_eq!(wait(&mut child, std::time::Duration::ZERO), None, "{arguments:?}");
        let sleep = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).expect("it runs");
        signal(sleep.trim().parse().expect("one child"), libc::SIGTERM);
        let rest = read_to_end(errors).map(|rest| String::from_utf8_lossy(&rest).into_owned());
        assert!(rest.is_some_and(|rest| rest.contains("libv") && !rest.contains("waiting")), "{arguments:?}");
        assert!(wait(&mut child, PATIENCE).is_some(), "{arguments:?}");
    }
}

#[test]
fn a_script_is_told_apart_from_what_it_starts() {
    let scratch = Scratch::new();
    let file = scratch.file("wrapper");
    let script = file.to_string_lossy().into_owned();
    fs::write(&file, "#!/bin/sh\nexec /bin/ls /\n").expect("a script");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("our own file");
    // Of the linked libraries of ls, but not of the shell.
    let pattern = "getfilecon";
    let told = |arguments: &[&str]| {
        let outcome = run(Command::new(incise()).args(arguments).args(["--", &script]));
        assert_eq!(outcome.ending, Ending::Exited(125), "{arguments:?}: {}", outcome.error_text());
        assert!(outcome.stdout.is_empty(), "{arguments:?}: it ran");
        outcome.error_text()
    };
    let expected = format!("{script} is a script run by /bin/sh: -f follows what it starts");
    let clause = format!("function:{pattern} {{ @ = count(); }}");
    for arguments in [["count", pattern].as_slice(), &["trace", pattern], &["run", "-e", &clause]] {
        let text = told(arguments);
        assert!(text.contains("no function matches") && text.contains(&expected), "{arguments:?}: {text}");
    }
    assert!(!told(&["count", "malloc+0x100000"]).contains("script"));
    let followed = run(Command::new(incise()).args(["count", "-f", pattern, "--", &script]));
    assert_eq!(followed.ending, Ending::Exited(0), "{}", followed.error_text());
    assert!(!followed.stdout.is_empty() && !followed.error_text().contains("script"));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("our own file");
    let text = told(&["count", "malloc"]);
    for part in ["Permission denied", "chmod +x", &format!("-- /bin/sh {script}")] {
        assert!(text.contains(part), "{text}");
    }
}
