//! `rewrite`: what a counter at every function entry costs a program on disk: its size, and the time until it runs.
//!
//! Each program is started as it is and rewritten, in turn. Times are of the processor, in the program and in the kernel for
//! it; figures are medians, of a start and of the differences within a round.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use incise::space::file::Output;
use incise::{RewriteOptions, Rewritten, rewrite};
use serde::Serialize;

use crate::Error;
use crate::stats::median;
use crate::table::Table;
use crate::usage::children;

/// Settings of `rewrite`.
#[derive(Args)]
pub(crate) struct Options {
    /// How often each program is started
    #[arg(long, default_value_t = 101)]
    rounds: u32,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Only these programs
    #[arg(value_name = "PROGRAM")]
    programs: Vec<String>,
}

/// The most that a program may grow, and be slower to start in ms.
const SIZE_BAR: f64 = 1.3;
const START_BAR: f64 = 1.0;

/// Programs and libraries, and what ends at once: of a library, a program that loads it.
const SUBJECTS: [(&str, &str, &[&str]); 11] = [
    ("git", "git", &["--version"]),
    ("bash", "bash", &["-c", ":"]),
    ("python3", "/usr/bin/python3", &["-S", "-B", "-c", "0"]),
    ("sqlite3", "sqlite3", &["--version"]),
    ("redis-server", "redis-server", &["--version"]),
    ("nginx", "nginx", &["-v"]),
    ("perl", "perl", &["-e", "0"]),
    ("cc1", "", &["--version"]),
    ("openssl", "openssl", &["version"]),
    ("libc.so.6", "true", &[]),
    ("libsqlite3.so.0", "sqlite3", &["--version"]),
];

#[derive(Serialize)]
struct Row {
    program: String,
    functions: usize,
    refused: usize,
    before: u64,
    after: u64,
    mappings: usize,
    /// Milliseconds.
    start: f64,
    added: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.after as f64 / self.before as f64
    }
}

pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let folder = tempfile::tempdir()?;
    let rows = measure(options, folder.path())?;
    let mut out = std::io::stdout().lock();
    if options.json {
        for row in &rows {
            writeln!(out, "{}", serde_json::to_string(row)?)?;
        }
    } else {
        let head = [
            "program",
            "functions",
            "refused",
            "bytes",
            "rewritten",
            "ratio",
            "mappings",
            "start ms",
            "+ ms",
        ];
        let mut table = Table::new(&head);
        for row in &rows {
            table.row([
                row.program.clone(),
                row.functions.to_string(),
                row.refused.to_string(),
                row.before.to_string(),
                row.after.to_string(),
                format!("{:.3}", row.ratio()),
                row.mappings.to_string(),
                format!("{:.2}", row.start),
                format!("{:.2}", row.added),
            ]);
        }
        table.print(&mut out)?;
    }
    Ok(rows.iter().all(|row| row.ratio() <= SIZE_BAR && row.added <= START_BAR))
}

fn measure(options: &Options, folder: &Path) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let wanted =
        |name: &str| options.programs.is_empty() || options.programs.iter().any(|other| other == name);
    for (name, program, arguments) in SUBJECTS.iter().filter(|(name, ..)| wanted(name)) {
        let library = name.contains(".so");
        let file = if library { find_library(name) } else { find_program(name, program) };
        let program = if library { find_program(program, program) } else { file.clone() };
        let (Some(file), Some(program)) = (file, program) else {
            eprintln!("{name}: not installed");
            continue;
        };
        let out = folder.join(name);
        let options_of_rewrite =
            RewriteOptions { patterns: vec!["*".into(), "sub_*".into()], ..RewriteOptions::default() };
        let rewritten = rewrite(&file, &Output::new(&out), &options_of_rewrite).or_else(|_| {
            // Without symbols, or without nameless functions, one of the patterns matches nothing.
            let one = |pattern: &str| RewriteOptions {
                patterns: vec![pattern.into()],
                ..RewriteOptions::default()
            };
            rewrite(&file, &Output::new(&out), &one("*"))
                .or_else(|_| rewrite(&file, &Output::new(&out), &one("sub_*")))
        })?;
        let Rewritten { counted, refused, saved, .. } = rewritten;
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..options.rounds {
            for (index, times) in times.iter_mut().enumerate() {
                let mut command = Command::new(if index == 1 && !library { &out } else { &program });
                command.args(*arguments).env("LC_ALL", "C").stdin(Stdio::null());
                if index == 1 && library {
                    command.env("LD_LIBRARY_PATH", folder);
                }
                times.push(started(command.stdout(Stdio::null()).stderr(Stdio::null()))?);
            }
        }
        let [plain, rewritten] = &times;
        let added: Vec<f64> =
            plain.iter().zip(rewritten).map(|(plain, rewritten)| rewritten - plain).collect();
        rows.push(Row {
            program: (*name).to_owned(),
            functions: counted.len(),
            refused: refused.len(),
            before: saved.original_len,
            after: saved.len,
            mappings: saved.mappings,
            start: median(plain),
            added: median(&added),
        });
        fs::remove_file(&out)?;
    }
    Ok(rows)
}

/// Milliseconds of the processor from start to end.
fn started(command: &mut Command) -> Result<f64, Error> {
    let before = children()?.total();
    let status = command.status()?;
    let time = (children()?.total() - before) * 1e3;
    if status.success() { Ok(time) } else { Err(format!("{command:?}: {status}").into()) }
}

fn find_program(name: &str, program: &str) -> Option<PathBuf> {
    if name == "cc1" {
        let found = Command::new("gcc").arg("-print-prog-name=cc1").output().ok()?;
        let path = PathBuf::from(String::from_utf8_lossy(&found.stdout).trim());
        return path.is_file().then_some(path);
    }
    let folders = env::split_paths(&env::var_os("PATH")?).collect::<Vec<_>>();
    let found = folders.iter().map(|folder| folder.join(program)).find(|path| path.is_file())?;
    fs::canonicalize(found).ok()
}

fn find_library(name: &str) -> Option<PathBuf> {
    let folders = ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"];
    folders.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}
