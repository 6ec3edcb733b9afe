//! `instructions`: what a counter at every instruction of real programs and of their libraries costs, next to running them plainly.
//!
//! Processor time of the program alone, in user mode: planning is the tracer's. A program runs plainly and counted by turns; what is
//! told is the median over these pairs. Both have to write the same.

use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use clap::Args;
use incise::{CountOptions, Counting, PointKind, Tactic};
use serde::Serialize;

use crate::Error;
use crate::blocks::{is_there, text};
use crate::stats::median;
use crate::table::Table;
use crate::usage::children;

/// Settings of `instructions`.
#[derive(Args)]
pub(crate) struct Options {
    /// Pairs of a plain and a counted run of each program
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only these programs
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// A counter at every instruction, though most counts follow from others
    #[arg(long)]
    exact: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// A program, what is counted and its work.
struct Subject {
    name: &'static str,
    /// File names of what is counted.
    modules: &'static [&'static str],
    /// For a shell, in a folder of its own.
    work: &'static str,
    /// Times native that is to be kept.
    bar: f64,
}

const ELSE: f64 = f64::INFINITY;

const SUBJECTS: [Subject; 7] = [
    Subject { name: "bash", modules: &["bash"], work: BASH, bar: 3.0 },
    Subject { name: "bash and libc", modules: &["bash", "libc.so.6"], work: BASH, bar: ELSE },
    Subject {
        name: "perl",
        modules: &["perl", "libperl.so*", "libc.so.6"],
        work: "exec perl -e 'my (%h, @a); for my $i (1 .. 2000000) { my $k = $i * 7919 % 5003; $h{$k} .= chr(97 + $i % 26); \
               push @a, $k if $h{$k} =~ /a.*z$/; $h{$k} = \"\" if length $h{$k} > 40; } \
               print join(\",\", map { \"$_$h{$_}\" } sort { $a <=> $b } keys %h), scalar @a, \"\\n\"'",
        bar: ELSE,
    },
    Subject {
        name: "git",
        modules: &["git", "libc.so.6", "libz.so*"],
        work: "exec git -C history log --patch --stat --no-color",
        bar: ELSE,
    },
    Subject {
        name: "openssl",
        modules: &["openssl", "libcrypto.so*", "libssl.so*", "libc.so.6"],
        work: "for d in sha256 sha3-512 blake2b512 sha512 ripemd160 sm3; do openssl dgst -$d input input input input; done; \
               openssl enc -aes-256-cbc -pbkdf2 -S 0123456789abcdef -k word -in input | tail -c 64 | od -x; \
               openssl enc -base64 -in input | tail -n 2; exec openssl asn1parse -in certificate -inform PEM -dump",
        bar: ELSE,
    },
    Subject {
        name: "python3",
        modules: &["python3.11", "libc.so.6"],
        work: "exec /usr/bin/python3.11 -S -c \"d = {}\nfor i in range(2000000):\n    k = str(i % 5003)\n    d[k] = d.get(k, 0) + len(k) * i\n\
               print(sorted(d.values())[-3:])\"",
        bar: ELSE,
    },
    Subject {
        name: "sqlite3",
        modules: &["sqlite3", "libsqlite3.so*", "libc.so.6"],
        work: "exec sqlite3 :memory: \"create table t(a, b); with recursive n(i) as (select 1 union all select i + 1 from n \
               where i < 600000) insert into t select i, hex(i * 7919) from n; create index x on t(b); \
               select count(*), max(b), sum(length(b)) from t where b like '3%' or a % 7 = 3 order by b;\"",
        bar: ELSE,
    },
];

