//! `incise run`: scripts on compiled programs. What they show is compared with what the program's source says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use incise_tests::build::incise;
use incise_tests::command::run;
use incise_tests::outcome::{Ending, Outcome};
use incise_tests::scratch::Scratch;
use incise_tests::skip::need_program;
use serde_json::Value;

/// What `step_by` is called with, one after the other (targets/scripted.c).
const STEPS: [i64; 6] = [3, 0, 5, 0, 2, 1];

/// A folder with the compiled program in it.
struct Scripted {
    scratch: Scratch,
    program: PathBuf,
}

impl Scripted {
    fn new(level: &str) -> Option<Scripted> {
        need_program("gcc")?;
        let scratch = Scratch::new();
        let program = scratch.file("scripted");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/targets/scripted.c");
        let built = run(Command::new("gcc").args([level, "-g", source, "-o"]).arg(&program));
        assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
        Some(Scripted { scratch, program })
    }

    /// What a script shows, apart from what the program does; both have to go well.
    fn shows(&self, options: &[&str], script: &str) -> String {
        let (outcome, text) = self.run(options, script);
        assert_eq!(outcome.ending, Ending::Exited(0), "{script}\n{}", outcome.error_text());
        assert_eq!(outcome.error_text(), "", "{script}");
        assert_eq!(outcome.stdout, self.alone().stdout, "the program's own output");
        text
    }

    fn alone(&self) -> Outcome {
        run(&mut Command::new(&self.program))
    }

    fn run(&self, options: &[&str], script: &str) -> (Outcome, String) {
        let file = self.scratch.file("shown");
        let mut command = Command::new(incise());
        command.arg("run").args(options).arg("-o").arg(&file).args(["-e", script]);
        let outcome = run(command.arg("--").arg(&self.program));
        (outcome, std::fs::read_to_string(&file).unwrap_or_default())
    }

    /// The entries of maps: by map and key, the value.
    fn maps(&self, script: &str) -> BTreeMap<(String, String), Value> {
        let text = self.shows(&["--json"], script);
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let maps = lines.filter(|line| line["type"] == "map");
        maps.map(|line| {
            (
                (line["map"].as_str().unwrap_or_default().into(), line["key"].to_string()),
                line["value"].clone(),
            )
        })
        .collect()
    }
}

fn both() -> Vec<Scripted> {
    ["-O0", "-O2"].into_iter().filter_map(Scripted::new).collect()
}

#[test]
fn the_slide_runs_unchanged() {
    let slide = "if (x == 0) {\n inf`printf(\"x == 0\\n\");\n} else if (x > 3) {\n inf`printf(\"x > 3\\n\");\n} else {\n inf`printf(\"x < 3 but x != 0\\n\");\n}";
    for scripted in both() {
        let (outcome, _) = scripted.run(&[], &format!("function:step_by:exit {{ {slide} }}"));
        // Where only a trap fits, that is told; nothing else is.
        let told = outcome.error_text();
        let complaints: Vec<&str> = told.lines().filter(|line| !line.contains(" is a trap, ")).collect();
        assert_eq!((&outcome.ending, complaints), (&Ending::Exited(0), vec![]));
        let said = |x: i64| match x {
            0 => "x == 0\n",
            4.. => "x > 3\n",
            _ => "x < 3 but x != 0\n",
        };
        let wanted: String = STEPS.into_iter().map(said).collect();
        let own = String::from_utf8(scripted.alone().stdout).expect("text");
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), wanted + &own);
    }
}

