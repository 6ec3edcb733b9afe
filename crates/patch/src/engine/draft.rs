//! The instances as a batch would have them, for the heads it touches.

use incise_isa::Addr;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::code::Code;
use crate::engine::report::{Entry, InstanceId, Outcome, Report};
use crate::engine::{Batch, Engine, Position};
use crate::plan::Plan;
use crate::snippet::Snippet;
use crate::snippet::placement::{Place, Placement};
use crate::tactic::{Refusal, Tactic};

/// A snippet at a point.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub id: InstanceId,
    /// The address asked for; the head patched lies behind an `endbr64`.
    pub at: Addr,
    pub placement: Placement,
    pub snippet: Snippet,
    pub enabled: bool,
    /// Its trampoline has a switch for it, and is there while it is off.
    pub switch: bool,
}

/// The instances at a head, in the order they run.
pub(crate) type Instances = SmallVec<[Instance; 1]>;

/// The wanted instances of every head that a batch touches.
#[derive(Default)]
pub(crate) struct Draft {
    /// Ascending, once the draft is made.
    pub lists: Vec<(Addr, Instances)>,
    /// Where in `lists` a head is, while the draft is made and heads have come out of order.
    index: Option<FxHashMap<Addr, u32>>,
    /// The head of each insertion of the batch.
    placed: Vec<Result<Addr, Refusal>>,
}

/// Finds heads among ascending ones: quickly where they are asked for in order, as they mostly are.
struct Cursor<'a, T> {
    all: &'a [(Addr, T)],
    /// Those before are not behind the head that was asked for last.
    next: usize,
}

impl<'a, T> Cursor<'a, T> {
    fn new(all: &'a [(Addr, T)]) -> Cursor<'a, T> {
        Cursor { all, next: 0 }
    }

    /// What is told of `head`; the last, if it is there more than once.
    fn find(&mut self, head: Addr) -> Option<&'a T> {
        /// So many are passed by one by one before all are searched.
        const STEP: usize = 16;
        let all = self.all;
        if self.next > 0 && all[self.next - 1].0 > head {
            self.next = 0;
        }
        let step = all[self.next..].iter().take(STEP).take_while(|(at, _)| *at <= head).count();
        self.next += step;
        if step == STEP {
            self.next = all.partition_point(|(at, _)| *at <= head);
        }
        let (at, told) = all.get(self.next.checked_sub(1)?)?;
        (*at == head).then_some(told)
    }
}

impl Draft {
    pub(crate) fn new(engine: &Engine, batch: &Batch, code: &Code) -> Draft {
        let mut draft = Draft::default();
        let heads = batch.insertions.len() + batch.removals.len();
        draft.lists.reserve(heads);
        draft.placed.reserve(batch.insertions.len());
        for (id, place, snippet, position) in &batch.insertions {
            let (at, found) = (place.at, head_of(engine, code, place));
            if let Ok(Place { at: head, placement }) = found {
                let instance = Instance {
                    id: *id,
                    at,
                    placement,
                    snippet: snippet.clone(),
                    enabled: true,
                    switch: false,
                };
                let list = draft.list_at(engine, code, head);
                let index = if *position == Position::First { 0 } else { list.len() };
                list.insert(index, instance);
            }
            draft.placed.push(found.map(|place| place.at));
        }
        for id in &batch.removals {
            if let Some(list) = draft.list_of(engine, batch, code, *id) {
                list.retain(|instance| instance.id != *id);
            }
        }
        for (id, enabled, switch) in &batch.switches {
            let list = draft.list_of(engine, batch, code, *id);
            if let Some(instance) = list.and_then(|list| list.iter_mut().find(|i| i.id == *id)) {
                (instance.enabled, instance.switch) = (*enabled, *switch);
            }
        }
        if draft.index.take().is_some() {
            draft.lists.sort_by_key(|(head, _)| *head);
        }
        draft
    }

    /// The wanted instances at a head, if the batch touches it.
    pub(crate) fn at(&self, head: Addr) -> Option<&[Instance]> {
        let index = self.lists.binary_search_by_key(&head, |(head, _)| *head).ok()?;
        Some(&self.lists[index].1)
    }

