//! Runs all forms, on all processors.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use iced_x86::Code;

use crate::forms;
use crate::generate::Generator;
use crate::native::{self, NativeError};
use crate::relocator::Relocator;
use crate::report::{Report, Tally};
use crate::tape::Tape;

/// Forms whose trials share a child.
const CHUNK: usize = 24;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds of machine states; each round also chooses operands anew.
    pub states: u64,
    /// The seed that everything is drawn from.
    pub seed: u64,
    /// Worker threads, each with children on a processor of its own.
    pub workers: usize,
    /// Only forms whose name contains this.
    pub filter: String,
    /// A run without an end is ended after this time.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Options {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Options { states: 1, seed: 1, workers, filter: String::new(), patience: Duration::from_secs(5) }
    }
}

/// Judges a relocator.
pub fn run(relocator: &dyn Relocator, options: &Options) -> Result<Report, NativeError> {
    let began = Instant::now();
    let tape = Tape::new(options.seed);
    let forms: Vec<Code> = forms::listed()
        .into_iter()
        .filter(|code| options.filter.is_empty() || format!("{code:?}").contains(&options.filter))
        .collect();
    let chunks: Vec<&[Code]> = forms.chunks(CHUNK).collect();
    let next = AtomicU64::new(0);
    let total = Mutex::new(Tally::default());
    let work = |worker: usize| -> Result<(), NativeError> {
        loop {
            let job = next.fetch_add(1, Ordering::Relaxed);
            let (round, index) = (job / chunks.len().max(1) as u64, job as usize % chunks.len().max(1));
            let Some(chunk) = chunks.get(index).filter(|_| round < options.states) else { return Ok(()) };
            let mut generator = Generator::new(relocator, options.seed);
            for &code in *chunk {
                generator.form(code, round);
            }
            let Generator { cases, mut tally, .. } = generator;
            let verdicts = native::run(&cases, &tape, worker, options.patience)?;
            tally.judge(&cases, &verdicts);
            total.lock().unwrap_or_else(PoisonError::into_inner).merge(tally);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..options.workers.max(1)).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    let tally = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Report::new(tally, options.seed, options.states, began.elapsed().as_secs_f64()))
}
