//! Changes of a program file.
//!
//! A patched file carries its changes as lines of text, and is always made anew from its original by doing all of them
//! again: so one can be taken back among others, and the result does not depend on the order in which that happened.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use incise_isa::Addr;
use incise_isa::native::{Assembler, GprSet};
use incise_patch::{Batch, Engine, MachineCode, Policy, Position, Snippet, TrapPolicy};
use incise_space::file::{FileError, FileSpace, Output, PatchEntry, Record, Saved};
use incise_space::{AddressSpace, SpaceError};

use super::book::Patch;
use super::change::{Change, How, Plan, plan};
use super::detour::Detour;
use super::making::{differing, edits};
use super::note::Note;
use super::set::Setting;
use super::{PatchError, View};

/// A file that is patched.
pub struct OnDisk {
    original: Vec<u8>,
    notes: Vec<(u32, Note)>,
    path: std::path::PathBuf,
}

/// Bytes of the jump through which the engine leads to our code, before it is known where from.
const MARK: [u8; 14] = [0xFF, 0x25, 0, 0, 0, 0, b'i', b'n', b'c', b'i', b's', b'e', b'!', b'!'];
/// Where a springboard can change code around its site.
const AROUND: u64 = 16;
const PAGE: u64 = 4096;
/// Room for the code of one file's changes.
const ROOM: u64 = 1 << 20;

impl OnDisk {
    /// Reads a file: an original, or one that was patched before.
    ///
    /// # Errors
    /// If it cannot be read, is no program, or carries counters.
    pub fn open(path: &Path) -> Result<OnDisk, PatchError> {
        let bytes = fs::read(path).map_err(|source| PatchError::File { path: path.to_owned(), source })?;
        let path = path.to_owned();
        match incise_space::file::original(&path, &bytes) {
            Ok((_, record)) if record.counting.is_some() => Err(FileError::Unsupported(
                "it carries counters: undo that first, then patch, then rewrite it",
            )
            .into()),
            Ok((original, record)) => {
                let notes = record.patches.iter().map(|entry| Ok((entry.id as u32, parsed(entry)?)));
                Ok(OnDisk { original, notes: notes.collect::<Result<_, PatchError>>()?, path })
            }
            Err(FileError::NoRecord { .. }) => Ok(OnDisk { original: bytes, notes: Vec::new(), path }),
            Err(error) => Err(error.into()),
        }
    }

    /// The program as it is with the changes so far.
    ///
    /// # Errors
    /// If one of them cannot be made any more.
    pub fn view(&self) -> Result<View, PatchError> {
        Ok(self.build()?.1)
    }

    /// Adds a change, if it can be made and its bytes are those expected. Returns its number.
    ///
    /// # Errors
    /// If not; nothing is added then.
    pub fn add(&mut self, note: Note) -> Result<u32, PatchError> {
        let id = 1 + self.notes.iter().map(|(id, _)| *id).max().unwrap_or(0);
        self.notes.push((id, note));
        if let Err(error) = self.build() {
            self.notes.pop();
            return Err(error);
        }
        Ok(id)
    }

    /// Takes a change back.
    ///
    /// # Errors
    /// If there is no such change.
    pub fn remove(&mut self, id: u32) -> Result<(), PatchError> {
        let before = self.notes.len();
        self.notes.retain(|(known, _)| *known != id);
        if self.notes.len() < before {
            return Ok(());
        }
        let known: Vec<String> = self.notes.iter().map(|(id, _)| id.to_string()).collect();
        Err(PatchError::NoPatch { id, known: known.join(", ") })
    }

    /// The changes, by number.
    pub fn notes(&self) -> &[(u32, Note)] {
        &self.notes
    }

    /// Writes the file; without any change, the original, bit for bit.
    ///
    /// # Errors
    /// If a change cannot be made any more, or the file not be written: then what was there before stays.
    pub fn save(&self, output: &Output) -> Result<Saved, PatchError> {
        if !self.notes.is_empty() {
            return Ok(self.build()?.0.save(output)?);
        }
        let bytes =
            fs::read(&self.path).map_err(|source| PatchError::File { path: self.path.clone(), source })?;
        let len = self.original.len() as u64;
        if bytes == self.original {
            return Err(FileError::NoRecord { path: self.path.clone() }.into());
        }
        incise_space::file::undo(&self.path, output)?;
        Ok(Saved { original_len: len, len, mappings: 0 })
    }

