//! Probes in this very process, with real code running through them.
//!
//! # Safety
//! The functions called are plain C-ABI functions of this file and of libc.

#![allow(unsafe_code, reason = "calls functions of libc and reads vector registers")]

use std::arch::asm;
use std::ffi::c_char;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use incise::callback::{Context, VectorState, callback};
use incise::isa::native::Gpr;
use incise::{Addr, MachineCode, Outcome, Position, Query, Session, Snippet, Tactic};

unsafe extern "C" {
    fn strlen(text: *const c_char) -> usize;
    fn atoi(text: *const c_char) -> i32;
    fn __errno_location() -> *mut i32;
}

#[inline(never)]
extern "C" fn collatz(mut n: u64) -> u64 {
    let mut steps = 0;
    while n != 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    std::hint::black_box(steps)
}

#[inline(never)]
extern "C" fn add_pair(a: u64, b: u64) -> u64 {
    std::hint::black_box(a.wrapping_mul(3)) ^ std::hint::black_box(b)
}

/// Two sessions must not patch the same code at once.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn at(function: usize) -> Addr {
    Addr(function as u64)
}

#[test]
fn a_counter_counts_every_call_and_bytes_come_back() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let entry = at(collatz as *const () as usize);
    // SAFETY: 32 bytes of our own code.
    let bytes = || unsafe { std::slice::from_raw_parts(entry.0 as *const u8, 32) }.to_vec();
    let before = bytes();
    let hits = session.counter("collatz");
    let mut batch = session.batch();
    batch.insert(entry, hits.increment(), Position::Last);
    let report = batch.commit().expect("commit");
    assert!(
        matches!(report.entries[0].outcome, Outcome::Installed(tactic) if tactic != Tactic::Trap),
        "{report:?}"
    );
    assert_ne!(bytes(), before);
    for _ in 0..1000 {
        assert_eq!(collatz(27), 111);
    }
    assert_eq!(hits.read(), 1000);
    session.remove_all().expect("removal");
    assert_eq!(bytes(), before);
    assert_eq!(collatz(27), 111);
}

#[test]
fn an_instance_rests_and_runs_again_by_one_byte() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let entry = at(add_pair as *const () as usize);
    // SAFETY: 32 bytes of our own code.
    let bytes = || unsafe { std::slice::from_raw_parts(entry.0 as *const u8, 32) }.to_vec();
    let before = bytes();
    let (first, second) = (session.counter("first"), session.counter("second"));
    let mut batch = session.batch();
    let switched = batch.insert(entry, first.increment(), Position::Last);
    batch.insert(entry, second.increment(), Position::Last);
    let called = batch.insert(entry, callback(count_calls, 0, VectorState::Full), Position::Last);
    batch.commit().expect("commit");
    CALLS.store(0, Ordering::Relaxed);
    session.switch(switched, false).expect("off");
    session.switch(called, false).expect("off");
    let patched = bytes();
    assert_ne!(patched, before);
    let mut expected = [0, 0, 0];
    for round in 0..200u64 {
        let on = [round % 2 == 0, round % 3 == 0];
        session.switch(switched, on[0]).expect("a switch");
        session.switch(called, on[1]).expect("a switch");
        for n in 0..5 {
            assert_eq!(add_pair(n, round), (n * 3) ^ round);
        }
        expected = [expected[0] + 5 * u64::from(on[0]), expected[1] + 5, expected[2] + 5 * u64::from(on[1])];
        assert_eq!([first.read(), second.read(), CALLS.load(Ordering::Relaxed)], expected);
        if round == 100 {
            // Planned anew, it rests as before.
            let mut batch = session.batch();
            batch.insert(entry, session.counter("third").increment(), Position::First);
            batch.commit().expect("commit");
            assert_eq!(add_pair(1, round), 3 ^ round);
            expected = [expected[0] + 1, expected[1] + 1, expected[2]];
            assert_eq!([first.read(), second.read(), CALLS.load(Ordering::Relaxed)], expected);
        }
    }
    let mut batch = session.batch();
    batch.enable(switched, false);
    batch.commit().expect("commit");
    session.remove_all().expect("removal");
    assert_eq!(bytes(), before);
}

static CALLS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_calls(_: &mut Context, _: u64) {
    CALLS.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn an_indirect_function_counts_its_implementation() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let points = session.find(Query::functions("libc!strlen")).expect("strlen");
    assert!(!points.is_empty());
    // SAFETY: a constant name.
    let used = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"strlen".as_ptr()) } as u64;
    assert!(points.iter().any(|point| point.addr.0 == used), "{points:?} {used:#x}");
    let hits = session.counter("strlen");
    let mut batch = session.batch();
    for point in &points {
        batch.push_back(point, hits.increment());
    }
    batch.commit().expect("commit");
    let before = hits.read();
    for _ in 0..10 {
        // SAFETY: a C string.
        assert_eq!(unsafe { strlen(std::hint::black_box(c"four".as_ptr())) }, 4);
    }
    assert!(hits.read() >= before + 10, "other threads may call it too");
    session.remove_all().expect("removal");
}

