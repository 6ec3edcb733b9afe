//! Snippets on one way in or out of an instruction, in this very process: each runs exactly as often as that way is
//! gone, and the program cannot tell.
//!
//! # Safety
//! The functions called are those written below; they follow the C calling convention.

#![allow(unsafe_code, reason = "calls functions written in assembly")]

mod support;

use std::arch::global_asm;
use std::time::Duration;

use incise::callback::{Context, VectorState, callback};
use incise::isa::native::{Flow, Insn};
use incise::{Addr, Images, Outcome, Place, Placement, Position, Program, Session, TrapPolicy};
use incise_space::AddressSpace;
use support::{Pristine, function, instructions, isolated};

const PATIENCE: Duration = Duration::from_secs(60);

global_asm!(
    ".pushsection .text.incise_placements, \"ax\", @progbits",
    // ways_branch(n): 2 for odd n, 1 for even n, 0 for 0, computed with the flags and the red zone in use.
    ".balign 16",
    ".globl ways_branch",
    ".hidden ways_branch",
    ".type ways_branch, @function",
    "ways_branch:",
    "mov qword ptr [rsp - 8], rdi",
    "mov qword ptr [rsp - 128], 1",
    "xor eax, eax",
    "test rdi, rdi",
    "je 2f",
    "test dil, 1",
    "mov eax, 1",
    "je 2f",
    "adc eax, 1",
    "2: cmp qword ptr [rsp - 8], rdi",
    "jne 3f",
    "cmp qword ptr [rsp - 128], 1",
    "jne 3f",
    "ret",
    "3: ud2",
    ".size ways_branch, . - ways_branch",
    // ways_loop(n): the sum of 1..=n, by `loop`; 0 without a turn by `jrcxz`.
    ".balign 16",
    ".globl ways_loop",
    ".hidden ways_loop",
    ".type ways_loop, @function",
    "ways_loop:",
    "xor eax, eax",
    "mov rcx, rdi",
    "jrcxz 3f",
    "2: add rax, rcx",
    "loop 2b",
    "3: ret",
    ".size ways_loop, . - ways_loop",
    // ways_switch(n): 100 + n % 4, by a table.
    ".balign 16",
    ".globl ways_switch",
    ".hidden ways_switch",
    ".type ways_switch, @function",
    "ways_switch:",
    "and edi, 3",
    "lea rdx, [rip + ways_table]",
    "movsxd rcx, dword ptr [rdx + rdi * 4]",
    "add rcx, rdx",
    "mov eax, 100",
    "jmp rcx",
    ".globl ways_case1",
    ".hidden ways_case1",
    "ways_case3: inc eax",
    "ways_case2: inc eax",
    "ways_case1: inc eax",
    "ways_case0: ret",
    ".balign 4",
    "ways_table: .long ways_case0 - ways_table, ways_case1 - ways_table, ways_case2 - ways_table, ways_case3 - ways_table",
    ".size ways_switch, . - ways_switch",
    // ways_return(n): calls once, and comes by the instruction behind the call n more times.
    ".balign 16",
    ".globl ways_return",
    ".hidden ways_return",
    ".type ways_return, @function",
    "ways_return:",
    "push rbx",
    "mov rbx, rdi",
    "call ways_callee",
    "2: mov rdx, 0x12345678",
    "sub rbx, 1",
    "jnc 2b",
    "pop rbx",
    "ret",
    ".size ways_return, . - ways_return",
    "ways_callee: mov eax, 7",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn ways_branch(n: u64) -> u64;
    fn ways_loop(n: u64) -> u64;
    fn ways_switch(n: u64) -> u64;
    fn ways_return(n: u64) -> u64;
    fn ways_case1();
}

fn program() -> Program {
    let space = incise_space::own::OwnSpace::new().expect("a space");
    Program::read(&space as &dyn AddressSpace, "self", &mut Images::default()).expect("this program")
}

fn insns(of: usize) -> Vec<Insn> {
    instructions(&function(&program(), of))
}

/// Counts `place` while `run` runs, with jumps where they fit and with traps everywhere.
fn counts(place: Place, run: impl Fn()) -> u64 {
    let mut counts = Vec::new();
    for traps in [TrapPolicy::Fallback, TrapPolicy::Force] {
        let session = Session::own().expect("a session");
        let hits = session.counter("way");
        let mut batch = session.batch().traps(traps);
        batch.insert(place, hits.increment(), Position::Last);
        batch.commit().expect("commit");
        run();
        session.remove_all().expect("removal");
        counts.push(hits.read());
    }
    assert_eq!(counts[0], counts[1], "{place:?}");
    counts[0]
}

fn way(at: Addr, placement: Placement) -> Place {
    Place { at, placement }
}

#[test]
fn both_ways_of_a_branch_are_told_apart() {
    isolated("both_ways_of_a_branch_are_told_apart", PATIENCE, || {
        let pristine = Pristine::new();
        let run = || {
            for (n, expected) in [(0, 0), (1, 2), (2, 1), (3, 2), (5, 2), (8, 1), (0, 0)] {
                // SAFETY: ours.
                assert_eq!(unsafe { ways_branch(n) }, expected);
            }
        };
        let insns = insns(ways_branch as *const () as usize);
        let branches: Vec<_> = insns.iter().filter(|i| matches!(i.flow(), Flow::Branch(_))).collect();
        let taken = |i: usize| counts(way(branches[i].addr(), Placement::Taken), run);
        let not_taken = |i: usize| counts(way(branches[i].addr(), Placement::After), run);
        assert_eq!((taken(0), not_taken(0)), (2, 5));
        assert_eq!((taken(1), not_taken(1)), (2, 3));
        assert_eq!((taken(2), not_taken(2)), (0, 7));
        // Behind an instruction that is no branch, and whose flags the next but one reads.
        let test = insns.iter().find(|i| i.text().starts_with("test dil")).expect("the test");
        assert_eq!(counts(way(test.addr(), Placement::After), run), 5);
        pristine.check();
    });
}

