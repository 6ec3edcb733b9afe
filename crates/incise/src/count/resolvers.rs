//! Indirect functions that are bound when they are first called: the resolver is watched.
//!
//! A slot that is bound lazily tells nothing about the implementation until the dynamic linker has called the resolver, and
//! then the first call is made at once. So there is a gate at the resolver, and from the first time it is reached one where
//! it returns to: there rax is the implementation, and the counter is put in before the linker goes on.

use std::collections::{BTreeMap, BTreeSet};

use incise_isa::Addr;
use incise_patch::{Batch, InstanceId, Position, Snippet};
use incise_space::AddressSpace;

/// A thread at a gate.
pub(super) struct Passage {
    pub at: Addr,
    pub thread: i32,
    pub rax: u64,
    pub rsp: Addr,
}

/// What a passage meant.
pub(super) enum Passed {
    /// A resolver is entered; where it returns to has to become a gate.
    Enters(Option<Batch>),
    /// One has returned. Whether it was seen to be entered, so that its choice is known.
    Returns(bool),
}

/// The gates at resolvers, and what they told.
#[derive(Clone, Default)]
pub(super) struct Resolvers {
    /// By resolver: where its gate is.
    watched: BTreeMap<Addr, (Addr, InstanceId)>,
    /// Where resolvers return to.
    returns: BTreeMap<Addr, InstanceId>,
    /// Threads in a resolver.
    inside: BTreeMap<i32, Addr>,
    chosen: BTreeMap<Addr, Addr>,
    /// Where gates were taken away.
    gone: Vec<Addr>,
}

impl Resolvers {
    /// All gates.
    pub(super) fn gates(&self) -> impl Iterator<Item = Addr> + '_ {
        self.watched.values().map(|(at, _)| *at).chain(self.returns.keys().copied())
    }

    /// Where gates were taken away since this was asked last.
    pub(super) fn take_gone(&mut self) -> Vec<Addr> {
        std::mem::take(&mut self.gone)
    }

    /// What the resolver was seen to choose.
    pub(super) fn chosen(&self, resolver: Addr) -> Option<Addr> {
        self.chosen.get(&resolver).copied()
    }

    /// Notes that exactly these resolvers are to be watched. Returns the change, if there is one; `head` tells where the
    /// gate of a resolver is.
    pub(super) fn watch(&mut self, wanted: &BTreeSet<Addr>, head: &dyn Fn(Addr) -> Addr) -> Option<Batch> {
        let mut batch = Batch::default();
        let mut changed = false;
        let gone = &mut self.gone;
        self.watched.retain(|resolver, (at, gate)| {
            let stays = wanted.contains(resolver);
            if !stays {
                batch.remove(*gate);
                gone.push(*at);
                changed = true;
            }
            stays
        });
        for &resolver in wanted {
            self.watched.entry(resolver).or_insert_with(|| {
                changed = true;
                (head(resolver), batch.insert(resolver, Snippet::Gate, Position::First))
            });
        }
        if wanted.is_empty() {
            for (at, gate) in std::mem::take(&mut self.returns) {
                batch.remove(gate);
                gone.push(at);
                changed = true;
            }
        }
        changed.then_some(batch)
    }

    /// A thread is at one of the gates; `back` is what its stack pointer points to.
    pub(super) fn pass(&mut self, passage: &Passage, back: Option<Addr>) -> Passed {
        let resolver =
            self.watched.iter().find(|(_, (at, _))| *at == passage.at).map(|(resolver, _)| *resolver);
        let Some(resolver) = resolver else {
            let left = self.inside.remove(&passage.thread);
            if let Some(resolver) = left {
                self.chosen.insert(resolver, Addr(passage.rax));
            }
            return Passed::Returns(left.is_some());
        };
        self.inside.insert(passage.thread, resolver);
        let Some(back) = back.filter(|back| !self.returns.contains_key(back)) else {
            return Passed::Enters(None);
        };
        let mut batch = Batch::default();
        self.returns.insert(back, batch.insert(back, Snippet::Gate, Position::First));
        Passed::Enters(Some(batch))
    }
}

/// Where the trap of a gate at `entry` is: behind an `endbr64`, which stays.
pub(super) fn head_of(space: &dyn AddressSpace, entry: Addr) -> Addr {
    const ENDBR64: [u8; 4] = [0xF3, 0x0F, 0x1E, 0xFA];
    let mut bytes = [0; ENDBR64.len()];
    let behind = space.read(entry, &mut bytes).is_ok() && bytes == ENDBR64;
    if behind { entry + ENDBR64.len() as u64 } else { entry }
}
