//! Changes of running processes, and runs of the tool that know nothing of each other.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, signal};
use incise_tests::outcome::Ending;
use incise_tests::process::Snapshot;
use incise_tests::scratch::Scratch;

use crate::support::{LONG, LOST, SAVED, Waiting, address, build, lines, mappings, said, text, told};

#[test]
fn functions_strings_and_long_code_are_changed_and_come_back() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    assert_eq!(waiting.knock().1, "42 a greeting in data\n");
    let before = Snapshot::take(waiting.child.id());
    let found = lines(&["find", "--json", "-p", &pid, "a greeting in data"]);
    // The loader's private copy is where the program writes, too.
    let data = found.iter().rfind(|line| line["type"] == "string").expect("a string");
    said(&["patch", "-p", &pid, data["start"].as_str().expect("an address"), "--string", "hello"]);
    said(&["patch", "-p", &pid, "answer", "--return", "77"]);
    assert_eq!(waiting.knock().1, "77 hello\n");
    let first = lines(&["inspect", "-p", &pid, "enter", "-n", "1", "--json"]);
    let first = first[0]["text"].as_str().expect("an instruction");
    let long =
        format!("{first}; push rcx; mov ecx, 1000; 1: dec ecx; jnz 1b; pop rcx; xor edi, edi; test edi, edi");
    // Code of any length in place of one instruction, by a later run of the tool.
    said(&["patch", "-p", &pid, "enter", &long]);
    assert_eq!(waiting.knock().0, SAVED);
    assert_eq!(lines(&["patches", "-p", &pid, "--json"]).len(), 3);
    assert_eq!(told(&["undo", "-p", &pid, "9"]).ending, Ending::Exited(125));
    said(&["undo", "-p", &pid, "2"]);
    assert_eq!(waiting.knock().1, "42 hello\n");
    said(&["undo", "-p", &pid]);
    let (told, own) = waiting.knock();
    assert_eq!((told.as_str(), own.as_str()), (LOST, "42 a greeting in data\n"));
    let after = Snapshot::take(waiting.child.id());
    for (start, bytes) in &before.code {
        assert!(
            after.code.get(start).is_some_and(|code| code[..bytes.len()] == bytes[..]),
            "code at {start:#x}"
        );
    }
    waiting.finish(1);
}

/// Every way a patch can be made, by runs of the tool that know nothing of each other: in place, by a jump to code
/// elsewhere, and by a trampoline with traps in the jump. Nothing piles up in the process, and the last round takes
/// no longer than the first.
#[test]
fn a_hot_function_goes_back_and_forth_under_four_threads() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2", "-static"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    let rounds = if incise_tests::long() { 1000 } else { 100 };
    let code = lines(&["inspect", "-p", &pid, "answer", "-n", "12", "--json"]);
    let short = code.iter().find(|line| {
        // In its middle others begin: a jump over it covers them.
        line["bytes"].as_str().is_some_and(|bytes| bytes.replace(' ', "").len() <= 6)
    });
    let short = short.and_then(|line| line["address"].as_str()).expect("a short instruction").to_owned();
    let changes: [&[&str]; 4] = [
        &["answer", "--return", "77"],
        &["answer", "-n", "2", LONG],
        &[&short, LONG],
        &["answer", "mov eax, 77; ret"],
    ];
    let before = Snapshot::take(waiting.child.id());
    let (mut least, mut times) = (usize::MAX, Vec::new());
    for round in 0..rounds {
        let began = Instant::now();
        said(&[&["patch", "-p", &pid], changes[round % changes.len()]].concat());
        assert_eq!(waiting.knock().1, "77 a greeting in data\n", "round {round}");
        said(&["undo", "-p", &pid]);
        assert_eq!(waiting.knock().1, "42 a greeting in data\n", "round {round}");
        times.push(began.elapsed());
        if round == 1 {
            least = mappings(&pid);
        }
    }
    let most = least + 4;
    assert!(mappings(&pid) <= most, "{} mappings, {least} after two rounds", mappings(&pid));
    // The quickest of many: what else goes on on the machine does not count.
    let quickest = |times: &[Duration]| times.iter().min().copied().unwrap_or_default();
    let (first, last) = (quickest(&times[..rounds / 4]), quickest(&times[rounds - rounds / 4..]));
    assert!(last < first * 2, "a round took {first:?} at first, {last:?} in the end");
    println!("{rounds} rounds, {first:?} each at first, {last:?} in the end");
    let after = Snapshot::take(waiting.child.id());
    for (start, bytes) in &before.code {
        let same = after.code.get(start).is_some_and(|code| code[..bytes.len()] == bytes[..]);
        assert!(same, "code at {start:#x}");
    }
    waiting.finish(1);
}

