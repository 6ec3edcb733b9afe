//! Poke and swap: the code does what it should at every instant, and all bytes come back.
//!
//! # Safety
//! Only the signal mask of a thread of the tests' own is changed.

#![allow(unsafe_code, reason = "blocks signals")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use incise_isa::Addr;
use incise_space::own::{OwnSpace, Pages, Writer};
use incise_space::{AddressSpace, Bytes, Edit, Landing, SpaceError};
use support::*;

fn space(writer: Writer, pages: Pages) -> OwnSpace {
    OwnSpace::builder().writer(writer).pages(pages).build().expect("an own space")
}

const KINDS: [(Writer, Pages); 5] = [
    (Writer::Poke, Pages::Placed),
    (Writer::Swap, Pages::Placed),
    (Writer::Swap, Pages::Forced),
    (Writer::Swap, Pages::MemoryFile),
    (Writer::Auto, Pages::Placed),
];

/// Functions spread over a few pages; one of them lies across a page boundary.
fn spread(space: &mut OwnSpace, top: usize) -> Vec<Patchable> {
    let base = fresh(64 * PAGE);
    let offsets = [16, 40, PAGE - 3, 3 * PAGE, 3 * PAGE + 9, 30 * PAGE + 8, 60 * PAGE];
    offsets.map(|offset| Patchable::new(space, base + offset, top)).into()
}

#[test]
fn an_edit_changes_the_code_and_its_inverse_restores_every_byte() {
    for (writer, pages) in KINDS {
        for top in [0, 3] {
            let mut space = space(writer, pages);
            let functions = spread(&mut space, top);
            space.publish_landings(&landings(&functions)).expect("landings");
            let edits: Vec<Edit> = functions.iter().map(Patchable::edit).collect();
            apply(&mut space, &edits).expect("install");
            for function in &functions {
                for entry in Patchable::ENTRIES {
                    assert_eq!(call(function.at + entry), 2, "{writer:?} {pages:?} {top} +{entry}");
                }
            }
            let inverse: Vec<Edit> = edits.iter().map(Edit::inverse).collect();
            apply(&mut space, &inverse).expect("remove");
            for function in &functions {
                assert_eq!(bytes(&space, function.at, 7), Patchable::CODE);
                assert_eq!(call(function.at), 1);
            }
        }
    }
}

#[test]
fn threads_see_old_or_new_while_edits_flip() {
    for (writer, pages) in KINDS {
        for traps_only in [false, true] {
            flip_under_threads(writer, pages, traps_only);
        }
    }
}

