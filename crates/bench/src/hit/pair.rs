//! Two threads that count at once.
//!
//! # Safety
//! sched_setaffinity(2) reads a set of CPUs that lives for the call.

#![allow(unsafe_code, reason = "binds threads to CPUs")]

use std::hint::spin_loop;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use incise::snippet::{Program, Stmt, Storage, Type, Variable};
use incise::space::own::OwnSpace;
use incise::{Addr, Position, Session, Value};

use super::contender::{Contender, Line};
use crate::Error;
use crate::subjects::{Function, Shape, subject, time_between, twin};

/// The lines that others are compared with.
const SHARED: &str = "two threads: hand-written lock inc, one line";
const AT_ONCE: &str = "two threads, back to back: lock inc, one line";

/// How many calls of another function come before each hit. Without any, a thread counts several times while it has the line, and what adds to
/// memory waits for what it added before.
const BETWEEN: u32 = 4;

pub(super) fn lines() -> Result<Vec<Line>, Error> {
    let session = Rc::new(Session::with(OwnSpace::new()?)?);
    let shared = |between| {
        move || {
            let function = twin("twin_lock").ok_or("no such twin")?;
            Ok(Pair { function, between, value: None })
        }
    };
    let per_cpu = |symbol, between| {
        let session = Rc::clone(&session);
        move || per_cpu(&session, symbol, between)
    };
    Ok(vec![
        Line::new(SHARED, shared(BETWEEN)),
        Line::new("two threads: incise, counter per CPU", per_cpu("plain_per_cpu", BETWEEN))
            .against(SHARED)
            .at_most(0.2),
        Line::new(AT_ONCE, shared(0)),
        Line::new("two threads, back to back: counter per CPU", per_cpu("plain_per_cpu_at_once", 0))
            .against(AT_ONCE),
    ])
}

fn per_cpu(session: &Session, symbol: &str, between: u32) -> Result<Pair, Error> {
    let (_, function) = subject(symbol).ok_or("no such subject")?;
    let variable = Variable::new("hits", Type::U64, Storage::PerCpu);
    let add: Stmt = variable.add(1);
    let program = session.program(&Program::new([add])?)?;
    let mut batch = session.batch();
    batch.insert(Addr(function as usize as u64), &program, Position::Last);
    batch.commit()?;
    Ok(Pair { function, between, value: Some(session.variable(&variable)) })
}

/// A function that two threads call.
struct Pair {
    function: Function,
    between: u32,
    value: Option<Value>,
}

impl Contender for Pair {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        let base = Shape::Plain.base();
        Ok((both(base, self.between, calls)?, both(self.function, self.between, calls)?))
    }

    fn hits(&mut self) -> Result<Option<u64>, Error> {
        Ok(self.value.as_ref().map(|value| value.get() / 2))
    }
}

/// Nanoseconds of a call, in the middle of two threads on two CPUs that begin together: a thread that wakes up would come when the
/// other has done its calls, so they wait for each other awake.
fn both(function: Function, between: u32, calls: u32) -> Result<f64, Error> {
    let ready = AtomicU32::new(0);
    let run = |cpu| {
        pin(cpu);
        ready.fetch_add(1, Ordering::AcqRel);
        let since = Instant::now();
        while ready.load(Ordering::Acquire) < 2 && since.elapsed() < PATIENCE {
            spin_loop();
        }
        time_between(function, between, calls)
    };
    // Both threads are new, so that this one is not bound to a CPU.
    scope(|scope| {
        let threads = [0, 1].map(|cpu| {
            scope.spawn({
                let run = &run;
                move || run(cpu)
            })
        });
        let mut sum = 0.0;
        for thread in threads {
            sum += thread.join().map_err(|_| "a thread has panicked")?;
        }
        Ok(sum / 2.0)
    })
}

/// How long a thread waits for the other one.
const PATIENCE: Duration = Duration::from_millis(20);

/// Binds this thread to a CPU, if it may run there.
fn pin(cpu: usize) {
    // SAFETY: a set of CPUs is plain bits; the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
