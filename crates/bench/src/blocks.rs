//! `blocks`: what counting every basic block of real programs costs, with either engine, next to running them plainly; and what a
//! counter at a function's entry adds to a call.
//!
//! Processor time of the program alone, in user mode; rounds are interleaved, figures are medians over them.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use clap::Args;
use incise::{CountOptions, Counting, Layout, PointKind, Tactic};
use serde::Serialize;

use crate::Error;
use crate::stats::median;
use crate::table::Table;
use crate::usage::children;

/// Settings of `blocks`.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds; in each, every program runs once plainly and once with each engine
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only these programs
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Megabytes to compress
    #[arg(long, default_value_t = 8)]
    size: usize,
    /// Leave out-of-line alone out: where its traps are hit, programs are a hundred times slower
    #[arg(long)]
    no_out_of_line: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// A program and its work.
struct Subject {
    name: &'static str,
    /// File name of what is counted.
    module: &'static str,
    points: PointKind,
    patterns: &'static [&'static str],
    /// For a shell; `$0` is the input.
    work: &'static str,
    /// Times native that is to be kept.
    bar: f64,
    /// It does not run the same blocks each time.
    varies: bool,
}

const STRIPPED: &[&str] = &["sub_*"];
const ALL: &[&str] = &["*", "sub_*"];
/// Detours of a call by hand, without a counter: what no probe can fall below. The file name's extension tells which.
const BY_HAND: [&str; 2] = ["jump", "pair"];
/// Counts of calls of a small function.
const CALLS: u64 = 200_000_000;

const SUBJECTS: [Subject; 6] = [
    Subject { patterns: STRIPPED, ..subject("gzip", "gzip", "exec gzip -6c $0") },
    subject("bzip2", "libbz2*", "exec bzip2 -c $0"),
    subject("xz", "liblzma*", "exec xz -T1 -1c $0"),
    subject(
        "sqlite3",
        "libsqlite3*",
        // A file for the sorter would have a random name, whose digits are counted too.
        "exec sqlite3 :memory: \"pragma temp_store = memory; create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n \
         where i < 200000) insert into t select i, hex(i * 7919) from n; create index x on t(b); \
         select count(*), max(b), sum(length(b)) from t where b like '3%' or a % 7 = 3 order by b;\"",
    ),
    // What is hashed by its address is not where it was.
    Subject {
        varies: true,
        ..subject(
            "python3",
            "python3.11",
            "exec /usr/bin/python3.11 -S -c \"d = {}\nfor i in range(400000):\n    k = str(i % 5003)\n    d[k] = d.get(k, 0) + len(k) * i\nprint(sorted(d.values())[-3:])\"",
        )
    },
    Subject {
        name: "a call",
        module: "calls",
        points: PointKind::FunctionEntry,
        patterns: &["callee"],
        work: "exec $1",
        bar: f64::INFINITY,
        varies: false,
    },
];

const fn subject(name: &'static str, module: &'static str, work: &'static str) -> Subject {
    Subject { name, module, points: PointKind::BlockEntry, patterns: ALL, work, bar: 2.0, varies: false }
}

const ENGINES: [(&str, Option<Layout>); 3] =
    [("in line", Some(Layout::InLine)), ("by cost", None), ("out of line", Some(Layout::OutOfLine))];

#[derive(Serialize)]
struct Row {
    program: &'static str,
    engine: &'static str,
    points: usize,
    traps: usize,
    hits: u64,
    /// User time in seconds.
    plain: f64,
    probed: f64,
    ratio: f64,
}

pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let input = folder.join("input");
    std::fs::write(&input, text(options.size << 20))?;
    let calls = folder.join("calls");
    compile(&calls)?;
    let mut table =
        Table::new(&["program", "engine", "points", "traps", "hits", "plain s", "probed s", "ratio"]);
    let engines = &ENGINES[..ENGINES.len() - usize::from(options.no_out_of_line)];
    let (mut met, mut out) = (true, std::io::stdout().lock());
    for subject in &SUBJECTS {
        let chosen = options.only.is_empty() || options.only.iter().any(|only| only == subject.name);
        let program = subject.work.split_whitespace().nth(1).unwrap_or_default();
        if !chosen || !(program.starts_with('$') || is_there(program)) {
            continue;
        }
        let words = [input.clone().into_os_string(), calls.clone().into_os_string()];
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); engines.len() + 1];
        let by_hand: &[&str] = if subject.points == PointKind::FunctionEntry { &BY_HAND } else { &[] };
        let mut floors: Vec<Vec<f64>> = vec![Vec::new(); by_hand.len()];
        let mut last = Vec::new();
        for _ in 0..options.rounds {
            times[0].push(plainly(subject, &words)?);
            for (name, times) in by_hand.iter().zip(&mut floors) {
                let program = calls.with_extension(name);
                times.push(plainly(subject, &[input.clone().into_os_string(), program.into_os_string()])?);
            }
            last.clear();
            for (index, (_, layout)) in engines.iter().enumerate() {
                let (time, found) = counted(subject, &words, *layout)?;
                times[index + 1].push(time);
                last.push(found);
            }
        }
        let plain = median(&times[0]);
        if !subject.varies && last.iter().any(|(_, _, hits)| *hits != last[0].2) {
            writeln!(std::io::stderr(), "{}: the engines do not count the same", subject.name)?;
            met = false;
        }
        let counted = engines
            .iter()
            .zip(&times[1..])
            .zip(&last)
            .map(|(((engine, _), times), last)| (*engine, times, *last));
        let by_hand = by_hand.iter().zip(&floors).map(|(name, times)| (*name, times, (0, 0, 0)));
        for (engine, times, (points, traps, hits)) in counted.chain(by_hand) {
            let probed = median(times);
            let row = Row {
                program: subject.name,
                engine,
                points,
                traps,
                hits,
                plain,
                probed,
                ratio: probed / plain,
            };
            met &= row.ratio <= subject.bar || engine == "out of line";
            if options.json {
                writeln!(out, "{}", serde_json::to_string(&row)?)?;
            }
            let ratio = match subject.points {
                PointKind::FunctionEntry => format!("+{:.2} ns", (probed - plain) / CALLS as f64 * 1e9),
                _ => format!("{:.2}", row.ratio),
            };
            let numbers = [points.to_string(), traps.to_string(), hits.to_string()];
            let seconds = [format!("{plain:.3}"), format!("{probed:.3}"), ratio];
            table.row([subject.name.to_owned(), engine.to_owned()].into_iter().chain(numbers).chain(seconds));
        }
    }
    if !options.json {
        table.print(&mut out)?;
        writeln!(out, "bar: 2 times plain, goal 1.5; Dyninst 13: bzip2 2.4, python 2.4")?;
    }
    Ok(met)
}

