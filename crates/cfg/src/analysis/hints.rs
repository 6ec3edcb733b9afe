//! What a planner of very many sites wants to know of each instruction, as one flat table.
//!
//! 8 bytes an instruction, in the order of addresses; looked up by binary search, or walked along with a
//! list of sites that ascends.

use std::fmt;
use std::ops::Range;

use incise_image::{Image, LinkAddr};
use incise_isa::native::{GprSet, Insn, RegisterUses};

use crate::analysis::liveness::{Liveness, STATUS_FLAGS, Set};
use crate::graph::edge::EdgeKind;
use crate::graph::handles::{Block, Function};
use crate::graph::{BlockId, Cfg, FunctionId};
use crate::parse::code::NONE;
use crate::parse::threads::in_order;

/// What is known of one instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hint(u32);

impl Hint {
    const ENTRY: u32 = 1 << 22;
    const BRANCH: u32 = 1 << 23;
    const RETURN_SITE: u32 = 1 << 24;
    const LANDING_PAD: u32 = 1 << 25;
    const TABLE: u32 = 1 << 26;
    const OPEN: u32 = 1 << 27;
    const BLOCK: u32 = 1 << 28;

    /// Registers that may be read behind here before they are written; `rsp` always is one.
    pub const fn live_gprs(self) -> GprSet {
        GprSet::from_bits(self.0 as u16)
    }

    /// Status flags that may be read before they are written, as bits of RFLAGS.
    pub const fn live_flags(self) -> u64 {
        let f = (self.0 >> 16) as u64;
        f & 1 | (f & 2) << 1 | (f & 4) << 2 | (f & 0x18) << 3 | (f & 0x20) << 6
    }

    /// Whether any status flag may be read before it is written.
    pub const fn flags_are_live(self) -> bool {
        self.0 >> 16 & 0x3f != 0
    }

    /// A function begins here.
    pub const fn is_entry(self) -> bool {
        self.0 & Hint::ENTRY != 0
    }

    /// A `jmp`, `jcc`, `loop` or `xbegin` leads here.
    pub const fn is_branch_target(self) -> bool {
        self.0 & Hint::BRANCH != 0
    }

    /// A call returns here.
    pub const fn is_return_site(self) -> bool {
        self.0 & Hint::RETURN_SITE != 0
    }

    /// Exceptions are caught here.
    pub const fn is_landing_pad(self) -> bool {
        self.0 & Hint::LANDING_PAD != 0
    }

    /// A jump through a table leads here.
    pub const fn is_table_target(self) -> bool {
        self.0 & Hint::TABLE != 0
    }

    /// A block begins here. Control may come from the instruction before only.
    pub const fn is_block_start(self) -> bool {
        self.0 & Hint::BLOCK != 0
    }

    /// The graph of a function that holds the instruction is not complete: unknown jumps may lead here.
    pub const fn is_open(self) -> bool {
        self.0 & Hint::OPEN != 0
    }

    /// Whether control may come here from anywhere but the instruction before, as far as is known.
    pub const fn is_target(self) -> bool {
        const ANY: u32 = Hint::ENTRY | Hint::BRANCH | Hint::RETURN_SITE | Hint::LANDING_PAD | Hint::TABLE;
        self.0 & (ANY | Hint::OPEN) != 0
    }

    fn new(live: Set, how: u32) -> Hint {
        let f = live.flags() as u32;
        let flags = f & 1 | f >> 1 & 2 | f >> 2 & 4 | f >> 3 & 0x18 | f >> 6 & 0x20;
        Hint(u32::from(live.gprs().bits()) | flags << 16 | how)
    }
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hint(live {:?}, flags {:#x}", self.live_gprs(), self.live_flags())?;
        let marks = [
            (self.is_entry(), "entry"),
            (self.is_branch_target(), "branch target"),
            (self.is_return_site(), "return site"),
            (self.is_landing_pad(), "landing pad"),
            (self.is_table_target(), "table target"),
            (self.is_open(), "open"),
        ];
        marks.iter().filter(|mark| mark.0).try_for_each(|mark| write!(f, ", {}", mark.1))?;
        f.write_str(")")
    }
}

/// Hints for all instructions of a set of functions.
///
/// They come from analysis: as hazards to avoid and as registers to leave unsaved they are as good as the
/// graph is. What has no hint is unknown: all is live there, and anything may lead there.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Hints {
    base: u64,
    /// Distances of the instructions from `base`, ascending.
    at: Vec<u32>,
    hints: Vec<Hint>,
}

impl fmt::Debug for Hints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hints {{ instructions: {} }}", self.at.len())
    }
}