    fn list_of(
        &mut self,
        engine: &Engine,
        batch: &Batch,
        code: &Code,
        id: InstanceId,
    ) -> Option<&mut Instances> {
        let of_batch = || {
            // Instances are numbered as they are inserted.
            let index = batch.insertions.binary_search_by_key(&id, |insertion| insertion.0).ok()?;
            self.placed[index].as_ref().ok().copied()
        };
        let head = engine.heads.get(&id).copied().or_else(of_batch)?;
        Some(self.list_at(engine, code, head))
    }

    /// The instances at a head: those that were there, unless other code is there now.
    fn list_at(&mut self, engine: &Engine, code: &Code, head: Addr) -> &mut Instances {
        let last = self.lists.last().map(|(last, _)| *last);
        if last == Some(head) {
            let last = self.lists.len() - 1;
            return &mut self.lists[last].1;
        }
        if self.index.is_none() && last > Some(head) {
            self.index = Some(self.lists.iter().zip(0..).map(|((head, _), index)| (*head, index)).collect());
        }
        let next = self.lists.len() as u32;
        let index = match &mut self.index {
            Some(index) => *index.entry(head).or_insert(next),
            None => next,
        };
        if index == next {
            let present = engine.instances.get(&head).filter(|_| !code.lost.contains(&head));
            self.lists.push((head, present.cloned().unwrap_or_default()));
        }
        &mut self.lists[index as usize].1
    }

    /// What became of every insertion, and of older instances that had to go.
    pub(crate) fn report(&self, engine: &Engine, batch: &Batch, plan: &Plan) -> Report {
        let refused: FxHashMap<Addr, &Refusal> = plan.refused.iter().map(|(at, why)| (*at, why)).collect();
        let (mut lists, mut carried) = (Cursor::new(&self.lists), Cursor::new(&plan.carried));
        let mut entries: Vec<Entry> = Vec::with_capacity(batch.insertions.len());
        for ((id, place, ..), head) in batch.insertions.iter().zip(&self.placed) {
            let outcome = match head {
                Err(refusal) => Outcome::Refused(refusal.clone()),
                Ok(head) => {
                    let mut list = lists.find(*head).into_iter().flatten();
                    // Inserted and removed in one batch.
                    let Some(instance) = list.find(|instance| instance.id == *id) else { continue };
                    match (refused.get(head), carried.find(*head).copied()) {
                        (None, Some(tactic)) => Outcome::Installed(tactic),
                        (Some(refusal), _) => Outcome::Refused((*refusal).clone()),
                        (None, None) if !instance.enabled => Outcome::Installed(Tactic::Nop),
                        (None, None) => Outcome::Refused(Refusal::NoRoom(place.at)),
                    }
                }
            };
            entries.push(Entry { instance: *id, at: place.at, outcome });
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

/// The head to patch for a place, and the way there: behind an `endbr64`, which must stay the first instruction.
fn head_of(engine: &Engine, code: &Code, place: &Place) -> Result<Place, Refusal> {
    const ENDBR64: [u8; 4] = [0xF3, 0x0F, 0x1E, 0xFA];
    let Place { at, placement } = *place;
    if engine.is_trampoline(at) {
        return Err(Refusal::Machinery(at));
    }
    if !code.original(at).starts_with(&ENDBR64) {
        if matches!(placement, Placement::After | Placement::Taken | Placement::Toward(_)) {
            placement.check(&code.insn(at)?)?;
        }
        return Ok(*place);
    }
    let head = at + ENDBR64.len() as u64;
    // Looking at bytes is quick and finds too much; decoding tells.
    if code.branch_into(head..head + 1, |_| true).is_some() && branches_to(code, at, head) {
        return Err(Refusal::LoopBehindEndbr(at));
    }
    let placement = match placement {
        Placement::After => Placement::Before,
        Placement::Before | Placement::Returned | Placement::Entered => placement,
        Placement::Taken | Placement::Toward(_) => return Err(Refusal::NoSuchWay { at, placement }),
    };
    Ok(Place { at: head, placement })
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