pub(crate) fn is_there(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

/// The shell, which becomes the program, and its words.
fn command(subject: &Subject, words: &[OsString]) -> (OsString, Vec<OsString>) {
    let script = format!("exec > /dev/null; {}", subject.work);
    ("sh".into(), ["-c".into(), script.into()].into_iter().chain(words.iter().cloned()).collect())
}

fn plainly(subject: &Subject, words: &[OsString]) -> Result<f64, Error> {
    let (shell, words) = command(subject, words);
    let before = children()?.user;
    let status = Command::new(shell).args(words).status()?;
    if !status.success() {
        return Err(format!("{}: {status}", subject.name).into());
    }
    Ok(children()?.user - before)
}

fn counted(
    subject: &Subject,
    words: &[OsString],
    layout: Option<Layout>,
) -> Result<(f64, (usize, usize, u64)), Error> {
    let (shell, words) = command(subject, words);
    let options = CountOptions {
        patterns: subject.patterns.iter().map(|&pattern| pattern.to_owned()).collect(),
        module: Some(subject.module.to_owned()),
        points: subject.points,
        follow: true,
        layout,
        ..CountOptions::default()
    };
    let before = children()?.user;
    let result = Counting::launch(&shell, &words, options)?.run(&AtomicBool::new(false))?;
    let time = children()?.user - before;
    let traps = result.counted.iter().filter(|counted| counted.tactic == Tactic::Trap).count();
    let hits = result.counted.iter().map(|counted| counted.hits).sum();
    Ok((time, (result.counted.len(), traps, hits)))
}

/// Text as people and compilers write it: what lies in the documentation of packages, so many bytes.
pub(crate) fn text(len: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(len);
    let mut folders = vec![PathBuf::from("/usr/share/common-licenses"), PathBuf::from("/usr/lib/python3.11")];
    while let Some(folder) = folders.pop().filter(|_| text.len() < len) {
        let mut paths: Vec<PathBuf> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
        paths.sort();
        for path in paths {
            match path.is_dir() {
                true => folders.push(path),
                false => text.extend(std::fs::read(path).unwrap_or_default()),
            }
        }
    }
    let mut state = 1u64;
    while text.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.extend(format!("{} ", state >> 50).bytes());
    }
    text.truncate(len);
    text
}

/// The program that calls a small function, and the same with a jump to the function's code in another place, and with one there and one
/// back.
fn compile(to: &Path) -> Result<(), Error> {
    let away = |back: &str| {
        format!(
            "__asm__(\".text; .p2align 4; callee: jmp away; back: ret;\"
                     \".pushsection .text.away, \\\"ax\\\"; .skip 1 << 20; .p2align 4; away: lea 1(%rdi), %rax; {back}; .popsection\");
             long callee(long n);"
        )
    };
    let plain =
        "__attribute__((noinline)) long callee(long n) { __asm__ volatile(\"\"); return n + 1; }".to_owned();
    let [jump, pair] = BY_HAND;
    let programs = [
        (to.to_owned(), plain),
        (to.with_extension(jump), away("ret")),
        (to.with_extension(pair), away("jmp back")),
    ];
    for (program, callee) in programs {
        let source = format!(
            "{callee}
             int main(void) {{ long n = 0; for (long i = 0; i < {CALLS}; i++) n = callee(n); return n != {CALLS}; }}"
        );
        let mut gcc = Command::new("gcc")
            .args(["-O2", "-x", "c", "-", "-o"])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()?;
        gcc.stdin.take().ok_or("no pipe")?.write_all(source.as_bytes())?;
        if !gcc.wait()?.success() {
            return Err("gcc failed".into());
        }
    }
    Ok(())
}
