//! `toggle`: how often a second a probe can be switched off and on, and what that costs the threads that run through it.
//!
//! One thread calls a probed function all the time; the main thread switches the probe. A round is two slices, one in which
//! nothing is switched and one in which it is; all that counts are the calls that the thread makes for its own processor
//! time, so that it does not matter how processors are shared out.

use std::hint::black_box;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Args;
use incise::{Addr, Position, Session};
use serde::Serialize;

use crate::Error;
use crate::stats::median;
use crate::subjects::subject;

/// Settings of `toggle`.
#[derive(Args)]
pub(crate) struct Options {
    /// Rounds
    #[arg(long, default_value_t = 40)]
    rounds: u32,
    /// Milliseconds of a slice
    #[arg(long, default_value_t = 50)]
    slice: u64,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Switches a second that there have to be.
const RATE: f64 = 100_000.0;

/// What they may cost the running thread, as a share of its time.
const COST: f64 = 0.05;

#[derive(Serialize)]
struct Row {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Switches per second, median over the rounds.
    per_second: f64,
    /// Nanoseconds of processor time for a call that is counted, for one that is not, and while it is switched.
    counted: f64,
    resting: f64,
    switched: f64,
    /// What switching adds to the mean of the first two, as a share of it, median over the rounds.
    cost: f64,
    rate_bar: f64,
    cost_bar: f64,
}

/// Nanoseconds for a call that is counted, for one that is not, and while it is switched; switches a second.
type Round = (f64, f64, f64, f64);

/// Runs it. Whether every bar was met.
pub(crate) fn run(options: &Options) -> Result<bool, Error> {
    let (_, function) = subject("plain_toggle").ok_or("no such subject")?;
    let session = Session::own()?;
    let hits = session.counter("toggle");
    let mut batch = session.batch();
    let instance = batch.insert(Addr(function as usize as u64), hits.increment(), Position::Last);
    batch.commit()?;
    session.switch(instance, false)?;
    let stop = AtomicBool::new(false);
    let (calls, nanos) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut rounds: Vec<Round> = Vec::new();
    std::thread::scope(|scope| -> Result<(), Error> {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                let timed = crate::subjects::time_of_thread(black_box(function), 2_000);
                calls.fetch_add(2_000, Relaxed);
                nanos.fetch_add(timed, Relaxed);
            }
        });
        let slice = Duration::from_millis(options.slice);
        // Nanoseconds of the thread for a call, while `work` is done; and how often it was done in a second.
        let during = |work: &mut dyn FnMut() -> Result<(), Error>| -> Result<(f64, f64), Error> {
            let before = (calls.load(Relaxed), nanos.load(Relaxed));
            let start = Instant::now();
            let mut done = 0u32;
            while start.elapsed() < slice {
                work()?;
                done += 1;
            }
            let rate = f64::from(done) / start.elapsed().as_secs_f64();
            let (called, took) = (calls.load(Relaxed) - before.0, nanos.load(Relaxed) - before.1);
            Ok((took as f64 / called.max(1) as f64, rate))
        };
        let result = (|| {
            for _ in 0..options.rounds {
                let mut wait = || {
                    std::thread::sleep(Duration::from_millis(1));
                    Ok(())
                };
                session.switch(instance, true)?;
                let counted = during(&mut wait)?.0;
                session.switch(instance, false)?;
                let resting = during(&mut wait)?.0;
                let mut on = false;
                let (switched, rate) = during(&mut || {
                    on = !on;
                    Ok(session.switch(instance, on)?)
                })?;
                rounds.push((counted, resting, switched, rate));
            }
            Ok(())
        })();
        stop.store(true, Relaxed);
        result
    })?;
    session.remove_all()?;
    let of = |value: fn(&Round) -> f64| median(&rounds.iter().map(value).collect::<Vec<_>>());
    let row = Row {
        kind: "toggle",
        per_second: of(|round| round.3),
        counted: of(|round| round.0),
        resting: of(|round| round.1),
        switched: of(|round| round.2),
        cost: of(|round| round.2 / ((round.0 + round.1) / 2.0) - 1.0),
        rate_bar: RATE,
        cost_bar: COST,
    };
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", serde_json::to_string(&row)?)?;
    } else {
        writeln!(out, "switches a second            {:>10.0}  (bar: at least {RATE})", row.per_second)?;
        writeln!(out, "call, counted                {:>10.2} ns", row.counted)?;
        writeln!(out, "call, not counted            {:>10.2} ns", row.resting)?;
        writeln!(out, "call, while it is switched   {:>10.2} ns", row.switched)?;
        writeln!(
            out,
            "cost for the running thread  {:>10.1} %  (bar: at most {} %)",
            row.cost * 100.0,
            COST * 100.0
        )?;
    }
    Ok(row.per_second >= RATE && row.cost <= COST)
}
