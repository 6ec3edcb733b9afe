//! Patching by hand: the story of docs/live-patching.md on every kind of program, live, at launch and on disk.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use incise_tests::build::incise;
use incise_tests::command::{PATIENCE, run, signal, wait};
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::process::Snapshot;
use incise_tests::scratch::Scratch;
use serde_json::Value;

const SAVED: &str = "Thank you marrrio, *smooch*!\n";
const LOST: &str = "Sorry but our princess is in another castle\n";

/// Every way to build the castle, stripped.
const BUILDS: [&[&str]; 6] = [
    &["-s", "-static"],
    &["-s"],
    &["-s", "-O2"],
    &["-s", "-no-pie"],
    &["-s", "-static-pie"],
    &["-s", "-static", "-O2"],
];

fn build(scratch: &Scratch, source: &str, name: &str, options: &[&str]) -> PathBuf {
    let program = scratch.file(name);
    let source = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/targets")).join(source);
    let mut compiler = Command::new("gcc");
    let outcome = run(compiler.arg("-pthread").args(options).arg("-o").arg(&program).arg(source));
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    program
}

fn told(arguments: &[&str]) -> Outcome {
    run(Command::new(incise()).args(arguments))
}

/// What a command prints; it has to succeed.
fn said(arguments: &[&str]) -> String {
    let outcome = told(arguments);
    assert_eq!(outcome.ending, Ending::Exited(0), "{arguments:?}: {}", outcome.error_text());
    String::from_utf8_lossy(&outcome.stdout).into_owned()
}

fn lines(arguments: &[&str]) -> Vec<Value> {
    let text = said(arguments);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

fn address(value: &Value, key: &str) -> u64 {
    let text = value[key].as_str().unwrap_or("");
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or_else(|_| panic!("no {key} in {value}"))
}

/// The branch nearest to the use of the princess' words, and the option that makes them run.
fn branch(target: &[&str]) -> (String, &'static str) {
    let found = lines(&[&["find", "--json"], target, &["smooch"]].concat());
    let of =
        |kind: &str| found.iter().find(|line| line["type"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    assert!(of("string")["text"].as_str().is_some_and(|text| text.starts_with("Thank you marrrio")));
    let branch = of("branch");
    assert_eq!(branch["use"], of("use")["address"]);
    let option = if branch["taken"] == true { "--always" } else { "--never" };
    (branch["address"].as_str().expect("an address").to_owned(), option)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a name in UTF-8")
}

fn assert_ends(program: &Path, output: &str, code: i32) {
    let outcome = run(&mut Command::new(program));
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), output, "{}", program.display());
    assert_eq!(outcome.ending, Ending::Exited(code));
}

#[test]
fn the_princess_is_saved_at_launch_and_on_disk() {
    let scratch = Scratch::new();
    for (index, options) in BUILDS.iter().enumerate() {
        let castle = build(&scratch, "castle.c", &format!("castle{index}"), options);
        let original = fs::read(&castle).expect("a program");
        assert_ends(&castle, LOST, 1);
        // Where main is, told from the entry code: the first instructions read argc.
        let main = lines(&["inspect", text(&castle), "main", "-n", "1", "--json"]);
        let main = address(&main[0], "address");
        let (branch, option) = branch(&[text(&castle)]);
        let offset = u64::from_str_radix(&branch[2..], 16).expect("an address") - main;
        assert!(offset < 64, "{options:?}: the branch is {offset} bytes behind main");

        // At launch, and kept on disk with it.
        let kept = scratch.file(&format!("kept{index}"));
        let place = format!("main+{offset:#x}");
        let outcome = told(&["patch", &place, option, "--save", text(&kept), "--", text(&castle)]);
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), SAVED, "{options:?}: {}", outcome.error_text());
        assert_eq!(outcome.ending, Ending::Exited(0));
        assert_ends(&kept, SAVED, 0);
        assert_ends(&castle, LOST, 1);

        // On disk, by code that is longer than the branch: no branch at all.
        let (long, patch) = (scratch.file(&format!("long{index}")), scratch.file("castle.patch"));
        let found = lines(&["find", "--json", text(&castle), "smooch"]);
        let used = found.iter().find(|line| line["type"] == "use").expect("a use");
        let code = format!(
            "xor ecx, ecx; 1: inc ecx; cmp ecx, 100; jne 1b; jmp {}",
            used["address"].as_str().expect("an address")
        );
        said(&["patch", text(&castle), &branch, &code, "-o", text(&long)]);
        assert_ends(&long, SAVED, 0);

        // Turned round: argc is one, so the other words come.
        let turned = scratch.file("turned");
        said(&["patch", text(&castle), &branch, "--invert", "-o", text(&turned)]);
        assert_ends(&turned, SAVED, 0);

        // As a patch file, checked, and applied to the original.
        fs::write(&patch, said(&["patches", "--export", text(&kept)])).expect("a new file");
        said(&["apply", text(&patch), text(&castle), "--check"]);
        let applied = scratch.file("applied");
        said(&["apply", text(&patch), text(&castle), "-o", text(&applied)]);
        assert_eq!(fs::read(&applied).ok(), fs::read(&kept).ok());
        let again = told(&["apply", text(&patch), text(&applied), "--check"]);
        assert!(again.error_text().contains("expected"), "{}", again.error_text());

        // Taken back, bit for bit: one of two, and all.
        said(&["patch", text(&kept), "main", "--nop", "-n", "1", "--in-place"]);
        assert_eq!(lines(&["patches", "--json", text(&kept)]).len(), 2);
        said(&["undo", text(&kept), "2"]);
        assert_eq!(fs::read(&kept).ok(), fs::read(&applied).ok(), "{options:?}");
        said(&["undo", text(&kept), "1"]);
        said(&["undo", text(&long)]);
        assert!(fs::read(&kept).is_ok_and(|bytes| bytes == original), "{options:?}");
        assert!(fs::read(&long).is_ok_and(|bytes| bytes == original), "{options:?}");
        assert!(fs::read(&castle).is_ok_and(|bytes| bytes == original), "{options:?}");
    }
}

