use std::thread;

use incise_snippet::data::operation::{CallsLayout, Function};

use crate::support::{Callable, Shared};

const NONE: u64 = u64::MAX;

/// A table, on stacks that are made up.
struct Calls {
    memory: Shared,
    enter: Callable,
    exit: Callable,
}

impl Calls {
    fn new() -> Calls {
        let layout = CallsLayout::new(512);
        let (enter, exit) = (Function::CallsEnter(layout), Function::CallsExit(layout));
        Calls { memory: Shared::new(layout.bytes()), enter: Callable::new(enter), exit: Callable::new(exit) }
    }

    fn enter(&self, stack: u64, check: u64) -> bool {
        self.enter.call(self.memory.addr(), stack, check) != 0
    }

    fn exit(&self, stack: u64, check: u64) -> u64 {
        self.exit.call(self.memory.addr(), stack, check)
    }
}

const STACK: u64 = 0x7fff_ffff_e000;

#[test]
fn recursion_is_timed_call_by_call() {
    let calls = Calls::new();
    let frames: Vec<u64> = (0..1000).map(|depth| STACK - 8 - 16 * depth).collect();
    assert!(frames.iter().all(|frame| calls.enter(*frame, 1)));
    let times: Vec<u64> = frames.iter().rev().map(|frame| calls.exit(*frame, 1)).collect();
    assert!(!times.contains(&NONE));
    assert!(times.is_sorted(), "outer calls take longer");
    assert_eq!(calls.exit(frames[0], 1), NONE, "it has ended");
}

#[test]
fn what_did_not_begin_does_not_end() {
    let calls = Calls::new();
    assert_eq!(calls.exit(STACK - 8, 1), NONE);
    assert!(calls.enter(STACK - 8, 1));
    assert_eq!(calls.exit(STACK - 8, 2), NONE, "another function");
    assert_eq!(calls.exit(STACK - 24, 1), NONE, "another frame");
    assert_eq!(calls.exit(STACK - 8 - 4096, 1), NONE, "another page");
    // Left by longjmp(3), and another function is called from the same place.
    assert!(calls.enter(STACK - 8, 2));
    assert_ne!(calls.exit(STACK - 8, 2), NONE);
    assert_eq!(calls.exit(STACK - 8, 1), NONE);
}

#[test]
fn stacks_of_threads_do_not_meet() {
    let calls = Calls::new();
    thread::scope(|scope| {
        for stack in 0..8u64 {
            let calls = &calls;
            scope.spawn(move || {
                let base = STACK - stack * (8 << 20);
                for round in 0..200u64 {
                    let frames = (0..500).map(|depth| base - 8 - depth * 48);
                    frames.clone().for_each(|frame| assert!(calls.enter(frame, round)));
                    frames.rev().for_each(|frame| assert_ne!(calls.exit(frame, round), NONE));
                }
            });
        }
    });
}

#[test]
fn a_full_table_says_so() {
    let calls = Calls::new();
    let known = (0..2000u64).filter(|page| calls.enter(STACK - page * 4096, 1)).count();
    assert_eq!(known, 512);
    let ended = (0..2000u64).filter(|page| calls.exit(STACK - page * 4096, 1) != NONE).count();
    assert_eq!(ended, known);
}
