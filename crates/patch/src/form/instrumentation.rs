//! Instrumentation engines: how the code of a function is laid out around its probes. One of the plug-ins of PatchAPI.

use std::cell::OnceCell;
use std::fmt;
use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Flow, Insn, SPRINGBOARD_LEN};

use crate::code::Code;
use crate::code::reader::Reader;
use crate::region::GAP;

/// Where the probed code of a function runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Layout {
    /// Out of line: only what has to make room for springboards runs in trampolines, and what lies between closely
    /// probed instructions.
    OutOfLine,
    /// In line: the function runs as a copy with its snippets in it, all of it that its probes show to be code. Branches stay
    /// inside; control comes in by one jump at the first probe, and behind calls, which stay where they are so that return
    /// addresses are what they were. Every original instruction stays a good place to jump to.
    InLine,
}

/// Chooses a layout for each function that is probed.
///
/// ```
/// use incise_patch::{Engine, Instrumentation, Layout, ProbedFunction};
///
/// /// Copies small functions only.
/// #[derive(Debug)]
/// struct Small;
///
/// impl Instrumentation for Small {
///     fn layout(&self, function: &ProbedFunction<'_>) -> Layout {
///         let len = function.range().end.offset_from(function.range().start);
///         if len <= 256 { Layout::InLine } else { Layout::OutOfLine }
///     }
/// }
///
/// let mut engine = Engine::new();
/// engine.set_instrumentation(Small);
/// ```
pub trait Instrumentation: fmt::Debug + Send + Sync {
    /// Where the code of `function` shall run. The same function may be asked about several times, and in every
    /// transaction that touches it. Where a function cannot be copied whole it stays out of line.
    fn layout(&self, function: &ProbedFunction<'_>) -> Layout;

    /// Functions with fewer probes are not asked about, and stay out of line.
    fn probes_min(&self) -> usize {
        1
    }
}

/// The same for every function.
impl Instrumentation for Layout {
    fn layout(&self, _: &ProbedFunction<'_>) -> Layout {
        *self
    }

    fn probes_min(&self) -> usize {
        match self {
            Layout::OutOfLine => usize::MAX,
            Layout::InLine => 1,
        }
    }
}

/// That layout; if there is none, [`ByCost`].
impl Instrumentation for Option<Layout> {
    fn layout(&self, function: &ProbedFunction<'_>) -> Layout {
        self.unwrap_or_else(|| ByCost.layout(function))
    }