#[test]
fn data_comes_from_a_file_too() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    let found = lines(&["find", "--json", "-p", &pid, "a greeting in data"]);
    let string = found.iter().rfind(|line| line["type"] == "string").expect("a string");
    let bytes = scratch.file("bytes");
    fs::write(&bytes, b"from a file\0").expect("a file");
    let from = format!("@{}", text(&bytes));
    said(&["patch", "-p", &pid, string["start"].as_str().expect("an address"), "--data", &from]);
    assert_eq!(waiting.knock().1, "42 from a file\n");
    said(&["undo", "-p", &pid]);
    assert_eq!(waiting.knock().1, "42 a greeting in data\n");
    waiting.finish(1);
}

#[test]
fn what_is_found_is_in_the_program_as_it_was_run_or_in_memory_that_has_a_name() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let link = scratch.file("castle");
    std::os::unix::fs::symlink(&castle, &link).expect("a link");
    let mut waiting = Waiting::start(&link);
    let pid = waiting.pid();
    waiting.knock();
    for (text, count) in [("a greeting in data", 1), ("e", 10)] {
        let found = lines(&["find", "--json", "-p", &pid, text]);
        let regions: Vec<&str> = found.iter().filter_map(|line| line["region"].as_str()).collect();
        assert!(regions.len() >= count && regions.contains(&"castle"), "{regions:?}");
        assert!(!regions.iter().any(|region| ["waiting", ""].contains(region)), "{regions:?}");
    }
    waiting.finish(1);
}

/// The first waits for a knock in the C library, each where /proc says.
#[test]
fn every_thread_has_its_place() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    let place =
        |place: &str| address(&lines(&["inspect", "-p", &pid, place, "-n", "1", "--json"])[0], "address");
    assert_eq!(place("rip"), place(&format!("rip:{pid}")));
    signal(waiting.child.id(), libc::SIGSTOP);
    let end = Instant::now() + PATIENCE;
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads");
    let threads: Vec<String> =
        threads.map(|entry| entry.expect("a thread").file_name().to_string_lossy().into_owned()).collect();
    assert!(threads.len() > 1);
    for thread in threads {
        let told = || {
            let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")).expect("a thread");
            text.split_whitespace()
                .last()
                .and_then(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok())
        };
        let told = std::iter::repeat_with(told).take_while(|_| Instant::now() < end).find_map(|at| at);
        assert_eq!(Some(place(&format!("rip:{thread}"))), told, "thread {thread}");
    }
    signal(waiting.child.id(), libc::SIGCONT);
    let outcome = told(&["inspect", "-p", &pid, "rip:1"]);
    assert_eq!(outcome.ending, Ending::Exited(125));
    assert!(outcome.error_text().contains("it has no thread 1"), "{}", outcome.error_text());
    waiting.finish(1);
}

