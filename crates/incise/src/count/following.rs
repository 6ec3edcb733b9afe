//! Points that are put in without a counter, while it is not yet known whether the counters are there that they follow from.

use super::ledger::Inferred;
use crate::flow::{Implied, Need};
use crate::point::Point;

/// A block of one of the modules.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockOf {
    module: usize,
    block: u32,
}

/// What a point gets.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gets {
    /// A counter for itself.
    Counter,
    /// A counter others may follow from.
    BlockCounter(BlockOf),
    /// A way into the trampoline.
    Way,
    /// Nothing.
    Nothing,
}

/// Points that follow from others, by module.
#[derive(Default)]
pub(super) struct Following {
    modules: Vec<Implied>,
    /// For each block of each module, the entry of its counter in the ledger.
    counters: Vec<Vec<Option<usize>>>,
    waiting: Vec<(Point, BlockOf)>,
}

impl Following {
    pub(super) fn new(modules: Vec<Implied>) -> Following {
        let counters = modules.iter().map(|implied| vec![None; implied.balance.blocks().len()]).collect();
        Following { modules, counters, waiting: Vec::new() }
    }

    /// What `point` gets; it waits if that is no counter.
    pub(super) fn offer(&mut self, point: &Point) -> Gets {
        for (module, implied) in self.modules.iter().enumerate() {
            match implied.need(point) {
                Need::Counter => {}
                Need::BlockCounter(block) => return Gets::BlockCounter(BlockOf { module, block }),
                Need::Nothing { block, first } => {
                    self.waiting.push((point.clone(), BlockOf { module, block }));
                    // The same code runs in trampolines as if it were counted: where functions are copied in part only, there are
                    // more ways in than jumps find room for.
                    return if first { Gets::Way } else { Gets::Nothing };
                }
            }
        }
        Gets::Counter
    }

    /// The counter of a block is there: its entry in the ledger.
    pub(super) fn is_counted(&mut self, BlockOf { module, block }: BlockOf, entry: usize) {
        self.counters[module][block as usize] = Some(entry);
    }

    /// What follows, with indices that `tell` gives to points, and the points that need counters of their own because one is missing that
    /// they would follow from.
    pub(super) fn finish(self, tell: &mut dyn FnMut(&Point) -> usize) -> (Vec<Inferred>, Vec<Point>) {
        let mut unknown: Vec<Vec<bool>> = Vec::new();
        let mut found: Vec<Inferred> = Vec::new();
        for (Implied { balance, .. }, counters) in self.modules.into_iter().zip(self.counters) {
            let missing = balance.blocks().iter().zip(&counters);
            let mut missing: Vec<bool> =
                missing.map(|(block, counter)| block.counted && counter.is_none()).collect();
            balance.spread(&mut missing);
            unknown.push(missing);
            found.push(Inferred { balance, counters, points: Vec::new() });
        }
        let mut others = Vec::new();
        for (point, BlockOf { module, block }) in self.waiting {
            match unknown[module][block as usize] {
                true => others.push(point),
                false => found[module].points.push((block, tell(&point))),
            }
        }
        (found, others)
    }
}
