//! Hand-written twins, and Incise in the own process.

use incise::callback::{VectorState, callback};
use incise::space::own::OwnSpace;
use incise::{Addr, Counter, Outcome, Position, Session, Tactic, TrapPolicy};

use super::contender::{Line, Local};
use crate::Error;
use crate::subjects::{Shape, nothing, subject, twin};

/// Names of the twins that others refer to.
pub(super) const LOCK: &str = "hand-written: jmp, lock inc";

pub(super) fn lines() -> Result<Vec<Line>, Error> {
    let session = Session::with(OwnSpace::new()?)?;
    let counter = |name: &'static str, symbol: &'static str, tactic: Tactic| {
        let session = session.clone();
        Line::new(name, move || counting(&session, symbol, tactic))
    };
    let called = |name: &'static str, symbol: &'static str, vector: VectorState| {
        let session = session.clone();
        Line::new(name, move || calling(&session, symbol, vector))
    };
    Ok(vec![
        hand("hand-written: jmp, inc (not exact)", Shape::Plain, "twin_inc"),
        hand(LOCK, Shape::Plain, "twin_lock"),
        counter("incise: counter", "plain_counter", Tactic::Jump).against(LOCK).at_most(1.2),
        hand("hand-written: jmp, lock inc, flags kept", Shape::Carry, "twin_lock_flags"),
        counter("incise: counter, flags live", "carry_counter", Tactic::Jump)
            .against("hand-written: jmp, lock inc, flags kept")
            .at_most(1.2),
        hand("hand-written: jmp, lock inc at push; mov", Shape::Frame, "twin_lock_frame"),
        counter("incise: counter at push; mov", "frame_counter", Tactic::Group)
            .against("hand-written: jmp, lock inc at push; mov")
            .at_most(1.2),
        hand("hand-written: jmp, lock inc at nop", Shape::Nop, "twin_lock_nop"),
        counter("incise: counter at nop", "nop_counter", Tactic::Nop)
            .against("hand-written: jmp, lock inc at nop")
            .at_most(1.2),
        hand("hand-written: save all, call", Shape::Plain, "twin_save_none"),
        // With what a callback promises besides.
        hand("hand-written: save all, errno, guard, call", Shape::Plain, "twin_save_promises"),
        called("incise: callback", "plain_callback_none", VectorState::None)
            .against("hand-written: save all, call")
            .at_most(1.3),
        hand("hand-written: save all, xmm, call", Shape::Plain, "twin_save_sse"),
        called("incise: callback, xmm", "plain_callback_sse", VectorState::Sse)
            .against("hand-written: save all, xmm, call")
            .at_most(1.3),
        hand("hand-written: save all, ymm, call", Shape::Plain, "twin_save_avx"),
        // Code that changes ymm registers clears the upper halves of zmm registers.
        hand("hand-written: save all, zmm0-15, call", Shape::Plain, "twin_save_avx_wide"),
        called("incise: callback, ymm", "plain_callback_avx", VectorState::Avx)
            .against(if std::arch::is_x86_feature_detected!("avx512f") {
                "hand-written: save all, zmm0-15, call"
            } else {
                "hand-written: save all, ymm, call"
            })
            .at_most(1.3),
        hand("hand-written: save all, zmm, call", Shape::Plain, "twin_save_avx512"),
        called("incise: callback, zmm", "plain_callback_avx512", VectorState::Avx512)
            .against("hand-written: save all, zmm, call")
            .at_most(1.3),
        {
            let session = session.clone();
            Line::new("incise: counter by a trap", move || trapped(&session)).against(LOCK)
        },
    ])
}

pub(super) fn hand(name: &'static str, shape: Shape, symbol: &'static str) -> Line {
    Line::new(name, move || {
        if symbol.ends_with("avx") && !std::is_x86_feature_detected!("avx")
            || symbol.ends_with("avx512") && !std::is_x86_feature_detected!("avx512bw")
        {
            return Err("this processor lacks the registers".into());
        }
        let function = twin(symbol).ok_or("no such twin")?;
        Ok(Local { shape, function, counted: |()| None, undo: () })
    })
}

fn counting(session: &Session, symbol: &str, tactic: Tactic) -> Result<Local<Counter>, Error> {
    install_counter(session, symbol, tactic, TrapPolicy::Forbid)
}

fn trapped(session: &Session) -> Result<Local<Counter>, Error> {
    install_counter(session, "plain_trap", Tactic::Trap, TrapPolicy::Force)
}

fn install_counter(
    session: &Session,
    symbol: &str,
    tactic: Tactic,
    traps: TrapPolicy,
) -> Result<Local<Counter>, Error> {
    let (shape, function) = subject(symbol).ok_or("no such subject")?;
    let counter = session.counter(symbol);
    let mut batch = session.batch().traps(traps);
    batch.insert(Addr(function as usize as u64), counter.increment(), Position::Last);
    let report = batch.commit()?;
    let outcome = report.entries.first().map(|entry| &entry.outcome);
    if outcome != Some(&Outcome::Installed(tactic)) {
        return Err(format!("expected tactic {tactic}, got {outcome:?}").into());
    }
    Ok(Local { shape, function, counted: |counter| Some(counter.read()), undo: counter })
}

fn calling(session: &Session, symbol: &str, vector: VectorState) -> Result<Local<()>, Error> {
    if vector.supported() != vector {
        return Err("this processor lacks the registers".into());
    }
    let (shape, function) = subject(symbol).ok_or("no such subject")?;
    let mut batch = session.batch().traps(TrapPolicy::Forbid);
    batch.insert(Addr(function as usize as u64), callback(nothing, 0, vector), Position::Last);
    batch.commit()?;
    Ok(Local { shape, function, counted: |()| None, undo: () })
}
