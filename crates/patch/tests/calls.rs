//! Calls from one copied function to another lead to its copy, as long as that is there.

mod common;

use std::ops::Range;

use common::FakeSpace;
use common::function::{BEST, TEXT, remove_all};
use incise_isa::Addr;
use incise_isa::native::{Flow, decode};
use incise_patch::{
    Atomicity, Batch, Engine, Facts, InstanceId, Layout, Linkage, Policy, Position, Snippet, TrapPolicy,
};
use incise_space::AddressSpace;

const CALLER: u64 = TEXT;
const CALL: u64 = TEXT + 5;
const BEHIND: u64 = TEXT + 10;
const CALLEE: u64 = TEXT + 0x20;
const STUB: u64 = TEXT + 0x40;
const SLOT: u64 = TEXT + 0x2000;
const LEN: usize = 0x46;

/// Two functions and a linkage stub. The caller: push rbx; sub rsp,16; call; add rsp,16; pop rbx; ret. The callee: mov eax,1; add
/// eax,2; ret.
fn code(target: u64) -> [u8; LEN] {
    let mut code = [0xCC; LEN];
    code[..10].copy_from_slice(&[0x53, 0x48, 0x83, 0xEC, 0x10, 0xE8, 0, 0, 0, 0]);
    code[6..10].copy_from_slice(&((target - BEHIND) as u32).to_le_bytes());
    code[10..16].copy_from_slice(&[0x48, 0x83, 0xC4, 0x10, 0x5B, 0xC3]);
    code[0x20..0x29].copy_from_slice(&[0xB8, 1, 0, 0, 0, 0x83, 0xC0, 0x02, 0xC3]);
    code[0x40..0x42].copy_from_slice(&[0xFF, 0x25]);
    code[0x42..0x46].copy_from_slice(&((SLOT - STUB - 6) as u32).to_le_bytes());
    code
}

struct Functions;

impl Facts for Functions {
    fn function(&self, at: Addr) -> Option<Range<Addr>> {
        let all = [Addr(CALLER).span(16), Addr(CALLEE).span(9)];
        all.into_iter().find(|function| function.contains(&at))
    }
    fn function_before(&self, _: Addr) -> Option<Range<Addr>> {
        None
    }
    fn entries(&self, range: Range<Addr>) -> Vec<Addr> {
        [CALLER, CALLEE].map(Addr).into_iter().filter(|at| range.contains(at)).collect()
    }
    fn is_restartable(&self, _: Addr) -> bool {
        false
    }
    fn is_copied(&self, _: Addr) -> bool {
        false
    }
    fn linkage(&self, stub: Addr) -> Option<Linkage> {
        (stub == Addr(STUB)).then_some(Linkage { slot: Addr(SLOT), function: Addr(CALLEE) })
    }
    fn linkage_to(&self, function: Addr) -> Option<Addr> {
        (function == Addr(CALLEE) && self.is_linked()).then_some(Addr(SLOT))
    }
}

impl Functions {
    fn is_linked(&self) -> bool {
        LINKED.with(std::cell::Cell::get)
    }
}