/// Calls of functions, arithmetic, arrays, patterns and strings.
const BASH: &str = "exec bash --norc -c 'f() { local a=$1; s=$((s + a * 3 % 7)); }
for ((i = 0; i < 100000; i++)); do
    f $i
    arr[i % 100]=$((i + ${arr[(i + 1) % 100]:-0} % 1000))
    case $i in *7) x=${x:0:20}$i ;; *) y=\"$i-${#x}\" ;; esac
    if [[ $y == *5* && $i -gt 10 ]]; then z=${y//5/q}; fi
done
echo $s ${#arr[@]} $x $z'";

/// What has to be there before the work: a repository with a history, input for ciphers.
const PREPARE: &str = "mkdir history && cd history && git init --quiet && git config user.name n && git config user.email n@n && \
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do \
        awk -v n=$i '{ if (NR % (n + 40) == 0) print n, $0; else print }' ../lines > file && git add file && \
        git commit --quiet --message \"change $i\"; done; cd ..; \
    openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out certificate -subj /CN=name";

#[derive(Serialize)]
struct Row {
    program: &'static str,
    points: usize,
    /// Those whose counts follow from others.
    inferred: usize,
    traps: usize,
    refused: usize,
    hits: u64,
    /// User time in seconds.
    plain: f64,
    counted: f64,
    ratio: f64,
}

pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let input = text(4 << 20);
    std::fs::write(folder.join("lines"), &input[..input.len() / 2])?;
    std::fs::write(folder.join("input"), input)?;
    let mut prepare = Command::new("sh");
    prepare.args(["-c", PREPARE]).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    prepare.status()?;
    let mut table = Table::new(&[
        "program",
        "points",
        "inferred",
        "traps",
        "refused",
        "hits",
        "plain s",
        "counted s",
        "ratio",
    ]);
    let (mut met, mut out) = (true, std::io::stdout().lock());
    for subject in &SUBJECTS {
        let chosen = options.only.is_empty() || options.only.iter().any(|only| only == subject.name);
        let mut words = subject.work.split_whitespace();
        let program = words.find(|word| *word != "exec").unwrap_or_default();
        if !chosen || !is_there(program) {
            continue;
        }
        let row = measure(subject, options, folder)?;
        met &= row.ratio <= subject.bar;
        if options.json {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        }
        let numbers = [row.points, row.inferred, row.traps, row.refused].map(|number| number.to_string());
        let times = [format!("{:.2}", row.plain), format!("{:.2}", row.counted), format!("{:.2}", row.ratio)];
        let cells = std::iter::once(row.program.to_owned()).chain(numbers);
        table.row(cells.chain([row.hits.to_string()]).chain(times));
    }
    if !options.json {
        table.print(&mut out)?;
        writeln!(out, "bar: 3 times plain for bash; E9Patch 1.0.1: a loop of bash 6.3, grouped")?;
    }
    Ok(met)
}

fn measure(subject: &Subject, options: &Options, folder: &Path) -> Result<Row, Error> {
    let (mut plain, mut counted, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut row = None;
    for _ in 0..options.rounds.max(1) {
        let (before, after) = (folder.join("plain"), folder.join("counted"));
        plain.push(plainly(subject, folder, &before)?);
        let (time, found) = count(subject, options, folder, &after)?;
        if std::fs::read(&before)? != std::fs::read(&after)? {
            return Err(format!("{}: the output differs", subject.name).into());
        }
        counted.push(time);
        ratios.push(time / plain[plain.len() - 1]);
        row = Some(found);
    }
    let row = row.ok_or("no round")?;
    Ok(Row { plain: median(&plain), counted: median(&counted), ratio: median(&ratios), ..row })
}

/// The words of a shell that does the work in `folder` and writes to `output`.
fn words(subject: &Subject, folder: &Path, output: &Path) -> Vec<OsString> {
    let script = format!("cd \"$0\"; exec > \"$1\"; {}", subject.work);
    vec!["-c".into(), script.into(), folder.into(), output.into()]
}

fn plainly(subject: &Subject, folder: &Path, output: &Path) -> Result<f64, Error> {
    let before = children()?.user;
    let status = Command::new("sh").args(words(subject, folder, output)).status()?;
    if !status.success() {
        return Err(format!("{}: {status}", subject.name).into());
    }
    Ok(children()?.user - before)
}

fn count(subject: &Subject, options: &Options, folder: &Path, output: &Path) -> Result<(f64, Row), Error> {
    // Functions with names, and those without.
    let patterns = subject.modules.iter().flat_map(|module| ["*", "sub_*"].map(|p| format!("{module}!{p}")));
    let settings = CountOptions {
        patterns: patterns.collect(),
        points: PointKind::BeforeInstruction,
        exact: options.exact,
        follow: true,
        ..CountOptions::default()
    };
    let before = children()?.user;
    let counting = Counting::launch(&"sh".into(), &words(subject, folder, output), settings)?;
    let result = counting.run(&AtomicBool::new(false))?;
    let time = children()?.user - before;
    let with = |tactic| result.counted.iter().filter(|counted| counted.tactic == tactic).count();
    let row = Row {
        program: subject.name,
        points: result.counted.len(),
        inferred: with(Tactic::Inferred),
        traps: with(Tactic::Trap),
        refused: result.refused.len(),
        hits: result.counted.iter().map(|counted| counted.hits).sum(),
        plain: 0.0,
        counted: time,
        ratio: 0.0,
    };
    Ok((time, row))
}
