//! Snippets that generate their code: they see the program's registers, change those they are meant to, survive bad
//! addresses and call functions; in this process and in another.
//!
//! # Safety
//! The functions called are plain C-ABI functions of this file.

#![allow(unsafe_code, reason = "runs assembly between an instruction and the one that reads its flags")]

mod support;

use std::arch::global_asm;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use incise::isa::native::{Gpr, GprSet};
use incise::space::remote::{ProcessId, Tracer};
use incise::{
    Addr, Argument, CounterId, Effects, Generate, Output, PointContext, Position, Query, Refusal, Session,
    Snippet, TrapPolicy, Vectors,
};
use support::answering::Answering;

/// Two sessions must not patch the same code at once.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds the quadword a register points to to a counter; counts in another where nothing is mapped.
#[derive(Debug)]
struct SumOf {
    pointer: Gpr,
    counters: [CounterId; 2],
}

impl Generate for SumOf {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        let clobbers = GprSet::of(&[Gpr::Rax, Gpr::Rdx]);
        Effects { reads: GprSet::of(&[self.pointer]), clobbers, flags: true, ..Effects::default() }
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let load = out.position();
        out.asm().mov_load(Gpr::Rax, self.pointer, 0);
        out.load_address(at, Gpr::Rdx, at.counter(self.counters[0]))?;
        out.asm().raw(&[0xF0, 0x48, 0x01, 0x02, 0xEB, 0]); // lock add [rdx], rax ; jmp
        let over = out.position();
        let fixup = out.position();
        out.fault(load, fixup);
        out.load_address(at, Gpr::Rdx, at.counter(self.counters[1]))?;
        out.asm().lock_inc_at(Gpr::Rdx);
        out.join8(over);
        Ok(())
    }

    fn counters(&self) -> &[CounterId] {
        &self.counters
    }
}

#[inline(never)]
extern "C" fn look_at(pointer: *const u64, add: u64) -> u64 {
    std::hint::black_box(pointer as u64).wrapping_add(add)
}

#[test]
fn a_read_of_what_is_not_mapped_ends_the_snippet_only() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let (sum, faults) = (session.counter("sum"), session.counter("faults"));
    for traps in [TrapPolicy::Fallback, TrapPolicy::Force] {
        let before = (sum.read(), faults.read());
        let snippet = Snippet::generated(SumOf { pointer: Gpr::Rdi, counters: [sum.id(), faults.id()] });
        let mut batch = session.batch().traps(traps);
        batch.insert(Addr(look_at as *const () as u64), snippet, Position::Last);
        batch.commit().expect("commit");
        let values = [40u64, 2];
        for value in &values {
            assert_eq!(look_at(value, 3), value as *const u64 as u64 + 3);
        }
        for bad in [0u64, 8, 0x7fff_ffff_f000, 0xdead_0000_0000_0000, u64::MAX - 6] {
            assert_eq!(look_at(bad as *const u64, 1), bad.wrapping_add(1));
        }
        assert_eq!((sum.read() - before.0, faults.read() - before.1), (42, 5));
        session.remove_all().expect("removal");
    }
}

#[test]
fn faults_in_threads_while_probes_come_and_go() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let (sum, faults) = (session.counter("sum"), session.counter("faults"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(look_at(std::ptr::null(), 1), 1);
                }
            });
        }
        for _ in 0..40 {
            let snippet = Snippet::generated(SumOf { pointer: Gpr::Rdi, counters: [sum.id(), faults.id()] });
            let mut batch = session.batch();
            batch.insert(Addr(look_at as *const () as u64), snippet, Position::Last);
            batch.commit().expect("commit");
            std::thread::sleep(Duration::from_millis(2));
            session.remove_all().expect("removal");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(sum.read(), 0);
    assert!(faults.read() > 0);
}

static SEEN: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];

