//! The boundary oracle: whatever is patched, every address at which an original instruction began is still a good place
//! to jump to.
//!
//! A counter is put at every instruction of a program's code. Two processes get the program's memory, one with the
//! original code and one with the patched. Then both begin at one instruction after the other, with the same random
//! registers, flags, vectors and memory, and are stepped: wherever the patched code comes by an instruction, in its
//! place or at its landing, all general registers and flags have to be what the original's are there; what faults in one
//! has to fault in the other, with the same signal at the same instruction; and in the end vectors and memory have to be
//! equal. Trap bytes lead to their landings, as the handler has it.
//!
//! Left out, because they differ by nature: what is told by a clock, the kernel or a debugger (these instructions are not
//! run), the memory below the red zone, and the addresses that the x87 unit keeps.

mod child;
mod lockstep;
mod registers;
mod repeatable;
mod report;
mod space;
mod state;

pub use report::{Difference, Finding, Tally};

use std::cell::OnceCell;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use incise::Program;
use incise_cfg::{LiveSet, Liveness, ParseError, Parser};
use incise_image::{Image, ImageError, Kind, LinkAddr};
use incise_isa::Addr;
use incise_patch::{
    Atomicity, Batch, CommitError, Engine, Layout, Place, Placement, Policy, Position, Snippet, TrapPolicy,
};
use incise_space::{AddressSpace, SpaceError};
use smallvec::SmallVec;

use crate::rng::Rng;
use child::Region;
use lockstep::{Lockstep, Patched, Side};
use space::Captured;
use state::{DATA, STACK};

/// Where programs that may lie anywhere are put: far from what a process has.
const BIAS: u64 = 0x2a00_0000_0000;

/// What to try.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Instructions in a row that are patched and entered, each time; all of the program's if nothing is given.
    pub run: Option<usize>,
    /// How many such runs, at random places.
    pub runs: usize,
    /// Instructions to follow from each boundary.
    pub steps: usize,
    /// What everything random is drawn from.
    pub seed: u64,
    /// What to do where only a trap fits.
    pub traps: TrapPolicy,
    /// Counters where control enters, and not where the instruction before it goes on to the next.
    pub entered: bool,
    /// Only every so many-th of the instructions gets a counter; all are entered.
    pub every: usize,
    /// How functions are laid out.
    pub layout: Option<Layout>,
    /// Bytes of trampolines to spoil in each run, to see that it is noticed.
    pub spoil: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            run: None,
            runs: 1,
            steps: 4,
            seed: 1,
            traps: TrapPolicy::Fallback,
            entered: false,
            every: 1,
            layout: Some(Layout::OutOfLine),
            spoil: 0,
        }
    }
}