    fn probes_min(&self) -> usize {
        self.map_or_else(|| ByCost.probes_min(), |layout| layout.probes_min())
    }
}

/// What is likely to cost less: ways into trampolines, by how deep in loops they are and whether a jump fits there, and
/// bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ByCost;

/// So much more often code is run that is one loop deeper.
const LOOP: u64 = 8;
/// Loops that are told from each other.
const DEPTH_MAX: u32 = 3;
/// So many bytes of a copy weigh as much as one jump that is made once.
const BYTES: u64 = 256;
/// What a way in costs where a jump may not fit, next to one where it does. Traps cost a thousand times as much, but mostly
/// there is another way.
const TRAP: u64 = 64;

impl Instrumentation for ByCost {
    fn layout(&self, function: &ProbedFunction<'_>) -> Layout {
        if let [only] = function.probed {
            // In line a jump also covers a call behind it. What is behind the end of a path, or the function, is left to puns.
            let fits = *only + SPRINGBOARD_LEN as u64 <= function.range.end;
            return if fits && covers_call(function.code, *only) {
                Layout::InLine
            } else {
                Layout::OutOfLine
            };
        }
        let insns = function.decoded();
        let loops: Vec<Range<Addr>> = insns.iter().filter_map(backward).collect();
        let mut starts: Vec<Addr> = loops.iter().map(|range| range.start).collect();
        let mut ends: Vec<Addr> = loops.iter().map(|range| range.end).collect();
        let mut targets: Vec<Addr> = insns.iter().filter_map(|insn| insn.flow().target()).collect();
        [&mut starts, &mut ends, &mut targets].into_iter().for_each(|addresses| addresses.sort_unstable());
        let weight = |at: Addr| {
            let before = |addresses: &[Addr]| addresses.partition_point(|address| *address <= at);
            let depth = (before(&starts) - before(&ends)) as u32;
            LOOP.pow(depth.min(DEPTH_MAX))
        };
        // Whether each probe is behind a call, and behind a gap.
        let mut behind = Vec::with_capacity(function.probed().len());
        let mut end = Addr(0);
        for &at in function.probed() {
            let index = insns.partition_point(|insn| insn.addr() < end);
            let call = insns[index..].iter().take_while(|insn| insn.addr() < at).any(is_call);
            behind.push((call, end == Addr(0), at > end + GAP));
            end = at;
        }
        let probed = || function.probed().iter().copied().zip(&behind);
        // Calls of other copies come to the beginning of this one by themselves.
        let springboard = |first: bool| first && !function.entered;
        let entered = probed().filter(|(_, (call, first, _))| *call || springboard(*first));
        let in_line = function.len() / BYTES + entered.map(|(at, _)| weight(at)).sum::<u64>();
        let mut out_of_line = 0;
        for (at, (call, _, gap)) in probed() {
            if is_tight(function.code, at, &targets) {
                out_of_line += weight(at) * TRAP;
            } else if *call || *gap {
                out_of_line += weight(at);
            }
            // Looking at bytes again for each probe is what takes the time.
            if in_line <= out_of_line {
                return Layout::InLine;
            }
        }
        if in_line <= out_of_line { Layout::InLine } else { Layout::OutOfLine }
    }
}

/// Whether a springboard at `at` would cover a call behind it, and control comes to that.
fn covers_call(code: &Code, at: Addr) -> bool {
    let mut here = at;
    while here < at + SPRINGBOARD_LEN as u64 {
        let Ok(insn) = code.insn(here) else { return false };
        if is_call(&insn) && here > at {
            return true;
        }
        if !insn.flow().falls_through() {
            return false;
        }
        here = insn.end();
    }
    false
}

/// Whether a springboard at `at` would cover a call, a branch target or what is behind the end of a path.
fn is_tight(code: &Code, at: Addr, targets: &[Addr]) -> bool {
    let end = at + SPRINGBOARD_LEN as u64;
    let next = targets.get(targets.partition_point(|target| *target <= at));
    let mut here = at;
    while here < end {
        let Ok(insn) = code.insn(here) else { return true };
        if is_call(&insn) && here > at || !insn.flow().falls_through() && insn.end() < end {
            return true;
        }
        here = insn.end();
    }
    next.is_some_and(|target| *target < end)
}

/// The code that a branch back to its own function's earlier code repeats.
fn backward(insn: &Insn) -> Option<Range<Addr>> {
    match insn.flow() {
        Flow::Jump(to) | Flow::Branch(to) if to <= insn.addr() => Some(to..insn.end()),
        _ => None,
    }
}

fn is_call(insn: &Insn) -> bool {
    matches!(insn.flow(), Flow::Call(_) | Flow::IndirectCall)
}

/// A function some of whose instructions are probed.
#[derive(Clone, Copy)]
pub struct ProbedFunction<'a> {
    pub(crate) code: &'a Code<'a>,
    pub(crate) range: &'a Range<Addr>,
    pub(crate) probed: &'a [Addr],
    /// Its instructions, once they were asked for.
    pub(crate) insns: &'a OnceCell<Vec<Insn>>,
    /// Calls of other copies may lead to a copy of it.
    pub(crate) entered: bool,
}

impl ProbedFunction<'_> {
    /// Its addresses.
    pub fn range(&self) -> Range<Addr> {
        self.range.clone()
    }

    fn len(&self) -> u64 {
        self.range.end.offset_from(self.range.start) as u64
    }

    /// The probed instructions, ascending.
    pub fn probed(&self) -> &[Addr] {
        self.probed
    }

    /// Its instructions as they are without patches, up to what is none.
    pub fn instructions(&self) -> impl Iterator<Item = Insn> + '_ {
        self.decoded().iter().copied()
    }

    fn decoded(&self) -> &[Insn] {
        /// Bytes of an instruction, as they are on average.
        const LEN: u64 = 4;
        self.insns.get_or_init(|| {
            let mut reader = Reader::new(self.code);
            let mut insns = Vec::with_capacity((self.len() / LEN) as usize);
            let mut at = self.range.start;
            while at < self.range.end
                && let Ok(insn) = reader.insn(at)
            {
                at = insn.end();
                insns.push(insn);
            }
            insns
        })
    }
}

impl fmt::Debug for ProbedFunction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProbedFunction({}..{}, {} probed)", self.range.start, self.range.end, self.probed.len())
    }
}
