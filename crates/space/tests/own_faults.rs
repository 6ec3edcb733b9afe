//! Every system call of a change fails in turn: the change is made or it is not, nothing in between.
//!
//! # Safety
//! What is run is a function of the tests' own, made whole before; whatever fails, it is the old code or the new.

#![allow(unsafe_code, reason = "runs hand-made code")]

mod support;

use incise_isa::Addr;
use incise_space::own::{OwnSpace, Pages, Writer};
use incise_space::{AddressSpace, Edit, Landing, SpaceError, faults};
use support::*;

const KINDS: [(Writer, Pages); 4] = [
    (Writer::Poke, Pages::Placed),
    (Writer::Swap, Pages::Placed),
    (Writer::Swap, Pages::Forced),
    (Writer::Swap, Pages::MemoryFile),
];

const ERRORS: [i32; 4] = [libc::ENOMEM, libc::EPERM, libc::EINTR, libc::EAGAIN];

/// Functions so far apart that a swap needs several runs of pages for them, and more than are little.
fn functions(space: &mut OwnSpace) -> Vec<Patchable> {
    let base = fresh(256 * PAGE);
    let near = (0..16).map(|n| 120 * PAGE + 64 * n);
    let apart = [16, PAGE - 3, 40 * PAGE, 80 * PAGE + 9].into_iter().chain(near);
    apart.map(|offset| Patchable::new(space, base + offset, 3)).collect()
}

/// The pages the functions lie in.
fn pages(space: &OwnSpace, functions: &[Patchable]) -> Vec<u8> {
    let read = |f: &Patchable| bytes(space, f.at.align_down(PAGE), PAGE as usize);
    functions.iter().flat_map(read).collect()
}

/// Makes each system call of `operation` fail in turn, until it meets no failure. Returns how many there were.
fn fail_each<T>(
    errno: i32,
    mut operation: impl FnMut() -> Result<T, SpaceError>,
    mut check: impl FnMut(u64, Result<T, SpaceError>),
) -> u64 {
    for n in 0.. {
        faults::fail_nth(n, errno);
        let result = operation();
        let (_, happened) = faults::disarm();
        if !happened {
            assert!(result.is_ok(), "no failure, but {:?}", result.err());
            return n;
        }
        check(n, result);
    }
    unreachable!("an operation makes an end")
}

#[test]
fn a_change_is_made_or_not_made_whatever_fails() {
    for (writer, kind) in KINDS {
        for errno in ERRORS {
            let mut space = OwnSpace::builder().writer(writer).pages(kind).build().expect("an own space");
            let functions = functions(&mut space);
            space.publish_landings(&landings(&functions)).expect("landings");
            let edits: Vec<Edit> = functions.iter().map(Patchable::edit).collect();
            let inverse: Vec<Edit> = edits.iter().map(Edit::inverse).collect();
            let old = pages(&space, &functions);
            apply(&mut space, &edits).expect("install");
            let new = pages(&space, &functions);
            apply(&mut space, &inverse).expect("remove");
            let space = std::cell::RefCell::new(space);
            let mut failures = 0;
            let calls = fail_each(
                errno,
                || apply(&mut space.borrow_mut(), &edits),
                |n, result| {
                    let mut space = space.borrow_mut();
                    let context = format!("{writer:?} {kind:?} call {n} errno {errno}: {result:?}");
                    if result.is_ok() {
                        assert!(pages(&space, &functions) == new, "{context}");
                        apply(&mut space, &inverse).expect(&context);
                    } else {
                        failures += 1;
                    }
                    assert!(pages(&space, &functions) == old, "{context}");
                    for function in &functions {
                        assert_eq!(call(function.at), 1, "{context}");
                    }
                },
            );
            println!("{writer:?} {kind:?} errno {errno}: {calls} calls, {failures} failed changes");
            assert!(calls >= 10 && failures >= 3, "{calls} {failures}");
            for function in &functions {
                assert_eq!(call(function.at), 2);
            }
        }
    }
}