/// Why a program could not be tried.
#[derive(Debug, thiserror::Error)]
pub enum BoundaryError {
    /// The file cannot be read, or a process not be made or stepped.
    #[error(transparent)]
    System(#[from] io::Error),
    /// It is no program.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Its code cannot be parsed.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// It cannot be loaded.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// It cannot be patched.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Tries the program in the file `path`. `progress` is told how many boundaries were entered, and of how many.
///
/// # Errors
/// [`BoundaryError`]; differences are no error but findings.
pub fn check(
    path: &Path,
    options: &Options,
    progress: &dyn Fn(usize, usize),
) -> Result<Tally, BoundaryError> {
    let file = std::fs::read(path)?;
    let image = Arc::new(Image::parse(&file)?);
    let bias = if image.kind() == Kind::Executable { 0 } else { BIAS };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let cfg = Parser::new(&image, &file)?.parse(&incise_cfg::Options { threads, progress: None })?;
    let instructions = |block: incise_cfg::Block<'_>| {
        block.instructions(&image, &file).map(|insn| insn.addr().0 + bias).collect::<Vec<_>>()
    };
    let mut heads: Vec<u64> = cfg.blocks().flat_map(instructions).collect();
    heads.sort_unstable();
    heads.dedup();
    let live = OnceCell::new();
    let live = |at: u64| {
        let solved = live.get_or_init(|| Liveness::of(&cfg, &image, &file, threads));
        let link = LinkAddr(at.wrapping_sub(bias));
        let before = cfg.blocks_over(link).flat_map(|block| solved.instructions(block));
        let before = before.filter(|(at, _)| *at == link).map(|(_, set)| set);
        before.reduce(LiveSet::union).unwrap_or(LiveSet::ALL)
    };
    let trial = Trial { path, file: &file, image: Arc::clone(&image), live: &live, bias, heads: &heads };
    let mut tally = Tally::default();
    let mut rng = Rng::new(options.seed, 0xB0);
    match options.run {
        None => tally = trial.run(&heads, options, rng, progress)?,
        Some(len) => {
            for number in 0..options.runs {
                let len = len.min(heads.len());
                let from = rng.below((heads.len() - len + 1) as u64) as usize;
                let told = |done, of| progress(number * of + done, options.runs * of);
                let rng = Rng::new(options.seed, number as u64);
                tally.add(trial.run(&heads[from..from + len], options, rng, &told)?);
            }
        }
    }
    for finding in &mut tally.findings {
        finding.unbias(bias);
    }
    Ok(tally)
}

impl Finding {
    /// Turns addresses of code into link addresses.
    fn unbias(&mut self, bias: u64) {
        let link = |at: &mut u64| *at = at.wrapping_sub(bias);
        link(&mut self.boundary);
        match &mut self.difference {
            Difference::Where { original, patched } => {
                link(original);
                link(patched);
            }
            Difference::Register { at, .. } | Difference::Fault { at } => link(at),
            Difference::Own { address, last } => {
                link(address);
                link(last);
            }
            Difference::NoFault | Difference::Vectors | Difference::Memory { .. } => {}
        }
    }
}

/// A program to be tried.
struct Trial<'t> {
    path: &'t Path,
    file: &'t [u8],
    image: Arc<Image>,
    live: &'t dyn Fn(u64) -> LiveSet,
    bias: u64,
    heads: &'t [u64],
}

