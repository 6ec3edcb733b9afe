//! The instances as a batch would have them, for the heads it touches.

use std::collections::BTreeMap;

use incise_isa::Addr;
use rustc_hash::FxHashMap;

use crate::code::Code;
use crate::engine::{Batch, Engine, Position};
use crate::plan::Plan;
use crate::report::{Entry, InstanceId, Outcome, Report};
use crate::snippet::Snippet;
use crate::tactic::{Refusal, Tactic};

/// A snippet at a point.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub id: InstanceId,
    /// The address asked for; the head patched lies behind an `endbr64`.
    pub at: Addr,
    pub snippet: Snippet,
    pub enabled: bool,
}

/// The wanted instances of every head that a batch touches.
pub(crate) struct Draft {
    pub instances: BTreeMap<Addr, Vec<Instance>>,
    refused: FxHashMap<InstanceId, Refusal>,
    placed: FxHashMap<InstanceId, Addr>,
}

impl Draft {
    pub(crate) fn new(engine: &Engine, batch: &Batch, code: &Code) -> Draft {
        let mut draft =
            Draft { instances: BTreeMap::new(), refused: FxHashMap::default(), placed: FxHashMap::default() };
        for (id, at, snippet, position) in &batch.insertions {
            match head_of(engine, code, *at) {
                Err(refusal) => {
                    draft.refused.insert(*id, refusal);
                }
                Ok(head) => {
                    let instance = Instance { id: *id, at: *at, snippet: snippet.clone(), enabled: true };
                    let list = draft.list_at(engine, code, head);
                    let index = if *position == Position::First { 0 } else { list.len() };
                    list.insert(index, instance);
                    draft.placed.insert(*id, head);
                }
            }
        }
        for id in &batch.removals {
            if let Some(list) = draft.list_of(engine, code, *id) {
                list.retain(|instance| instance.id != *id);
            }
        }
        for (id, enabled) in &batch.switches {
            let list = draft.list_of(engine, code, *id);
            if let Some(instance) = list.and_then(|list| list.iter_mut().find(|i| i.id == *id)) {
                instance.enabled = *enabled;
            }
        }
        draft
    }

    fn list_of(&mut self, engine: &Engine, code: &Code, id: InstanceId) -> Option<&mut Vec<Instance>> {
        let head = *engine.heads.get(&id).or_else(|| self.placed.get(&id))?;
        Some(self.list_at(engine, code, head))
    }

    /// The instances at a head: those that were there, unless other code is there now.
    fn list_at(&mut self, engine: &Engine, code: &Code, head: Addr) -> &mut Vec<Instance> {
        let present = || engine.instances.get(&head).filter(|_| !code.lost.contains(&head)).cloned();
        let present = || present().unwrap_or_default();
        self.instances.entry(head).or_insert_with(present)
    }

    /// What became of every insertion, and of older instances that had to go.
    pub(crate) fn report(&self, engine: &Engine, batch: &Batch, plan: &Plan) -> Report {
        let refused: FxHashMap<Addr, &Refusal> = plan.refused.iter().map(|(at, why)| (*at, why)).collect();
        let carried: FxHashMap<Addr, Tactic> = plan.carried.iter().copied().collect();
        let mut entries: Vec<Entry> = Vec::with_capacity(batch.insertions.len());
        for (id, at, ..) in &batch.insertions {
            let outcome = match self.refused.get(id) {
                Some(refusal) => Outcome::Refused(refusal.clone()),
                None => {
                    let head = self.placed.get(id).unwrap_or(at);
                    let list = self.instances.get(head).map_or(&[][..], Vec::as_slice);
                    // Inserted and removed in one batch.
                    let Some(instance) = list.iter().find(|instance| instance.id == *id) else { continue };
                    match (refused.get(head), carried.get(head)) {
                        (None, Some(tactic)) => Outcome::Installed(*tactic),
                        (Some(refusal), _) => Outcome::Refused((*refusal).clone()),
                        (None, None) if !instance.enabled => Outcome::Installed(Tactic::Nop),
                        (None, None) => Outcome::Refused(Refusal::NoRoom(*at)),
                    }
                }
            };
            entries.push(Entry { instance: *id, at: *at, outcome });
        }
        for (head, why) in &plan.refused {
            for instance in engine.instances.get(head).into_iter().flatten() {
                let outcome = Outcome::Refused(why.clone());
                entries.push(Entry { instance: instance.id, at: instance.at, outcome });
            }
        }
        Report { entries, ..Report::default() }
    }
}

/// The head to patch for a point at `at`: behind an `endbr64`, which must stay the first instruction.
fn head_of(engine: &Engine, code: &Code, at: Addr) -> Result<Addr, Refusal> {
    const ENDBR64: [u8; 4] = [0xF3, 0x0F, 0x1E, 0xFA];
    if engine.is_trampoline(at) {
        return Err(Refusal::Machinery(at));
    }
    if !code.original(at).starts_with(&ENDBR64) {
        return Ok(at);
    }
    let head = at + ENDBR64.len() as u64;
    // Looking at bytes is quick and finds too much; decoding tells.
    if code.branch_into(head..head + 1, |_| true).is_some() && branches_to(code, at, head) {
        return Err(Refusal::LoopBehindEndbr(at));
    }
    Ok(head)
}

/// Whether the function that begins at `entry` has a branch to `head`, as far as its code was read. Yes, if
/// where it ends is not known or some of it cannot be decoded.
fn branches_to(code: &Code, entry: Addr, head: Addr) -> bool {
    let Some(function) = code.facts.function(entry) else { return true };
    let mut at = entry;
    while at < function.end && !code.original(at).is_empty() {
        let Ok(insn) = code.insn(at) else { return true };
        if insn.flow().target() == Some(head) {
            return true;
        }
        at = insn.end();
    }
    false
}
