//! Transactions against an address space of bytes: what is written where, and that all of it comes back.

mod common;

use std::ops::Range;

use common::FakeSpace;
use common::function::{BEST, FUNCTION, TEXT, count_at, heads, remove_all};
use incise_isa::Addr;
use incise_isa::native::{GprSet, decode, trap_displacements};
use incise_patch::{
    Atomicity, Batch, CommitError, Engine, MachineCode, NoFacts, Outcome, Policy, Position, Refusal, Report,
    Snippet, Tactic, TrapPolicy,
};
use incise_space::AddressSpace;

#[test]
fn a_group_keeps_every_covered_head_a_trap_with_a_landing() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT], BEST), [Outcome::Installed(Tactic::Group)]);
    let now = space.bytes(TEXT, 5);
    assert_eq!(
        (now[0], now[1], now[4]),
        (0xE9, 0xCC, 0xCC),
        "jmp with traps at the second and third instruction"
    );
    let target = (TEXT + 5).wrapping_add(i32::from_le_bytes([now[1], now[2], now[3], now[4]]) as i64 as u64);
    assert_eq!(space.landing(TEXT), Some(target));
    assert_eq!(engine.translate(Addr(target + 1)), Some(Addr(TEXT)), "any byte of a trampoline");
    for head in [TEXT + 1, TEXT + 4] {
        let landing = space.landing(head).expect("a landing");
        let offset = (head - TEXT) as usize;
        let len = decode(&FUNCTION[offset..], Addr(head)).expect("code").len();
        assert_eq!(space.bytes(landing, len), FUNCTION[offset..offset + len], "the instruction itself");
        assert_eq!(engine.translate(Addr(landing)), Some(Addr(head)));
    }
    remove_all(&mut engine, &mut space);
    assert_eq!(engine.translate(Addr(target)), None);
    assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
    assert_eq!(engine.release(&mut space).expect("release"), 0);
    assert!(space.mapped.is_empty(), "all memory given back");
}

#[test]
fn every_boundary_can_be_probed_in_any_order_and_all_bytes_come_back() {
    let heads = heads(FUNCTION, TEXT);
    for seed in 1..200u64 {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % n
        };
        for _ in 0..12 {
            if random(3) == 0 && !engine.is_empty() {
                let mut all: Vec<_> = engine.instances().collect();
                all.sort();
                let some = all.into_iter().filter(|_| random(2) == 0).collect();
                let batch = Batch::removal(some);
                engine.commit(&mut space, &NoFacts, &batch, BEST).expect("removal");
            } else {
                let sites: Vec<u64> = (0..1 + random(4)).map(|_| heads[random(heads.len())]).collect();
                let outcomes = count_at(&mut engine, &mut space, &sites, BEST);
                assert!(outcomes.iter().all(|o| matches!(o, Outcome::Installed(_))), "{outcomes:?}");
            }
            check_boundaries(&engine, &space, &heads);
        }
        remove_all(&mut engine, &mut space);
        assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION, "seed {seed}");
    }
}

#[test]
fn probes_whose_code_cannot_be_read_for_once_are_not_forgotten() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    count_at(&mut engine, &mut space, &[TEXT], BEST);
    let probed = space.bytes(TEXT, FUNCTION.len());
    space.unreadable = true;
    let batch = Batch::removal(engine.instances().collect::<Vec<_>>());
    assert!(engine.commit(&mut space, &NoFacts, &batch, BEST).is_err());
    assert_eq!((space.bytes(TEXT, FUNCTION.len()), engine.instances().count()), (probed, 1));
    space.unreadable = false;
    remove_all(&mut engine, &mut space);
    assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
}

/// Every original boundary is intact, leads to a trampoline, or is a trap with a landing.
fn check_boundaries(engine: &Engine, space: &FakeSpace, heads: &[u64]) {
    for &head in heads {
        let offset = (head - TEXT) as usize;
        let len = decode(&FUNCTION[offset..], Addr(head)).expect("code").len();
        let now = space.bytes(head, len);
        if now == FUNCTION[offset..offset + len] {
            continue;
        }
        let landing = space.landing(head).expect("a landing for a changed head");
        assert_eq!(engine.translate(Addr(landing)), Some(Addr(head)));
        let is_trap = trap_displacements().any(|trap| trap as u8 == now[0]);
        assert!(now[0] == 0xE9 || is_trap, "{head:#x}: {now:02x?}");
    }
}

