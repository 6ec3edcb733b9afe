//! The sum over all processes: one entry per function of a file.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use incise_image::PatternError;
use incise_isa::Addr;
use incise_patch::{Outcome, Placement, Report, Tactic};
use incise_snippet::tree::Fault;

use crate::point::{Incomplete, Point};

/// A function and how often it ran.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counted {
    /// The function or place; its address is that in the process that had it first.
    pub point: Point,
    /// How it was patched.
    pub tactic: Tactic,
    /// How often it ran, in all processes.
    pub hits: u64,
}

/// A function that could not be counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotCounted {
    /// File name of the module.
    pub module: String,
    /// The function as its programmer wrote it.
    pub function: String,
    /// Its address, in the process that had it first.
    pub addr: Addr,
    /// Why.
    pub reason: String,
}

/// What makes two points in two processes the same: file, link address, and the way; in it a link address too.
pub(crate) type Key = (String, u64, Placement);

#[derive(Default)]
pub(super) struct Tally {
    counted: Vec<Counted>,
    index: HashMap<Key, usize>,
    refused: BTreeMap<Key, NotCounted>,
    /// Patterns that nothing matches so far.
    awaited: Vec<(String, PatternError)>,
    /// The main program was loaded and all patterns were looked at.
    pub started: bool,
    pub stop: Duration,
    pub mappings: usize,
    pub incomplete: Vec<Incomplete>,
    /// How often the condition could not be evaluated.
    pub faults: BTreeMap<Fault, u64>,
}

impl Tally {
    /// The entry of a function; a new one if no process had it before.
    pub(super) fn entry(&mut self, key: Key, point: &Point, tactic: Tactic) -> usize {
        let next = self.counted.len();
        let index = *self.index.entry(key).or_insert(next);
        if index == next {
            self.counted.push(Counted { point: point.clone(), tactic, hits: 0 });
        }
        index
    }

    pub(super) fn refuse(&mut self, key: Key, module: &str, function: &str, addr: Addr, reason: String) {
        let (module, function) = (module.to_owned(), function.to_owned());
        self.refused.entry(key).or_insert(NotCounted { module, function, addr, reason });
    }

    /// What was refused before works now.
    pub(super) fn accept(&mut self, key: &Key) {
        self.refused.remove(key);
    }

    /// Nothing matches `pattern` yet, for this reason.
    pub(super) fn await_match(&mut self, pattern: &str, reason: PatternError) {
        self.awaited.push((pattern.to_owned(), reason));
    }

    /// Something matches `pattern`.
    pub(super) fn matched(&mut self, pattern: &str) {
        self.awaited.retain(|(awaited, _)| awaited != pattern);
    }

    /// Why patterns match nothing so far.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &PatternError> {
        self.awaited.iter().map(|(_, reason)| reason)
    }

    /// Why patterns matched nothing.
    pub(super) fn unmatched(&mut self) -> Vec<PatternError> {
        std::mem::take(&mut self.awaited).into_iter().map(|(_, reason)| reason).collect()
    }

    /// Adds to a count; one that is inferred may be less than nothing for a while.
    pub(super) fn add(&mut self, entry: usize, hits: u64) {
        let sum = &mut self.counted[entry].hits;
        *sum = sum.wrapping_add(hits);
    }

    pub(super) fn note(&mut self, report: &Report) {
        self.stop += report.stop;
    }

    pub(super) fn installed(&self) -> usize {
        self.counted.len()
    }

    pub(super) fn finish(&mut self) -> (Vec<Counted>, Vec<NotCounted>) {
        let refused = std::mem::take(&mut self.refused);
        // A thread that was taken out of a function for good can leave a count that is inferred one below zero.
        let negative = |counted: &&mut Counted| (counted.hits as i64) < 0;
        self.counted.iter_mut().filter(negative).for_each(|counted| counted.hits = 0);
        (std::mem::take(&mut self.counted), refused.into_values().collect())
    }

    /// The tactic or the reason of an outcome.
    pub(super) fn outcome(outcome: &Outcome) -> Result<Tactic, String> {
        match outcome {
            Outcome::Installed(tactic) => Ok(*tactic),
            Outcome::Refused(refusal) => Err(refusal.to_string()),
        }
    }
}