#[test]
fn variables_have_the_values_of_the_program() {
    for scripted in both() {
        let script = "function:step_by { printf(\"%d %d %d %d\\n\", by, x, mood, ANGRY); }";
        let before = [0].into_iter().chain(STEPS);
        let wanted: String = STEPS.iter().zip(before).map(|(by, x)| format!("{by} {x} 7 7\n")).collect();
        assert_eq!(scripted.shows(&[], script), wanted);
        // Behind pointers, in structures, in a loop; and a text.
        let script = "function:length_of { if (list->next) printf(\"%d %d %s\\n\", list->number, list->next->inner.kind, str(list->inner.name)); }";
        let line =
            |n: i64| format!("{n} {} {}\n", (n - 1) * (n - 1), if n % 2 == 1 { "odd" } else { "even" });
        assert_eq!(scripted.shows(&[], script), (1..10).map(line).collect::<String>());
        let script = "function:half { printf(\"%g %g\\n\", value, scale); } function:length_of:exit { @[retval] = count(); }";
        let text = scripted.shows(&[], script);
        assert!(text.starts_with("8.5 0.5\n\n@[1]: 1\n"), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("@[")).count(), 10);
    }
}

#[test]
fn maps_gather_what_the_program_does() {
    for scripted in both() {
        let maps = scripted.maps(
            "function:step_by { @n = count(); @sum = sum(by); @least = min(by); @most = max(by); @mean = avg(by); @all = stats(by); @by[by > 1] = count(); @last = by; }
             function:put { @sizes = hist(size); @steps = lhist(size, 0, 100, 10); @texts[str(text)] = count(); }",
        );
        let of = |map: &str, key: &str| maps[&(map.to_owned(), key.to_owned())].clone();
        let sum: i64 = STEPS.iter().sum();
        assert_eq!((of("@n", "[]"), of("@sum", "[]")), (6.into(), sum.into()));
        assert_eq!(
            (of("@least", "[]"), of("@most", "[]"), of("@last", "[]")),
            (0.into(), 5.into(), 1.into())
        );
        assert_eq!(of("@mean", "[]"), serde_json::json!({ "count": 6, "sum": sum }));
        assert_eq!(of("@all", "[]"), serde_json::json!({ "count": 6, "sum": sum, "min": 0, "max": 5 }));
        assert_eq!((of("@by", "[1]"), of("@by", "[0]")), (3.into(), 3.into()));
        // A power of two in each bucket: 1, 2, 4, …, 1024.
        let buckets = of("@sizes", "[]")["buckets"].as_array().expect("buckets").clone();
        assert_eq!(buckets.len(), 11);
        assert!(
            buckets.iter().enumerate().all(|(i, bucket)| bucket["from"] == 1 << i && bucket["count"] == 1)
        );
        let steps = of("@steps", "[]")["buckets"].as_array().expect("buckets").clone();
        assert_eq!((&steps[0]["count"], &steps.last().expect("the rest")["count"]), (&4.into(), &4.into()));
        assert_eq!(
            (of("@texts", "[\"short\"]"), of("@texts", "[\"a text that is longer\"]")),
            (4.into(), 7.into())
        );
    }
}

#[test]
fn entries_and_exits_make_durations() {
    for scripted in both() {
        let script = "function:step_by { @start[tid] = nsecs; }
                      function:step_by:exit /@start[tid]/ { @ns = stats(nsecs - @start[tid]); delete(@start[tid]); }";
        let maps = scripted.maps(script);
        assert_eq!(maps.len(), 1, "{maps:?}");
        let stats = &maps[&("@ns".to_owned(), "[]".to_owned())];
        assert_eq!(stats["count"], STEPS.len());
        assert!(stats["max"].as_i64().is_some_and(|most| (1..1_000_000_000).contains(&most)), "{stats}");
    }
}

#[test]
fn points_of_every_kind() {
    for scripted in both() {
        let maps = scripted.maps(
            "block:length_of { @blocks = count(); } insn:scripted:half { @instructions = count(); }
             function:main:call { @calls[comm, func] = count(); } function:length_of { @[probe] = count(); @stack[ustack(2)] = count(); }",
        );
        let of = |map: &str, key: &str| maps[&(map.to_owned(), key.to_owned())].as_u64().expect("a count");
        assert!(of("@instructions", "[]") > 2);
        assert!(of("@blocks", "[]") > 55, "each list is walked");
        assert!(of("@calls", "[\"scripted\",\"main\"]") > 30);
        assert_eq!(of("@", "[\"function:scripted:length_of\"]"), 10);
    }
}

