//! Liveness of registers over a whole graph: general-purpose, status flags, vectors.
//!
//! Where control goes to code that can be seen, that code says what is live. Where it cannot be seen, at
//! imports and pointers, the calling convention does: that of System V (psABI 3.2), or that of Go in Go's
//! programs, which keeps all. Arguments count as read at every call, as whoever probes a function's entry
//! wants them, and what functions keep for their callers counts as live at every call, as an exception takes
//! it from there.
//!
//! Faults count as going on, as in [`incise_isa::native::live_before`]. The direction flag, x87, MMX and
//! mask registers are not followed.

mod convention;
mod facts;
mod set;
mod solve;
mod strangers;

use incise_image::{Image, LinkAddr};
use incise_isa::native::{Gpr, GprSet, Insn, RegisterUses};

use crate::graph::handles::Block;
use crate::graph::{BlockId, Cfg};

pub(crate) use set::Set;

/// CF, PF, AF, ZF, SF, OF in RFLAGS.
pub(crate) const STATUS_FLAGS: u64 = 0x8d5;

/// Registers that may be read before they are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LiveSet {
    /// General-purpose registers; `rsp` always is.
    pub gprs: GprSet,
    /// Status flags, as bits of RFLAGS.
    pub flags: u64,
    /// Vector registers with all their bits, a bit each.
    pub vectors: u32,
}

impl LiveSet {
    /// Everything.
    pub const ALL: LiveSet = LiveSet { gprs: GprSet::ALL, flags: STATUS_FLAGS, vectors: u32::MAX };

    /// What is in either.
    pub fn union(self, other: LiveSet) -> LiveSet {
        LiveSet {
            gprs: self.gprs.union(other.gprs),
            flags: self.flags | other.flags,
            vectors: self.vectors | other.vectors,
        }
    }
}

/// What is live in a graph's blocks.
pub struct Liveness<'a> {
    image: &'a Image,
    file: &'a [u8],
    solution: solve::Solution,
}

impl<'a> Liveness<'a> {
    /// Solves for all blocks of `cfg`, on `threads` threads (0 and 1: the calling one alone). `file` are the
    /// contents `image` was parsed from. Less is dead in a graph of single functions, as their callers are
    /// not known.
    pub fn of(cfg: &Cfg, image: &'a Image, file: &'a [u8], threads: usize) -> Liveness<'a> {
        Liveness { image, file, solution: solve::solve(cfg, image, file, threads) }
    }

    /// What is live before the first instruction of `block`.
    pub fn before(&self, block: BlockId) -> LiveSet {
        self.solution.start.get(block.0 as usize).map_or(LiveSet::ALL, |&set| set.into())
    }

    /// What is live behind the last instruction of `block`; if that is a call, when it has come back.
    pub fn after(&self, block: BlockId) -> LiveSet {
        self.solution.after.get(block.0 as usize).map_or(LiveSet::ALL, |&set| set.into())
    }

    /// What is live before each instruction of `block`, in their order.
    pub fn instructions(&self, block: Block<'_>) -> Vec<(LinkAddr, LiveSet)> {
        let mut found = Vec::with_capacity(block.insn_count());
        self.each(block, &mut RegisterUses::default(), &mut Vec::new(), |at, set| {
            found.push((at, LiveSet::from(set)));
        });
        found.reverse();
        found
    }

    /// Calls `found` with what is live before each instruction of `block`, last to first. `insns` is working
    /// memory.
    pub(crate) fn each(
        &self,
        block: Block<'_>,
        uses: &mut RegisterUses,
        insns: &mut Vec<Insn>,
        mut found: impl FnMut(LinkAddr, Set),
    ) {
        insns.clear();
        insns.extend(block.instructions(self.image, self.file));
        let mut live = self.solution.before_end.get(block.id().0 as usize).copied().unwrap_or(Set::ALL);
        for insn in insns.iter().rev() {
            let (reads, kills) = facts::of_insn(insn, uses);
            live = live.minus(kills).union(reads).union(Set::of(GprSet::of(&[Gpr::Rsp]), 0, 0));
            found(LinkAddr(insn.addr().0), live);
        }
    }
}
