//! Two threads that count at once.

use std::sync::Barrier;
use std::thread::scope;

use incise::snippet::{Program, Stmt, Storage, Type, Variable};
use incise::space::own::OwnSpace;
use incise::{Addr, Position, Session, Value};

use super::contender::{Contender, Line};
use crate::Error;
use crate::subjects::{Function, Shape, subject, time, twin};

/// The line that the other is compared with.
const SHARED: &str = "two threads: hand-written lock inc, one line";

pub(super) fn lines() -> Result<Vec<Line>, Error> {
    let session = Session::with(OwnSpace::new()?)?;
    Ok(vec![
        Line::new(SHARED, || {
            let function = twin("twin_lock").ok_or("no such twin")?;
            Ok(Pair { function, value: None })
        }),
        Line::new("two threads: incise, counter per CPU", move || per_cpu(&session))
            .against(SHARED)
            .at_most(0.2),
    ])
}

fn per_cpu(session: &Session) -> Result<Pair, Error> {
    let (_, function) = subject("plain_per_cpu").ok_or("no such subject")?;
    let variable = Variable::new("hits", Type::U64, Storage::PerCpu);
    let add: Stmt = variable.add(1);
    let program = session.program(&Program::new([add])?)?;
    let mut batch = session.batch();
    batch.insert(Addr(function as usize as u64), &program, Position::Last);
    batch.commit()?;
    Ok(Pair { function, value: Some(session.variable(&variable)) })
}

/// A function that two threads call.
struct Pair {
    function: Function,
    value: Option<Value>,
}

impl Contender for Pair {
    fn measure(&mut self, calls: u32) -> Result<(f64, f64), Error> {
        Ok((both(Shape::Plain.base(), calls)?, both(self.function, calls)?))
    }

    fn hits(&mut self) -> Result<Option<u64>, Error> {
        Ok(self.value.as_ref().map(|value| value.get() / 2))
    }
}

/// Nanoseconds of a call, in the middle of two threads that begin together.
fn both(function: Function, calls: u32) -> Result<f64, Error> {
    let begin = Barrier::new(2);
    let run = || {
        begin.wait();
        time(function, calls)
    };
    scope(|scope| {
        let other = scope.spawn(run);
        let mine = run();
        let other = other.join().map_err(|_| "a thread has panicked")?;
        Ok((mine + other) / 2.0)
    })
}
