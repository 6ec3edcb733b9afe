//! Engines of forked children, and of code that is gone.

use std::ops::Range;

use incise_isa::Addr;

use crate::engine::Engine;
use crate::snippet::placer::Shared;

impl Engine {
    /// What this engine knows, for a forked child: its patches are the child's too, and its counters are
    /// shared. New counters of the child get memory of their own.
    pub fn for_child(&self) -> Engine {
        Engine {
            instances: self.instances.clone(),
            heads: self.heads.clone(),
            groups: self.groups.clone(),
            places: self.places.clone(),
            memory: self.memory.for_child(),
            shared: Shared { data: Vec::new(), faults: self.shared.faults.clone(), ..self.shared },
            counters: self.counters.clone(),
            cells: self.cells.clone(),
            sharing: self.sharing,
            counted: self.counted.clone(),
            retired: self.retired.clone(),
            callers: self.callers.clone(),
            retired_landings: self.retired_landings.clone(),
            retired_bytes: self.retired_bytes,
            reclaim_at: self.reclaim_at,
            threads: self.threads,
            instrumentation: self.instrumentation.clone(),
        }
    }

    /// As [`for_child`](Self::for_child), for the child itself, in which this engine is not used any more.
    pub fn into_child(mut self) -> Engine {
        let data = std::mem::take(&mut self.shared.data);
        let child = self.for_child();
        Engine { shared: Shared { data, ..child.shared }, ..child }
    }

    /// Forgets what lies in `range` without touching it: its module was unloaded.
    pub fn forget(&mut self, range: Range<Addr>) {
        let starts: Vec<Addr> = self.groups.range(range.clone()).map(|(start, _)| *start).collect();
        for start in &starts {
            if let Some(group) = self.take_group(*start) {
                self.retire(&group);
            }
        }
        let heads: Vec<Addr> = self.instances.range(range).map(|(head, _)| *head).collect();
        for instance in heads.iter().filter_map(|head| self.instances.remove(head)).flatten() {
            self.heads.remove(&instance.id);
        }
    }

    /// Forgets everything without touching the target: its image is gone (exec), or it is another's now.
    pub fn abandon(&mut self) {
        self.forget_data();
        let (counters, counted) = (std::mem::take(&mut self.counters), std::mem::take(&mut self.counted));
        let (threads, instrumentation) = (self.threads, self.instrumentation.take());
        *self = Engine { counters, counted, threads, instrumentation, ..Engine::default() };
    }
}