impl Hints {
    /// The hints for all of `cfg`, made on `threads` threads (0 and 1: the calling one alone). `file` are the
    /// contents `image` was parsed from.
    pub fn of(cfg: &Cfg, image: &Image, file: &[u8], threads: usize) -> Hints {
        let liveness = Liveness::of(cfg, image, file, threads);
        let blocks: Vec<u32> = (0..cfg.blocks().len() as u32).collect();
        Hints::of_blocks(cfg, &liveness, &blocks, threads)
    }

    /// The hints for `functions` alone, out of a graph whose liveness is known.
    pub fn of_functions(
        cfg: &Cfg,
        liveness: &Liveness<'_>,
        functions: impl IntoIterator<Item = FunctionId>,
        threads: usize,
    ) -> Hints {
        let functions = functions.into_iter().filter_map(|id| cfg.function(id));
        let mut blocks: Vec<u32> = functions.flat_map(Function::block_ids).copied().collect();
        blocks.sort_unstable();
        blocks.dedup();
        Hints::of_blocks(cfg, liveness, &blocks, threads)
    }

    fn of_blocks(cfg: &Cfg, liveness: &Liveness<'_>, blocks: &[u32], threads: usize) -> Hints {
        let entered: Vec<u32> = cfg.functions.iter().map(|f| f.entry).collect();
        let mut found: Vec<(u32, Hint)> = in_order(blocks.len(), threads, |range| {
            let mut uses = RegisterUses::default();
            let mut insns: Vec<Insn> = Vec::new();
            let mut found: Vec<(u32, Hint)> = Vec::new();
            for block in blocks[range].iter().filter_map(|&id| cfg.block(BlockId(id))) {
                let open = if block.functions().all(Function::is_complete) { 0 } else { Hint::OPEN };
                let start = found.len();
                liveness.each(block, &mut uses, &mut insns, |at, live| {
                    let at = at.0.wrapping_sub(cfg.base) as u32;
                    found.push((at, Hint::new(live, open)));
                });
                found[start..].reverse();
                if let Some((at, first)) = found.get_mut(start) {
                    let entry = if entered.binary_search(at).is_ok() { Hint::ENTRY } else { 0 };
                    *first = Hint(first.0 | Hint::BLOCK | entry | how_entered(block));
                }
            }
            found
        });
        // Overlapping instructions: their blocks do not follow each other.
        if !found.is_sorted_by_key(|(at, _)| *at) {
            found.sort_unstable_by_key(|(at, _)| *at);
        }
        let (at, hints) = found.into_iter().unzip();
        Hints { base: cfg.base, at, hints }
    }

    /// The number of instructions.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// Whether there is no instruction.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// The hint for the instruction at `at`; `None` if none is known to begin there.
    pub fn at(&self, at: LinkAddr) -> Option<Hint> {
        let index = self.at.binary_search(&self.offset(at)?).ok()?;
        self.hints.get(index).copied()
    }

    /// The instructions that begin in `range` and their hints, ascending.
    pub fn range(&self, range: Range<LinkAddr>) -> impl ExactSizeIterator<Item = (LinkAddr, Hint)> + '_ {
        let place = |at: LinkAddr| match at.0.checked_sub(self.base) {
            None => 0,
            Some(off) => self.at.partition_point(|&a| u64::from(a) < off),
        };
        let (first, end) = (place(range.start), place(range.end));
        let at = self.at.get(first..end).unwrap_or(&[]);
        let hints = self.hints.get(first..end).unwrap_or(&[]);
        at.iter().zip(hints).map(|(&at, &hint)| (LinkAddr(self.base + u64::from(at)), hint))
    }

    fn offset(&self, at: LinkAddr) -> Option<u32> {
        u32::try_from(at.0.wrapping_sub(self.base)).ok().filter(|&off| off != NONE)
    }
}

fn how_entered(block: Block<'_>) -> u32 {
    block.incoming().fold(0, |how, edge| {
        how | match edge.kind() {
            EdgeKind::Call => Hint::ENTRY,
            EdgeKind::Taken | EdgeKind::Direct => Hint::BRANCH,
            EdgeKind::Indirect => Hint::TABLE,
            EdgeKind::CallFallThrough => Hint::RETURN_SITE,
            EdgeKind::Catch => Hint::LANDING_PAD,
            EdgeKind::NotTaken | EdgeKind::FallThrough | EdgeKind::Return => 0,
        }
    })
}

// Six flags, as `Hint` packs them.
const _: () = assert!(STATUS_FLAGS == 0x8d5);