/// Whenever the tool is killed while it changes a running program: a thread that comes by runs the old code or the
/// new, and the next run of the tool takes over.
#[test]
fn killed_patches_leave_a_right_program() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2", "-static"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    let rounds = if incise_tests::long() { 200 } else { 10 };
    let untouched = mappings(&pid);
    let began = Instant::now();
    said(&["patch", "-p", &pid, "answer", "--return", "77"]);
    said(&["undo", "-p", &pid]);
    let whole = began.elapsed() / 2;
    let mut seen = [0; 2];
    for round in 0..rounds {
        // By a jump to code elsewhere, and by a trampoline of the engine's.
        let (short, long) = (["answer", "--return", "77"], ["answer", LONG, "-n2"]);
        let change = if round % 4 < 2 { short } else { long };
        let patch = [&["patch", "-p", &*pid][..], &change].concat();
        let arguments: [&[&str]; 2] = [&patch, &["undo", "-p", &pid]];
        let mut tool = Command::new(incise());
        tool.args(arguments[round % 2]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut tool = tool.spawn().expect("the tool");
        // Spread evenly over the whole of a run, and a little more.
        std::thread::sleep(whole.mul_f64(1.2 * (round * 7 % rounds) as f64 / rounds as f64));
        tool.kill().expect("a child");
        tool.wait().expect("a child");
        let (told, own) = waiting.knock();
        assert_eq!(told, LOST, "round {round}");
        let index =
            ["42 a greeting in data\n", "77 a greeting in data\n"].iter().position(|text| *text == own);
        seen[index.unwrap_or_else(|| panic!("round {round}: {own:?}"))] += 1;
    }
    println!("{rounds} kills within {whole:?}: old code {} times, new {} times", seen[0], seen[1]);
    // What a killed run left does not hinder the next: what is listed is what is there, where an undo was killed one
    // patch over another.
    let count = || lines(&["patches", "--json", "-p", &pid]).len();
    while count() > 0 {
        assert!(waiting.knock().1.starts_with("77"), "a patch that is listed is there");
        said(&["undo", "-p", &pid]);
    }
    assert!(waiting.knock().1.starts_with("42"));
    said(&["patch", "-p", &pid, "answer", "--return", "77"]);
    assert!(waiting.knock().1.starts_with("77"));
    said(&["undo", "-p", &pid]);
    assert!(waiting.knock().1.starts_with("42"));
    // Whatever a killed run had mapped, the next ones find and free.
    assert_eq!(mappings(&pid), untouched, "mappings");
    waiting.finish(1);
}

#[test]
fn a_variable_is_set_once_and_what_it_was_and_is_are_told() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2", "-g"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    let before = Snapshot::take(waiting.child.id());
    assert_eq!(
        said(&["set", "-p", &pid, "greeting[0]=72", "greeting[2] = 'Z'"]),
        "greeting[0]: 97 -> 72\ngreeting[2]: 103 -> 90\n"
    );
    assert_eq!(before.difference(&Snapshot::take(waiting.child.id())), None);
    assert_eq!(waiting.knock().1, "42 H Zreeting in data\n");
    assert_eq!(said(&["set", "-p", &pid, "greeting[0]+=25"]), "greeting[0]: 72 -> 97\n");
    for (arguments, parts) in [
        (["set", "-p", &pid, "greting[0]=1"].as_slice(), ["greting", "not known"]),
        (&["set", "-p", &pid, "rax"], ["`rax` is no assignment", "--at"]),
        (
            &["set", "-p", &pid, "--at", "answer", "greeting=1"],
            ["\n  greeting=1\n  ^^^^^^^^\n", "without --at"],
        ),
        (
            &["set", "-p", &pid, "--at", "answer", "rax=1", "--if", "some == 1"],
            ["\n  some == 1\n  ^^^^\n", "called `some`"],
        ),
    ] {
        let outcome = told(arguments);
        assert_eq!(outcome.ending, Ending::Exited(125), "{arguments:?}");
        for part in parts {
            assert!(outcome.error_text().contains(part), "{arguments:?}: {}", outcome.error_text());
        }
    }
    assert_eq!(waiting.knock().1, "42 a Zreeting in data\n");
    waiting.finish(1);
}
