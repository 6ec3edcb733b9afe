//! Incise in another process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{JoinHandle, spawn};

use incise::{CountOptions, Counting, Tactic, TrapPolicy};

use super::contender::{Contender, Line};
use super::own::LOCK;
use crate::Error;
use crate::subjects::{EVICTED, PLAIN_RETURN};
use crate::target::Target;

pub(super) fn lines() -> Vec<Line> {
    vec![
        Line::new("incise: counter, other process", || Remote::start("plain_remote", 0, Tactic::Jump))
            .against(LOCK)
            .at_most(1.2),
        Line::new("incise: counter at push; mov, other process", || {
            Remote::start("frame_remote", 0, Tactic::Group)
        })
        .against("hand-written: jmp, lock inc at push; mov")
        .at_most(1.2),
    ]
}

/// The same counter by each tactic: only there all of them are to be had, as threads stand still while code changes.
pub(super) fn tactics() -> Vec<Line> {
    let line = |tactic: Tactic, symbol, offset| {
        Line::new(tactic.name(), move || Remote::start(symbol, offset, tactic)).against(Tactic::Jump.name())
    };
    vec![
        line(Tactic::Jump, "tactic_jump", 0),
        line(Tactic::Nop, "tactic_nop", 0),
        line(Tactic::Tail, "tactic_tail", PLAIN_RETURN),
        line(Tactic::Group, "tactic_group", 0),
        line(Tactic::Pun, "tactic_pun", 0),
        line(Tactic::Retarget, "tactic_retarget", 0),
        line(Tactic::Evict, "tactic_evict", EVICTED),
        line(Tactic::Trap, "tactic_trap", 0),
    ]
}

/// Hits, and the tactic of the counter.
type Found = (u64, Option<Tactic>);

/// A counter in another process. The thread that put it in is the one that traces.
pub(super) struct Remote {
    pub target: Target,
    pub symbol: &'static str,
    tactic: Tactic,
    finish: Arc<AtomicBool>,
    tracer: Option<JoinHandle<Result<Found, String>>>,
}

impl Remote {
    pub(super) fn start(symbol: &'static str, offset: u64, tactic: Tactic) -> Result<Remote, Error> {
        let mut target = Target::start(&[])?;
        let pattern = format!("*{:#x}", target.address(symbol)? + offset);
        let pid = target.pid();
        let finish = Arc::new(AtomicBool::new(false));
        let (send, ready) = channel();
        let stop = Arc::clone(&finish);
        let tracer = spawn(move || {
            let traps = if tactic == Tactic::Trap { TrapPolicy::Force } else { TrapPolicy::Forbid };
            let options = CountOptions { patterns: vec![pattern], traps, ..CountOptions::default() };
            let counting = Counting::attach(pid, options);
            let installed = counting.as_ref().map(Counting::installed).map_err(|error| error.to_string());
            // Whoever started this may be gone.
            let _ = send.send(installed);
            let result = counting.map_err(|error| error.to_string())?.run(&stop);
            let result = result.map_err(|error| error.to_string())?;
            let tactic = result.counted.first().map(|counted| counted.tactic);
            Ok((result.counted.iter().map(|counted| counted.hits).sum(), tactic))
        });
        match ready.recv()?? {
            1 => Ok(Remote { target, symbol, tactic, finish, tracer: Some(tracer) }),
            other => Err(format!("{other} probes were installed").into()),
        }
    }
}

impl Contender for Remote {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        self.target.time(self.symbol, calls)
    }

    fn hits(&mut self) -> Result<Option<u64>, Error> {
        self.finish.store(true, Ordering::Relaxed);
        let Some(tracer) = self.tracer.take() else { return Ok(None) };
        let (hits, tactic) = tracer.join().map_err(|_| "the tracing thread has panicked")??;
        match tactic {
            Some(tactic) if tactic != self.tactic => {
                Err(format!("{}: expected tactic {}, got {tactic}", self.symbol, self.tactic).into())
            }
            _ => Ok(Some(hits)),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.finish.store(true, Ordering::Relaxed);
        self.target.end();
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
    }
}
