//! Coverage: what a transaction on all of a program's instructions would do, planned from its file.
//!
//! ```no_run
//! use incise::{CoverageOptions, coverage};
//!
//! let path = std::path::Path::new("/bin/bash");
//! let coverage = coverage(path, &std::fs::read(path)?, &CoverageOptions::default())?;
//! println!("{} of {} sites without a trap", coverage.patched(), coverage.sites.len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use incise_cfg::{Cfg, Options, ParseError, Parser};
use incise_image::{Image, ImageError, LinkAddr};
use incise_isa::Addr;
use incise_patch::{
    Atomicity, Batch, CommitError, Engine, Entry, Layout, Outcome, Place, Placement, Policy, Position,
    Refusal, Snippet, Tactic, TrapPolicy,
};
use incise_space::file::Loaded;
use incise_space::{AddressSpace, SpaceError};

use crate::point::PointKind;
use crate::program::Program;

/// No instruction of x86-64 is longer.
const LONGEST: u64 = 15;

/// What to plan.
#[derive(Clone, Copy)]
pub struct CoverageOptions<'o> {
    /// [`PointKind::BeforeInstruction`], [`PointKind::BlockEntry`] or [`PointKind::FunctionEntry`]; all others mean
    /// instructions.
    pub points: PointKind,
    /// What to do where only a trap fits.
    pub traps: TrapPolicy,
    /// How functions are laid out; by what it is likely to cost if nothing is given.
    pub layout: Option<Layout>,
    /// Where the program is loaded; where Linux does so without address randomization if nothing is given.
    pub base: Option<u64>,
    /// Number of threads; the result is the same for any.
    pub threads: usize,
    /// Only the first so many of the points are taken.
    pub first: Option<usize>,
    /// So many of the points are taken, drawn at random but always the same, and each is planned as if it were the only
    /// one.
    pub alone: Option<usize>,
    /// Called now and then, on any thread.
    pub progress: Option<&'o (dyn Fn(CoverageProgress) + Sync)>,
}

impl Default for CoverageOptions<'_> {
    fn default() -> Self {
        let points = PointKind::BeforeInstruction;
        CoverageOptions {
            points,
            traps: TrapPolicy::default(),
            layout: None,
            base: None,
            threads: 1,
            first: None,
            alone: None,
            progress: None,
        }
    }
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoverageProgress {
    /// So many functions are parsed, of those known so far.
    Parsing(usize, usize),
    /// A plan for so many sites is being made.
    Planning(usize),
}

/// A place for a probe and what would become of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoverageSite {
    /// Where it is linked.
    pub addr: LinkAddr,
    /// The entry of the function it is in: of the first one, if several share it.
    pub function: LinkAddr,
    /// The tactic, or why there is none.
    pub outcome: Result<Tactic, Refusal>,
}

/// A plan for all sites of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coverage {
    /// Every site, ascending.
    pub sites: Vec<CoverageSite>,
    /// How many functions they are in.
    pub functions: usize,
    /// Mappings a process would gain; for points that are planned alone the most that one takes.
    pub mappings: usize,
    /// Bytes of trampolines, a counter at each site included.
    pub trampoline_bytes: u64,
    /// How long parsing took.
    pub parsing: Duration,
    /// How long planning took.
    pub planning: Duration,
}

impl Coverage {
    /// How many sites would be patched without a trap.
    pub fn patched(&self) -> usize {
        self.with(|outcome| matches!(outcome, Ok(tactic) if *tactic != Tactic::Trap))
    }

    /// How many sites would be traps.
    pub fn trapped(&self) -> usize {
        self.with(|outcome| *outcome == Ok(Tactic::Trap))
    }

    /// How many sites would be refused.
    pub fn refused(&self) -> usize {
        self.with(Result::is_err)
    }

    fn with(&self, is: impl Fn(&Result<Tactic, Refusal>) -> bool) -> usize {
        self.sites.iter().filter(|site| is(&site.outcome)).count()
    }

