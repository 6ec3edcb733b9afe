//! Incise in another process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{JoinHandle, spawn};

use incise::{CountOptions, Counting};

use super::contender::{Contender, Line};
use super::own::LOCK;
use crate::Error;
use crate::target::Target;

pub(super) fn lines() -> Vec<Line> {
    vec![
        Line::new("incise: counter, other process", || Remote::start("plain_remote"))
            .against(LOCK)
            .at_most(1.2),
        Line::new("incise: counter at push; mov, other process", || Remote::start("frame_remote"))
            .against("hand-written: jmp, lock inc at push; mov")
            .at_most(1.2),
    ]
}

/// A counter in another process. The thread that put it in is the one that traces.
struct Remote {
    target: Target,
    symbol: &'static str,
    finish: Arc<AtomicBool>,
    tracer: Option<JoinHandle<Result<u64, String>>>,
}

impl Remote {
    fn start(symbol: &'static str) -> Result<Remote, Error> {
        let mut target = Target::start(&[])?;
        let pattern = format!("*{:#x}", target.address(symbol)?);
        let pid = target.pid();
        let finish = Arc::new(AtomicBool::new(false));
        let (send, ready) = channel();
        let stop = Arc::clone(&finish);
        let tracer = spawn(move || {
            let options = CountOptions { patterns: vec![pattern], ..CountOptions::default() };
            let counting = Counting::attach(pid, options);
            let installed = counting.as_ref().map(Counting::installed).map_err(|error| error.to_string());
            // Whoever started this may be gone.
            let _ = send.send(installed);
            let result = counting.map_err(|error| error.to_string())?.run(&stop);
            let result = result.map_err(|error| error.to_string())?;
            Ok(result.counted.iter().map(|counted| counted.hits).sum())
        });
        match ready.recv()?? {
            1 => Ok(Remote { target, symbol, finish, tracer: Some(tracer) }),
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
        let hits = tracer.join().map_err(|_| "the tracing thread has panicked")?;
        Ok(Some(hits?))
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
