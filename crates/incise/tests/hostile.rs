//! This process in surroundings that leave little room.
//!
//! # Safety
//! Memory is mapped only where nothing is; the functions that are called are this file's own.

#![allow(unsafe_code, reason = "maps memory, counts in hand-made code")]

mod support;

use std::ops::Range;
use std::time::Duration;

use incise::{Addr, Outcome, Position, Session, Tactic};
use support::isolated;

const PATIENCE: Duration = Duration::from_secs(60);

#[inline(never)]
extern "C" fn step(n: u64) -> u64 {
    std::hint::black_box(n).wrapping_mul(3) + 1
}

/// Takes all memory in `range` that is free.
fn take(range: Range<u64>) {
    let text = std::fs::read_to_string("/proc/self/maps").expect("readable");
    let hex = |text: &str| u64::from_str_radix(text, 16).expect("hexadecimal");
    let used = text.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
    let mut from = range.start;
    let ends = used.map(|(start, end)| (hex(start), hex(end))).chain([(range.end, range.end)]);
    for (start, end) in ends {
        let until = start.min(range.end);
        if from < until {
            let flags =
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
            // SAFETY: takes unused addresses, or fails (below the stack is a gap that the kernel keeps).
            unsafe {
                libc::mmap(from as *mut libc::c_void, (until - from) as usize, libc::PROT_NONE, flags, -1, 0)
            };
        }
        from = from.max(end);
    }
}

#[test]
fn without_free_memory_in_reach_a_trap_leads_to_a_trampoline_far_away() {
    isolated("without_free_memory_in_reach_a_trap_leads_to_a_trampoline_far_away", PATIENCE, || {
        const TIMES: u64 = 1000;
        const REACH: u64 = (2 << 30) + (1 << 20);
        let entry = step as extern "C" fn(u64) -> u64 as usize as u64;
        take((entry - REACH) & !0xFFF..(entry + REACH) & !0xFFF);
        let session = Session::own().expect("a session");
        let hits = session.counter("hits");
        let mut batch = session.batch();
        batch.insert(Addr(entry), hits.increment(), Position::Last);
        let report = batch.commit().expect("commit");
        assert_eq!(report.entries[0].outcome, Outcome::Installed(Tactic::Trap), "{report:?}");
        for n in 0..TIMES {
            assert_eq!(step(n), n * 3 + 1);
        }
        assert_eq!(hits.read(), TIMES);
        session.remove_all().expect("removed");
        assert_eq!(step(1), 4);
    });
}