thread_local! {
    /// Whether the callee is called by a stub.
    static LINKED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

struct Probed {
    engine: Engine,
    space: FakeSpace,
    original: [u8; LEN],
    caller: Vec<InstanceId>,
    callee: Vec<InstanceId>,
}

impl Probed {
    fn new(linked: bool) -> Probed {
        LINKED.set(linked);
        let original = code(if linked { STUB } else { CALLEE });
        let (mut engine, space) = (Engine::new(), FakeSpace::new(TEXT, &original));
        engine.set_instrumentation(Layout::InLine);
        let mut probed = Probed { engine, space, original, caller: Vec::new(), callee: Vec::new() };
        let all = probed.count(&[CALLER, BEHIND, CALLEE]);
        (probed.caller, probed.callee) = (all[..2].to_vec(), all[2..].to_vec());
        probed
    }

    fn count(&mut self, sites: &[u64]) -> Vec<InstanceId> {
        let mut batch = Batch::default();
        let insert = |site: &u64| {
            let counter = self.engine.counter();
            batch.insert(Addr(*site), Snippet::Counter(counter), Position::Last)
        };
        let inserted = sites.iter().map(insert).collect();
        self.engine.commit(&mut self.space, &Functions, &batch, BEST).expect("a commit");
        inserted
    }

    fn remove(&mut self, instances: Vec<InstanceId>) {
        self.engine.commit(&mut self.space, &Functions, &Batch::removal(instances), BEST).expect("removal");
    }

    fn flow(&self, at: u64) -> Flow {
        decode(&self.space.bytes(at, 15), Addr(at)).expect("an instruction").flow()
    }

    /// Where the call leads.
    fn called(&self) -> u64 {
        self.flow(CALL).target().expect("a call").0
    }

    /// The first branch from where the call leads on.
    fn gate(&self) -> Flow {
        let mut at = Addr(self.called());
        loop {
            let insn = decode(&self.space.bytes(at.0, 15), at).expect("an instruction");
            if insn.flow() != Flow::Next {
                return insn.flow();
            }
            at = insn.end();
        }
    }

    fn is_ours(&self, at: u64) -> bool {
        self.space.mapped.iter().any(|range| range.contains(&Addr(at)))
    }
}

#[test]
fn a_call_leads_to_the_copy_of_what_it_calls() {
    for linked in [false, true] {
        let probed = Probed::new(linked);
        assert!(probed.is_ours(probed.called()), "{linked}: {:#x}", probed.called());
        let Flow::Branch(out) = probed.gate() else { panic!("{:?}", probed.gate()) };
        let way_out = probed.space.bytes(out.0, 15);
        let way_out = decode(&way_out, out).expect("an instruction");
        match linked {
            false => assert_eq!(way_out.flow(), Flow::Jump(Addr(CALLEE))),
            true => assert_eq!(
                (way_out.flow(), way_out.ip_relative_target()),
                (Flow::IndirectJump, Some(Addr(SLOT)))
            ),
        }
        assert_eq!(probed.space.bytes(CALL, 1), [0xE8], "the call stays where it is");
        assert_eq!(probed.engine.translate(Addr(probed.called())), Some(Addr(CALLEE)));
    }
}

#[test]
fn a_copy_that_calls_lead_to_is_closed_when_it_goes_and_stays_until_they_do() {
    for linked in [false, true] {
        let mut probed = Probed::new(linked);
        let entrance = probed.called();
        probed.remove(probed.callee.clone());
        assert_eq!(probed.space.bytes(CALLEE, 9), probed.original[0x20..0x29]);
        assert!(matches!(probed.gate(), Flow::Jump(_)), "closed: {:?}", probed.gate());
        probed.engine.reclaim(&mut probed.space).expect("reclaim");
        assert!(probed.engine.retired().iter().any(|range| range.contains(&Addr(entrance))), "still called");
        // Another copy, which that call does not know.
        probed.callee = probed.count(&[CALLEE]);
        assert_eq!(probed.called(), entrance);
        assert!(matches!(probed.gate(), Flow::Jump(_)));
        probed.remove(probed.caller.clone());
        probed.engine.reclaim(&mut probed.space).expect("reclaim");
        assert!(probed.engine.retired().is_empty(), "{:?}", probed.engine.retired());
        remove_all(&mut probed.engine, &mut probed.space);
        assert_eq!(probed.space.bytes(TEXT, LEN), probed.original);
        assert_eq!(probed.engine.release(&mut probed.space).expect("release"), 0);
        assert!(probed.space.mapped.is_empty());
    }
}

#[test]
fn what_goes_together_leaves_nothing() {
    let mut probed = Probed::new(true);
    remove_all(&mut probed.engine, &mut probed.space);
    assert_eq!(probed.space.bytes(TEXT, LEN), probed.original);
    assert_eq!(probed.engine.release(&mut probed.space).expect("release"), 0);
    assert!(probed.space.mapped.is_empty());
}

#[test]
fn a_removal_that_fails_leaves_the_entrance_open() {
    for failing in 0.. {
        let mut probed = Probed::new(false);
        let before = probed.space.bytes(TEXT, LEN);
        probed.space.calls = 0;
        probed.space.fail = Some(failing);
        let batch = Batch::removal(probed.callee.clone());
        let policy = Policy { atomicity: Atomicity::AllOrNothing, traps: TrapPolicy::Fallback };
        let done = probed.engine.commit(&mut probed.space, &Functions, &batch, policy);
        if done.is_ok() {
            assert!(failing > 0 && matches!(probed.gate(), Flow::Jump(_)));
            return;
        }
        assert_eq!(probed.space.bytes(TEXT, LEN), before);
        assert!(matches!(probed.gate(), Flow::Branch(_)), "after call {failing} failed: {:?}", probed.gate());
    }
}

#[test]
fn a_space_whose_bytes_cannot_be_changed_has_no_entrances() {
    LINKED.set(false);
    let original = code(CALLEE);
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &original));
    space.fixed = true;
    engine.set_instrumentation(Layout::InLine);
    let mut batch = Batch::default();
    for site in [CALLER, BEHIND, CALLEE] {
        let counter = engine.counter();
        batch.insert(Addr(site), Snippet::Counter(counter), Position::Last);
    }
    engine.commit(&mut space, &Functions, &batch, BEST).expect("a commit");
    assert_eq!(space.bytes(CALL, 5), original[5..10]);
    assert!(!space.features().bytes);
}
