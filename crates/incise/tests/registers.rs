//! What a probe must not change: every register, the flags, the red zone, the vector and the x87 state; and what runs in
//! which order.
//!
//! # Safety
//! The harness loads a whole machine state, calls code that changes none of it, and stores the state again.

#![allow(unsafe_code, reason = "loads and stores machine states")]

mod support;

use std::arch::asm;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use incise::callback::{Context, VectorState, callback};
use incise::isa::native::{Gpr, GprSet};
use incise::{
    Addr, Argument, Effects, Generate, Images, InstanceId, MachineCode, Outcome, Output, PointContext,
    Position, Program, Refusal, Session, Snippet, TrapPolicy, Vectors,
};
use support::machine::{Machine, identity};
use support::{Rng, function, instructions, isolated, shapes};

const PATIENCE: Duration = Duration::from_secs(120);
const STATES: [VectorState; 5] =
    [VectorState::Sse, VectorState::Avx, VectorState::Avx512, VectorState::Full, VectorState::None];

/// Changes all that a C function may change and `VectorState` number `data` keeps.
extern "C" fn clobber(context: &mut Context, data: u64) {
    std::hint::black_box(context);
    // SAFETY: every register changed is named, or kept by the entry.
    unsafe {
        asm!(
            "mov rax, -1", "mov rcx, rax", "mov rdx, rax", "mov rsi, rax", "mov rdi, rax", "mov r8, rax",
            "mov r9, rax", "mov r10, rax", "mov r11, rax", "cmp eax, 1",
            out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _, out("r8") _, out("r9") _,
            out("r10") _, out("r11") _,
        );
        match STATES[data as usize].supported() {
            VectorState::None => {}
            VectorState::Sse => asm!(
                "pcmpeqd xmm0, xmm0", "movaps xmm1, xmm0", "movaps xmm8, xmm0", "movaps xmm15, xmm0",
                out("xmm0") _, out("xmm1") _, out("xmm8") _, out("xmm15") _,
            ),
            VectorState::Avx => asm!(
                "vpcmpeqd xmm0, xmm0, xmm0", "vmovaps ymm1, ymm0", "vmovaps ymm8, ymm0", "vmovaps ymm15, ymm0", "vzeroall",
                out("xmm0") _, out("xmm1") _, out("xmm8") _, out("xmm15") _,
            ),
            _ => asm!(
                "vpternlogd zmm0, zmm0, zmm0, 255", "vmovaps zmm1, zmm0", "vmovaps zmm15, zmm0", "vmovaps zmm16, zmm0",
                "vmovaps zmm31, zmm0", "kxnorw k1, k1, k1", "kmovq k7, k1", "vzeroall",
                out("xmm0") _, out("xmm1") _, out("xmm15") _,
            ),
        }
    }
}

/// Machine code that changes every register and the flags, and uses the stack.
fn ravage() -> Snippet {
    let mut bytes = Vec::new();
    let all: Vec<Gpr> = GprSet::EMPTY.complement().iter().filter(|gpr| *gpr != Gpr::Rsp).collect();
    for gpr in &all {
        // mov r64, -1
        let number = gpr.number();
        bytes.extend([0x48 | number >> 3, 0xC7, 0xC0 | number & 7, 0xFF, 0xFF, 0xFF, 0xFF]);
    }
    bytes.extend([0x50, 0x50, 0x58, 0x58]); // push rax; push rax; pop rax; pop rax
    bytes.extend([0x48, 0x83, 0xC0, 0x01]); // add rax, 1
    Snippet::Code(MachineCode { bytes: bytes.into(), clobbers: GprSet::of(&all), flags: true, stack: true })
}

/// Generated code that changes every register, the flags and the low halves of all vector registers, uses the stack, and
/// reads where nothing is mapped.
#[derive(Debug)]
struct Ravage;

