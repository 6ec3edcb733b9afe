//! `parse`: how fast whole programs are parsed, on one and on two threads, and how much of their code is found; and how long it
//! takes from the start of a count to its first probe in a process that maps much code.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use clap::Args;
use incise::image::Image;
use incise::{CountOptions, Counting};
use incise_cfg::{Options as How, Parser};
use serde::Serialize;

use crate::Error;
use crate::plot::{Dot, scatter};
use crate::stats::median;
use crate::table::Table;
use crate::usage::thread;

/// Settings of `parse`.
#[derive(Args)]
pub(crate) struct Options {
    /// Programs and libraries; by default those that bars are set for, and some larger
    binaries: Vec<PathBuf>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Draw processor time by size of `.text`, with some more programs, into this SVG file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Leave the first probe out
    #[arg(long)]
    no_start: bool,
}

/// A program with its bars: seconds, share of `.text` in percent; what Dyninst 13 took and found.
type Known = (&'static str, Option<(f64, f64)>, &'static str);

const KNOWN: [Known; 6] = [
    ("/usr/lib/x86_64-linux-gnu/libc.so.6", Some((0.2, 97.0)), "1.8 s, 89 %, 211 MB"),
    ("/usr/bin/gdb", Some((1.0, 95.0)), "1.0 s, 19 %"),
    ("/usr/bin/python3.11", Some((1.0, 97.0)), "22.5 s, 51 %, 213 MB"),
    ("/usr/lib/gcc/x86_64-linux-gnu/12/cc1", None, ""),
    ("/usr/bin/node", None, ""),
    ("/usr/lib/x86_64-linux-gnu/libLLVM-14.so.1", Some((5.0, 0.0)), "46 s, 55 %, 2,750 MB"),
];

/// Others for the plot, smaller and in between.
const PLOTTED: [&str; 8] = [
    "/usr/bin/ls",
    "/usr/bin/xz",
    "/usr/bin/bash",
    "/usr/lib/x86_64-linux-gnu/libsqlite3.so.0",
    "/usr/bin/git",
    "/usr/bin/perl",
    "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
    "/usr/lib/gcc/x86_64-linux-gnu/12/lto1",
];

#[derive(Serialize)]
struct Row {
    program: String,
    text_mb: f64,
    functions: usize,
    blocks: usize,
    /// Percent of `.text`.
    covered: f64,
    padding: f64,
    one: f64,
    two: f64,
    /// Processor time with one thread: what `one` is where no other program wants the processor.
    processor: f64,
    mb_per_second: f64,
    peak_mb: f64,
    dyninst: &'static str,
    met: bool,
}

pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let mut table = Table::new(&[
        "program",
        "text MB",
        "functions",
        "blocks",
        "in blocks",
        "padding",
        "1 thread s",
        "2 threads s",
        "processor s",
        "MB/s",
        "peak MB",
        "Dyninst",
    ]);
    let (mut met, mut out) = (true, std::io::stdout().lock());
    let known = KNOWN.map(|(path, bar, peer)| (PathBuf::from(path), bar, peer));
    let given = options.binaries.iter().map(|path| (path.clone(), None, ""));
    let mut chosen = if options.binaries.is_empty() { known.to_vec() } else { given.collect() };
    if options.svg.is_some() {
        chosen.extend(PLOTTED.map(|path| (PathBuf::from(path), None, "")));
    }
    let mut dots = Vec::new();
    for (path, bar, dyninst) in chosen.into_iter().filter(|(path, ..)| path.exists()) {
        let mut row = parse(&path, options.rounds)?;
        row.dyninst = dyninst;
        let time = row.two.min(row.processor);
        row.met = bar.is_none_or(|(seconds, share)| time <= seconds && row.covered + row.padding >= share);
        met &= row.met;
        dots.push(Dot { label: row.program.clone(), x: row.text_mb, y: row.processor });
        if options.json {
            writeln!(out, "{}", serde_json::to_string(&row)?)?;
        }
        let missed = if row.met { "" } else { " (missed)" };
        table.row([
            format!("{}{missed}", row.program),
            format!("{:.1}", row.text_mb),
            row.functions.to_string(),
            row.blocks.to_string(),
            format!("{:.1} %", row.covered),
            format!("{:.1} %", row.padding),
            format!("{:.2}", row.one),
            format!("{:.2}", row.two),
            format!("{:.2}", row.processor),
            format!("{:.1}", row.mb_per_second),
            format!("{:.0}", row.peak_mb),
            row.dyninst.to_owned(),
        ]);
    }
    if !options.json {
        table.print(&mut out)?;
    }
    if let Some(file) = &options.svg {
        let slope = median(&dots.iter().map(|dot| dot.y / dot.x).collect::<Vec<_>>());
        let title = format!("Parsing: processor time by size of code, and {:.1} MB a second", 1.0 / slope);
        std::fs::write(file, scatter(&title, (".text, MB", "processor time, s"), &dots, slope))?;
    }
    if !options.no_start && options.binaries.is_empty() {
        let (text, first) = start(options.rounds)?;
        let bar = 0.2;
        met &= first <= bar;
        match options.json {
            true => {
                writeln!(out, "{}", serde_json::json!({ "text_mb": text, "first_probe_ms": first * 1e3 }))?
            }
            false => writeln!(
                out,
                "first probe: {:.0} ms in a process with {text:.0} MB of code (bar 200)",
                first * 1e3
            )?,
        }
    }
    Ok(met)
}