    fn build(&self) -> Result<(FileSpace, View), PatchError> {
        let mut maker = Maker {
            space: FileSpace::of_bytes(&self.path, self.original.clone())?,
            edited: self.original.clone(),
            view: View::of_bytes(&self.path, &self.original)?,
            path: &self.path,
            engine: Engine::new(),
            code: None,
        };
        for (id, note) in &self.notes {
            maker.make(*id, note)?;
        }
        Ok((maker.space, maker.view))
    }
}

/// The patches in a file, by number; none in an original.
///
/// # Errors
/// If it cannot be read, or its record is damaged.
pub fn file_patches(path: &Path) -> Result<Vec<Patch>, PatchError> {
    let bytes = fs::read(path).map_err(|source| PatchError::File { path: path.to_owned(), source })?;
    let record = match Record::find(path, &bytes) {
        Ok(record) => record,
        Err(FileError::NoRecord { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    Ok(record.patches.iter().map(patch).collect())
}

/// A patch as a file records it.
fn patch(entry: &PatchEntry) -> Patch {
    let note = Note::parse(&entry.text).ok();
    let is_data = |note: &Note| matches!(note.request.change, Change::Data(_) | Change::Text(_));
    Patch {
        id: entry.id as u32,
        text: note.as_ref().map_or_else(|| entry.text.clone(), Note::shown),
        at: entry.at,
        old: entry.old.clone(),
        new: entry.new.clone(),
        heads: Vec::new(),
        code: !note.as_ref().is_some_and(is_data),
        detour: None,
        memory: Vec::new(),
        note,
    }
}

fn parsed(entry: &PatchEntry) -> Result<Note, PatchError> {
    Note::parse(&entry.text).map_err(|reason| PatchError::PatchFile { line: 1, reason })
}

/// Makes a patched file.
struct Maker<'a> {
    space: FileSpace,
    /// The file with the bytes that were changed so far.
    edited: Vec<u8>,
    view: View,
    path: &'a Path,
    engine: Engine,
    /// Where our code goes: the next free address, and the end.
    code: Option<(Addr, Addr)>,
}

impl Maker<'_> {
    fn make(&mut self, id: u32, note: &Note) -> Result<(), PatchError> {
        note.check(&self.view)?;
        let mut request = note.request.clone();
        if let Change::Set(Setting { times: Some(times), counter, .. }) = &mut request.change {
            *counter = Some(self.quadword(request.at, *times)?);
        }
        let plan = plan(&self.view, &request)?;
        let (at, old, new) = match &plan.how {
            How::Data { new } => (plan.at, plan.old.clone(), self.write(&plan, new, &[])?),
            How::InPlace { new, heads } => (plan.at, plan.old.clone(), self.write(&plan, new, heads)?),
            How::Detour(detour) => self.detour(&plan, detour)?,
        };
        let entry = PatchEntry { id: id.into(), text: note.to_line(), at, old, new };
        let noted = self.view.noted().iter().cloned().chain([patch(&entry)]).collect();
        self.space.note(entry);
        // What lies behind the file's own segments is not seen; nobody looks there.
        let main = self.view.program().modules().first().ok_or(PatchError::NoEntry)?;
        let image = main.image.clone();
        for segment in image.segments() {
            let mut bytes = vec![0; segment.file_size as usize];
            self.space.read(Addr(segment.link.0), &mut bytes)?;
            let start = segment.file_offset.0 as usize;
            if let Some(place) = self.edited.get_mut(start..start + bytes.len()) {
                place.copy_from_slice(&bytes);
            }
        }
        self.view = View::of_bytes(self.path, &self.edited)?.with_patches(noted);
        Ok(())
    }

    fn write(&mut self, plan: &Plan, new: &[u8], heads: &[usize]) -> Result<Vec<u8>, PatchError> {
        self.space.apply(&edits(plan.at, &plan.old, new, heads), &|_| None)?;
        Ok(new.to_vec())
    }

    fn detour(&mut self, plan: &Plan, detour: &Detour) -> Result<(Addr, Vec<u8>, Vec<u8>), PatchError> {
        let (guess, end) = self.room(plan.at)?;
        let code = detour.code_at(guess, self.space.features().moves)?;
        let next = (guess + code.len() as u64).align_up(16);
        if next > end {
            return Err(PatchError::Unsuitable {
                at: plan.at,
                reason: "the new code is too long".to_owned(),
            });
        }
        self.space.write_code(&[(guess, &code)])?;
        self.code = Some((next, end));
        let mut jump = Assembler::new(plan.at);
        jump.jump(guess);
        if let Some(Plan { how: How::InPlace { new, heads }, .. }) = plan.replaced_by(jump.into_bytes()) {
            let new = self.write(plan, &new, &heads)?;
            return Ok((plan.at, plan.old.clone(), new));
        }
        self.through_engine(plan, guess)
    }

    /// Leads the place to `to` by a trampoline of the engine's, which keeps every boundary. A jump in it that is found
    /// by its mark is made to lead to our code: that has to be near, for a file may be loaded anywhere.
    fn through_engine(&mut self, plan: &Plan, to: Addr) -> Result<(Addr, Vec<u8>, Vec<u8>), PatchError> {
        let (around, before) = self.view.bytes_around(plan.at, plan.old.len(), AROUND);
        let snippet =
            MachineCode { bytes: MARK.to_vec().into(), clobbers: GprSet::EMPTY, flags: false, stack: false };
        let mut batch = Batch::default();
        batch.insert(plan.at, Snippet::Code(snippet), Position::First);
        let policy = Policy { traps: TrapPolicy::Forbid, ..Policy::default() };
        self.engine.commit(&mut self.space, self.view.program(), &batch, policy)?;
        let mark = self.find_mark().ok_or_else(|| PatchError::Unsuitable {
            at: plan.at,
            reason: "the way to the new code is lost".to_owned(),
        })?;
        let mut jump = Assembler::new(mark);
        jump.jump(to);
        let mut bytes = jump.into_bytes();
        if bytes.len() != incise_isa::native::SPRINGBOARD_LEN {
            return Err(PatchError::Unsuitable {
                at: plan.at,
                reason: "the new code is out of reach".to_owned(),
            });
        }
        bytes.resize(MARK.len(), incise_isa::native::TRAP);
        self.space.write_code(&[(mark, &bytes)])?;
        let mut after = vec![0; before.len()];
        self.space.read(around, &mut after)?;
        let differs = differing(around, &before, &after);
        let part = differs.start.offset_from(around) as usize..differs.end.offset_from(around) as usize;
        Ok((differs.start, before[part.clone()].to_vec(), after[part].to_vec()))
    }

    fn find_mark(&self) -> Option<Addr> {
        let map = self.space.mappings().ok()?;
        let code = map.iter().filter(|mapping| mapping.permissions.execute && mapping.name.is_empty());
        for mapping in code {
            let mut at = mapping.range.start;
            while at < mapping.range.end {
                let mut piece =
                    vec![0; (PAGE as usize + MARK.len()).min(mapping.range.end.offset_from(at) as usize)];
                self.space.read(at, &mut piece).ok()?;
                if let Some(offset) = piece.windows(MARK.len()).position(|window| window == MARK) {
                    return Some(at + offset as u64);
                }
                at = at + PAGE;
            }
        }
        None
    }

    /// A quadword of memory that the program may write, with this value.
    fn quadword(&mut self, near: Addr, value: u64) -> Result<Addr, PatchError> {
        let at = self.hole(near, PAGE)?;
        let data = self.space.map_data(at, PAGE)?;
        data.quadword(at).store(value, Ordering::Relaxed);
        Ok(at)
    }

    fn hole(&self, near: Addr, len: u64) -> Result<Addr, PatchError> {
        let map = self.space.mappings()?;
        let high = Addr(near.0.saturating_add(0x6000_0000));
        let mut holes = map.holes(near, high).map(|hole| hole.start.align_up(PAGE)..hole.end);
        let hole = holes.find(|hole| hole.end.offset_from(hole.start) >= len as i64);
        Ok(hole.map(|hole| hole.start).ok_or(SpaceError::Occupied { at: near, len })?)
    }

    /// Where the next code of ours goes, and the end of the room for it.
    fn room(&mut self, near: Addr) -> Result<(Addr, Addr), PatchError> {
        if let Some(room) = self.code {
            return Ok(room);
        }
        let at = self.hole(near, ROOM)?;
        self.space.map_code(at, ROOM)?;
        self.code = Some((at, at + ROOM));
        Ok((at, at + ROOM))
    }
}
