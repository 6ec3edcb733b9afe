//! Random code, random transactions, random failures: after each of them every boundary leads where it should,
//! every probe is where the engine says, and in the end every byte is back.

mod common;

use std::collections::BTreeMap;
use std::ops::Range;

use common::FakeSpace;
use incise_isa::Addr;
use incise_isa::native::{Insn, TRAP, decode, is_illegal};
use incise_patch::{
    Atomicity, Batch, CommitError, Engine, Facts, InstanceId, Layout, Outcome, Policy, Position, Snippet,
    TrapPolicy,
};
use proptest::prelude::*;

/// Code to be probed; `$` are bytes of a rel8 or rel32 that is chosen at random.
const INSNS: &[&[u8]] = &[
    &[0x90],
    &[0x55],
    &[0x5B],
    &[0xC3],
    &[0xCC],
    &[0xF8],
    &[0x31, 0xC0],
    &[0x89, 0xD8],
    &[0xEB, 0x02],
    &[0x75, 0xF8],
    &[0x74, 0x05],
    &[0xE2, 0xFC],
    &[0x8B, 0xFF],
    &[0x66, 0x90],
    &[0x48, 0x89, 0xE5],
    &[0x0F, 0x1F, 0x00],
    &[0x48, 0x83, 0xEC, 0x08],
    &[0xF3, 0x0F, 0x1E, 0xFA],
    &[0x48, 0x8D, 0x04, 0x37],
    &[0xB8, 0x01, 0x02, 0x03, 0x04],
    &[0xE8, 0x10, 0x00, 0x00, 0x00],
    &[0xE9, 0x20, 0x00, 0x00, 0x00],
    &[0x0F, 0x84, 0x30, 0x00, 0x00, 0x00],
    &[0xFF, 0x15, 0x00, 0x10, 0x00, 0x00],
    &[0x48, 0x8B, 0x05, 0x44, 0x00, 0x00, 0x00],
    &[0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8],
    &[0x66, 0x2E, 0x0F, 0x1F, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

#[derive(Clone, Debug)]
enum Change {
    /// A counter at the n-th boundary.
    Insert(usize, bool),
    /// Counters at so many boundaries in a row.
    Fill(usize, usize),
    /// The n-th instance goes.
    Remove(usize),
    Switch(usize, bool),
}

/// Functions of so many bytes, one behind the other.
struct Functions(u64, u64);

impl Facts for Functions {
    fn function(&self, at: Addr) -> Option<Range<Addr>> {
        let Functions(text, len) = *self;
        let start = at.0.checked_sub(text).filter(|_| len < u64::MAX)? / len * len + text;
        Some(Addr(start)..Addr(start + len))
    }
    fn function_before(&self, _: Addr) -> Option<Range<Addr>> {
        None
    }
    fn entries(&self, range: Range<Addr>) -> Vec<Addr> {
        let Functions(text, len) = *self;
        let behind = range.start.0.saturating_sub(text).div_ceil(len).saturating_mul(len);
        (text.saturating_add(behind)..range.end.0).step_by(len as usize).map(Addr).collect()
    }
    fn is_restartable(&self, _: Addr) -> bool {
        false
    }
    fn is_copied(&self, _: Addr) -> bool {
        false
    }
}

#[derive(Clone, Debug)]
struct Step {
    changes: Vec<Change>,
    policy: Policy,
    fail: Option<usize>,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => (any::<usize>(), any::<bool>()).prop_map(|(n, last)| Change::Insert(n, last)),
        1 => (any::<usize>(), 1..60usize).prop_map(|(n, len)| Change::Fill(n, len)),
        6 => any::<usize>().prop_map(Change::Remove),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(n, on)| Change::Switch(n, on)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let traps = prop_oneof![
        6 => Just(TrapPolicy::Fallback),
        1 => Just(TrapPolicy::Forbid),
        1 => Just(TrapPolicy::Force),
    ];
    let atomicity = prop_oneof![Just(Atomicity::AllOrNothing), Just(Atomicity::BestEffort)];
    let fail = prop_oneof![4 => Just(None), 1 => (0..8usize).prop_map(Some)];
    (prop::collection::vec(change(), 1..6), traps, atomicity, fail).prop_map(
        |(changes, traps, atomicity, fail)| Step { changes, policy: Policy { atomicity, traps }, fail },
    )
}

struct World {
    functions: Functions,
    engine: Engine,
    space: FakeSpace,
    text: u64,
    code: Vec<u8>,
    heads: Vec<u64>,
    /// What should be: the instances, with the head and whether they run.
    instances: BTreeMap<InstanceId, (u64, bool)>,
}

impl World {
    fn new(insns: &[usize], at_end: bool, low: bool) -> World {
        let mut code = Vec::new();
        insns.iter().for_each(|n| code.extend_from_slice(INSNS[n % INSNS.len()]));
        let base = if low { 0x40_0000u64 } else { 0x7f00_1234_5000 };
        let room = code.len().next_multiple_of(4096) as u64;
        let text = if at_end { base + room - code.len() as u64 } else { base };
        let mut heads = Vec::new();
        let mut offset = 0;
        while offset < code.len() {
            heads.push(text + offset as u64);
            offset += decode(&code[offset..], Addr(text + offset as u64)).expect("an instruction").len();
        }
        let mut space = FakeSpace::new(text, &code);
        let (first, last) = (space.text[0].start, space.text[0].end);
        (first.0..last.0).for_each(|at| {
            space.memory.entry(at).or_insert(0xCC);
        });
        let functions = Functions(text, u64::MAX);
        World { functions, engine: Engine::new(), space, text, code, heads, instances: BTreeMap::new() }
    }

    fn step(&mut self, step: &Step) {
        let mut batch = Batch::default();
        let mut wanted = self.instances.clone();
        let mut inserted = BTreeMap::new();
        for change in &step.changes {
            let present: Vec<InstanceId> = self.instances.keys().copied().collect();
            let chosen = |n: usize| present.get(n % present.len().max(1)).copied();
            match *change {
                Change::Insert(n, last) => {
                    let position = if last { Position::Last } else { Position::First };
                    self.insert(&mut batch, n, position, &mut inserted);
                }
                Change::Fill(n, len) => {
                    (n..n.saturating_add(len))
                        .for_each(|n| self.insert(&mut batch, n, Position::Last, &mut inserted));
                }
                Change::Remove(n) => {
                    if let Some(id) = chosen(n) {
                        batch.remove(id);
                        wanted.remove(&id);
                    }
                }
                Change::Switch(n, on) => {
                    if let Some(id) = chosen(n) {
                        batch.switch(id, on);
                        wanted.entry(id).and_modify(|instance| instance.1 = on);
                    }
                }
            }
        }
        let before = self.space.bytes(self.text, self.code.len());
        (self.space.calls, self.space.fail) = (0, step.fail);
        let result = self.engine.commit(&mut self.space, &self.functions, &batch, step.policy);
        self.space.fail = None;
        match result {
            Ok(report) => {
                for entry in &report.entries {
                    match &entry.outcome {
                        Outcome::Installed(_) => {
                            wanted.insert(entry.instance, (inserted[&entry.instance], true));
                        }
                        Outcome::Refused(_) => {
                            assert_eq!(step.policy.atomicity, Atomicity::BestEffort);
                            wanted.remove(&entry.instance);
                        }
                    }
                }
                assert!(inserted.keys().all(|id| report.entries.iter().any(|entry| entry.instance == *id)));
                self.instances = wanted;
            }
            Err(CommitError::Refused(entries)) => {
                assert_eq!(step.policy.atomicity, Atomicity::AllOrNothing);
                assert!(!entries.is_empty());
                assert_eq!(self.space.bytes(self.text, self.code.len()), before);
            }
            Err(error) => {
                assert!(step.fail.is_some(), "{error}");
                assert_eq!(self.space.bytes(self.text, self.code.len()), before);
            }
        }
        self.check();
    }

    fn insert(
        &mut self,
        batch: &mut Batch,
        n: usize,
        position: Position,
        to: &mut BTreeMap<InstanceId, u64>,
    ) {
        let head = self.heads[n % self.heads.len()];
        let snippet = Snippet::Counter(self.engine.counter());
        to.insert(batch.insert(Addr(head), snippet, position), head);
    }

    /// Every boundary, changed or not, has the effect it should have.
    fn check(&self) {
        let mut known: Vec<InstanceId> = self.engine.instances().collect();
        known.sort();
        assert!(known.iter().eq(self.instances.keys()), "{known:?} {:?}", self.instances);
        for &head in &self.heads {
            let insn = self.insn(head);
            // A short springboard may happen to be the short jump that was there.
            let may_be_both = insn.bytes()[0] == 0xEB && self.probes(head) > 0;
            if self.space.bytes(head, insn.len()) == insn.bytes() && !may_be_both {
                assert_eq!(self.probes(head), 0, "{head:#x} is unchanged");
                continue;
            }
            if self.probes(head) == 0 && self.space.landing(head).is_none() && self.is_padding(insn) {
                continue;
            }
            let landing = self.space.landing(head).unwrap_or_else(|| panic!("no landing for {head:#x}"));
            if insn.bytes()[0] != 0xE8 {
                let original = self.engine.translate(Addr(landing)).expect("the landing is known");
                assert_eq!(self.space.landing(original.0), Some(landing));
            }
            let entry = self.entry(head, landing);
            let (increments, passed) = self.increments(entry);
            // A displaced nop is nothing: the probes of the next head follow at once.
            let mut expected = self.probes(head);
            let mut at = insn;
            while at.is_nop() {
                let next = at.end().0;
                if !self.heads.contains(&next)
                    || !self.space.landing(next).is_some_and(|l| passed.contains(&l))
                {
                    break;
                }
                expected += self.probes(next);
                at = self.insn(next);
            }
            assert_eq!(increments, expected, "{head:#x} -> {entry:#x}");
        }
    }

    fn insn(&self, head: u64) -> Insn {
        decode(&self.code[(head - self.text) as usize..], Addr(head)).expect("an instruction")
    }

    /// Padding that a jump may cover: a trap, or what lies before a short jump into it.
    fn is_padding(&self, insn: Insn) -> bool {
        let before_jump =
            (insn.addr().0 + 1..insn.addr().0 + 6).any(|at| self.space.bytes(at, 2) == [0xEB, 0xF9]);
        insn.bytes() == [TRAP] || insn.is_nop() && before_jump
    }

    /// How many counters there are to be at `head`.
    fn probes(&self, head: u64) -> usize {
        self.instances.values().filter(|instance| instance.1 && self.behind_endbr(instance.0) == head).count()
    }

    /// Where a probe asked for at `head` goes.
    fn behind_endbr(&self, head: u64) -> u64 {
        let offset = (head - self.text) as usize;
        let endbr = self.code[offset..].starts_with(&[0xF3, 0x0F, 0x1E, 0xFA]);
        if endbr { head + 4 } else { head }
    }

    /// Where a thread goes from `head`, past stubs and padding.
    fn entry(&self, head: u64, landing: u64) -> u64 {
        let relative = |at: u64, bytes: &[u8]| {
            (at + 1 + bytes.len() as u64).wrapping_add(match *bytes {
                [a] => a as i8 as i64 as u64,
                [a, b, c, d] => i32::from_le_bytes([a, b, c, d]) as i64 as u64,
                _ => unreachable!(),
            })
        };
        let mut at = match self.space.bytes(head, 5)[..] {
            [trap, ..] if trap == TRAP || is_illegal(trap) => landing,
            [0xE9 | 0xE8, ref to @ ..] => relative(head, to),
            [0xEB, ref short @ ..] => {
                // Into padding, or inside an instruction.
                let slot = relative(head, &short[..1]);
                let long = self.space.bytes(slot, 5);
                assert_eq!(long[0], 0xE9, "{head:#x} -> {slot:#x}");
                assert!(slot + 5 == head || !self.heads.contains(&slot), "{head:#x} -> {slot:#x}");
                relative(slot, &long[1..])
            }
            ref other => panic!("{head:#x}: {other:02x?}"),
        };
        // The thunk of a call without a probe is a jump to what is called.
        let called = self.insn(head).flow().target().map(|target| target.0);
        let is_text = |at: u64| (self.text..self.text + self.code.len() as u64).contains(&at);
        while let [0xE9, ref to @ ..] = self.space.bytes(at, 5)[..]
            && Some(relative(at, to)) != called
            && !is_text(at)
            && self.engine.translate(Addr(at)).and_then(|head| self.space.landing(head.0)) != Some(at)
        {
            at = relative(at, to);
        }
        // The entrance of the copy of what is called: open it leads to the landing there, closed to what is there now.
        if let [0x39, 0xE4, switch, back] = self.space.bytes(at, 4)[..]
            && let Some(called) = called
        {
            let out = relative(at + 2, &[back]);
            assert_eq!(relative(out, &self.space.bytes(out + 1, 4)), called);
            match switch {
                0x75 => assert_eq!(self.space.landing(self.behind_endbr(called)), Some(at + 4)),
                closed => assert_eq!(closed, 0xEB),
            }
            return called;
        }
        at
    }

    /// How many counters are incremented from `at` on, in front of the first displaced instruction, and the
    /// addresses passed.
    fn increments(&self, mut at: u64) -> (usize, Vec<u64>) {
        let mut count = 0;
        let mut passed = vec![at];
        loop {
            // A call without probes may lead into the middle of an instruction of the program.
            let Ok(insn) = decode(&self.space.bytes(at, 15), Addr(at)) else { return (count, passed) };
            let ours = matches!(insn.bytes(), [0xF0, 0x48, 0xFF, 0x05, ..] | [0xF0, 0x48, 0xFF, 0x01]);
            count += usize::from(ours);
            // What may be around an increment: the red zone, registers and flags kept, a far address.
            let around = matches!(
                insn.bytes(),
                [0x48, 0x8D, 0x64, 0x24, 0x80]
                    | [0x48, 0x8D, 0xA4, 0x24, 0x80, 0, 0, 0]
                    | [0x50 | 0x51 | 0x58 | 0x59]
                    | [0x9F | 0x9E]
                    | [0x0F, 0x90, 0xC0]
                    | [0x04, 0x7F]
                    | [0x48, 0xB9, ..]
            );
            if !ours && !around {
                return (count, passed);
            }
            at = insn.end().0;
            passed.push(at);
        }
    }

    fn end(mut self) {
        let all = Batch::removal(self.engine.instances().collect());
        self.engine.commit(&mut self.space, &self.functions, &all, Policy::default()).expect("removal");
        assert_eq!(self.space.bytes(self.text, self.code.len()), self.code);
        assert_eq!(self.engine.release(&mut self.space).expect("release"), 0);
        assert!(self.space.mapped.is_empty());
    }
}

fn cases() -> u32 {
    if std::env::var_os("INCISE_LONG").is_some() { 20_000 } else { 300 }
}

/// Three-byte instructions, two to a springboard: with one probe less every group behind it is another one.
#[test]
fn a_change_that_shifts_all_groups_of_a_long_run_keeps_every_probe() {
    for len in [100, 5000] {
        let mut world = World::new(&vec![14; len], false, false);
        let policy = Policy { atomicity: Atomicity::BestEffort, traps: TrapPolicy::Fallback };
        let mut step = |changes| world.step(&Step { changes, policy, fail: None });
        step(vec![Change::Fill(0, len)]);
        step(vec![Change::Remove(0)]);
        step(vec![Change::Remove(len / 2)]);
        step(vec![Change::Insert(0, true)]);
        world.end();
    }
}

/// A trap that a jump before it has in its displacement is no place for a short jump of its own.
#[test]
fn a_trap_inside_a_jump_is_left_alone() {
    let insns = [25, 6, 14, 22, 6, 6, 0, 22, 0, 10, 3, 10, 3, 7, 0, 9, 0];
    let policy = Policy { atomicity: Atomicity::AllOrNothing, traps: TrapPolicy::Fallback };
    for low in [false, true] {
        let mut world = World::new(&insns, false, low);
        world.step(&Step {
            changes: vec![Change::Insert(12, false), Change::Fill(12, 9)],
            policy,
            fail: None,
        });
        world.end();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_transactions_on_any_code(
        insns in prop::collection::vec(0..INSNS.len(), 3..150),
        at_end in any::<bool>(),
        low in any::<bool>(),
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut world = World::new(&insns, at_end, low);
        steps.iter().for_each(|step| world.step(step));
        world.end();
    }

    #[test]
    fn any_transactions_on_functions_that_run_as_copies(
        insns in prop::collection::vec(0..INSNS.len(), 3..150),
        len in 5..300u64,
        layout in prop_oneof![3 => Just(Some(Layout::InLine)), 1 => Just(None)],
        low in any::<bool>(),
        steps in prop::collection::vec(step(), 1..25),
    ) {
        let mut world = World::new(&insns, false, low);
        world.functions.1 = len;
        world.engine.set_instrumentation(layout);
        steps.iter().for_each(|step| world.step(step));
        world.end();
    }
}