fn parse(path: &std::path::Path, rounds: u32) -> Result<Row, Error> {
    let file = std::fs::read(path)?;
    let image = Image::parse(&file)?;
    let text =
        || image.sections().iter().filter(|section| &*section.name == ".text").map(|section| section.range());
    let (mut times, mut processor, mut last) = ([Vec::new(), Vec::new()], Vec::new(), None);
    // Of this process, the contents of the file included.
    forget_peak();
    for _ in 0..rounds {
        for (index, threads) in [1, 2].into_iter().enumerate() {
            let (began, used) = (Instant::now(), thread());
            let parser = Parser::new(&image, &file)?;
            let cfg = parser.parse(&How { threads, progress: None })?;
            times[index].push(began.elapsed().as_secs_f64());
            if threads == 1 {
                processor.push(thread() - used);
            }
            let padding: u64 = text().map(|range| parser.padding_in(&cfg, range)).sum();
            last = Some((cfg, padding));
        }
    }
    let (cfg, padding) = last.ok_or("no rounds")?;
    let bytes: u64 = text().map(|range| range.end.0 - range.start.0).sum();
    let covered: u64 = text().map(|range| cfg.covered_bytes_in(range)).sum();
    let percent = |part: u64| 100.0 * part as f64 / bytes.max(1) as f64;
    let (one, two, processor) = (median(&times[0]), median(&times[1]), median(&processor));
    Ok(Row {
        program: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        text_mb: bytes as f64 / 1e6,
        functions: cfg.functions().len(),
        blocks: cfg.blocks().len(),
        covered: percent(covered),
        padding: percent(padding),
        one,
        two,
        processor,
        mb_per_second: bytes as f64 / 1e6 / processor,
        peak_mb: peak(),
        dyninst: "",
        met: true,
    })
}

/// Lets the peak of this process's memory begin anew.
fn forget_peak() {
    // Where it is not allowed the peak is that of all programs so far.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// The most memory this process has used, in MB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map_or(f64::NAN, |kib| kib * 1024.0 / 1e6)
}

/// Maps the code of the largest libraries, at least 300 MB if there is so much, and waits.
const MAPS: &str = r#"
import ctypes, glob, mmap, os, struct, sys
def text(path):
    try:
        with open(path, 'rb') as f:
            head = f.read(64)
            if head[:5] != b'\x7fELF\x02': return 0
            offset, = struct.unpack_from('<Q', head, 32)
            size, count = struct.unpack_from('<HH', head, 54)
            f.seek(offset)
            heads = f.read(size * count)
            return sum(struct.unpack_from('<Q', heads, i * size + 32)[0] for i in range(count)
                       if struct.unpack_from('<II', heads, i * size) == (1, 5))
    except OSError:
        return 0
paths = {os.path.realpath(p) for p in glob.glob('/usr/lib/x86_64-linux-gnu/*.so*') + glob.glob('/usr/lib/*/*.so*')}
total = 0
for size, path in sorted(((text(p), p) for p in paths if 'san.so' not in p), reverse=True):
    if total > 300e6 or size < 100000: break
    try:
        ctypes.CDLL(path)
        total += size
    except OSError:
        pass
print(total, flush=True)
sys.stdin.read()
"#;

/// Megabytes of code that a process maps, and seconds from the start of a count of its `getpid` to the first probe.
fn start(rounds: u32) -> Result<(f64, f64), Error> {
    let (mut text, mut times) = (0.0, Vec::new());
    let mut child =
        Command::new("python3").args(["-c", MAPS]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut line)?;
    text += line.trim().parse::<f64>()? / 1e6;
    for _ in 0..rounds {
        let patterns = vec!["libc!getpid".to_owned()];
        let began = Instant::now();
        let counting =
            Counting::attach(child.id() as i32, CountOptions { patterns, ..CountOptions::default() })?;
        times.push(began.elapsed().as_secs_f64());
        assert_eq!(counting.installed(), 1);
        counting.run(&std::sync::atomic::AtomicBool::new(true))?;
    }
    drop(child.stdin.take());
    child.wait()?;
    Ok((text, median(&times)))
}
