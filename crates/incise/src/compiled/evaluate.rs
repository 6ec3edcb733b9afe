//! An expression, or statements, evaluated once in a running process.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use incise_space::SpaceError;
use incise_space::remote::{Event, ProcessId, Tracer};

use super::once::Ran;
use crate::point::Query;
use crate::session::{Error, Session};

/// What an evaluation showed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Evaluated {
    /// What was printed: the value of an expression, or what statements print.
    pub printed: Vec<String>,
    /// How the run ended.
    pub ran: Ran,
    /// The thread that made it.
    pub thread: i32,
    /// How long threads stood still.
    pub stop: Duration,
}

/// Has a thread of process `pid` evaluate `text`, wherever it stands, and takes everything out again. An expression is printed as
/// `print` does.
///
/// # Errors
/// [`Error::Script`] if the text is wrong; if the process cannot be traced; [`Error::Late`] if the run is not over in
/// `patience`, or when `interrupted` is set: what was put in stays then, and the run goes on.
pub fn evaluate(
    pid: i32,
    text: &str,
    patience: Duration,
    interrupted: &AtomicBool,
) -> Result<Evaluated, Error> {
    let (mut tracer, pid) = Tracer::attach(ProcessId(pid))?;
    let evaluated = evaluate_in(&mut tracer, pid, text, patience, interrupted);
    match &evaluated {
        Err(Error::Late) => {}
        _ => drop(tracer.space(pid)?.remove()?),
    }
    tracer.detach(pid)?;
    evaluated
}

fn evaluate_in(
    tracer: &mut Tracer,
    pid: ProcessId,
    text: &str,
    patience: Duration,
    interrupted: &AtomicBool,
) -> Result<Evaluated, Error> {
    let session = Session::over(tracer.space(pid)?, &pid.to_string())?;
    let mut language = session.language();
    language.make_room_for_texts()?;
    let once = session.start_once(|thread| {
        let at = |pattern: &str| session.find(Query::functions(pattern));
        let point = at(&format!("*{:#x}", thread.ip.0)).or_else(|_| at("main")).or_else(|_| at("_start"))?;
        language.evaluation(text, &point[0])
    })?;
    let began = Instant::now();
    let ran = loop {
        if let Some(ran) = once.outcome() {
            break ran;
        }
        if began.elapsed() > patience {
            return Err(Error::Late);
        }
        match tracer.next_event(Some(Duration::from_millis(1)), interrupted)? {
            Event::Interrupted => return Err(Error::Late),
            Event::Exited { pid: ended, .. } | Event::Killed { pid: ended, .. } if ended == pid => {
                return Err(SpaceError::Gone { pid: pid.0 }.into());
            }
            Event::Fork { child, vfork: false, .. } => tracer.detach(child)?,
            _ => {}
        }
    };
    let printed = language.printed();
    session.remove_all()?;
    let stop = tracer.space(pid)?.stop_time();
    Ok(Evaluated { printed, ran, thread: once.thread.tid, stop })
}