fn flip_under_threads(writer: Writer, pages: Pages, traps_only: bool) {
    let mut space = space(writer, pages);
    let functions = spread(&mut space, 0);
    space.publish_landings(&landings(&functions)).expect("landings");
    let edit = |f: &Patchable| if traps_only { f.trap_edit() } else { f.edit() };
    let edits: Vec<Edit> = functions.iter().map(edit).collect();
    let inverse: Vec<Edit> = edits.iter().map(Edit::inverse).collect();
    let places: Vec<Addr> = functions.iter().map(|f| f.at).collect();
    let stop = AtomicBool::new(false);
    let results = [const { AtomicU64::new(0) }; 3];
    let mut flips = 0;
    std::thread::scope(|scope| {
        for seed in 0..4u64 {
            let (places, stop, results) = (&places, &stop, &results);
            scope.spawn(move || {
                let mut n = seed;
                while !stop.load(Ordering::Relaxed) {
                    n = n.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let at = places[(n >> 33) as usize % places.len()] + (n >> 60) % 3;
                    match call(at) {
                        result @ 1..=2 => results[result as usize].fetch_add(1, Ordering::Relaxed),
                        _ => results[0].fetch_add(1, Ordering::Relaxed),
                    };
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(700);
        while Instant::now() < end {
            apply(&mut space, &edits).expect("install");
            apply(&mut space, &inverse).expect("remove");
            flips += 1;
        }
        stop.store(true, Ordering::Relaxed);
    });
    let [wrong, old, new] = results.map(AtomicU64::into_inner);
    println!("{writer:?} {pages:?} traps={traps_only}: {flips} flips, {old} old, {new} new");
    assert_eq!(wrong, 0);
    assert!(flips > 20 && old > 0 && new > 0, "{flips} flips, {old} old, {new} new");
    for function in &functions {
        assert_eq!(bytes(&space, function.at, 7), Patchable::CODE);
    }
}

#[test]
fn code_that_differs_from_the_plan_is_left_alone() {
    for (writer, pages) in KINDS {
        let mut space = space(writer, pages);
        let functions = spread(&mut space, 0);
        space.publish_landings(&landings(&functions)).expect("landings");
        let mut edits: Vec<Edit> = functions.iter().map(Patchable::edit).collect();
        edits[3].old = edits[3].new;
        match apply(&mut space, &edits) {
            Err(SpaceError::Changed { at, found, .. }) => {
                assert_eq!((at, &found[..]), (functions[3].at, &Patchable::CODE[..5]));
            }
            other => panic!("{other:?}"),
        }
        for function in &functions {
            assert_eq!(bytes(&space, function.at, 7), Patchable::CODE);
        }
    }
}

#[test]
fn unmapped_code_is_unreadable_and_nothing_is_touched() {
    for (writer, pages) in KINDS {
        let mut space = space(writer, pages);
        let functions = spread(&mut space, 0);
        space.publish_landings(&landings(&functions)).expect("landings");
        let edits: Vec<Edit> = functions.iter().map(Patchable::edit).collect();
        space.unmap(functions[6].at, PAGE).expect("unmap");
        match apply(&mut space, &edits) {
            Err(SpaceError::Unreadable { at, .. }) => assert_eq!(at, functions[6].at),
            other => panic!("{other:?}"),
        }
        for function in &functions[..6] {
            assert_eq!(bytes(&space, function.at, 7), Patchable::CODE);
        }
    }
}

/// The C library blocks all signals while it creates threads and processes; a trap taken then is deadly.
#[test]
fn threads_with_all_signals_blocked_survive_changes() {
    const RETURN_1: [u8; 6] = [0xB8, 1, 0, 0, 0, 0xC3];
    const RETURN_2: [u8; 6] = [0xB8, 2, 0, 0, 0, 0xC3];
    assert_child(|| {
        let mut space = space(Writer::Auto, Pages::Placed);
        let at = fresh(4 * PAGE);
        space.map_code(at, 4 * PAGE).expect("map");
        let sites = [at + 8, at + 2 * PAGE - 3];
        let trampoline = at + 3 * PAGE;
        let code = [(sites[0], &RETURN_1[..]), (sites[1], &RETURN_1), (trampoline, &RETURN_2)];
        space.write_code(&code).expect("write");
        let edits = sites.map(|at| {
            let mut jump = [0xE9, 0, 0, 0, 0];
            jump[1..].copy_from_slice(&(trampoline.offset_from(at + 5) as i32).to_le_bytes());
            Edit { at, old: Bytes::new(&RETURN_1[..5]), new: Bytes::new(&jump), heads: 1 }
        });
        space.publish_landings(&sites.map(|trap| Landing { trap, landing: trampoline })).expect("landings");
        let stop = AtomicBool::new(false);
        let results = [const { AtomicU64::new(0) }; 3];
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    // SAFETY: blocks signals of this thread.
                    unsafe {
                        let mut all: libc::sigset_t = std::mem::zeroed();
                        libc::sigfillset(&mut all);
                        libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
                    }
                    while !stop.load(Ordering::Relaxed) {
                        for site in sites {
                            results[call(site) as usize % 3].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            let end = Instant::now() + Duration::from_millis(500);
            while Instant::now() < end {
                for edit in edits {
                    apply(&mut space, &[edit]).expect("install");
                }
                for edit in edits {
                    apply(&mut space, &[edit.inverse()]).expect("remove");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let [wrong, old, new] = results.map(AtomicU64::into_inner);
        assert!(wrong == 0 && old > 0 && new > 0, "{wrong} {old} {new}");
        0
    });
}
