//! One change of a process, from its plan to its record.

use std::ops::Range;
use std::time::Duration;

use incise_isa::Addr;
use incise_isa::native::{Assembler, GprSet};
use incise_patch::{Batch, Engine, MachineCode, Policy, Position, Snippet};
use incise_space::remote::RemoteSpace;
use incise_space::{AddressSpace, Bytes, Edit, SpaceError};

use super::book::{Book, Patch, ROUND};
use super::change::{How, Plan};
use super::detour::Detour;
use super::live::{Made, no_room};
use super::recording::Recording;
use super::{Note, PatchError, View, leaving};

/// The longest springboard and what may stand before it, in bytes: where a jump can change code around its site.
const AROUND: u64 = 16;
pub(super) const PAGE: u64 = 4096;

/// A page of a patch's own, and the quadword it begins with.
#[derive(Clone, Copy)]
pub(super) struct Quadword {
    pub at: Addr,
    pub value: u64,
}

/// One change going on.
pub(super) struct Session<'a> {
    pub space: &'a mut RemoteSpace,
    pub view: &'a View,
    pub book: Book,
    pub id: u32,
    /// What is still to be mapped for the patch.
    pub data: Vec<Quadword>,
    /// Memory that goes with the patch.
    pub memory: Vec<Range<Addr>>,
    /// The change, for its record.
    pub note: Option<Note>,
}

impl Session<'_> {
    pub(super) fn make(&mut self, plan: &Plan, text: &str) -> Result<Made, PatchError> {
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
        let (around, before) = self.view.bytes_around(plan.at, plan.old.len(), AROUND);
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
            note: self.note.clone(),
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
            note: self.note.clone().filter(|_| code),
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
