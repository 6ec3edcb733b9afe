//! Counters of an engine: where they are, and what they counted.

use std::ops::Range;
use std::sync::atomic::Ordering;

use incise_isa::Addr;
use incise_space::ThreadCells;

use crate::engine::draft::{Draft, Instance};
use crate::engine::{Batch, Engine};
use crate::snippet::placement::Placement;
use crate::snippet::{CounterId, CounterPlace, Snippet};
use crate::trampoline::lower::{Callback, Placed, Ready, Switched};
use crate::trampoline::sequences::Snippets;

impl Engine {
    /// A new counter, zero. It gets memory when a probe first uses it.
    pub fn counter(&mut self) -> CounterId {
        self.counters.push(None);
        self.counted.push(0);
        CounterId(self.counters.len() as u32 - 1)
    }

    /// A counter's value. It stays when the probes are removed and the memory is given back.
    pub fn read(&self, counter: CounterId) -> u64 {
        let index = counter.0 as usize;
        let now = self.counters.get(index).copied().flatten().and_then(|at| {
            if let Some(cells) = self.cells.as_ref().filter(|cells| cells.range().contains(&at)) {
                return Some(cells.sum(at));
            }
            let value = self.memory.data.mapping_of(at)?.quadword(at);
            Some(value.load(Ordering::Relaxed))
        });
        self.counted.get(index).copied().unwrap_or(0).wrapping_add(now.unwrap_or(0))
    }

    /// From now on, each thread counts in its own of these cells, without `lock`, where snippets are counters alone.
    pub fn count_by_thread(&mut self, cells: ThreadCells) {
        (self.cells, self.sharing) = (Some(cells), false);
    }

    /// Whether each thread counts by itself.
    pub fn counts_by_thread(&self) -> bool {
        self.cells.is_some() && !self.sharing
    }

    /// From the commit of the returned batch on, no code counts by thread; what was counted stays.
    pub fn share_counters(&mut self) -> Batch {
        self.sharing = true;
        let mut batch = Batch::default();
        for instance in self.instances.values().flatten() {
            batch.switches.push((instance.id, instance.enabled, instance.switch));
        }
        batch
    }

    /// Where a counter is, once a probe uses it.
    pub fn address(&self, counter: CounterId) -> Option<Addr> {
        self.counters.get(counter.0 as usize).copied().flatten()
    }

    /// Keeps the values of counters and other data, whose memory goes.
    pub(super) fn forget_data(&mut self) {
        let shared = std::mem::take(&mut self.shared);
        shared.data.iter().for_each(|data| data.take_back(shared.generation.0));
        self.counted = (0..self.counters.len() as u32).map(|index| self.read(CounterId(index))).collect();
        self.counters.fill(None);
        self.cells = None;
    }

    /// Counters of the draft that have no memory yet, with a head that uses each, and whether snippets that are counters
    /// do alone.
    pub(super) fn unplaced(&self, next: &Draft) -> Vec<(CounterId, bool, Addr)> {
        let mut counters: Vec<(CounterId, bool, Addr)> = Vec::new();
        for (head, list) in &next.lists {
            let used = list.iter().flat_map(|instance| {
                let (alone, ids) = match &instance.snippet {
                    Snippet::Counter(id) => (true, std::slice::from_ref(id)),
                    Snippet::Generated(snippet) => (snippet.0.only_counts(), snippet.0.counters()),
                    _ => (false, &[][..]),
                };
                ids.iter().map(move |id| (*id, alone, *head))
            });
            counters.extend(used.filter(|(id, ..)| self.counters.get(id.0 as usize) == Some(&None)));
        }
        counters.sort();
        counters.dedup_by_key(|(id, ..)| *id);
        counters
    }

    /// Gives counters cells, if there are any and snippets that are counters use them alone. Returns the others, each with
    /// a head that uses it.
    pub(super) fn place_in_cells(
        &mut self,
        counters: Vec<(CounterId, bool, Addr)>,
    ) -> Vec<(CounterId, Addr)> {
        let cells = self.cells.as_ref().filter(|_| !self.sharing);
        let mut others = Vec::new();
        for (id, alone, head) in counters {
            match cells.filter(|_| alone).and_then(ThreadCells::take) {
                Some(cell) => self.counters[id.0 as usize] = Some(cell),
                None => others.push((id, head)),
            }
        }
        others
    }
}

/// The snippets of the instances that run; `counters` tells where each counter is, and `cells` where those are of which
/// each thread has its own, and `begins` whether a function begins somewhere.
pub(super) fn ready(
    instances: &[Instance],
    counters: &[Option<Addr>],
    cells: Option<&Range<Addr>>,
    begins: &dyn Fn(Addr) -> bool,
) -> Snippets {
    let mut snippets = Snippets::default();
    let is_cell = |at: &Addr| cells.is_some_and(|cells| cells.contains(at));
    for instance in instances.iter().filter(|instance| instance.enabled || instance.switch) {
        let ready = match &instance.snippet {
            Snippet::Counter(id) => counters
                .get(id.0 as usize)
                .copied()
                .flatten()
                .map(|at| if is_cell(&at) { Ready::ThreadCounter(at) } else { Ready::Counter(at) }),
            Snippet::Code(code) => Some(Ready::Code(Box::new(code.clone()))),
            Snippet::Gate => Some(Ready::Gate),
            Snippet::Callback { entry, at_functions, payload } => {
                let first = instance.placement == Placement::Before && begins(instance.at);
                let entry = if first { *at_functions } else { *entry };
                Some(Ready::Callback(Box::new(Callback { entry, payload: *payload })))
            }
            Snippet::Generated(snippet) => {
                let place = |id: &CounterId| {
                    let at = counters.get(id.0 as usize).copied().flatten()?;
                    Some(CounterPlace { id: *id, at, by_thread: is_cell(&at) })
                };
                let placed: Option<_> = snippet.0.counters().iter().map(place).collect();
                placed
                    .map(|counters| Ready::Generated(Box::new(Placed { snippet: snippet.clone(), counters })))
            }
        };
        let ready = ready.map(|ready| match ready {
            // A tracer looks for them by where they are.
            Ready::Gate => Ready::Gate,
            what if instance.switch => {
                Ready::Switched(Box::new(Switched { instance: instance.id, on: instance.enabled, what }))
            }
            ready => ready,
        });
        if let Some(ready) = ready {
            snippets.push(instance.placement, ready);
        }
    }
    snippets
}