/// Uses every vector register a function may, and floats.
extern "C" fn note(a: u64, b: u64, rsp: u64, constant: u64) {
    let floats: f64 = (0..(a & 7)).map(|n| f64::from(n as u32).sqrt()).sum();
    SEEN[0].store(a + floats.is_nan() as u64, Ordering::Relaxed);
    SEEN[1].store(b, Ordering::Relaxed);
    SEEN[2].store(rsp, Ordering::Relaxed);
    SEEN[3].store(constant, Ordering::Relaxed);
}

/// Calls [`note`] with two arguments the other way round, the stack pointer and a constant.
#[derive(Debug)]
struct Note(u64);

impl Generate for Note {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        Effects { reads: GprSet::of(&[Gpr::Rdi, Gpr::Rsi]), ..Effects::CALL }
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        let arguments = [
            Argument::Register(Gpr::Rsi),
            Argument::Register(Gpr::Rdi),
            Argument::Register(Gpr::Rsp),
            Argument::Immediate(0x1234_5678_9abc),
        ];
        out.call_function(at, Addr(self.0), &arguments)
    }
}

#[inline(never)]
extern "C" fn mul_add(a: f64, b: f64, x: u64, y: u64) -> f64 {
    std::hint::black_box(a) * 2.0 + std::hint::black_box(b) + std::hint::black_box(x ^ y) as f64
}

#[test]
fn a_function_is_called_with_everything_kept() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let mut batch = session.batch();
    let entry = Addr(mul_add as *const () as u64);
    batch.insert(entry, Snippet::generated(Note(note as *const () as u64)), Position::Last);
    batch.commit().expect("commit");
    assert_eq!(mul_add(1.5, 0.25, 5, 6), 6.25);
    let seen = SEEN.each_ref().map(|seen| seen.load(Ordering::Relaxed));
    let here = &raw const seen as u64;
    assert_eq!((seen[0], seen[1], seen[3]), (6, 5, 0x1234_5678_9abc));
    assert_eq!(seen[2] % 16, 8, "rsp at an entry (psABI 3.2.2)");
    assert!(here.abs_diff(seen[2]) < 4096, "{here:#x} {:#x}", seen[2]);
    session.remove_all().expect("removal");
}

global_asm!(
    ".pushsection .text.incise_generated, \"ax\", @progbits",
    // rax = 1 if rdi < rsi, unsigned; rax is read by what comes behind the probed instruction.
    ".balign 16",
    ".hidden below",
    ".globl below",
    ".type below, @function",
    "below:",
    "mov eax, 7",
    "cmp rdi, rsi",
    ".hidden below_flags",
    ".globl below_flags",
    "below_flags:",
    "lea rdx, [rax + 1]",
    "mov rcx, rax",
    "sbb rax, rax",
    "lea rax, [rax + rcx*8]",
    "add rax, rdx",
    "ret",
    ".size below, . - below",
    ".popsection",
);

unsafe extern "C" {
    fn below(a: u64, b: u64) -> u64;
    static below_flags: u8;
}

/// Adds to a register, and leaves anything in the flags.
#[derive(Debug)]
struct Add {
    to: Gpr,
    clobbers: GprSet,
}

impl Generate for Add {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        let register = GprSet::of(&[self.to]);
        Effects {
            reads: register,
            writes: register,
            clobbers: self.clobbers,
            flags: true,
            ..Effects::default()
        }
    }

    fn generate(&self, _: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        for register in self.clobbers.iter() {
            out.asm().mov_imm(register, 0x1111);
        }
        let number = self.to.number();
        out.asm().raw(&[0x48 | number >> 3, 0x83, 0xC0 | number & 7, 1]);
        out.asm().raw(&[0x48 | number >> 3, 0x83, 0xC0 | number & 7, 2]);
        Ok(())
    }
}

