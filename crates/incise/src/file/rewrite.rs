//! Counters in a file.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use incise_isa::Addr;
use incise_patch::{Layout, Outcome, TrapPolicy};
use incise_space::file::{Counting, FileError, FileSpace, Output, Probe, Refused, Saved};

use crate::count::{Counted, NotCounted};
use crate::filter::Filter;
use crate::point::{Incomplete, Point, PointKind, Query};
use crate::session::{Counter, Error, Session};

/// What to count in a rewritten program.
#[derive(Clone, Debug)]
pub struct RewriteOptions {
    /// Patterns of functions and places; see [`Query::functions`](crate::Query::functions).
    pub patterns: Vec<String>,
    /// Which points of the functions.
    pub points: PointKind,
    /// Only those of them that this accepts.
    pub filter: Option<Filter>,
    /// What to do where only a trap fits. Code that runs before the program's own start, such as the constructors
    /// of libraries, must not meet a trap: it has no handler yet.
    pub traps: TrapPolicy,
    /// How probed functions are laid out; by what it is likely to cost if nothing is given.
    pub layout: Option<Layout>,
    /// Where the files of counts go, unless the environment says otherwise: a folder named as the output with
    /// `.counts` behind it if nothing is given.
    pub counts: Option<PathBuf>,
}

impl Default for RewriteOptions {
    fn default() -> RewriteOptions {
        let (patterns, points, traps) = (Vec::new(), PointKind::default(), TrapPolicy::Forbid);
        RewriteOptions { patterns, points, filter: None, traps, layout: None, counts: None }
    }
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewritten {
    /// The functions that are counted; no hits yet.
    pub counted: Vec<Counted>,
    /// Those that are not.
    pub refused: Vec<NotCounted>,
    /// Sizes, and mappings added.
    pub saved: Saved,
    /// Functions that may have more points of the kind that was asked for.
    pub incomplete: Vec<Incomplete>,
    /// The folder of the files of counts.
    pub counts: PathBuf,
}

/// Puts counters into the program `path` and writes it to `output`.
///
/// # Errors
/// [`Error::Pattern`] if a pattern matches nothing, [`Error::File`] if the file cannot be read, extended or
/// written.
pub fn rewrite(path: &Path, output: &Output, options: &RewriteOptions) -> Result<Rewritten, Error> {
    let session = Session::open(path)?;
    let mut query = Query::default().kind(options.points);
    query = options.filter.iter().cloned().fold(query, Query::only);
    for pattern in &options.patterns {
        query = query.or(pattern);
    }
    let found = session.look(query)?;
    session.set_instrumentation(options.layout);
    let mut batch = session.batch().best_effort().traps(options.traps);
    let mut placed: Vec<(Point, Counter<FileSpace>)> = Vec::with_capacity(found.points.len());
    for point in found.points {
        let counter = session.counter(&*point.name);
        batch.push_back(&point, counter.increment());
        placed.push((point, counter));
    }
    let report = batch.commit()?;
    let mut refused: Vec<NotCounted> = Vec::new();
    for indirect in found.unresolved {
        let reason = "indirect function: its implementation is chosen when the program runs".to_owned();
        let (module, function, addr) = (indirect.module, indirect.name, indirect.resolver);
        refused.push(NotCounted { module, function, addr, reason });
    }
    let (mut counted, mut counters) = (Vec::new(), Vec::new());
    for ((point, counter), entry) in placed.into_iter().zip(&report.entries) {
        match (&entry.outcome, counter.address()) {
            (Outcome::Installed(tactic), Some(address)) => {
                counters.push(address);
                counted.push(Counted { point, tactic: *tactic, hits: 0 });
            }
            (Outcome::Installed(_), None) => return Err(too_far().into()),
            (Outcome::Refused(reason), _) => refused.push(NotCounted {
                module: point.module,
                function: point.display_name,
                addr: point.addr,
                reason: reason.to_string(),
            }),
        }
    }
    let counts = folder(output, options)?;
    let (mut base, mut len) = (Addr(0), 0);
    if let (Some(&low), Some(&high)) = (counters.iter().min(), counters.iter().max()) {
        // One reservation begins on a page boundary, with its first counter.
        base = low.align_down(PAGE);
        len = high.offset_from(base) as u64 + 8;
        if len > counters.len() as u64 * 8 + MOST_REFUSED {
            return Err(too_far().into());
        }
    } else {
        session.remove_all()?;
    }
    let counting = counting(output, &counts, &counted, &counters, &refused, base, len);
    session.with_space(|space| space.count(base, counting));
    let saved = session.save(output)?;
    Ok(Rewritten { counted, refused, saved, incomplete: found.incomplete, counts })
}

const PAGE: u64 = 4096;

/// Counters that are reserved together lie as close as this, those of refused probes between them.
const MOST_REFUSED: u64 = 64 << 20;

fn too_far() -> FileError {
    FileError::Unsupported("its code lies too far apart for one set of counters")
}

fn counting(
    output: &Output,
    folder: &Path,
    counted: &[Counted],
    counters: &[Addr],
    refused: &[NotCounted],
    base: Addr,
    len: u64,
) -> Counting {
    let probe = |(counted, at): (&Counted, &Addr)| Probe {
        offset: at.offset_from(base) as u64,
        at: counted.point.addr,
        function: counted.point.display_name.clone(),
        tactic: counted.tactic.name().to_owned(),
        kind: counted.point.kind.name().to_owned(),
        edge: counted.point.edge,
    };
    let not = |refused: &NotCounted| Refused {
        at: refused.addr,
        function: refused.function.clone(),
        reason: refused.reason.clone(),
    };
    let program = std::path::absolute(&output.path).unwrap_or_else(|_| output.path.clone());
    Counting {
        id: [0; 16],
        name: output.path.file_name().unwrap_or_default().as_bytes().to_vec(),
        program: program.into_os_string().as_bytes().to_vec(),
        folder: folder.as_os_str().as_bytes().to_vec(),
        len,
        probes: counted.iter().zip(counters).map(probe).collect(),
        refused: refused.iter().map(not).collect(),
    }
}

/// The folder for files of counts, as an absolute path: the program may be started anywhere.
fn folder(output: &Output, options: &RewriteOptions) -> Result<PathBuf, Error> {
    /// The start code has a buffer of fixed size.
    const LONGEST: usize = 3800;
    let beside = || {
        let mut name = OsString::from(&output.path);
        name.push(".counts");
        PathBuf::from(name)
    };
    let folder = options.counts.clone().unwrap_or_else(beside);
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    if folder.as_os_str().len() > LONGEST {
        return Err(FileError::Unsupported("the path of the folder for counts is too long").into());
    }
    Ok(folder)
}
