//! Changes of a running process that stay when we go.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise_isa::Addr;
use incise_patch::{Batch, Engine, Policy, Position, Snippet};
use incise_space::AddressSpace;
use incise_space::remote::{Event, LaunchOptions, ProcessId, RemoteSpace, Tracer};

use super::book::{self, Book, Patch, books};
use super::change::{Plan, Request, plan};
use super::making::{PAGE, Quadword, Session as Making, edits};
use super::moving::linked;
use super::{Note, PatchError, View, entry, leaving};
use crate::changing::{Library, load_until};
use crate::{Ending, Error, Images, Program, Query, Session};

/// A process that is changed.
pub struct Live {
    tracer: Tracer,
    pid: ProcessId,
    /// Memory that the next patch is to have.
    data: Vec<Quadword>,
    /// It was launched, and stands at its entry point.
    stands: bool,
}

/// What the entry code of a program calls in the C library.
const BEGINS: &str = "__libc_start_main";
/// How long a library may take to be loaded.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a change did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// The patch as it is recorded.
    pub patch: Patch,
    /// How long threads stood still.
    pub stop: Duration,
}

impl Live {
    /// Attaches to a process; it runs on.
    ///
    /// # Errors
    /// If it cannot be traced.
    pub fn attach(pid: i32) -> Result<Live, PatchError> {
        let (tracer, pid) = Tracer::attach(ProcessId(pid))?;
        Ok(Live { tracer, pid, data: Vec::new(), stands: false })
    }

