//! What is put where, by what is around a site: the bytes that stay, and those that lead away.

mod common;

use std::ops::Range;

use common::FakeSpace;
use common::function::{BEST, FUNCTION, TEXT, count_at, heads, remove_all};
use incise_isa::Addr;
use incise_isa::native::{TRAP, is_illegal};
use incise_patch::{Batch, Engine, Facts, Outcome, Policy, Position, Refusal, Snippet, Tactic, TrapPolicy};

#[test]
fn regions_of_modules_far_apart_have_trampolines_in_reach() {
    const FAR: u64 = 0x5500_1234_5000;
    let outcomes = |modules: &[u64]| {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::default());
        modules.iter().for_each(|&at| space.add_text(at, FUNCTION));
        let sites: Vec<u64> = modules.iter().flat_map(|&at| heads(FUNCTION, at)).collect();
        count_at(&mut engine, &mut space, &sites, BEST)
    };
    let alone = [outcomes(&[FAR]), outcomes(&[TEXT])].concat();
    assert_eq!(alone.iter().filter(|one| **one == Outcome::Installed(Tactic::Trap)).count(), 0, "{alone:?}");
    assert_eq!(outcomes(&[FAR, TEXT]), alone);
}

#[test]
fn a_loop_head_behind_the_site_is_left_in_place() {
    // inc eax; 7f..: dec ecx; jne -4; ret
    let code = [0xFF, 0xC0, 0xFF, 0xC9, 0x75, 0xFC, 0xC3, 0xCC, 0xCC, 0xCC];
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT], BEST), [Outcome::Installed(Tactic::Pun)]);
    let now = space.bytes(TEXT, 7);
    assert_eq!(now[0], 0xE9);
    assert_eq!(now[2..], code[2..7], "what follows stays");
    let target = (TEXT + 5).wrapping_add(i32::from_le_bytes([now[1], now[2], now[3], now[4]]) as i64 as u64);
    assert_eq!(space.landing(TEXT), Some(target));
    // With a probe on the loop head as well the loop runs in the trampoline, and is entered by one jump.
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT + 2], BEST), [Outcome::Installed(Tactic::Group)]);
    let now = space.bytes(TEXT, 7);
    assert_eq!((now[0], now[4]), (0xE9, 0xCC), "{now:02x?}");
    remove_all(&mut engine, &mut space);
    assert_eq!(space.bytes(TEXT, code.len()), code);
    // Nothing is free where the jump would lead.
    let taken = [TEXT - (1 << 31)..TEXT, TEXT + 0x1000..TEXT + (1 << 31)];
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    space
        .mapped
        .push(Addr(taken[0].start + (64 << 20)).align_down(4096)..Addr(taken[0].end).align_down(4096));
    space.mapped.push(Addr(taken[1].start).align_up(4096)..Addr(taken[1].end).align_down(4096));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT], BEST), [Outcome::Installed(Tactic::Trap)]);
    assert_eq!(space.bytes(TEXT, 7), [0xCC, 0xC0, 0xFF, 0xC9, 0x75, 0xFC, 0xC3], "one byte only");
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    space
        .mapped
        .push(Addr(taken[0].start + (64 << 20)).align_down(4096)..Addr(taken[0].end).align_down(4096));
    space.mapped.push(Addr(taken[1].start).align_up(4096)..Addr(taken[1].end).align_down(4096));
    let forbid = Policy { traps: TrapPolicy::Forbid, ..BEST };
    let outcomes = count_at(&mut engine, &mut space, &[TEXT], forbid);
    assert!(matches!(outcomes[0], Outcome::Refused(Refusal::TrapForbidden { .. })), "{outcomes:?}");
    assert_eq!(space.bytes(TEXT, code.len()), code);
}

#[test]
fn hot_patch_padding_takes_the_long_jump() {
    let mut code = vec![0xC3];
    code.extend([0x90; 5]);
    code.extend([0x8B, 0xFF, 0x55, 0x8B, 0xEC, 0x5D, 0xC3]);
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT + 6], BEST), [Outcome::Installed(Tactic::Nop)]);
    let now = space.bytes(TEXT, code.len());
    assert_eq!(now[1], 0xE9);
    assert_eq!(now[6..8], [0xEB, 0xF9]);
    assert_eq!(now[8..], code[8..]);
    remove_all(&mut engine, &mut space);
    assert_eq!(space.bytes(TEXT, code.len()), code);
}

