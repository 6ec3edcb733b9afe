//! What a rewritten program has counted.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use incise_isa::Addr;
use incise_patch::{Placement, Tactic};
use incise_space::file::{Counting, Counts, FileError, Record, counts};

use crate::count::{Counted, NotCounted};
use crate::point::{Point, PointKind};
use crate::session::Error;

/// The counts of one process, and of the children that share its counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProcessCounts {
    /// The process that made the file.
    pub pid: u32,
    /// It is still there.
    pub running: bool,
    /// The file.
    pub file: PathBuf,
    /// Hits, in the order of [`CountsReport::counted`].
    pub hits: Vec<u64>,
}

/// What all processes of a rewritten program have counted so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountsReport {
    /// File name of the program.
    pub module: String,
    /// Every counted function, with the hits of all processes.
    pub counted: Vec<Counted>,
    /// The functions that are not counted.
    pub refused: Vec<NotCounted>,
    /// Process by process.
    pub processes: Vec<ProcessCounts>,
}

/// Reads the counts of a rewritten program, whose processes may be running. `target` is the program, a file
/// of counts, or a folder of these; `folder` says where the counts of a program are if they are not where the
/// environment or the program says.
///
/// # Errors
/// [`Error::File`] if there is no record of counters, or a file cannot be read.
pub fn read_counts(target: &Path, folder: Option<&Path>) -> Result<CountsReport, Error> {
    let (program, mut files) = program_of(target)?;
    let bytes = fs::read(&program).map_err(|source| FileError::System {
        action: "reading",
        path: program.clone(),
        source,
    })?;
    let record = Record::find(&program, &bytes)?;
    let none = || FileError::BadRecord { path: program.clone(), what: "the program counts nothing" };
    let counting = record.counting.ok_or_else(none)?;
    if files.is_empty() {
        files.push(match (folder, std::env::var_os(counts::VARIABLE)) {
            (Some(folder), _) => folder.to_owned(),
            (None, Some(folder)) if !folder.is_empty() => folder.into(),
            _ => path(&counting.folder),
        });
    }
    let mut read = Vec::new();
    for file in &files {
        if file.is_dir() || !file.exists() {
            read.extend(Counts::read_all(file, &counting)?);
        } else {
            read.push(Counts::read(file, &counting)?);
        }
    }
    Ok(report(&program, counting, read))
}

/// The rewritten program that `target` is or was made by, and the files of counts that are asked for.
fn program_of(target: &Path) -> Result<(PathBuf, Vec<PathBuf>), Error> {
    if target.is_dir() {
        let entries = fs::read_dir(target).into_iter().flatten().flatten();
        let program = entries.filter_map(|entry| counts::program(&entry.path()).ok()).next();
        let none = || FileError::NoCounts { path: target.to_owned(), what: "no file in this folder is" };
        return Ok((program.ok_or_else(none)?, vec![target.to_owned()]));
    }
    match counts::program(target) {
        Ok(program) => Ok((program, vec![target.to_owned()])),
        Err(error @ FileError::System { .. }) => Err(error.into()),
        Err(_) => Ok((target.to_owned(), Vec::new())),
    }
}

fn report(program: &Path, counting: Counting, read: Vec<Counts>) -> CountsReport {
    let module = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut processes = Vec::new();
    for counts in read {
        let value = |offset: u64| counts.values.get((offset / 8) as usize).copied().unwrap_or(0);
        processes.push(ProcessCounts {
            pid: counts.pid,
            running: is_running(counts.pid, program),
            hits: counting.probes.iter().map(|probe| value(probe.offset)).collect(),
            file: counts.path,
        });
    }
    let tactics: HashMap<&str, Tactic> = TACTICS.iter().map(|tactic| (tactic.name(), *tactic)).collect();
    let counted = counting.probes.iter().enumerate().map(|(n, probe)| Counted {
        point: Point {
            kind: PointKind::named(&probe.kind).unwrap_or_default(),
            placement: Placement::Before,
            addr: probe.at,
            edge: probe.edge,
            function: probe.at,
            module: module.clone(),
            name: probe.function.clone(),
            display_name: probe.function.clone(),
            implementation: None,
            names: vec![probe.function.clone()],
        },
        tactic: tactics.get(probe.tactic.as_str()).copied().unwrap_or(Tactic::Jump),
        hits: processes.iter().fold(0, |sum, process| process.hits[n].wrapping_add(sum)),
    });
    let counted = counted.collect();
    let refused = counting.refused.into_iter().map(|refused| NotCounted {
        module: module.clone(),
        function: refused.function,
        addr: Addr(refused.at.0),
        reason: refused.reason,
    });
    CountsReport { refused: refused.collect(), counted, processes, module }
}

const TACTICS: [Tactic; 8] = [
    Tactic::Nop,
    Tactic::Retarget,
    Tactic::Jump,
    Tactic::Tail,
    Tactic::Group,
    Tactic::Pun,
    Tactic::Evict,
    Tactic::Trap,
];

/// Whether process `pid` has the program mapped: the number may be another's by now.
fn is_running(pid: u32, program: &Path) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let program = program.to_string_lossy();
    maps.lines().any(|line| line.ends_with(&*program))
}

fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}
