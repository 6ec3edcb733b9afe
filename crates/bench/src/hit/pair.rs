//! Two threads that count at once.

use std::rc::Rc;

use incise::snippet::{Program, Stmt, Storage, Type, Variable};
use incise::space::own::OwnSpace;
use incise::{Addr, Position, Session, Tactic, Value};

use super::contender::{Contender, Line};
use super::remote::Remote;
use crate::Error;
use crate::pair::both;
use crate::subjects::{Function, Shape, subject, twin};

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
        Line::new("two threads: incise, counter per thread, other process", || {
            PerThread::start("plain_per_thread", BETWEEN)
        })
        .against(SHARED),
        Line::new(AT_ONCE, shared(0)),
        Line::new("two threads, back to back: counter per CPU", per_cpu("plain_per_cpu_at_once", 0))
            .against(AT_ONCE),
        Line::new("two threads, back to back: counter per thread, other process", || {
            PerThread::start("plain_per_thread_at_once", 0)
        })
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

/// A counter in another process, whose threads count by themselves, behind gs.
struct PerThread {
    remote: Remote,
    between: u32,
}

impl PerThread {
    fn start(symbol: &'static str, between: u32) -> Result<PerThread, Error> {
        Ok(PerThread { remote: Remote::start(symbol, 0, Tactic::Jump)?, between })
    }
}

impl Contender for PerThread {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        self.remote.target.time_pair(self.remote.symbol, self.between, calls)
    }

    fn hits(&mut self) -> Result<Option<u64>, Error> {
        Ok(self.remote.hits()?.map(|hits| hits / 2))
    }
}
