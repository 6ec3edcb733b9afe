//! Which points of a module need no counter, because their counts follow from those of others.

use std::collections::HashSet;

use incise_cfg::{Balance, Block, Cfg};
use incise_image::{LinkAddr, Module};
use incise_isa::Addr;
use incise_isa::native::Flow;

use crate::point::{Point, PointKind};

/// Blocks of a module whose counts depend on each other.
pub(crate) struct Implied {
    pub balance: Balance,
    /// The addresses of its blocks, up to where what begins them may end before: behind a system call.
    ranges: Vec<(Addr, Addr)>,
}

/// What a point needs to be counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// A counter for itself.
    Counter,
    /// A counter for this block.
    BlockCounter(u32),
    /// Nothing: it runs as often as this block. `first`: it is the first instruction of the block.
    Nothing { block: u32, first: bool },
}

impl Implied {
    /// For points of `kind` in those functions whose entries are `asked`. Nothing if each point of that kind needs a counter.
    pub(super) fn new(
        cfg: &Cfg,
        module: &Module,
        file: &[u8],
        kind: PointKind,
        asked: &HashSet<LinkAddr>,
    ) -> Option<Implied> {
        if !cfg.is_whole() || !matches!(kind, PointKind::BlockEntry | PointKind::BeforeInstruction) {
            return None;
        }
        let wanted = |block: Block<'_>| block.functions().all(|function| asked.contains(&function.entry()));
        let balance = Balance::of(cfg, wanted, |block| end(block, module, file) < block.end());
        let of = |id| cfg.block(id).map(|block| (block.start(), end(block, module, file)));
        let found = balance.blocks().iter().map(|block| of(block.id).unwrap_or_default());
        let ranges = found.map(|(start, end)| (module.to_addr(start), module.to_addr(end))).collect();
        Some(Implied { balance, ranges })
    }

    /// What a point of the module needs.
    pub(crate) fn need(&self, point: &Point) -> Need {
        let index = self.ranges.partition_point(|(start, _)| *start <= point.addr).checked_sub(1);
        let holds = |index: &usize| point.addr < self.ranges[*index].1;
        let Some(index) = index.filter(holds) else { return Need::Counter };
        let (found, block) = (self.balance.blocks()[index], index as u32);
        match point.addr == self.ranges[index].0 {
            true if found.counted => Need::BlockCounter(block),
            first => Need::Nothing { block, first },
        }
    }
}

/// Where a block ends, or behind the first instruction in it that may not go on, or behind which another thread may begin.
fn end(block: Block<'_>, module: &Module, file: &[u8]) -> LinkAddr {
    let goes_on = |flow: Flow| matches!(flow, Flow::Next);
    let mut insns = block.instructions(&module.image, file);
    let last = insns.find(|insn| !goes_on(insn.flow()));
    last.map_or(block.end(), |insn| LinkAddr(insn.end().0))
}