#[test]
fn a_register_is_changed_where_flags_are_live() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let wanted = |a: u64, b: u64, rax: u64| (rax + 1) + rax * 8 - u64::from(a < b);
    let pairs = [(1, 2), (2, 1), (2, 2), (u64::MAX, 0)];
    // SAFETY: changes registers a function may change.
    let check =
        |rax: u64| pairs.iter().for_each(|&(a, b)| assert_eq!(unsafe { below(a, b) }, wanted(a, b, rax)));
    check(7);
    for clobbers in [GprSet::EMPTY, GprSet::of(&[Gpr::Rdx, Gpr::Rdi]), GprSet::of(&[Gpr::R8, Gpr::R12])] {
        let mut batch = session.batch();
        for _ in 0..2 {
            let snippet = Snippet::generated(Add { to: Gpr::Rax, clobbers });
            batch.insert(Addr(&raw const below_flags as u64), snippet, Position::Last);
        }
        batch.commit().expect("commit");
        check(13);
        session.remove_all().expect("removal");
        check(7);
    }
}

/// Sets the value in xmm0 to the double of a general register.
#[derive(Debug)]
struct Overwrite;

impl Generate for Overwrite {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        Effects { vectors: Vectors::Sse(0b11), ..Effects::default() }
    }

    fn generate(&self, _: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        // cvtsi2sd xmm0, rdi ; sqrtsd xmm1, xmm0
        out.asm().raw(&[0xF2, 0x48, 0x0F, 0x2A, 0xC7, 0xF2, 0x0F, 0x51, 0xC8]);
        Ok(())
    }
}

#[test]
fn vector_registers_are_kept() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let mut batch = session.batch();
    batch.insert(Addr(mul_add as *const () as u64), Snippet::generated(Overwrite), Position::Last);
    batch.commit().expect("commit");
    assert_eq!(mul_add(1.5, 0.25, 5, 6), 6.25);
    session.remove_all().expect("removal");
}

#[test]
fn the_same_in_another_program() {
    let mut target = Answering::start(
        "static long seen[2];\n\
         __attribute__((noinline)) void note(long a, long b) { seen[0] += a; seen[1] += b; }\n\
         __attribute__((noinline)) long look(long *p) { __asm__ volatile(\"\" ::: \"memory\"); return (long)p * 3; }\n\
         static long cell = 100;\n\
         long answer(long n) {\n\
             if (n == 0) return seen[0] * 1000 + seen[1];\n\
             if (n == 1) return look(&cell) == (long)&cell * 3;\n\
             return look((long *)n) == n * 3; }",
    );
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.pid())).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    let (sum, faults) = (session.counter("sum"), session.counter("faults"));
    let find = |name: &str| session.find(Query::functions(name)).expect("the function").remove(0);
    let mut batch = session.batch();
    let snippet = SumOf { pointer: Gpr::Rdi, counters: [sum.id(), faults.id()] };
    batch.push_back(&find("look"), Snippet::generated(snippet));
    batch.push_back(&find("look"), Snippet::generated(Report(find("note").addr)));
    batch.commit().expect("commit");
    assert_eq!(target.ask(&mut tracer, 1), 1);
    assert_eq!(target.ask(&mut tracer, 1), 1);
    assert_eq!(target.ask(&mut tracer, 4097), 1, "nothing is mapped there");
    assert_eq!((sum.read(), faults.read()), (200, 1));
    assert_eq!(target.ask(&mut tracer, 0), 3 * 1000 + 21, "three calls of a function of the program");
    session.remove_all().expect("removal");
    assert_eq!(target.ask(&mut tracer, 4097), 1);
    assert_eq!(faults.read(), 1);
    tracer.detach(pid).expect("detached");
    target.end();
}

/// Calls a function with 1 and 7.
#[derive(Debug)]
struct Report(Addr);

impl Generate for Report {
    fn effects(&self, _: &PointContext<'_>) -> Effects {
        Effects::CALL
    }

    fn generate(&self, at: &PointContext<'_>, out: &mut Output<'_>) -> Result<(), Refusal> {
        out.call_function(at, self.0, &[Argument::Immediate(1), Argument::Immediate(7)])
    }
}