#[test]
fn a_compiler_s_five_byte_nop_displaces_nothing() {
    let code = [0x0F, 0x1F, 0x44, 0x00, 0x00, 0x55, 0xC3];
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT], BEST), [Outcome::Installed(Tactic::Nop)]);
    // Five one-byte nops, as -fpatchable-function-entry=5 emits them: every one stays a boundary.
    let code = [0x90, 0x90, 0x90, 0x90, 0x90, 0x55, 0xC3];
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT], BEST), [Outcome::Installed(Tactic::Nop)]);
    assert_eq!(space.bytes(TEXT, 5), [0xE9, 0xCC, 0xCC, 0xCC, 0xCC]);
}

#[test]
fn a_call_is_retargeted_and_its_landing_still_calls() {
    // call +0x100; ret
    let code = [0xE8, 0x00, 0x01, 0x00, 0x00, 0xC3];
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT], BEST), [Outcome::Installed(Tactic::Retarget)]);
    let now = space.bytes(TEXT, 5);
    assert_eq!(now[0], 0xE8);
    let thunk = (TEXT + 5).wrapping_add(i32::from_le_bytes([now[1], now[2], now[3], now[4]]) as i64 as u64);
    assert_ne!(space.landing(TEXT), Some(thunk), "a trapped thread has not pushed the return address yet");
}

#[test]
fn endbr_is_never_overwritten() {
    let mut code = vec![0xF3, 0x0F, 0x1E, 0xFA];
    code.extend_from_slice(FUNCTION);
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    assert_eq!(count_at(&mut engine, &mut space, &[TEXT], BEST), [Outcome::Installed(Tactic::Group)]);
    assert_eq!(space.bytes(TEXT, 5), [0xF3, 0x0F, 0x1E, 0xFA, 0xE9]);
}

/// One function and nothing else.
struct OneFunction(Range<Addr>);

impl Facts for OneFunction {
    fn function(&self, at: Addr) -> Option<Range<Addr>> {
        self.0.contains(&at).then(|| self.0.clone())
    }
    fn function_before(&self, _: Addr) -> Option<Range<Addr>> {
        None
    }
    fn entries(&self, range: Range<Addr>) -> Vec<Addr> {
        Vec::from_iter(range.contains(&self.0.start).then_some(self.0.start))
    }
    fn is_restartable(&self, _: Addr) -> bool {
        false
    }
    fn is_copied(&self, _: Addr) -> bool {
        false
    }
}

#[test]
fn only_a_real_branch_behind_an_endbr_makes_it_a_loop() {
    // endbr64; mov eax,1; ret, and behind it bytes that look like a jump to the mov.
    let straight = [0xF3, 0x0F, 0x1E, 0xFA, 0xB8, 1, 0, 0, 0, 0xC3, 0xEB, 0xF8];
    // endbr64; dec edi; jne to the dec; ret
    let looping = [0xF3, 0x0F, 0x1E, 0xFA, 0xFF, 0xCF, 0x75, 0xFC, 0xC3];
    for (code, len, refused) in [(&straight[..], 10, false), (&looping[..], 9, true)] {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, code));
        let mut batch = Batch::default();
        let counter = engine.counter();
        batch.insert(Addr(TEXT), Snippet::Counter(counter), Position::Last);
        let facts = OneFunction(Addr(TEXT).span(len));
        let report = engine.commit(&mut space, &facts, &batch, BEST).expect("a best-effort commit");
        let outcome = &report.entries[0].outcome;
        let is_refused = *outcome == Outcome::Refused(Refusal::LoopBehindEndbr(Addr(TEXT)));
        assert_eq!(is_refused, refused, "{outcome:?}");
    }
}