    /// Bytes of trampolines by site that would get one.
    pub fn bytes_per_site(&self) -> f64 {
        self.trampoline_bytes as f64 / (self.sites.len() - self.refused()).max(1) as f64
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoverageError {
    /// The file is no program or library for x86-64.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Its code cannot be parsed.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// There is no instruction in it.
    #[error("there is no code in it: is it a file of debug information, or only of data?")]
    NoCode,
    /// It cannot be loaded, or there is no memory for the plan.
    #[error(transparent)]
    Space(#[from] SpaceError),
}

/// Plans a counter at every point of the program in `file`, as if it were loaded. Nothing is run or changed; `path` is
/// for names only.
///
/// # Errors
/// [`CoverageError`] tells what is wrong with the file.
pub fn coverage(path: &Path, file: &[u8], options: &CoverageOptions<'_>) -> Result<Coverage, CoverageError> {
    let began = Instant::now();
    let image = Arc::new(Image::parse(file)?);
    let mut space = match options.base {
        Some(base) => Loaded::at(&image, file, base)?,
        None => Loaded::new(&image, file)?,
    };
    let told = |progress| {
        if let Some(tell) = options.progress {
            tell(progress);
        }
    };
    let parsed = |done, of| told(CoverageProgress::Parsing(done, of));
    let parser = Parser::new(&image, file)?;
    let cfg = parser.parse(&Options { threads: options.threads, progress: Some(&parsed) })?;
    let mut sites = sites(&cfg, &image, file, options.points);
    sites.truncate(options.first.unwrap_or(usize::MAX));
    if let Some(count) = options.alone {
        draw(&mut sites, count);
    }
    if sites.is_empty() {
        return Err(CoverageError::NoCode);
    }
    let mut functions: Vec<LinkAddr> = sites.iter().map(|(_, function)| *function).collect();
    functions.sort_unstable();
    functions.dedup();
    drop(parser);
    told(CoverageProgress::Planning(sites.len()));
    let parsing = began.elapsed();
    let program = Program::of_image(path, image, space.bias());
    program.learn_leads(0, &cfg, file);
    let policy = Policy { atomicity: Atomicity::BestEffort, traps: options.traps };
    if options.alone.is_some() {
        let began = Instant::now();
        let mut coverage = one_by_one(&space, &program, sites, (policy, options.layout))?;
        (coverage.functions, coverage.parsing, coverage.planning) =
            (functions.len(), parsing, began.elapsed());
        return Ok(coverage);
    }
    let mut engine = Engine::new();
    engine.set_threads(options.threads);
    engine.set_instrumentation(options.layout);
    let mut batch = Batch::default();
    let mut before = None;
    for (addr, _) in &sites {
        let (counter, at) = (engine.counter(), Addr(addr.0 + space.bias()));
        // As `count` does: a run of instructions needs one increment.
        let follows = before.is_some_and(|before| at <= before + LONGEST);
        let placement = if follows { Placement::Entered } else { Placement::Before };
        batch.insert(Place { at, placement }, Snippet::Counter(counter), Position::Last);
        before = Some(at);
    }
    let began = Instant::now();
    let report = engine.commit(&mut space, &program, &batch, policy).map_err(|error| match error {
        CommitError::Space(error) => error,
        // Refusals do not fail a transaction of this policy.
        other => SpaceError::system("planning", std::io::Error::other(other)),
    })?;
    let planning = space.planned().map_or_else(|| began.elapsed(), |end| end.duration_since(began));
    let sites = sites.into_iter().zip(report.entries);
    let sites =
        sites.map(|((addr, function), entry)| CoverageSite { addr, function, outcome: result(entry) });
    Ok(Coverage {
        sites: sites.collect(),
        functions: functions.len(),
        mappings: report.mappings,
        trampoline_bytes: report.trampoline_bytes,
        parsing,
        planning,
    })
}

fn result(entry: Entry) -> Result<Tactic, Refusal> {
    match entry.outcome {
        Outcome::Installed(tactic) => Ok(tactic),
        Outcome::Refused(refusal) => Err(refusal),
    }
}

/// Leaves `count` of `all`, still ascending.
fn draw<T>(all: &mut Vec<T>, count: usize) {
    let mut state = 0u64;
    let mut random = || {
        // SplitMix64 (Steele, Lea, Flood 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    let (mut left, mut wanted) = (all.len() as u64, count as u64);
    all.retain(|_| {
        let take = random() % left < wanted;
        left -= 1;
        wanted -= u64::from(take);
        take
    });
}

/// A plan for each of `sites` alone.
fn one_by_one(
    space: &Loaded<'_>,
    program: &Program,
    sites: Vec<(LinkAddr, LinkAddr)>,
    (policy, layout): (Policy, Option<Layout>),
) -> Result<Coverage, CoverageError> {
    let (map, features, bias) = (space.mappings()?, space.features(), space.bias());
    let memory = |at, into: &mut [u8]| space.read(at, into).is_ok();
    let (mut done, mut mappings, mut bytes) = (Vec::with_capacity(sites.len()), 0, 0);
    for (addr, function) in sites {
        let mut engine = Engine::new();
        engine.set_instrumentation(layout);
        let mut batch = Batch::default();
        batch.insert(Addr(addr.0 + bias), Snippet::Counter(engine.counter()), Position::Last);
        // Refusals do not fail a transaction of this policy.
        let Ok(report) = engine.plan(&memory, &map, program, &batch, policy, features) else { continue };
        mappings = mappings.max(report.mappings);
        bytes += report.trampoline_bytes;
        done.extend(report.entries.into_iter().map(|entry| CoverageSite {
            addr,
            function,
            outcome: result(entry),
        }));
    }
    let (parsing, planning) = (Duration::ZERO, Duration::ZERO);
    Ok(Coverage { sites: done, functions: 0, mappings, trampoline_bytes: bytes, parsing, planning })
}

/// The points, ascending, each with the entry of a function it is in.
fn sites(cfg: &Cfg, image: &Image, file: &[u8], points: PointKind) -> Vec<(LinkAddr, LinkAddr)> {
    if points == PointKind::FunctionEntry {
        let entries = cfg.functions().filter(|function| function.entry_block().is_some());
        return entries.map(|function| (function.entry(), function.entry())).collect();
    }
    let mut sites = Vec::new();
    for block in cfg.blocks() {
        let Some(function) = block.functions().next() else { continue };
        let function = function.entry();
        match points {
            PointKind::BlockEntry => sites.push((block.start(), function)),
            _ => {
                let instructions = block.instructions(image, file);
                sites.extend(instructions.map(|insn| (LinkAddr(insn.addr().0), function)));
            }
        }
    }
    sites.sort_unstable();
    sites.dedup_by_key(|(addr, _)| *addr);
    sites
}