/// Without frame pointers, from the function that calls the probed one out to the first: at entries, exits and inside.
#[test]
fn stacks_are_walked_by_the_unwind_tables() {
    for scripted in both() {
        for place in ["entry", "exit", "block", "instruction"] {
            let maps =
                scripted.maps(&format!("function:length_of:{place} /tid == pid/ {{ @[ustack] = count(); }}"));
            let all: u64 = maps.values().map(|count| count.as_u64().expect("a count")).sum();
            assert!(all >= 10, "{place}: {maps:?}");
            for (_, stack) in maps.keys() {
                let stack: Vec<Vec<String>> = serde_json::from_str(stack).expect("frames");
                let [first, .., last] = &stack[0][..] else { panic!("{place}: {stack:?}") };
                assert!(first.contains("main") && last.contains("_start"), "{place}: {stack:?}");
            }
        }
    }
}

#[test]
fn clauses_in_the_tool() {
    let Some(scripted) = Scripted::new("-O2") else { return };
    let script = "BEGIN { @greatest = 2; printf(\"%s\\n\", $1); }
                  function:step_by /by > @greatest/ { @greatest = by; @ = count(); }
                  interval:ms:1 { @ticks = count(); }
                  END { printf(\"done\\n\"); print(@greatest); clear(@greatest); clear(@ticks); }";
    let text = scripted.run(&[], script).1;
    // Without the argument nothing runs.
    assert_eq!(text, "");
    let file = scripted.scratch.file("shown");
    let mut command = Command::new(incise());
    command.arg("run").arg("-o").arg(&file).args(["-e", script, "hello", "--"]).arg(&scripted.program);
    let outcome = run(&mut command);
    assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
    let text = std::fs::read_to_string(&file).expect("what it shows");
    assert_eq!(text, "hello\ndone\n\n@greatest: 5\n\n@: 2\n");
    // Without a program.
    let mut alone = Command::new(incise());
    let outcome =
        run(alone.args(["run", "-e", "BEGIN { printf(\"hello world\\n\"); } interval:ms:5 { exit(); }"]));
    assert_eq!((outcome.ending, outcome.stdout.as_slice()), (Ending::Exited(0), &b"hello world\n"[..]));
}

#[test]
fn what_is_wrong_is_underlined_and_nothing_runs() {
    let Some(scripted) = Scripted::new("-O0") else { return };
    for (script, wanted) in [
        ("function:step_by { printf(\"%d\\n\", beffore); }", "did you mean `before`"),
        ("function:step_by { @ = cuont(); }", "did you mean `count"),
        ("function:step_yb { @ = count(); }", "step_by"),
        ("function:length_of { printf(\"%d\\n\", list->numbr); }", "did you mean `number`"),
        ("function:step_by { printf(\"%d\\n\", arg0 }", "╭─[ script:1"),
        ("function:step_by:exit { @ = sum(arg0); }", "at the entry of a function only"),
        ("kprobe:vfs_read { @ = count(); }", "not in the kernel"),
        ("function:step_by { @[kstack] = count(); }", "the kernel is not seen from here"),
        ("function:step_by { system(\"date\"); }", "a script starts no programs"),
        ("function:step_by { @ = count(); } interval:s:1 { print(@other); }", "nothing is put into @other"),
    ] {
        let (outcome, text) = scripted.run(&[], script);
        assert_eq!(outcome.ending, Ending::Exited(125), "{script}");
        assert!(outcome.error_text().contains(wanted), "{script}\n{}", outcome.error_text());
        assert_eq!((outcome.stdout.len(), text.as_str()), (0, ""), "{script}");
    }
}

#[test]
fn a_dry_run_shows_points_and_changes_nothing() {
    let Some(scripted) = Scripted::new("-O2") else { return };
    let (outcome, text) =
        scripted.run(&["--dry-run"], "function:step_by, function:length_of { @[arg0] = count(); }");
    assert_eq!((outcome.ending, outcome.stdout.len()), (Ending::Exited(0), 0), "the program does not run");
    assert!(text.contains("scripted!step_by") && text.contains("scripted!length_of"), "{text}");
    assert_eq!(text.matches("@[arg0]").count(), 2, "{text}");
}

/// A program that forks, or goes on until it is killed.
fn traced(scratch: &Scratch) -> PathBuf {
    let program = scratch.file("traced");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/targets/traced.c");
    let built = run(Command::new("gcc").args(["-O2", "-pthread", source, "-o"]).arg(&program));
    assert_eq!(built.ending, Ending::Exited(0), "{}", built.error_text());
    program
}

#[test]
fn a_script_comes_and_goes_while_the_program_runs() {
    if need_program("gcc").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let mut child = Command::new(traced(&scratch)).arg("goes on").spawn().expect("it starts");
    let pid = child.id().to_string();
    for _ in 0..2 {
        let script = "function:step { @last = arg0; @calls = count(); @by[pid] = count(); }
                      function:step /@last == $1/ { exit(); }
                      interval:ms:300 { exit(); }";
        let outcome = run(Command::new(incise()).args(["run", "-p", &pid, "--json", "-e", script, "0"]));
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let value = |map: &str| &lines.iter().find(|line| line["map"] == map).expect(&text)["value"];
        assert!(value("@calls").as_u64() > Some(10) && value("@calls") == value("@by"), "{text}");
        let key = &lines.iter().find(|line| line["map"] == "@by").expect("keys")["key"];
        assert_eq!(key.to_string(), format!("[{pid}]"));
        assert_eq!(child.try_wait().expect("a child"), None, "it goes on");
    }
    // The third call ends it, and nothing else.
    let script = "BEGIN { @n = 0; } function:step { @n++; if (@n >= 3) exit(); } END { printf(\"%d\\n\", @n >= 3); clear(@n); }";
    let outcome = run(Command::new(incise()).args(["run", "-p", &pid, "-e", script]));
    assert_eq!((outcome.ending, outcome.stdout.as_slice()), (Ending::Exited(0), &b"1\n"[..]));
    assert_eq!(child.try_wait().expect("a child"), None, "it goes on");
    child.kill().expect("it is there");
    child.wait().expect("a child");
}

#[test]
fn children_are_followed_on_request() {
    if need_program("gcc").is_none() {
        return;
    }
    let scratch = Scratch::new();
    let program = traced(&scratch);
    for (options, processes) in [(&["-f"][..], 11), (&[], 1)] {
        let mut command = Command::new(incise());
        command.arg("run").args(options).args(["-e", "function:step { @[pid] = count(); }", "--json", "-o"]);
        let file = scratch.file("shown");
        let outcome = run(command.arg(&file).arg("--").arg(&program).args(["forks", "10"]));
        assert_eq!(outcome.ending, Ending::Exited(0), "{}", outcome.error_text());
        let text = std::fs::read_to_string(&file).expect("what it shows");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let counts: Vec<u64> = lines.filter_map(|line| line["value"].as_u64()).collect();
        assert_eq!((counts.len(), counts.iter().sum::<u64>()), (processes, 9 + processes as u64), "{text}");
    }
}

#[test]
fn loads_from_nowhere_end_a_run_and_are_counted() {
    let Some(scripted) = Scripted::new("-O2") else { return };
    let (outcome, text) = scripted
        .run(&[], "function:step_by { @before = count(); @ = sum(*(int *)(long)by); @after = count(); }");
    assert_eq!((&outcome.ending, &outcome.stdout), (&Ending::Exited(0), &scripted.alone().stdout));
    assert!(outcome.error_text().contains("6 runs ended early: at memory that is not there"));
    assert_eq!(text, "\n@before: 6\n");
}

/// Numbers that look random.
struct Numbers(u64);

impl Numbers {
    /// One below `end`.
    fn below(&mut self, end: usize) -> usize {
        // xorshift64 (Marsaglia, 2003)
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

/// What snippets read.
const READ: [&str; 24] = [
    "reg`rax",
    "reg`rbx",
    "reg`rcx",
    "reg`rdx",
    "reg`rsi",
    "reg`rdi",
    "reg`rbp",
    "reg`rsp",
    "reg`r8",
    "reg`r9",
    "reg`r10",
    "reg`r11",
    "reg`r12",
    "reg`r13",
    "reg`r14",
    "reg`r15",
    "reg`rflags",
    "(long)reg`rip",
    "tid",
    "cpu",
    "(long)point`effective_address",
    "point`bytes_accessed",
    "*(long *)reg`rsp",
    "cycles",
];

/// A statement that reads much and may end early.
fn statement(numbers: &mut Numbers, index: usize) -> String {
    let (a, b) = (numbers.of(&READ), numbers.of(&READ));
    match numbers.below(9) {
        0 => format!("@s{index} = sum({a} ^ {b});"),
        1 => format!("if ({a} > {b}) @c{index} = count();"),
        2 => format!("@h{index} = hist({a} & 0xffff);"),
        3 => format!("for (int i{index} = 0; i{index} < 3; i{index}++) @l{index} = max({a} + i{index});"),
        4 => format!(
            "if (point`effective_address) @b{index} = sum(*(unsigned char *)point`effective_address);"
        ),
        5 => format!("double d{index} = {a}; @d{index} = max((long)sqrt(d{index} * 0.5) + {b});"),
        6 => format!("@k{index}[comm, {a} & 7] = count();"),
        7 => format!("@t{index}[str((unsigned long)({a}), 8)] = count();"),
        _ => format!("static long n{index} = 0; n{index} += {a} / ({b} & 1);"),
    }
}

/// What snippets read at any instruction changes nothing: output and exit code of real programs are the same, in line and called,
/// whether runs end early or not.
#[test]
fn programs_cannot_tell_what_snippets_read() {
    let query = "create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n where i < 300) \
                 insert into t select i, hex(i * i) from n; select count(*), sum(a), max(b) from t where b like '%9%';";
    let programs: [(&[&str], &str, &[&str]); 2] = [
        (
            &["sqlite3", ":memory:", query],
            "libsqlite3.so.0",
            &[
                "sqlite3_step",
                "sqlite3_prepare_v2",
                "sqlite3_column_text",
                "sqlite3_malloc",
                "sqlite3_free",
                "sqlite3_bind_int",
                "sqlite3_finalize",
                "sqlite3_value_text",
                "sqlite3_result_text",
                "sqlite3_mprintf",
            ],
        ),
        (
            &["gzip", "-9", "-c", "/usr/bin/env"],
            "libc.so.6",
            &["read", "write", "malloc", "free", "calloc", "exit", "close", "fstat", "signal", "lseek"],
        ),
    ];
    let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
    for (program, module, functions) in programs {
        if need_program(program[0]).is_none() {
            continue;
        }
        let alone = run(Command::new(program[0]).args(&program[1..]));
        assert_eq!(alone.ending, Ending::Exited(0), "{program:?}");
        for _ in 0..if incise_tests::long() { 40 } else { 3 } {
            let clauses: Vec<String> = (0..3)
                .map(|clause| {
                    let count = 1 + numbers.below(4);
                    let body: Vec<String> =
                        (0..count).map(|index| statement(&mut numbers, 10 * clause + index)).collect();
                    let function = numbers.of(functions);
                    let kind = numbers.of(&["instruction", "instruction", "block"]);
                    format!("{kind}:{module}:{function} {{ {} }}", body.join(" "))
                })
                .collect();
            let script = clauses.join("\n");
            let mut command = Command::new(incise());
            command.args(["run", "-o", "/dev/null", "-e", &script, "--"]).args(program);
            let outcome = run(&mut command);
            assert_eq!(outcome.ending, alone.ending, "{script}\n{}", outcome.error_text());
            assert!(outcome.stdout == alone.stdout, "{script}\n{}", outcome.error_text());
        }
    }
}