#[test]
fn turns_of_a_loop_instruction_are_counted() {
    isolated("turns_of_a_loop_instruction_are_counted", PATIENCE, || {
        let run = || {
            for n in [0, 1, 5, 10] {
                // SAFETY: ours.
                assert_eq!(unsafe { ways_loop(n) }, n * (n + 1) / 2);
            }
        };
        let insns = insns(ways_loop as *const () as usize);
        let branches: Vec<_> = insns.iter().filter(|i| matches!(i.flow(), Flow::Branch(_))).collect();
        let [skip, turn] = branches[..] else { panic!("two branches") };
        assert_eq!(counts(way(skip.addr(), Placement::Taken), run), 1);
        assert_eq!(counts(way(skip.addr(), Placement::After), run), 3);
        assert_eq!(counts(way(turn.addr(), Placement::Taken), run), 4 + 9);
        assert_eq!(counts(way(turn.addr(), Placement::After), run), 3);
    });
}

#[test]
fn an_indirect_jump_is_counted_by_target() {
    isolated("an_indirect_jump_is_counted_by_target", PATIENCE, || {
        let run = || {
            for n in 0..20 {
                // SAFETY: ours.
                assert_eq!(unsafe { ways_switch(n) }, 100 + n % 4);
            }
            // SAFETY: ours.
            unsafe { ways_switch(1) };
        };
        let insns = insns(ways_switch as *const () as usize);
        let jump = insns.iter().find(|i| i.flow() == Flow::IndirectJump).expect("the jump").addr();
        let case1 = Addr(ways_case1 as *const () as u64);
        assert_eq!(counts(way(jump, Placement::Toward(case1)), run), 6);
        // The next instruction but two is the last case.
        assert_eq!(counts(way(jump, Placement::Toward(case1 - 2)), run), 5);
        assert_eq!(counts(Place::before(case1), run), 16, "cases run into each other");
        // All at once, in one batch.
        let session = Session::own().expect("a session");
        let mut batch = session.batch();
        let targets: Vec<Addr> = [-4, -2, 0, 2].map(|offset| case1.offset(offset)).into();
        let counters: Vec<_> = targets.iter().map(|at| session.counter(at.to_string())).collect();
        for (at, counter) in targets.iter().zip(&counters) {
            batch.insert(way(jump, Placement::Toward(*at)), counter.increment(), Position::Last);
        }
        batch.commit().expect("commit");
        run();
        assert_eq!(counters.iter().map(|c| c.read()).collect::<Vec<_>>(), [5, 5, 6, 5]);
        session.remove_all().expect("removal");
    });
}

#[test]
fn only_the_return_of_the_call_counts() {
    isolated("only_the_return_of_the_call_counts", PATIENCE, || {
        let run = || {
            for n in 0..10 {
                // SAFETY: ours.
                assert_eq!(unsafe { ways_return(n) }, 7);
            }
        };
        let insns = insns(ways_return as *const () as usize);
        let call = insns.iter().find(|i| matches!(i.flow(), Flow::Call(_))).expect("the call");
        assert_eq!(counts(way(call.end(), Placement::Returned), run), 10);
        assert_eq!(counts(Place::before(call.end()), run), 10 + 45);
    });
}

extern "C" fn seen(_: &mut Context, _: u64) {
    SEEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
}

static SEEN: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

#[test]
fn every_snippet_runs_on_every_way_at_once() {
    isolated("every_snippet_runs_on_every_way_at_once", PATIENCE, || {
        let pristine = Pristine::new();
        let session = Session::own().expect("a session");
        let mut batch = session.batch().best_effort();
        let hits = session.counter("all");
        let functions = [ways_branch as *const () as usize, ways_loop as *const () as usize];
        for insn in functions.into_iter().flat_map(insns) {
            for placement in [Placement::Before, Placement::After, Placement::Taken] {
                batch.insert(way(insn.addr(), placement), hits.increment(), Position::Last);
                batch.insert(
                    way(insn.addr(), placement),
                    callback(seen, 0, VectorState::None),
                    Position::Last,
                );
            }
        }
        let report = batch.commit().expect("commit");
        let refused = report.refusals().filter(|(_, why)| !why.to_string().contains("has no way")).count();
        assert_eq!(refused, 0, "{report:?}");
        let installed = report.entries.iter().filter(|e| matches!(e.outcome, Outcome::Installed(_))).count();
        assert!(installed > 60, "{installed}");
        for n in 0..100 {
            // SAFETY: ours.
            unsafe {
                assert_eq!(ways_branch(n), if n == 0 { 0 } else { n % 2 + 1 });
                assert_eq!(ways_loop(n), n * (n + 1) / 2);
            }
        }
        assert_eq!(hits.read(), SEEN.load(std::sync::atomic::Ordering::Relaxed));
        assert!(hits.read() > 10_000);
        session.remove_all().expect("removal");
        pristine.check();
    });
}
