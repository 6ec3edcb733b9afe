//! What a script puts in, where, and when it looks at what came of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use incise_isa::Addr;
use incise_patch::Snippet;
use incise_snippet::data::walk;
use incise_space::AddressSpace;
use incise_space::remote::{ProcessId, RemoteSpace};

use super::ScriptError;
use super::state::{Part, State};
use super::texts::Texts;
use crate::count::{CountOptions, Found, Probes, Search};
use crate::program::Program;
use crate::session::Error;

/// The time between two looks at the rings.
const PAUSE: Duration = Duration::from_millis(20);

impl Probes for Rc<RefCell<State>> {
    fn searches(&self, _: &CountOptions) -> Vec<Search> {
        let state = self.borrow();
        state.searches.iter().chain(&state.usdt_searches).cloned().collect()
    }

    /// Clauses may call functions of libraries.
    fn wait_for_libraries(&self) -> bool {
        true
    }

    fn begin(&mut self, pid: ProcessId, space: &mut RemoteSpace) -> Result<(), Error> {
        let state = &mut *self.borrow_mut();
        // The first process gets what `begin` has put into maps.
        let index = match state.of.is_empty() && state.parts.iter().all(|part| part.texts.borrow().is_none())
        {
            true => 0,
            false => state.parts.len(),
        };
        let texts = Texts::new(space)?;
        *state.part(index).texts.borrow_mut() = Some(texts);
        state.of.insert(pid, index);
        debug_assert!(!space.features().moves);
        Ok(())
    }

    fn ready(&mut self, pid: ProcessId, space: &mut RemoteSpace, program: &Program) {
        let state = &mut *self.borrow_mut();
        state.symbols.set(program.modules());
        let memory = |at: Addr, into: &mut [u8]| space.read(at, into).is_ok();
        state.note_slip(program, &memory);
        state.look_for_usdt(program, pid, space);
        let part = state.of.get(&pid).and_then(|index| state.parts.get_mut(*index));
        if let Some(Part { memory, frames, .. }) = part
            && let Some((table, rows)) = frames.outdated(program)
        {
            let left = memory.with(&table, |words| walk::refill(words, rows.into_iter()));
            state.rows_left_out = state.rows_left_out.max(left);
        }
    }

    fn forked(&mut self, parent: ProcessId, child: ProcessId) {
        let state = &mut *self.borrow_mut();
        if let Some(&part) = state.of.get(&parent) {
            state.of.insert(child, part);
        }
        state.shared.usdt.borrow_mut().forked(parent, child);
    }

    fn ended(&mut self, pid: ProcessId) {
        let state = &mut *self.borrow_mut();
        state.of.remove(&pid);
        state.shared.usdt.borrow_mut().ended(pid);
    }

    fn snippet(&mut self, found: &Found<'_>) -> Option<Snippet> {
        let state = &mut *self.borrow_mut();
        match state.at_point(found) {
            Ok(snippet) => snippet,
            Err(error) => {
                state.failed.get_or_insert(error);
                None
            }
        }
    }

    fn offered(&mut self, _: ProcessId, whole: bool) -> Result<(), Error> {
        let state = &mut *self.borrow_mut();
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        if let Some(wrong) = state.slip.take().or_else(|| state.no_usdt.take()).filter(|_| whole) {
            return Err(ScriptError::Source(wrong).into());
        }
        // A clause that fits nowhere is a mistake; so is one that fits no place so far, if there are places.
        let nowhere = state.wrong.iter().find(|(clause, _)| !state.compiled[**clause]);
        match nowhere {
            Some((_, wrong)) if whole => return Err(ScriptError::Source(wrong.clone()).into()),
            _ => {}
        }
        if whole {
            state.check_tool()?;
        }
        if whole && state.dry_run { Err(ScriptError::Shown.into()) } else { Ok(()) }
    }

    fn tick(&mut self) -> Result<Duration, Error> {
        let state = &mut *self.borrow_mut();
        state.drain(false)?;
        let mut pause = PAUSE;
        let now = Instant::now();
        for index in 0..state.intervals.len() {
            let (clause, every, next) = state.intervals[index];
            if state.dry_run || next > now {
                pause = pause.min(next.saturating_duration_since(now).max(Duration::from_micros(100)));
                continue;
            }
            state.intervals[index].2 = (next + every).max(now);
            state.run_clause(clause)?;
        }
        Ok(pause)
    }

    fn is_over(&self) -> bool {
        self.borrow().over
    }
}
