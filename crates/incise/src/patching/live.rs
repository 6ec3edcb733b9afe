//! Changes of a running process that stay when we go.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise_isa::Addr;
use incise_isa::native::{Assembler, GprSet};
use incise_patch::{Batch, Engine, MachineCode, Policy, Position, Snippet};
use incise_space::remote::{Event, LaunchOptions, ProcessId, RemoteSpace, Tracer};
use incise_space::{AddressSpace, Bytes, Edit, SpaceError};

use super::book::{self, Book, Patch, ROUND, books};
use super::change::{Detour, How, Plan, Request, plan};
use super::recording::Recording;
use super::{PatchError, View, entry, leaving};
use crate::{Ending, Images, Program};

/// A process that is changed.
pub struct Live {
    tracer: Tracer,
    pid: ProcessId,
    /// Memory that the next patch is to have.
    data: Vec<Quadword>,
}

/// A page of a patch's own, and the quadword it begins with.
#[derive(Clone, Copy)]
struct Quadword {
    at: Addr,
    value: u64,
}

/// What a change did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Made {
    /// The patch as it is recorded.
    pub patch: Patch,
    /// How long threads stood still.
    pub stop: Duration,
}

/// The longest springboard and what may stand before it, in bytes: where a jump can change code around its site.
const AROUND: u64 = 16;
const PAGE: u64 = 4096;

impl Live {
    /// Attaches to a process; it runs on.
    ///
    /// # Errors
    /// If it cannot be traced.
    pub fn attach(pid: i32) -> Result<Live, PatchError> {
        let (tracer, pid) = Tracer::attach(ProcessId(pid))?;
        Ok(Live { tracer, pid, data: Vec::new() })
    }

    /// Starts a program, which stands before its first instruction. What the kernel has mapped can be changed: the
    /// program and its dynamic linker.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn launch(program: &OsStr, arguments: &[OsString]) -> Result<Live, PatchError> {
        let (tracer, pid) = Tracer::launch(program, arguments, &LaunchOptions::default())?;
        Ok(Live { tracer, pid, data: Vec::new() })
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
        Ok(())
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
        self.carry_out(&view, &plan, text)
    }

    /// Carries out a plan made for this process, and records it under `text`.
    ///
    /// # Errors
    /// As for [`patch`](Self::patch).
    pub fn carry_out(&mut self, view: &View, plan: &Plan, text: &str) -> Result<Made, PatchError> {
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
        let mut session = Session { space: &mut space, view, book: known[index].clone(), id, data, memory };
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

/// The patches that are in the process that `view` shows, by number.
pub fn patches(view: &View) -> Vec<Patch> {
    let mut all: Vec<Patch> = books(view).into_iter().flat_map(|book| book.patches).collect();
    all.sort_by_key(|patch| patch.id);
    all
}

/// Where the code of a process is changed by hand; nowhere if that cannot be looked at.
pub(crate) fn patched(pid: i32) -> Vec<Range<Addr>> {
    let found = View::of_memory(pid).map(|view| patches(&view)).unwrap_or_default();
    found.iter().map(|patch| patch.at.span(patch.old.len() as u64)).collect()
}

fn no_room(at: Addr) -> PatchError {
    PatchError::Unsuitable { at, reason: "there is no free memory near it".to_owned() }
}

/// The book that code at `at` can reach.
fn near(books: &[Book], at: Addr) -> Option<usize> {
    const REACH: u64 = 0x7000_0000;
    books.iter().position(|book| book.at.offset_from(at).unsigned_abs() < REACH)
}

/// One change going on.
struct Session<'a> {
    space: &'a mut RemoteSpace,
    view: &'a View,
    book: Book,
    id: u32,
    /// What is still to be mapped for the patch.
    data: Vec<Quadword>,
    /// Memory that goes with the patch.
    memory: Vec<Range<Addr>>,
}

