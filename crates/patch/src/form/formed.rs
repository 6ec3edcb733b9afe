//! Groups that were formed, before any trampoline has a place.

use std::ops::Range;

use incise_isa::Addr;

use crate::form::wanted::Wanted;
use crate::group::shape::{Board, Shape};
use crate::memory::Memory;
use crate::region::Region;
use crate::tactic::Refusal;

/// Groups that shall come, and those that have to go for them.
#[derive(Default)]
pub(crate) struct Formed {
    /// Ascending; their extents do not overlap. They are large.
    #[allow(clippy::vec_box, reason = "a list of the shapes themselves would be copied as it grows")]
    pub shapes: Vec<Box<Shape>>,
    /// Ascending; neither do these overlap, nor with shapes.
    pub regions: Vec<Region>,
    /// Starts of the groups that go.
    pub removed: Vec<Addr>,
    /// Probed heads that cannot be patched.
    pub refused: Vec<(Addr, Refusal)>,
    /// Heads that have to be planned anew, but whose code was not read: then nothing else counts.
    pub unread: Vec<Addr>,
    /// The snippets of every probed head that came by.
    pub wanted: Wanted,
}

impl Formed {
    /// The likely length of all trampolines of regions, and where the first region is.
    pub(crate) fn bulk(&self) -> Option<(Addr, u64)> {
        let lens = self.regions.iter().map(|region| region.room);
        self.regions.first().map(|first| (first.extent.start, lens.sum()))
    }

    /// Where the first shape or region begins.
    pub(crate) fn start(&self) -> Option<Addr> {
        let shape = self.shapes.first().map(|shape| shape.extent().start);
        shape.into_iter().chain(self.regions.first().map(|region| region.extent.start)).min()
    }

    /// Where the last shape or region ends.
    pub(crate) fn end(&self) -> Option<Addr> {
        let shape = self.shapes.last().map(|shape| shape.extent().end);
        shape.max(self.regions.last().map(|region| region.extent.end))
    }

    /// Adds what was formed of heads behind all of these.
    pub(crate) fn append(&mut self, mut behind: Formed) {
        self.shapes.append(&mut behind.shapes);
        self.regions.append(&mut behind.regions);
        self.refused.append(&mut behind.refused);
        self.unread.append(&mut behind.unread);
    }

    /// Memory that would let a jump fit where only a trap does otherwise.
    pub(crate) fn lacking(&self, memory: &Memory) -> Vec<Range<Addr>> {
        let puns = self.shapes.iter().filter_map(|shape| match shape.board {
            Board::Pun(board) => Some(board),
            _ => None,
        });
        let calls = self.regions.iter().filter_map(Region::boards_before_calls);
        puns.chain(calls).filter_map(|board| memory.unserved(&board)).collect()
    }
}