static SEEN: AtomicU64 = AtomicU64::new(0);

extern "C" fn swap_arguments(context: &mut Context, data: u64) {
    SEEN.store(data + context.gpr(Gpr::Rdi), Ordering::Relaxed);
    context.gregs.swap(usize::from(Gpr::Rdi.number()), usize::from(Gpr::Rsi.number()));
    // SAFETY: errno is always there.
    unsafe { *__errno_location() = 77 };
}

#[test]
fn a_callback_reads_and_changes_registers_and_keeps_errno() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let entry = at(add_pair as *const () as usize);
    let plain = add_pair(5, 7);
    let swapped = add_pair(7, 5);
    let mut batch = session.batch();
    batch.insert(entry, callback(swap_arguments, 100, VectorState::Full), Position::Last);
    batch.commit().expect("commit");
    // SAFETY: errno is always there.
    unsafe { *__errno_location() = 3 };
    assert_eq!(add_pair(5, 7), swapped);
    assert_ne!(plain, swapped);
    // SAFETY: as above.
    assert_eq!(unsafe { *__errno_location() }, 3);
    assert_eq!(SEEN.load(Ordering::Relaxed), 105);
    session.remove_all().expect("removal");
    assert_eq!(add_pair(5, 7), plain);
}

extern "C" fn clobber_vectors(context: &mut Context, _: u64) {
    assert!(!context.vector.is_null());
    // SAFETY: xmm registers are the callback's to change; the entry keeps them.
    unsafe {
        asm!("pcmpeqd xmm0, xmm0", "pcmpeqd xmm7, xmm7", "pcmpeqd xmm15, xmm15", out("xmm0") _, out("xmm7") _, out("xmm15") _)
    };
}

#[inline(never)]
extern "C" fn mul_add(a: f64, b: f64) -> f64 {
    std::hint::black_box(a) * 2.0 + std::hint::black_box(b)
}

#[test]
fn vector_registers_survive_a_callback() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    for vector in [VectorState::Sse, VectorState::Avx, VectorState::Avx512, VectorState::Full] {
        let mut batch = session.batch();
        batch.insert(at(mul_add as *const () as usize), callback(clobber_vectors, 0, vector), Position::Last);
        batch.commit().expect("commit");
        assert_eq!(mul_add(1.5, 0.25), 3.25);
        session.remove_all().expect("removal");
    }
}

#[test]
fn machine_code_runs_with_its_clobbers_kept() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let entry = at(mul_add as *const () as usize);
    // xor eax,eax; xor ecx,ecx; push rax; pop rax
    let code = MachineCode {
        bytes: [0x31, 0xC0, 0x31, 0xC9, 0x50, 0x58].into(),
        clobbers: incise::isa::native::GprSet::of(&[Gpr::Rax, Gpr::Rcx]),
        flags: true,
        stack: true,
    };
    let hits = session.counter("after");
    let mut batch = session.batch();
    batch.insert(entry, Snippet::Code(code), Position::Last);
    batch.insert(entry, hits.increment(), Position::Last);
    batch.commit().expect("commit");
    assert_eq!(mul_add(1.5, 0.25), 3.25);
    assert_eq!(hits.read(), 1);
    session.remove_all().expect("removal");
}

#[test]
fn every_instruction_of_a_function_can_be_counted() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let start = at(collatz as *const () as usize);
    // SAFETY: our own code; the scan ends at the first ret.
    let code = unsafe { std::slice::from_raw_parts(start.0 as *const u8, 400) };
    let mut heads = vec![];
    let mut offset = 0;
    loop {
        let insn = incise::isa::native::decode(&code[offset..], start + offset as u64).expect("code");
        heads.push(insn.addr());
        offset += insn.len();
        if insn.flow() == incise::isa::native::Flow::Return {
            break;
        }
    }
    let counters: Vec<_> = heads.iter().map(|head| session.counter(head.to_string())).collect();
    let mut batch = session.batch();
    for (head, counter) in heads.iter().zip(&counters) {
        batch.insert(*head, counter.increment(), Position::Last);
    }
    let report = batch.commit().expect("commit");
    assert_eq!(report.installed(), heads.len());
    assert_eq!(collatz(27), 111);
    assert_eq!(counters[0].read(), 1);
    assert_eq!(counters[counters.len() - 1].read(), 1);
    assert!(counters.iter().any(|counter| counter.read() >= 111), "the loop's body");
    session.remove_all().expect("removal");
    assert_eq!(collatz(27), 111);
}

#[test]
fn a_probed_libc_function_still_works() {
    let _alone = alone();
    let session = Session::own().expect("a session");
    let points = session.find(Query::functions("libc!atoi")).expect("atoi");
    let hits = session.counter("atoi");
    let mut batch = session.batch();
    batch.push_back(&points[0], hits.increment());
    batch.commit().expect("commit");
    // SAFETY: a C string.
    assert_eq!(unsafe { atoi(std::hint::black_box(c"-417".as_ptr())) }, -417);
    assert_eq!(hits.read(), 1);
    session.remove_all().expect("removal");
}