#[test]
fn a_failure_at_any_step_changes_no_byte() {
    for fail in 0.. {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
        space.fail = Some(fail);
        let mut batch = Batch::default();
        let counter = engine.counter();
        for site in [TEXT, TEXT + 11] {
            batch.insert(Addr(site), Snippet::Counter(counter), Position::Last);
        }
        match engine.commit(&mut space, &NoFacts, &batch, Policy::default()) {
            Ok(_) => {
                assert!(fail >= 4, "every step was tried: {fail}");
                return;
            }
            Err(error) => assert!(matches!(error, CommitError::Space(_)), "{error}"),
        }
        assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION, "step {fail}");
        assert!(engine.is_empty());
        // The same transaction goes through afterwards.
        space.fail = None;
        let mut batch = Batch::default();
        batch.insert(Addr(TEXT), Snippet::Counter(counter), Position::Last);
        engine.commit(&mut space, &NoFacts, &batch, Policy::default()).expect("a second try");
        assert_ne!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
    }
}

#[test]
fn memory_that_the_program_takes_meanwhile_is_gone_round() {
    for meanwhile in 1..4 {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
        space.meanwhile = meanwhile;
        let mut batch = Batch::default();
        batch.insert(Addr(TEXT), Snippet::Counter(engine.counter()), Position::Last);
        engine.commit(&mut space, &NoFacts, &batch, Policy::default()).expect("somewhere else");
        assert_eq!(space.meanwhile, 0);
        assert_ne!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
        remove_all(&mut engine, &mut space);
        assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
    }
}

#[test]
fn less_memory_is_reserved_where_there_is_no_more() {
    let bound = 1 << 17;
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    space.bound = bound;
    let sites = heads(FUNCTION, TEXT);
    let outcomes = count_at(&mut engine, &mut space, &sites, Policy::default());
    let without_trap =
        |outcome: &Outcome| matches!(outcome, Outcome::Installed(tactic) if *tactic != Tactic::Trap);
    assert!(outcomes.iter().any(without_trap), "{outcomes:?}");
    let len = |range: &Range<Addr>| range.end.offset_from(range.start) as u64;
    assert!(!space.mapped.is_empty() && space.mapped.iter().all(|range| len(range) <= bound));
    remove_all(&mut engine, &mut space);
    assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
}

#[test]
fn all_or_nothing_changes_nothing_when_one_site_is_refused() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    let mut batch = Batch::default();
    let counter = engine.counter();
    for site in [TEXT, 0x1234] {
        batch.insert(Addr(site), Snippet::Counter(counter), Position::Last);
    }
    let error =
        engine.commit(&mut space, &NoFacts, &batch, Policy::default()).expect_err("0x1234 is not mapped");
    let CommitError::Refused(entries) = &error else { panic!("{error}") };
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].outcome, Outcome::Refused(Refusal::NotExecutable(Addr(0x1234))));
    assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
}

#[test]
fn a_trampoline_in_use_is_not_used_again() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    count_at(&mut engine, &mut space, &[TEXT], BEST);
    let first = space.landing(TEXT).expect("installed");
    space.busy.insert(Addr(first + 3));
    remove_all(&mut engine, &mut space);
    assert!(engine.release(&mut space).expect("release") > 0, "a thread is inside");
    count_at(&mut engine, &mut space, &[TEXT], BEST);
    assert_ne!(space.landing(TEXT), Some(first));
    space.busy.clear();
    remove_all(&mut engine, &mut space);
    assert_eq!(engine.release(&mut space).expect("release"), 0);
}

