//! Unwinders go through callbacks into the program as if there were no trampoline.
//!
//! # Safety
//! The C library's `backtrace` writes as many addresses as the array holds.

#![allow(unsafe_code, reason = "calls backtrace")]

mod support;

use std::cell::RefCell;
use std::ffi::c_void;
use std::time::Duration;

use incise::callback::{Context, VectorState, callback};
use incise::{Addr, Position, Session};
use support::isolated;

const PATIENCE: Duration = Duration::from_secs(60);

type Function = extern "C" fn(u64) -> u64;

thread_local! {
    static SEEN: RefCell<Vec<Vec<u64>>> = const { RefCell::new(Vec::new()) };
}

/// The addresses of the frames, this function's first.
#[inline(never)]
fn frames() -> Vec<u64> {
    let mut frames = [std::ptr::null_mut::<c_void>(); 64];
    // SAFETY: as long as the array says.
    let count = unsafe { libc::backtrace(frames.as_mut_ptr(), frames.len() as i32) };
    frames[..count as usize].iter().map(|frame| *frame as u64).collect()
}

fn note() {
    let frames = frames();
    SEEN.with_borrow_mut(|seen| seen.push(frames));
}

extern "C" fn on_hit(_: &mut Context, _: u64) {
    note();
}

#[inline(never)]
extern "C" fn inner(n: u64) -> u64 {
    note();
    std::hint::black_box(n) + 1
}

#[inline(never)]
extern "C" fn middle(n: u64) -> u64 {
    inner(std::hint::black_box(n)) * 2
}

#[inline(never)]
extern "C" fn outer(n: u64) -> u64 {
    middle(std::hint::black_box(n)) * 3
}

/// The frames of the program, from the one whose address is in `function` on.
fn from(frames: &[u64], function: Function, len: u64) -> &[u64] {
    let start = function as usize as u64;
    let first = frames.iter().position(|frame| (start..start + len).contains(frame));
    &frames[first.unwrap_or_else(|| panic!("no frame of {start:#x} in {frames:#x?}"))..]
}

#[test]
fn a_backtrace_in_a_callback_is_that_of_the_program() {
    isolated("a_backtrace_in_a_callback_is_that_of_the_program", PATIENCE, || {
        const LEN: u64 = 64;
        let session = Session::own().expect("a session");
        let site = Addr(inner as Function as usize as u64);
        for vector in [VectorState::None, VectorState::Sse, VectorState::Avx, VectorState::Full] {
            let mut batch = session.batch();
            batch.insert(site, callback(on_hit, 0, vector), Position::Last);
            batch.commit().expect("commit");
            std::hint::black_box(outer(std::hint::black_box(1)));
            session.remove_all().expect("removed");
            let seen = SEEN.take();
            let [probe, own] = &seen[..] else { panic!("seen {} times", seen.len()) };
            let (probe, own) = (from(probe, inner, LEN), from(own, inner, LEN));
            assert!((site.0..site.0 + 5).contains(&probe[0]), "{:#x} for {site:?}", probe[0]);
            // Above the probed function all is the same, down to the return addresses.
            assert!(own.len() > 4 && probe[1..] == own[1..], "{probe:#x?} but {own:#x?}");
        }
    });
}

/// Where the springboard at `site` leads.
fn target(site: Addr) -> Addr {
    // SAFETY: five bytes of our own code.
    let bytes = unsafe { (site.0 as *const [u8; 5]).read_unaligned() };
    assert_eq!(bytes[0], 0xE9, "a jump");
    let displacement = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
    (site + 5).offset(displacement.into())
}

#[test]
fn addresses_in_trampolines_are_translated_also_of_removed_ones() {
    isolated("addresses_in_trampolines_are_translated_also_of_removed_ones", PATIENCE, || {
        let session = Session::own().expect("a session");
        let site = Addr(middle as Function as usize as u64);
        let hits = session.counter("hits");
        let mut batch = session.batch();
        let instance = batch.insert(site, hits.increment(), Position::Last);
        batch.commit().expect("commit");
        let trampoline = target(site);
        assert_eq!(session.translate(trampoline), Some(site));
        assert_eq!(session.translate(site), None, "that is no trampoline");
        let mut batch = session.batch();
        batch.remove(instance);
        batch.commit().expect("commit");
        assert_eq!(session.translate(trampoline), Some(site), "a thread may still be inside");
        session.remove_all().expect("removed");
        assert_eq!(session.translate(trampoline), None, "its memory is given back");
    });
}
