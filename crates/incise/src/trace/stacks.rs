//! Which calls are going on in each thread, from records in the order of time.

use std::collections::HashMap;

use super::{Callers, TraceRecord};

/// A call that is going on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// The function.
    pub function: usize,
    /// When it began, in nanoseconds.
    pub time: u64,
    /// The address of its return address.
    pub stack: u64,
    /// Its arguments.
    pub arguments: Vec<u64>,
    /// Who called it, if that is recorded.
    pub callers: Option<Callers>,
    /// How long calls in it took so far, in nanoseconds.
    pub inner: u64,
}

/// The calls of all threads. Only calls that were recorded are known.
#[derive(Clone, Debug, Default)]
pub struct CallStacks {
    threads: HashMap<u32, Vec<Frame>>,
}

/// Frames further apart than this are taken to be on different stacks.
const STACK_SIZE: u64 = 8 << 20;

impl CallStacks {
    /// The calls of a thread that are going on, the outermost first.
    pub fn of(&self, thread: u32) -> &[Frame] {
        self.threads.get(&thread).map_or(&[], Vec::as_slice)
    }

    /// A call begins. Calls it cannot be part of are over: they were left by longjmp(3) or an exception, or their ends are not
    /// recorded.
    pub fn enter(&mut self, record: &TraceRecord) {
        let frames = self.threads.entry(record.thread).or_default();
        while frames
            .last()
            .is_some_and(|last| last.stack <= record.stack && record.stack - last.stack < STACK_SIZE)
        {
            frames.pop();
        }
        frames.push(Frame {
            function: record.function,
            time: record.time,
            stack: record.stack,
            arguments: record.values.clone(),
            callers: record.callers.clone(),
            inner: 0,
        });
    }

    /// A call ends. Nothing if its begin is not known.
    pub fn leave(&mut self, record: &TraceRecord) -> Option<Frame> {
        let frames = self.threads.get_mut(&record.thread)?;
        let same = |frame: &Frame| frame.stack == record.stack && frame.function == record.function;
        let index = frames.iter().rposition(same)?;
        frames.truncate(index + 1);
        let frame = frames.pop()?;
        if let Some(outer) = frames.last_mut() {
            outer.inner += record.time.saturating_sub(frame.time);
        }
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(function: usize, exit: bool, stack: u64, time: u64) -> TraceRecord {
        TraceRecord { time, process: 1, thread: 1, function, exit, stack, values: vec![time], callers: None }
    }

    #[test]
    fn calls_nest() {
        let mut calls = CallStacks::default();
        calls.enter(&record(0, false, 1000, 1));
        calls.enter(&record(1, false, 900, 2));
        assert_eq!(calls.of(1).len(), 2);
        assert_eq!(calls.leave(&record(1, true, 900, 5)).map(|frame| frame.time), Some(2));
        let outer = calls.leave(&record(0, true, 1000, 9)).expect("it began");
        assert_eq!((outer.time, outer.inner, outer.arguments), (1, 3, vec![1]));
        assert_eq!(calls.leave(&record(0, true, 1000, 10)), None);
    }

    #[test]
    fn what_was_left_by_a_jump_is_over() {
        let mut calls = CallStacks::default();
        calls.enter(&record(0, false, 1000, 1));
        calls.enter(&record(1, false, 900, 2));
        calls.enter(&record(2, false, 800, 3));
        // longjmp(3) to function 0, which calls another one.
        calls.enter(&record(3, false, 960, 4));
        assert_eq!(calls.of(1).iter().map(|frame| frame.function).collect::<Vec<_>>(), [0, 3]);
        assert!(calls.leave(&record(0, true, 1000, 5)).is_some());
        assert!(calls.of(1).is_empty());
    }

    #[test]
    fn another_stack_leaves_this_one_alone() {
        let mut calls = CallStacks::default();
        calls.enter(&record(0, false, 1 << 40, 1));
        calls.enter(&record(1, false, 1 << 46, 2));
        assert_eq!(calls.of(1).len(), 2);
        assert!(calls.leave(&record(1, true, 1 << 46, 3)).is_some());
        assert!(calls.leave(&record(0, true, 1 << 40, 4)).is_some());
    }
}