#[test]
fn a_failed_mapping_leaves_nothing_behind() {
    for errno in ERRORS {
        let mut space = OwnSpace::new().expect("an own space");
        let at = fresh(16 * PAGE);
        let free = |space: &OwnSpace| space.mappings().expect("maps").is_free(&at.span(16 * PAGE));
        let cell = std::cell::RefCell::new(&mut space);
        fail_each(
            errno,
            || cell.borrow_mut().map_code(at, 16 * PAGE),
            |_, result| match result {
                Ok(()) => cell.borrow_mut().unmap(at, 16 * PAGE).expect("unmap"),
                Err(_) => assert!(free(*cell.borrow())),
            },
        );
        cell.borrow_mut().unmap(at, 16 * PAGE).expect("unmap");
        fail_each(
            errno,
            || cell.borrow_mut().map_data(at, 16 * PAGE).map(drop),
            |_, result| match result {
                Ok(()) => cell.borrow_mut().unmap(at, 16 * PAGE).expect("unmap"),
                Err(_) => assert!(free(*cell.borrow())),
            },
        );
        assert!(!free(&space));
    }
}

#[test]
fn trampolines_are_written_or_the_failure_is_told() {
    for (_, kind) in KINDS {
        for errno in ERRORS {
            let mut space = OwnSpace::builder().pages(kind).build().expect("an own space");
            let at = fresh(4 * PAGE);
            space.map_code(at, 4 * PAGE).expect("map");
            let code = vec![0x90; 2 * PAGE as usize];
            let cell = std::cell::RefCell::new(space);
            fail_each(
                errno,
                || cell.borrow_mut().write_code(&[(at, &[0xC3]), (at + PAGE + 5, &code)]),
                |_, result| {
                    if result.is_ok() {
                        assert_eq!(bytes(&cell.borrow(), at + PAGE + 5, code.len()), code);
                    }
                },
            );
            assert_eq!(bytes(&cell.borrow(), at + PAGE + 5, code.len()), code);
        }
    }
}

#[test]
fn landings_published_before_stay_in_force_when_publishing_fails() {
    for errno in ERRORS {
        let mut space = OwnSpace::new().expect("an own space");
        let functions = functions(&mut space);
        let all = landings(&functions);
        space.publish_landings(&all).expect("landings");
        let edits: Vec<Edit> = functions.iter().map(Patchable::trap_edit).collect();
        apply(&mut space, &edits).expect("install");
        let mut more = all.clone();
        more.push(Landing { trap: Addr(1), landing: Addr(2) });
        more.sort();
        let cell = std::cell::RefCell::new(space);
        let calls = fail_each(
            errno,
            || cell.borrow_mut().publish_landings(&more),
            |_, _| {
                for function in &functions {
                    assert_eq!(call(function.at), 2);
                }
            },
        );
        assert!(calls >= 2);
    }
}

#[test]
fn quiescence_that_cannot_be_shown_is_not_claimed() {
    for errno in ERRORS {
        let mut space = OwnSpace::new().expect("an own space");
        let at = fresh(PAGE);
        space.map_code(at, PAGE).expect("map");
        // jmp to itself while the flag at rdi is zero.
        space.write_code(&[(at, &[0x83, 0x3F, 0x00, 0x74, 0xFB, 0xC3])]).expect("write");
        let flag = std::sync::atomic::AtomicU32::new(0);
        let mut claims = 0;
        let mut calls = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: the code above has this type.
                let function: extern "C" fn(&std::sync::atomic::AtomicU32) =
                    unsafe { std::mem::transmute(at.0 as *const ()) };
                function(&flag);
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            let page = at..at + PAGE;
            calls = fail_each(
                errno,
                || {
                    let answer = space.quiescent(std::slice::from_ref(&page));
                    claims += usize::from(matches!(answer.as_deref(), Ok([true])));
                    answer
                },
                |_, _| (),
            );
            flag.store(1, std::sync::atomic::Ordering::SeqCst);
        });
        assert!(claims == 0 && calls > 10, "{claims} {calls}");
    }
}
