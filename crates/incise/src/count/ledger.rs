//! Counters of a process, and how counts are made of them.
//!
//! A run of instructions needs one increment: where an instruction runs into the next in one trampoline, the next one's
//! counter is [`Placement::Entered`] and counts only what comes from elsewhere: branches, returns, traps, signal frames.
//! How often it ran is that and the count of the instruction before it. The engine tells where this is so; everywhere
//! else the counter counts all. Each count is exact as long as what begins an instruction goes on to the next; that is not
//! so where an instruction faults, or a thread ends or is taken elsewhere by a signal handler inside of a run: then the
//! instructions behind it, up to the end of the run, count one more.

use std::collections::HashMap;

use incise_cfg::Balance;
use incise_isa::Addr;
use incise_patch::{CounterId, Engine, InstanceId, Place, Placement};

use crate::point::{Point, PointKind};

/// No instruction of x86-64 is longer.
const LONGEST: u64 = 15;

/// Where the counter of a point goes, if that before it in the batch is `before`.
pub(super) fn place(point: &Point, before: Option<&Point>) -> Place {
    let alone =
        |point: &Point| point.kind == PointKind::BeforeInstruction && point.placement == Placement::Before;
    let follows = before.is_some_and(|before| {
        alone(before) && before.addr < point.addr && point.addr <= before.addr + LONGEST
    });
    match alone(point) && follows {
        true => Place { at: point.addr, placement: Placement::Entered },
        false => point.place(),
    }
}

/// A counter that is in place.
struct Entry {
    /// Its index in the tally.
    tally: usize,
    instance: InstanceId,
    counter: CounterId,
    at: Addr,
    /// What it had counted when it was last read.
    taken: u64,
    /// Index of the entry of the instruction that runs into it.
    before: Option<usize>,
}

/// Points of a module whose counts follow from those of others.
pub(super) struct Inferred {
    pub balance: Balance,
    /// For each block that is counted the index of its entry.
    pub counters: Vec<Option<usize>>,
    /// Points, as a block and an index in the tally: each runs as often as the block.
    pub points: Vec<(u32, usize)>,
}

/// Counters that belong together.
#[derive(Default)]
pub(super) struct Ledger {
    entries: Vec<Entry>,
    inferred: Vec<Inferred>,
}

impl Ledger {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a counter that was put in at `at`; returns the index of its entry.
    pub(super) fn push(&mut self, tally: usize, instance: InstanceId, counter: CounterId, at: Addr) -> usize {
        self.entries.push(Entry { tally, instance, counter, at, taken: 0, before: None });
        self.entries.len() - 1
    }

    /// Adds points whose counts follow from those of entries that are there.
    pub(super) fn infer(&mut self, inferred: Inferred) {
        self.inferred.push(inferred);
    }

    /// Asks the engine anew which instructions run into which, after a transaction. Where that changed, what was counted
    /// so far is given to `add` first: nothing may run meanwhile.
    pub(super) fn renew(&mut self, engine: &Engine, add: &mut dyn FnMut(usize, u64)) {
        let index: HashMap<Addr, usize> =
            self.entries.iter().enumerate().map(|(index, entry)| (entry.at, index)).collect();
        let before = |entry: &Entry| index.get(&engine.runs_into(entry.instance)?).copied();
        let now: Vec<Option<usize>> = self.entries.iter().map(before).collect();
        let changed = |(entry, now): (&Entry, &Option<usize>)| {
            entry.before != *now && (entry.before.is_some() || engine.read(entry.counter) != entry.taken)
        };
        if self.entries.iter().zip(&now).any(changed) {
            self.take(engine, add);
        }
        for (entry, now) in self.entries.iter_mut().zip(now) {
            entry.before = now;
        }
    }

    /// Gives what was counted since it was last taken to `add`, with the index in the tally.
    pub(super) fn take(&mut self, engine: &Engine, add: &mut dyn FnMut(usize, u64)) {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|&index| self.entries[index].at);
        let mut counts = vec![0u64; self.entries.len()];
        for index in order {
            let entry = &mut self.entries[index];
            let now = engine.read(entry.counter);
            let before = entry.before.map_or(0, |before| counts[before]);
            counts[index] = now.wrapping_sub(std::mem::replace(&mut entry.taken, now)).wrapping_add(before);
        }
        for (entry, count) in self.entries.iter().zip(&counts) {
            add(entry.tally, *count);
        }
        for Inferred { balance, counters, points } in &self.inferred {
            let of = |entry: &Option<usize>| entry.map_or(0, |entry| counts[entry] as i64);
            let mut of_blocks: Vec<i64> = counters.iter().map(of).collect();
            balance.complete(&mut of_blocks);
            points.iter().for_each(|&(block, tally)| add(tally, of_blocks[block as usize] as u64));
        }
    }
}
