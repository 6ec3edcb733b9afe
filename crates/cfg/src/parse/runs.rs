//! Runs: what a traversal has decoded, from where control comes in up to where it leaves.

use rustc_hash::FxHashMap;

use crate::parse::code::Off;
use crate::parse::lsda::CallSite;

/// How a run ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It comes to an instruction that was decoded before, or to another function.
    Falls,
    Jump(u64),
    Branch(u64),
    Call(u64),
    IndirectCall,
    IndirectJump,
    Return,
    Stop,
    Far,
    /// The bytes at the end are no instruction.
    Bad,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub start: Off,
    pub end: Off,
    pub last: Off,
    pub insns: u32,
    pub how: End,
}

/// Working memory of a traversal, used again for the next one.
#[derive(Default)]
pub(crate) struct Scratch {
    /// For each byte of the window, the run whose instruction begins there, plus one.
    pub(crate) near: Vec<u32>,
    pub(crate) window: std::ops::Range<Off>,
    /// The same, for what lies outside of the window.
    pub(crate) far: FxHashMap<Off, u32>,
    pub(crate) runs: Vec<Run>,
    pub(crate) leaders: Vec<Off>,
    pub(crate) work: Vec<Off>,
    pub(crate) sites: Vec<(usize, Vec<CallSite>)>,
    pub(crate) insns: u32,
}

impl Scratch {
    pub(crate) fn begin(&mut self, window: std::ops::Range<Off>) {
        self.near.clear();
        self.near.resize(window.len(), 0);
        self.window = window;
        self.far.clear();
        self.runs.clear();
        self.leaders.clear();
        self.work.clear();
        self.sites.clear();
        self.insns = 0;
    }

    pub(crate) fn owner(&self, at: Off) -> u32 {
        match at.checked_sub(self.window.start).and_then(|i| self.near.get(i as usize)) {
            Some(&owner) => owner,
            None => self.far.get(&at).copied().unwrap_or(0),
        }
    }

    pub(crate) fn own(&mut self, at: Off, run: u32) {
        match at.checked_sub(self.window.start).and_then(|i| self.near.get_mut(i as usize)) {
            Some(owner) => *owner = run,
            None => {
                self.far.insert(at, run);
            }
        }
    }
}