#[test]
fn a_failure_while_memory_is_given_back_loses_none() {
    for fail in 0.. {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
        count_at(&mut engine, &mut space, &[TEXT, TEXT + 11], BEST);
        remove_all(&mut engine, &mut space);
        (space.calls, space.fail) = (0, Some(fail));
        let first = engine.release(&mut space);
        space.fail = None;
        if first.is_err() {
            // What is left can be used, and be given back.
            count_at(&mut engine, &mut space, &[TEXT + 4], BEST);
            remove_all(&mut engine, &mut space);
            assert_eq!(engine.release(&mut space).expect("a second try"), 0);
        }
        assert!(space.mapped.is_empty(), "step {fail}: {:?}", space.mapped);
        if first.is_ok() {
            assert!(fail >= 5, "every step was tried: {fail}");
            return;
        }
    }
}

#[test]
fn many_changes_reuse_the_same_memory() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    let heads = heads(FUNCTION, TEXT);
    let long =
        MachineCode { bytes: vec![0x90; 4000].into(), clobbers: GprSet::EMPTY, flags: false, stack: false };
    let mut most = 0;
    for round in 0..900 {
        let mut batch = Batch::default();
        if let Some(instance) = engine.instances().next() {
            batch.remove(instance);
        }
        let head = Addr(heads[round % heads.len()]);
        batch.insert(head, Snippet::Code(long.clone()), Position::Last);
        let report = engine.commit(&mut space, &NoFacts, &batch, BEST).expect("a change");
        most = most.max(report.retired_bytes);
        assert!(report.trampoline_bytes < 5 << 10, "one probe at a time");
    }
    assert!((500 << 10..3 << 20).contains(&most), "{most} bytes waited at most");
}

#[test]
fn an_insertion_can_be_taken_back_or_put_to_rest_in_the_same_batch() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    let snippet = Snippet::Counter(engine.counter());
    let mut batch = Batch::default();
    let gone = batch.insert(Addr(TEXT), snippet.clone(), Position::Last);
    let resting = batch.insert(Addr(TEXT + 11), snippet, Position::Last);
    batch.remove(gone);
    batch.switch(resting, false);
    let report = engine.commit(&mut space, &NoFacts, &batch, Policy::default()).expect("a commit");
    assert_eq!(report.entries.iter().map(|entry| entry.instance).collect::<Vec<_>>(), [resting]);
    assert_eq!(report.installed(), 1);
    assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION, "nothing runs");
    let mut batch = Batch::default();
    batch.switch(resting, true);
    engine.commit(&mut space, &NoFacts, &batch, Policy::default()).expect("a commit");
    assert_ne!(space.bytes(TEXT + 11, 1), FUNCTION[11..12]);
}

#[test]
fn trampolines_cannot_be_probed() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    count_at(&mut engine, &mut space, &[TEXT], BEST);
    let landing = space.landing(TEXT).expect("installed");
    let outcomes = count_at(&mut engine, &mut space, &[landing], BEST);
    assert_eq!(outcomes, [Outcome::Refused(Refusal::Machinery(Addr(landing)))]);
}

#[test]
fn counters_keep_their_values_when_memory_is_given_back() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    let counter = engine.counter();
    for round in 1..4u64 {
        let mut batch = Batch::default();
        batch.insert(Addr(TEXT), Snippet::Counter(counter), Position::Last);
        engine.commit(&mut space, &NoFacts, &batch, BEST).expect("a commit");
        space.data[space.data.len() - 1].fetch_add(5, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(engine.read(counter), 5 * round);
        remove_all(&mut engine, &mut space);
        assert_eq!(engine.release(&mut space).expect("release"), 0);
        assert_eq!(engine.read(counter), 5 * round);
    }
}

#[test]
fn wild_addresses_are_refused() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    count_at(&mut engine, &mut space, &[TEXT], BEST);
    for at in [0, 1, 5, 64, 4095, u64::MAX, u64::MAX - 7, 1 << 47, 1 << 63, TEXT - 1, TEXT + 5000] {
        let outcomes = count_at(&mut engine, &mut space, &[at], BEST);
        assert_eq!(outcomes, [Outcome::Refused(Refusal::NotExecutable(Addr(at)))]);
        assert_eq!(engine.instances_at(Addr(at)).count(), 0);
        engine.forget(Addr(at)..Addr(at));
    }
    assert_eq!(engine.len(), 1);
}