impl Generate for Ravage {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        let (clobbers, vectors) = (GprSet::ALL, Vectors::Sse(u16::MAX));
        Effects { clobbers, flags: true, vectors, stack: true, ..Effects::default() }
    }

    fn generate(&self, _: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        for register in 0..16 {
            // pcmpeqd xmm, xmm
            let (high, both) = ((register >> 3) * 5, (register & 7) * 9);
            out.asm().raw(&[0x66, 0x40 | high, 0x0F, 0x76, 0xC0 | both]);
        }
        for register in GprSet::ALL.iter().filter(|register| *register != Gpr::Rsp) {
            out.asm().mov_imm(register, u64::MAX - 1);
        }
        out.asm().push(Gpr::Rax);
        let load = out.position();
        out.asm().mov_load(Gpr::Rcx, Gpr::Rax, 0);
        out.asm().raw(&[0x0F, 0x0B]);
        let fixup = out.position();
        out.fault(load, fixup);
        out.asm().pop(Gpr::Rax);
        out.asm().raw(&[0x48, 0x83, 0xC0, 0x01]);
        Ok(())
    }
}

/// Generated code that calls [`clobber`], which changes what a function may change.
#[derive(Debug)]
struct CallFunction;

impl Generate for CallFunction {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        Effects::CALL
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let full = STATES.iter().position(|state| *state == VectorState::Full).expect("is there");
        let arguments = [Argument::Register(Gpr::Rsp), Argument::Immediate(full as u64)];
        out.call_function(at, Addr(clobber as *const () as u64), &arguments)
    }
}

/// All kinds of snippets, with a name.
fn kinds(session: &Session) -> Vec<(String, Snippet)> {
    let mut kinds = vec![
        ("counter".to_owned(), session.counter("counter").increment()),
        ("machine code".to_owned(), ravage()),
        ("generated code".to_owned(), Snippet::generated(Ravage)),
        ("a call from generated code".to_owned(), Snippet::generated(CallFunction)),
    ];
    for (number, state) in STATES.into_iter().enumerate() {
        kinds.push((format!("callback {state:?}"), callback(clobber, number as u64, state)));
    }
    kinds
}

fn program() -> Program {
    let space = incise::space::own::OwnSpace::new().expect("a space");
    Program::read(&space, "self", &mut Images::default()).expect("the program")
}

#[test]
fn nothing_changes_at_any_instruction() {
    isolated("nothing_changes_at_any_instruction", PATIENCE, || {
        let insns = instructions(&function(&program(), identity as *const () as usize));
        assert!(insns.len() > 10);
        let session = Session::own().expect("a session");
        let mut rng = Rng::new(1);
        for (name, snippet) in kinds(&session) {
            for traps in [TrapPolicy::Fallback, TrapPolicy::Force] {
                let sets = (0..insns.len()).map(|n| vec![n]).chain([(0..insns.len()).collect()]);
                for set in sets {
                    let mut batch = session.batch().traps(traps);
                    for &n in &set {
                        batch.insert(insns[n].addr(), snippet.clone(), Position::Last);
                    }
                    batch.commit().unwrap_or_else(|error| panic!("{name} at {set:?}: {error}"));
                    for _ in 0..20 {
                        let machine = Machine::random(&mut rng);
                        let after = machine.run();
                        let differences = machine.differences(&after);
                        assert!(differences.is_empty(), "{name} at {set:?} {traps:?}: {differences:?}");
                    }
                    session.remove_all().expect("removal");
                }
            }
        }
        let machine = Machine::random(&mut rng);
        assert!(machine.differences(&machine.run()).is_empty(), "unprobed");
    });
}

static FLAGS_SEEN: AtomicU64 = AtomicU64::new(0);

/// Notes the flags, and changes those in `data`.
extern "C" fn note_flags(context: &mut Context, data: u64) {
    FLAGS_SEEN.store(context.flags, Relaxed);
    context.flags ^= data;
}

#[test]
fn a_callback_sees_and_changes_flags() {
    /// Carry, parity, adjust, zero, sign, overflow.
    const ARITHMETIC: u64 = 0x08D5;
    /// Direction, alignment check, identification too.
    const ALL: u64 = 0x24_0CD5;
    isolated("a_callback_sees_and_changes_flags", PATIENCE, || {
        let insns = instructions(&function(&program(), identity as *const () as usize));
        let session = Session::own().expect("a session");
        let mut rng = Rng::new(2);
        for (n, insn) in insns.iter().enumerate() {
            let told = if n == 0 { ARITHMETIC } else { ALL };
            for state in STATES {
                let change = rng.next() & ARITHMETIC;
                let mut batch = session.batch();
                batch.insert(insn.addr(), callback(note_flags, change, state), Position::Last);
                batch.commit().expect("a callback");
                for _ in 0..50 {
                    let mut machine = Machine::random(&mut rng);
                    let after = machine.run();
                    let seen = FLAGS_SEEN.load(Relaxed);
                    assert_eq!(seen & told, machine.flags & told, "{n} {state:?}");
                    machine.flags ^= change;
                    let differences = machine.differences(&after);
                    assert!(differences.is_empty(), "{n} {state:?} {change:x}: {differences:?}");
                }
                session.remove_all().expect("removal");
            }
        }
    });
}