impl Trial<'_> {
    /// Patches `sites`, or some of them, and enters at each.
    fn run(
        &self,
        sites: &[u64],
        options: &Options,
        mut rng: Rng,
        progress: &dyn Fn(usize, usize),
    ) -> Result<Tally, BoundaryError> {
        let mut space = Captured::new(&self.image, self.file, self.bias)?;
        let program = Program::of_image(self.path, Arc::clone(&self.image), self.bias);
        let plain = self.memory(&space)?;
        let mut engine = Engine::new();
        engine.set_instrumentation(options.layout);
        let mut batch = Batch::default();
        for &site in sites.iter().step_by(options.every) {
            let counter = engine.counter();
            let placement = if options.entered { Placement::Entered } else { Placement::Before };
            batch.insert(Place { at: Addr(site), placement }, Snippet::Counter(counter), Position::Last);
        }
        let policy = Policy { atomicity: Atomicity::BestEffort, traps: options.traps };
        engine.commit(&mut space, &program, &batch, policy)?;
        for _ in 0..options.spoil {
            let Some(landing) = (!space.landings.is_empty()).then(|| {
                space.landings[rng.below(space.landings.len() as u64) as usize].landing.0 + rng.below(8)
            }) else {
                break;
            };
            let inside =
                |(at, bytes): &&mut (u64, Vec<u8>)| (*at..at + bytes.len() as u64).contains(&landing);
            let Some((at, bytes)) = space.runs.iter_mut().find(inside) else { continue };
            let at = (landing - *at) as usize;
            bytes[at] ^= 1 << rng.below(8);
        }
        let patched = self.patched_memory(&space)?;
        let original = |at: u64| {
            let mut bytes = [0; 15];
            let link = LinkAddr(at.wrapping_sub(self.bias));
            let known = self.image.text_segments().any(|range| range.contains(&link));
            known.then(|| space.read(Addr(at), &mut bytes).ok()).flatten().map(|()| bytes)
        };
        let mut heads: HashMap<u64, SmallVec<[u64; 1]>> = HashMap::new();
        if options.entered {
            // An instruction that runs into the next does not come by its landing, but by its copy.
            for one in space.displaced.iter().filter(|one| one.copied > 0 && one.copy != u16::MAX) {
                heads.entry(one.landing.0 + u64::from(one.copy)).or_default().push(one.original.0);
            }
        } else {
            for landing in space.landings.iter().filter(|landing| !landing.is_fault()) {
                heads.entry(landing.landing.0).or_default().push(landing.trap.0);
            }
        }
        let mut changed = HashMap::new();
        for edit in &space.edits {
            for (offset, byte) in edit.new.iter().enumerate() {
                let is_head = edit.heads & (1 << offset) != 0;
                changed.insert(edit.at.0 + offset as u64, (*byte, is_head));
            }
        }
        let translate = |ip: u64| engine.translate(Addr(ip)).map(|at| at.0);
        let code = Patched {
            original: &original,
            landings: space.landings.iter().map(|landing| (landing.trap.0, landing.landing.0)).collect(),
            heads,
            changed,
            live: self.live,
            translate: &translate,
            unlike: self.unlike(&space),
        };
        let (original, patched) = (Side::new(&plain)?, Side::new(&patched)?);
        let tally = Tally::default();
        let mut lockstep = Lockstep {
            original,
            patched,
            code,
            heads: self.heads,
            rng,
            pristine: Default::default(),
            steps: options.steps,
            tally,
        };
        lockstep.run(sites, &|done| progress(done, sites.len()))?;
        Ok(lockstep.tally)
    }

    fn unlike(&self, space: &Captured<'_>) -> Vec<std::ops::Range<u64>> {
        let text = self.image.text_segments().map(|range| range.start.0 + self.bias..range.end.0 + self.bias);
        text.chain(space.code.iter().cloned()).chain(space.data.iter().cloned()).collect()
    }

    /// The program's memory and that of the random state.
    fn memory(&self, space: &Captured<'_>) -> Result<Vec<Region>, BoundaryError> {
        let mut regions = Vec::new();
        let (code, data) = (
            |at: u64| space.code.iter().any(|r| r.start == at),
            |at: u64| space.data.iter().any(|r| r.start == at),
        );
        for mapping in space.mappings()?.iter() {
            let (at, end) = (mapping.range.start.0, mapping.range.end.0);
            if code(at) || data(at) {
                continue;
            }
            let allowed = [
                (mapping.permissions.read, libc::PROT_READ),
                (mapping.permissions.write, libc::PROT_WRITE),
                (mapping.permissions.execute, libc::PROT_EXEC),
            ];
            let protection = allowed.into_iter().filter(|(is, _)| *is).fold(0, |all, (_, one)| all | one);
            let mut bytes = vec![0; (end - at) as usize];
            space.read(Addr(at), &mut bytes)?;
            let region = Region::new(at, end - at, protection)?;
            region.write(at, &bytes)?;
            regions.push(region);
        }
        for range in [DATA, STACK] {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            regions.push(Region::new(range.start, range.end - range.start, protection)?);
        }
        Ok(regions)
    }

    /// The same with all that was changed.
    fn patched_memory(&self, space: &Captured<'_>) -> Result<Vec<Region>, BoundaryError> {
        let mut regions = self.memory(space)?;
        let (code, data) = (libc::PROT_READ | libc::PROT_EXEC, libc::PROT_READ | libc::PROT_WRITE);
        // Behind the program's own, whose views are paired with the original's.
        for (ranges, protection) in [(&space.code, code), (&space.data, data)] {
            for range in ranges {
                regions.push(Region::new(range.start, range.end - range.start, protection)?);
            }
        }
        let write = |at: u64, bytes: &[u8]| -> io::Result<()> {
            let inside = |region: &&Region| (region.at..region.at + region.len).contains(&at);
            let region = regions.iter().find(inside);
            region.ok_or_else(|| io::Error::other("a change outside of all memory"))?.write(at, bytes)
        };
        for (at, bytes) in &space.runs {
            write(*at, bytes)?;
        }
        for edit in &space.edits {
            write(edit.at.0, &edit.new)?;
        }
        Ok(regions)
    }
}