    /// Starts a program, which stands before its first instruction. What the kernel has mapped can be changed: the
    /// program and its dynamic linker.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn launch(program: &OsStr, arguments: &[OsString]) -> Result<Live, PatchError> {
        let (tracer, pid) = Tracer::launch(program, arguments, &LaunchOptions::default())?;
        Ok(Live { tracer, pid, data: Vec::new(), stands: false })
    }

    /// Lets a program that was launched run to its entry point: its libraries are mapped then, and their constructors
    /// have run.
    ///
    /// # Errors
    /// If it ends before, or the entry point cannot be probed.
    pub fn run_to_entry(&mut self) -> Result<(), PatchError> {
        let mut space = self.space()?;
        let view = self.view()?;
        let main = view.program().modules().first().ok_or(PatchError::NoEntry)?;
        if main.image.interpreter().is_none() {
            return Ok(());
        }
        let mut at = entry::entry(&view)?;
        if let Ok(insn) = view.insn(at)
            && insn.is_endbr()
        {
            at = insn.end();
        }
        let mut engine = Engine::new();
        let mut batch = Batch::default();
        batch.insert(at, Snippet::Gate, Position::First);
        let program = Program::read(&space, &self.pid.to_string(), &mut Images::default())?;
        engine.commit(&mut space, &program, &batch, Policy::default())?;
        self.tracer.add_gate(self.pid, at)?;
        self.tracer.resume(self.pid)?;
        let never = AtomicBool::new(false);
        loop {
            match self.tracer.next_event(None, &never)? {
                Event::Gate { pid, .. } if pid == self.pid => break,
                Event::Exited { pid, .. } | Event::Killed { pid, .. } if pid == self.pid => {
                    return Err(PatchError::Ended);
                }
                Event::Fork { child, vfork: false, .. } => self.tracer.detach(child)?,
                Event::Idle | Event::Interrupted => return Err(PatchError::Ended),
                _ => {}
            }
        }
        self.tracer.remove_gate(self.pid, at)?;
        let removal = Batch::removal(engine.instances().collect());
        engine.commit(&mut space, &program, &removal, Policy::default())?;
        self.stands = true;
        Ok(())
    }

    /// Has the process load a library, unless it has it already; see [`changing::load`](crate::changing::load). One that was launched,
    /// and stands at its entry point, stands behind it where the C library begins.
    ///
    /// # Errors
    /// [`PatchError::Load`] if it cannot be loaded; if the process ended.
    pub fn load(&mut self, library: &Path, interrupted: &AtomicBool) -> Result<Library, PatchError> {
        let failed = |error: Error| PatchError::Load(error.to_string());
        let session = Session::over(self.space()?, &self.pid.to_string()).map_err(failed)?;
        let held = if self.stands {
            let begins = session.find(Query::functions(BEGINS)).map_err(failed)?[0].addr;
            let mut batch = session.batch();
            let gate = batch.insert(begins, Snippet::Gate, Position::First);
            batch.commit().map_err(failed)?;
            self.tracer.add_gate(self.pid, begins)?;
            Some((begins, gate))
        } else {
            None
        };
        let until = held.map(|(begins, _)| begins);
        let loaded = load_until(&mut self.tracer, &session, library, PATIENCE, interrupted, until);
        if let Some((begins, _)) = held {
            self.tracer.remove_gate(self.pid, begins)?;
        }
        if matches!(loaded, Err(Error::Late)) {
            return loaded.map_err(failed);
        }
        session.remove_all().map_err(failed)?;
        self.space()?.remove()?;
        loaded.map_err(failed)
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.pid.0
    }

    /// What is in its memory now.
    ///
    /// # Errors
    /// If it ended.
    pub fn view(&self) -> Result<View, PatchError> {
        View::of_process(self.pid.0)
    }

    fn space(&self) -> Result<RemoteSpace, PatchError> {
        Ok(self.tracer.space(self.pid)?)
    }

    /// Makes a change, and records it in the process under `text`.
    ///
    /// # Errors
    /// If the change cannot be made; then nothing was changed.
    pub fn patch(&mut self, request: &Request, text: &str) -> Result<Made, PatchError> {
        let view = self.view()?;
        let plan = plan(&view, request)?;
        self.carry_out(&view, &plan, request, text)
    }

    /// Carries out the plan for `request` made for this process, and records it under `text`.
    ///
    /// # Errors
    /// As for [`patch`](Self::patch).
    pub fn carry_out(
        &mut self,
        view: &View,
        plan: &Plan,
        request: &Request,
        text: &str,
    ) -> Result<Made, PatchError> {
        let mut space = self.space()?;
        let mut known = books(view);
        leaving::inherit(&mut space, &known)?;
        // Runs that were killed have freed nothing, and only some places near the code will do for a trampoline.
        drop(leaving::sweep_all(&mut space, &mut known));
        let id = 1 + known.iter().flat_map(|book| &book.patches).map(|patch| patch.id).max().unwrap_or(0);
        let index = match near(&known, plan.at) {
            Some(index) => index,
            None => {
                let at = book::free_place(&space.mappings()?, plan.at).ok_or_else(|| no_room(plan.at))?;
                space.map_code(at, book::LEN)?;
                known.push(Book::new(at));
                known.len() - 1
            }
        };
        if space.adopt_code(known[index].range()).is_err() {
            return Err(no_room(plan.at));
        }
        let data = std::mem::take(&mut self.data);
        let memory = data.iter().map(|quadword| quadword.at.span(PAGE)).collect();
        let note = linked(view, request).ok().map(|request| Note { request, expected: plan.old.clone() });
        let book = known[index].clone();
        let mut session = Making { space: &mut space, view, book, id, data, memory, note };
        let made = session.make(plan, text);
        known[index] = session.book;
        if made.is_err() {
            // What cannot be given back now is the matter of the next undo.
            drop(leaving::tidy(&mut space, &mut known, index));
        }
        made
    }

    /// A quadword of the process' own, with this value, that code anywhere may change. It is there from when the next
    /// patch is made for as long as that stays.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn quadword(&mut self, near: Addr, value: u64) -> Result<Addr, PatchError> {
        let place = book::free_place(&self.space()?.mappings()?, near).ok_or_else(|| no_room(near))?;
        // Where a book may come to lie before it is mapped.
        let at = place + book::LEN;
        self.data = vec![Quadword { at, value }];
        Ok(at)
    }

    /// The patches that are in the process, by number.
    ///
    /// # Errors
    /// If it ended.
    pub fn patches(&self) -> Result<Vec<Patch>, PatchError> {
        Ok(patches(&View::of_memory(self.pid.0)?))
    }

    /// Takes a patch back: every byte is as it was.
    ///
    /// # Errors
    /// If there is no such patch, or other bytes are there now.
    pub fn undo(&mut self, id: u32) -> Result<Patch, PatchError> {
        let view = View::of_memory(self.pid.0)?;
        let mut books = books(&view);
        let holds = |book: &Book| book.patches.iter().position(|patch| patch.id == id);
        let found = books.iter().enumerate().find_map(|(index, book)| Some((index, holds(book)?)));
        let Some((index, position)) = found else {
            let known: Vec<String> = patches(&view).iter().map(|patch| patch.id.to_string()).collect();
            return Err(PatchError::NoPatch { id, known: known.join(", ") });
        };
        let patch = books[index].patches[position].clone();
        let mut space = self.space()?;
        leaving::inherit(&mut space, &books)?;
        if patch.code {
            let edits = edits(patch.at, &patch.new, &patch.old, &patch.heads);
            space.apply(&edits, &|_| None)?;
        } else {
            space.write_data(patch.at, &patch.new, &patch.old)?;
        }
        books[index].strike(position);
        space.adopt_code(books[index].range())?;
        leaving::write(&mut space, &mut books[index])?;
        // The patch is undone, whatever comes of this; the next time tries again.
        drop(leaving::tidy(&mut space, &mut books, index));
        Ok(patch)
    }

    /// Lets the process go, with all that was changed.
    ///
    /// # Errors
    /// If it ended.
    pub fn detach(mut self) -> Result<(), PatchError> {
        self.space()?.secure_handlers()?;
        Ok(self.tracer.detach(self.pid)?)
    }

    /// Lets a program that was launched go, and waits for its end.
    ///
    /// # Errors
    /// If it cannot be let go.
    pub fn run_to_end(mut self) -> Result<Ending, PatchError> {
        self.space()?.secure_handlers()?;
        self.tracer.detach(self.pid)?;
        let Some(pid) = rustix::process::Pid::from_raw(self.pid.0) else { return Ok(Ending::Detached) };
        loop {
            match rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()) {
                Ok(Some((_, status))) => {
                    if let Some(code) = status.exit_status() {
                        return Ok(Ending::Exited(code));
                    }
                    if let Some(signal) = status.terminating_signal() {
                        return Ok(Ending::Killed(signal));
                    }
                }
                Err(rustix::io::Errno::INTR) | Ok(None) => {}
                Err(_) => return Ok(Ending::Detached),
            }
        }
    }

    /// Ends a program that was launched.
    pub fn kill(self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.pid.0) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            drop(self);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}

/// The patches that are in the process or the file that `view` shows, by number.
pub fn patches(view: &View) -> Vec<Patch> {
    let in_process = books(view).into_iter().flat_map(|book| book.patches);
    let mut all: Vec<Patch> = in_process.chain(view.noted().iter().cloned()).collect();
    all.sort_by_key(|patch| patch.id);
    all
}

/// Where the code of a process is changed by hand; nowhere if that cannot be looked at.
pub(crate) fn patched(pid: i32) -> Vec<Range<Addr>> {
    let found = View::of_memory(pid).map(|view| patches(&view)).unwrap_or_default();
    found.iter().map(|patch| patch.at.span(patch.old.len() as u64)).collect()
}

pub(super) fn no_room(at: Addr) -> PatchError {
    PatchError::Unsuitable { at, reason: "there is no free memory near it".to_owned() }
}

/// The book that code at `at` can reach.
fn near(books: &[Book], at: Addr) -> Option<usize> {
    const REACH: u64 = 0x7000_0000;
    books.iter().position(|book| book.at.offset_from(at).unsigned_abs() < REACH)
}