#[test]
fn data_behind_the_end_of_a_path_is_not_taken_for_instructions() {
    // ret; three zero bytes that align the next section; sub rsp,8, which a linear decoder does not see.
    let code = [0xC3, 0, 0, 0, 0x48, 0x83, 0xEC, 0x08, 0xC3];
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    let outcomes = count_at(&mut engine, &mut space, &[TEXT], BEST);
    assert!(matches!(outcomes[..], [Outcome::Installed(Tactic::Pun | Tactic::Trap)]), "{outcomes:?}");
    assert_eq!(space.bytes(TEXT + 1, code.len() - 1), code[1..], "only the site itself changes");
    // pop rbx; ret; a nop that aligns; then a jump table whose bytes decode as instructions.
    let code = [0x5B, 0xC3, 0x66, 0x90, 0x48, 0x89, 0xC8, 0xFF, 0xE0];
    let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
    let outcomes = count_at(&mut engine, &mut space, &[TEXT, TEXT + 1], BEST);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Installed(_))), "{outcomes:?}");
    assert_eq!(space.bytes(TEXT + 4, 5), code[4..], "the table");
}

#[test]
fn what_fits_does_not_depend_on_where_things_are_loaded() {
    // push rbx; mov rbx,rdi; call; mov r13,rax; test rax,rax; mov rdi,rbx; pop rbx; ret; int3: the jump behind each call
    // has a trap inside.
    const CODE: [u8; 22] = [
        0x53, 0x48, 0x89, 0xFB, 0xE8, 0, 0, 0, 0, 0x49, 0x89, 0xC5, 0x48, 0x85, 0xC0, 0x48, 0x89, 0xDF, 0x5B,
        0xC3, 0xCC, 0xCC,
    ];
    const COUNT: u64 = 200;
    let mut code = CODE.repeat(COUNT as usize);
    for n in 0..COUNT as usize {
        let to_first = -((n * CODE.len() + 9) as i32);
        code[n * CODE.len() + 5..][..4].copy_from_slice(&to_first.to_le_bytes());
    }
    let planned = |text: u64, distance: u64| {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::new(text, &code));
        let sites: Vec<u64> = (0..COUNT).flat_map(|n| heads(&CODE, text + n * CODE.len() as u64)).collect();
        // Another module, probed before: where its trampolines may be is somewhere among where those of ours may be.
        space.add_text(text + distance, FUNCTION);
        count_at(&mut engine, &mut space, &[text + distance], BEST);
        let outcomes = count_at(&mut engine, &mut space, &sites, BEST);
        outcomes.iter().filter(|outcome| **outcome == Outcome::Installed(Tactic::Group)).count()
    };
    let expected = planned(TEXT, 64 << 20);
    // Around the distance at which a trampoline behind a springboard with int3 in its third displacement byte is the first.
    for n in 0..8u64 {
        // Pages of libraries are random in 28 bits, here those of the tests' text.
        let text = 0x7e00_0000_0000 + (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 36 << 12);
        let distance = 0xC8_0000 + (n << 16);
        assert_eq!(planned(text, distance), expected, "{text:#x}, {distance:#x}");
    }
}

#[test]
fn branches_from_afar_are_seen_where_planning_has_time() {
    // xor eax, eax; add rsp, 40; ret, far before the second function, whose code ends with a jump to the add.
    let mut code = vec![0x31, 0xC0, 0x48, 0x83, 0xC4, 0x28, 0xC3];
    code.resize(0x2_0000, 0xCC);
    let back = (2 - (code.len() as i32 + 9)).to_le_bytes();
    code.extend([0x48, 0x83, 0xEC, 0x28, 0xE9].into_iter().chain(back));
    code.resize(0x2_1000, 0xCC);
    for packed in [false, true] {
        let (mut engine, mut space) = (Engine::new(), FakeSpace::new(TEXT, &code));
        space.packed = packed;
        let forbid = Policy { traps: TrapPolicy::Forbid, ..BEST };
        count_at(&mut engine, &mut space, &[TEXT, TEXT + 0x2_0000], forbid);
        let target = space.bytes(TEXT + 2, 1)[0];
        assert_eq!(target == TRAP || is_illegal(target), !packed, "{target:#x} is where the jump leads");
    }
}