#[test]
fn a_module_that_went_away_is_not_written_to() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    count_at(&mut engine, &mut space, &[TEXT], BEST);
    let other = vec![0xC3; FUNCTION.len()];
    for (i, &byte) in other.iter().enumerate() {
        space.memory.insert(TEXT + i as u64, byte);
    }
    remove_all(&mut engine, &mut space);
    assert_eq!(space.bytes(TEXT, FUNCTION.len()), other, "another module's bytes stay");
}

#[test]
fn a_probe_in_a_replaced_module_does_not_come_back_with_a_new_one() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    count_at(&mut engine, &mut space, &[TEXT], BEST);
    for (i, &byte) in FUNCTION.iter().enumerate() {
        space.memory.insert(TEXT + i as u64, byte);
    }
    count_at(&mut engine, &mut space, &[TEXT + 1], BEST);
    assert_eq!(space.bytes(TEXT, 1), [FUNCTION[0]], "loaded anew: only the new probe is there");
    remove_all(&mut engine, &mut space);
    assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
}

#[test]
fn a_plan_tells_what_a_commit_would_do_and_does_nothing() {
    let code: Vec<u8> = [0x48, 0x89, 0xE5, 0x31, 0xC0, 0x55, 0xE8, 1, 0, 0, 0, 0xC3].repeat(20);
    let at = 0x7f00_1234_5000;
    let mut space = FakeSpace::new(at, &code);
    let plan = |engine: &mut Engine, space: &mut FakeSpace, commit: bool| {
        let mut batch = Batch::default();
        for head in heads(&code, at) {
            batch.insert(Addr(head), Snippet::Counter(engine.counter()), Position::Last);
        }
        let policy = Policy { atomicity: Atomicity::BestEffort, traps: TrapPolicy::Fallback };
        let report = if commit {
            engine.commit(space, &NoFacts, &batch, policy)
        } else {
            let map = space.mappings().expect("a map");
            let read = |at: Addr, into: &mut [u8]| space.read(at, into).is_ok();
            engine.plan(&read, &map, &NoFacts, &batch, policy, space.features())
        };
        report.expect("a report")
    };
    let planned = plan(&mut Engine::new(), &mut space, false);
    assert_eq!(space.bytes(at, code.len()), code);
    assert!(space.mapped.is_empty() && space.landings.is_empty() && space.calls == 0);
    let done = plan(&mut Engine::new(), &mut space, true);
    let outcomes =
        |report: &Report| report.entries.iter().map(|e| (e.at, e.outcome.clone())).collect::<Vec<_>>();
    assert_eq!(outcomes(&planned), outcomes(&done));
    assert_eq!(planned.trampoline_bytes, done.trampoline_bytes);
    assert!(planned.trampoline_bytes > 0 && planned.mappings == done.mappings);
}

#[test]
fn a_plan_is_the_same_for_any_number_of_threads() {
    // push rbp; mov rbp,rsp; call +0x100; test eax,eax; je +2; xor eax,eax; pop rbp; ret
    let function = [0x55, 0x48, 0x89, 0xE5, 0xE8, 0, 1, 0, 0, 0x85, 0xC0, 0x74, 2, 0x31, 0xC0, 0x5D, 0xC3];
    let code = function.repeat(3000);
    let memory = |threads: usize| {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
        engine.set_threads(threads);
        let outcomes = count_at(&mut engine, &mut space, &heads(&code, TEXT), BEST);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Installed(_))));
        (space.memory, space.landings)
    };
    let (one, three) = (memory(1), memory(3));
    assert!(one == three);
}

#[test]
fn code_that_is_writable_is_refused_and_given_back() {
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, FUNCTION));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT], BEST), [Outcome::Installed(Tactic::Group)]);
    // As by mprotect.
    space.writable = true;
    let sites = heads(&FUNCTION[4..], TEXT + 4);
    for outcome in count_at(&mut engine, &mut space, &sites, BEST) {
        assert!(matches!(outcome, Outcome::Refused(Refusal::Writable(_))), "{outcome:?}");
    }
    remove_all(&mut engine, &mut space);
    assert_eq!(space.bytes(TEXT, FUNCTION.len()), FUNCTION);
}