impl Session<'_> {
    fn make(&mut self, plan: &Plan, text: &str) -> Result<Made, PatchError> {
        match &plan.how {
            How::Data { new } => {
                // Recorded before it is done: the record can be taken back, the data would be lost.
                let made = self.record(plan.at, &plan.old, new, &[], false, None, text)?;
                let written = self.space.write_data(plan.at, &plan.old, new);
                written.or_else(|error| self.forget().and(Err(error.into())))?;
                Ok(made)
            }
            How::InPlace { new, heads } => {
                let differs = differing(plan.at, &plan.old, new);
                if differs.start.align_down(PAGE) != (differs.end - 1).align_down(PAGE) {
                    return match plan.detoured()?.how {
                        How::Detour(detour) => self.detour(plan, &detour, text),
                        _ => Err(no_room(plan.at)),
                    };
                }
                self.in_place(plan, new, heads, None, text)
            }
            How::Detour(detour) => self.detour(plan, detour, text),
        }
    }

    fn in_place(
        &mut self,
        plan: &Plan,
        new: &[u8],
        heads: &[usize],
        detour: Option<Range<Addr>>,
        text: &str,
    ) -> Result<Made, PatchError> {
        let mut made = self.record(plan.at, &plan.old, new, heads, true, detour, text)?;
        let edits = edits(plan.at, &plan.old, new, heads);
        match self.map_data().and_then(|()| self.space.apply(&edits, &|_| None)) {
            Ok(applied) => {
                made.stop = applied.stop;
                Ok(made)
            }
            Err(error) => self.forget().and(Err(error.into())),
        }
    }

    /// Writes the code into the book and leads the place there: by a jump where one fits, else through the engine, which
    /// keeps every boundary.
    fn detour(&mut self, plan: &Plan, detour: &Detour, text: &str) -> Result<Made, PatchError> {
        let guess = self.book.room(0).ok_or_else(|| no_room(plan.at))?;
        let code = detour.code_at(guess, false)?;
        let at = self.book.room(code.len()).ok_or_else(|| no_room(plan.at))?;
        self.book.used = (self.book.used + code.len() as u64).next_multiple_of(ROUND);
        self.space.write_code(&[(at, &code)])?;
        let range = at.span(code.len() as u64);
        let mut jump = Assembler::new(plan.at);
        jump.jump(at);
        if let Some(Plan { how: How::InPlace { new, heads }, .. }) = plan.replaced_by(jump.into_bytes()) {
            let differs = differing(plan.at, &plan.old, &new);
            if differs.start.align_down(PAGE) == (differs.end - 1).align_down(PAGE) {
                return self.in_place(plan, &new, &heads, Some(range), text);
            }
        }
        // `jmp [rip+0]` with the address behind it: it goes there from wherever the trampoline is.
        let mut bytes = vec![0xFF, 0x25, 0, 0, 0, 0];
        bytes.extend_from_slice(&at.0.to_le_bytes());
        let snippet =
            MachineCode { bytes: bytes.into(), clobbers: GprSet::EMPTY, flags: false, stack: false };
        let mut engine = Engine::new();
        let mut batch = Batch::default();
        batch.insert(plan.at, Snippet::Code(snippet), Position::First);
        let around = plan.at - AROUND;
        let before = self.view.bytes(around, 2 * AROUND as usize + plan.old.len());
        // Its new bytes are known when it is made; until then it is recorded as begun.
        self.book.patches.push(Patch {
            id: self.id,
            text: text.to_owned(),
            at: around,
            old: before.clone(),
            new: Vec::new(),
            heads: Vec::new(),
            code: true,
            detour: Some(range.clone()),
            memory: self.memory.clone(),
        });
        self.write()?;
        if let Err(error) = self.map_data() {
            return self.forget().and(Err(error.into()));
        }
        let mut recording = Recording { space: self.space, book: &mut self.book };
        let report = match engine.commit(&mut recording, self.view.program(), &batch, Policy::default()) {
            Ok(report) => report,
            Err(error) => {
                // What cannot be released stays, unused, and is given back with what else is left.
                let _ = engine.release(self.space);
                if let Some(patch) = self.book.patches.last_mut() {
                    patch.memory = self.memory.iter().cloned().chain(engine.arenas()).collect();
                }
                return self.forget().and(Err(error.into()));
            }
        };
        self.space.keep_landings()?;
        self.memory.extend(engine.arenas());
        let mut after = vec![0; before.len()];
        self.space.read(around, &mut after)?;
        let differs = differing(around, &before, &after);
        let part = differs.start.offset_from(around) as usize..differs.end.offset_from(around) as usize;
        // Every byte of it may be a head: a trap, or an instruction of the original.
        let heads: Vec<usize> = (0..part.len()).collect();
        self.book.patches.pop();
        let mut made =
            self.record(differs.start, &before[part.clone()], &after[part], &heads, true, Some(range), text)?;
        made.stop = report.stop;
        Ok(made)
    }

    /// Writes the book with one patch more. Bytes at both ends that stay the same are left out.
    #[allow(clippy::too_many_arguments, reason = "the fields of a record")]
    fn record(
        &mut self,
        at: Addr,
        old: &[u8],
        new: &[u8],
        heads: &[usize],
        code: bool,
        detour: Option<Range<Addr>>,
        text: &str,
    ) -> Result<Made, PatchError> {
        let differs = differing(at, old, new);
        let part = differs.start.offset_from(at) as usize..differs.end.offset_from(at) as usize;
        let heads: Vec<usize> =
            heads.iter().filter(|head| part.contains(head)).map(|head| head - part.start).collect();
        let patch = Patch {
            id: self.id,
            text: text.to_owned(),
            at: differs.start,
            old: old[part.clone()].to_vec(),
            new: new[part].to_vec(),
            heads,
            code,
            detour,
            memory: self.memory.clone(),
        };
        self.book.patches.push(patch.clone());
        self.write()?;
        Ok(Made { patch, stop: Duration::ZERO })
    }

    /// Maps the memory of the patch, which is recorded.
    fn map_data(&mut self) -> Result<(), SpaceError> {
        for Quadword { at, value } in std::mem::take(&mut self.data) {
            let data = self.space.map_data(at, PAGE)?;
            data.quadword(at).store(value, std::sync::atomic::Ordering::SeqCst);
        }
        Ok(())
    }

    /// Takes the last record back; what was mapped for it is left.
    fn forget(&mut self) -> Result<(), PatchError> {
        if let Some(last) = self.book.patches.len().checked_sub(1) {
            self.book.strike(last);
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), PatchError> {
        leaving::write(self.space, &mut self.book)
    }
}

/// The addresses from the first to the last byte that differs; one byte where none does.
pub(super) fn differing(at: Addr, old: &[u8], new: &[u8]) -> Range<Addr> {
    let first = old.iter().zip(new).position(|(a, b)| a != b).unwrap_or(0);
    let last = old.iter().zip(new).rposition(|(a, b)| a != b).unwrap_or(0);
    at + first as u64..at + last as u64 + 1
}

/// The edits that make `old` at `at` into `new`.
pub(super) fn edits(at: Addr, old: &[u8], new: &[u8], heads: &[usize]) -> Vec<Edit> {
    let differs = differing(at, old, new);
    let (first, end) = (differs.start.offset_from(at) as usize, differs.end.offset_from(at) as usize);
    (first..end)
        .step_by(Bytes::MAX)
        .map(|from| {
            let to = (from + Bytes::MAX).min(end);
            let mask = heads
                .iter()
                .filter(|head| (from..to).contains(head))
                .fold(0, |mask, head| mask | 1 << (head - from));
            Edit {
                at: at + from as u64,
                old: Bytes::new(&old[from..to]),
                new: Bytes::new(&new[from..to]),
                heads: mask,
            }
        })
        .filter(|edit| edit.old != edit.new)
        .collect()
}