/// A castle that waits.
struct Waiting {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Waiting {
    fn start(program: &Path) -> Waiting {
        let mut command = Command::new(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the castle");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut waiting = Waiting { input: child.stdin.take(), output, child };
        assert_eq!(waiting.line(), "ready\n");
        waiting
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("readable");
        line
    }

    /// Knocks: what the castle says, and the line of its own data.
    fn knock(&mut self) -> (String, String) {
        self.input.as_mut().expect("not closed").write_all(b"\n").expect("it reads");
        (self.line(), self.line())
    }

    /// Ends it; no thread may have seen anything wrong.
    fn finish(mut self, code: i32) {
        drop(self.input.take());
        assert_eq!(self.line(), "wrong 0\n");
        assert_eq!(wait(&mut self.child, PATIENCE).map(Ending::from), Some(Ending::Exited(code)));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_princess_is_saved_in_a_running_process() {
    let scratch = Scratch::new();
    for options in BUILDS {
        let castle = build(&scratch, "waiting_castle.c", "waiting", options);
        let mut waiting = Waiting::start(&castle);
        let pid = waiting.pid();
        assert_eq!(waiting.knock().0, LOST);
        let before = Snapshot::take(waiting.child.id());
        let (branch, option) = branch(&["-p", &pid]);
        let outcome = told(&["patch", "-p", &pid, &branch, option, "--expect", "90"]);
        assert_eq!(outcome.ending, Ending::Exited(125), "other bytes are there");
        assert_eq!(before.difference(&Snapshot::take(waiting.child.id())), None);
        said(&["patch", "-p", &pid, &branch, option]);
        assert_eq!(waiting.knock().0, SAVED, "{options:?}");
        // The tool is gone; whoever comes later finds what it did.
        let listed = lines(&["patches", "-p", &pid, "--json"]);
        assert_eq!((listed.len(), &listed[0]["id"], &listed[0]["change"]), (1, &1.into(), &option.into()));
        assert!(said(&["inspect", "-p", &pid, &branch, "-n", "2"]).contains(&format!("patch 1: {option}")));
        said(&["undo", "-p", &pid, "1"]);
        assert_eq!(waiting.knock().0, LOST, "{options:?}");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        assert!(status.contains("TracerPid:\t0"));
        for (start, bytes) in &before.code {
            let after = Snapshot::take(waiting.child.id());
            assert!(
                after.code.get(start).is_some_and(|code| code[..bytes.len()] == bytes[..]),
                "{options:?}"
            );
        }
        waiting.finish(1);
    }
}

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

/// How many mappings a process has.
fn mappings(pid: &str) -> usize {
    fs::read_to_string(format!("/proc/{pid}/maps")).expect("it runs").lines().count()
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
    let long = "mov eax, 77; push rcx; mov ecx, 100; 1: dec ecx; jnz 1b; pop rcx; ret";
    let short = code.iter().find(|line| {
        // In its middle others begin: a jump over it covers them.
        line["bytes"].as_str().is_some_and(|bytes| bytes.replace(' ', "").len() <= 6)
    });
    let short = short.and_then(|line| line["address"].as_str()).expect("a short instruction").to_owned();
    let changes: [&[&str]; 4] = [
        &["answer", "--return", "77"],
        &["answer", "-n", "2", long],
        &[&short, long],
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
    let began = Instant::now();
    said(&["patch", "-p", &pid, "answer", "--return", "77"]);
    said(&["undo", "-p", &pid]);
    let whole = began.elapsed() / 2;
    let mut seen = [0; 2];
    for round in 0..rounds {
        let arguments: [&[&str]; 2] =
            [&["patch", "-p", &pid, "answer", "--return", "77"], &["undo", "-p", &pid]];
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
    waiting.finish(1);
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let scratch = Scratch::new();
    let castle = build(&scratch, "castle.c", "castle", &["-O2"]);
    let out = scratch.file("out");
    let (empty, absent) = (scratch.file("empty"), scratch.file("absent"));
    fs::write(&empty, []).expect("a file");
    let from = [&empty, &absent].map(|path| format!("@{}", text(path)));
    let cases: [(&[&str], &str); 11] = [
        (&["main", "--data", &from[0]], "is empty"),
        (&["main", "--data", &from[1]], "cannot read"),
        (&["rip:1", "--nop"], "in a running process only"),
        (&["main", "--invert"], "is no conditional branch"),
        (&["main", "mvo eax, 1"], "did you mean mov?"),
        (&["nowhere", "--nop"], "nowhere"),
        (&["*0x10", "--nop"], "no code"),
        (&["*0x99999999", "--nop"], "nothing to read"),
        (&["main", "--nop", "--expect", "cc"], "expected cc"),
        (&["main"], "change it to what"),
        (&["main", "--bytes", "9"], "hexadecimal"),
    ];
    for (arguments, part) in cases {
        let outcome = told(&[&["patch", text(&castle)], arguments, &["-o", text(&out)]].concat());
        assert_eq!(outcome.ending, Ending::Exited(125), "{arguments:?}");
        assert!(outcome.error_text().contains(part), "{arguments:?}: {}", outcome.error_text());
        assert!(!out.exists());
    }
}

#[test]
fn registers_and_memory_are_set_when_a_thread_comes_by() {
    let scratch = Scratch::new();
    for options in [&["-s", "-static"][..], &["-s"], &["-s", "-no-pie"], &["-s", "-static-pie"]] {
        let castle = build(&scratch, "castle.c", "castle", options);
        // argc, as the tutorial sets it: where it is compared.
        let compare = lines(&["inspect", text(&castle), "main", "--json"]);
        let main = address(&compare[0], "address");
        let compare =
            compare.iter().find(|line| line["text"].as_str().is_some_and(|text| text.starts_with("cmp")));
        let place = format!("main+{:#x}", address(compare.expect("a comparison"), "address") - main);
        let outcome = told(&["set", "--at", &place, "[rbp-4]=0", "--", text(&castle)]);
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), SAVED, "{options:?}: {}", outcome.error_text());
        let outcome = told(&["set", "--at", &place, "--if", "[rbp-4] > 1", "[rbp-4]=0", "--", text(&castle)]);
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), LOST, "{options:?}: {}", outcome.error_text());
    }
    let castle = build(&scratch, "waiting_castle.c", "waiting", &["-O2"]);
    let mut waiting = Waiting::start(&castle);
    let pid = waiting.pid();
    said(&["set", "-p", &pid, "--at", "enter", "--times", "2", "edi=0"]);
    let heard: Vec<String> = (0..4).map(|_| waiting.knock().0).collect();
    assert_eq!(heard, [SAVED, SAVED, LOST, LOST]);
    said(&["undo", "-p", &pid]);
    assert_eq!(waiting.knock().0, LOST);
    waiting.finish(1);
}