#[test]
fn probes_at_every_instruction_of_real_functions_change_no_result() {
    let name = "probes_at_every_instruction_of_real_functions_change_no_result";
    isolated(name, PATIENCE, || {
        let program = program();
        let session = Session::own().expect("a session");
        for (name, snippet) in kinds(&session) {
            for shape in shapes::own().into_iter().chain(shapes::library()) {
                let mut batch = session.batch().best_effort();
                let insns = instructions(&function(&program, shape.entry));
                for insn in &insns {
                    batch.insert(insn.addr(), snippet.clone(), Position::Last);
                }
                let report = batch.commit().expect("a best-effort commit");
                let refused: Vec<_> = report.refusals().map(|(_, why)| why.to_string()).collect();
                assert!(refused.is_empty(), "{name} in {}: {refused:?}", shape.name);
                (0..100).for_each(|n| (shape.check)(n * 0x0123_4567_89AB));
                session.remove_all().expect("removal");
                (0..10).for_each(shape.check);
            }
        }
    });
}

static ORDER: Mutex<Vec<u64>> = Mutex::new(Vec::new());

extern "C" fn note(context: &mut Context, data: u64) {
    ORDER.lock().expect("one thread").push(data);
    *context.gpr_mut(Gpr::Rdi) = context.gpr(Gpr::Rdi) * 10 + data;
}

#[inline(never)]
extern "C" fn double(n: u64) -> u64 {
    std::hint::black_box(n) * 2
}

#[test]
fn snippets_run_in_their_order() {
    isolated("snippets_run_in_their_order", PATIENCE, || {
        let session = Session::own().expect("a session");
        let at = Addr(double as *const () as u64);
        let hits = session.counter("hits");
        let insert = |data: u64, position| -> InstanceId {
            let mut batch = session.batch();
            let id = batch.insert(at, callback(note, data, VectorState::Full), position);
            batch.insert(at, hits.increment(), position);
            batch.commit().expect("commit");
            id
        };
        insert(2, Position::Last);
        let three = insert(3, Position::Last);
        let one = insert(1, Position::First);
        assert_eq!(double(0), 2 * 123);
        assert_eq!(*ORDER.lock().expect("one thread"), [1, 2, 3]);
        assert_eq!(hits.read(), 3);
        assert_eq!(session.instances_at(at).len(), 6);
        assert_eq!(session.instances_at(at)[1], one);

        let mut batch = session.batch();
        batch.enable(one, false);
        batch.commit().expect("commit");
        assert_eq!(double(0), 2 * 23);
        let mut batch = session.batch();
        batch.enable(one, true);
        batch.remove(three);
        batch.commit().expect("commit");
        assert_eq!(double(0), 2 * 12);
        session.remove_all().expect("removal");
        assert_eq!(double(4), 8);
        assert_eq!(hits.read(), 9);
    });
}

#[test]
fn an_insertion_that_fails_leaves_those_before_it_as_they_were() {
    isolated("an_insertion_that_fails_leaves_those_before_it_as_they_were", PATIENCE, || {
        let session = Session::own().expect("a session");
        let at = Addr(double as *const () as u64);
        let mut batch = session.batch();
        batch.insert(at, callback(note, 7, VectorState::Full), Position::Last);
        batch.commit().expect("commit");
        let mut batch = session.batch();
        batch.insert(at, callback(note, 8, VectorState::Full), Position::Last);
        batch.insert(Addr(0x10), callback(note, 9, VectorState::Full), Position::Last);
        batch.commit().expect_err("nothing is mapped at 0x10");
        assert_eq!(double(0), 14);
        let mut batch = session.batch().best_effort();
        batch.insert(at, callback(note, 8, VectorState::Full), Position::Last);
        batch.insert(Addr(0x10), callback(note, 9, VectorState::Full), Position::Last);
        let report = batch.commit().expect("a best-effort commit");
        assert!(matches!(report.entries[1].outcome, Outcome::Refused(_)));
        assert_eq!(double(0), 2 * 78);
    });
}
