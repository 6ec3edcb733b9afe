//! The record of patches in a process: memory of our own in it, which whoever looks later finds.
//!
//! A *book* is 1 MiB of executable, never writable memory near the code that is patched. It begins with a magic and one
//! word, which tells where the patches are written as text, one a line, and how long that is; behind [`CODE`] lies the
//! code of detours. The memory costs the pages that are used.
//!
//! There is room for the lines twice. New ones are written where the valid ones are not, and then the word: a tool that is
//! killed in between leaves the old record.

use std::collections::BTreeMap;
use std::ops::Range;

use incise_image::{MemoryMap, MemoryReader};
use incise_isa::Addr;

use super::lines::{escaped, line, parsed, parsed_ranges, ranges, unescaped};
use super::making::differing;
use super::{Note, View};

/// The first bytes of a book.
const MAGIC: [u8; 16] = *b"incise patches 2";
/// Size of a book in bytes.
pub(super) const LEN: u64 = 1 << 20;
/// Books begin at multiples of this.
const ALIGN: u64 = 1 << 16;
/// Where the code of detours begins in a book.
pub(super) const CODE: u64 = 1 << 19;
/// Code of detours begins at multiples of this.
pub(super) const ROUND: u64 = 16;
/// Offset of the word: the place of the lines in its upper half, their length in the lower, in bytes; zero for none.
const WORD: u64 = 16;
/// The two places for lines: behind the word, and half-way to the code.
const PLACES: [u64; 2] = [32, CODE / 2];

/// One patch that is in place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// Its number.
    pub id: u32,
    /// What the user asked for.
    pub text: String,
    /// The first byte that differs.
    pub at: Addr,
    /// What was there.
    pub old: Vec<u8>,
    /// What is there; nothing while the change is being made and its bytes are not known.
    pub new: Vec<u8>,
    /// Offsets of instructions among the bytes, before or after; none for data.
    pub heads: Vec<usize>,
    /// It is code.
    pub code: bool,
    /// Where its code is, if that is elsewhere.
    pub detour: Option<Range<Addr>>,
    /// Memory that was mapped for it alone.
    pub memory: Vec<Range<Addr>>,
    /// The change of code, at link addresses of its module; nothing if it names addresses of one process.
    pub note: Option<Note>,
}

impl Patch {
    /// Whether it changed a byte in `range`.
    pub fn touches(&self, range: &Range<Addr>) -> bool {
        self.at < range.end && range.start < self.at + self.old.len() as u64
    }

    /// What is free when the patch is undone and no thread is inside: its code, and its memory.
    fn holdings(&self) -> Vec<Range<Addr>> {
        self.detour.iter().chain(&self.memory).cloned().collect()
    }

    /// Takes what is at its place after the change for its new bytes.
    fn complete(&mut self, there: &[u8]) {
        let differs = differing(self.at, &self.old, there);
        let from = differs.start.offset_from(self.at) as usize;
        let part = from..differs.end.offset_from(self.at) as usize;
        self.at = differs.start;
        self.old = self.old[part.clone()].to_vec();
        self.new = there[part].to_vec();
        // A trap, or an instruction of the original, may be anywhere in it.
        self.heads = (0..self.new.len()).collect();
    }
}

/// A book in a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Book {
    pub at: Addr,
    pub patches: Vec<Patch>,
    /// Bytes of code in it, up to the last that a patch uses or a thread may be in.
    pub used: u64,
    /// What undone patches have left, because a thread may be in it: for each its code and its memory.
    pub left: Vec<Vec<Range<Addr>>>,
    /// Memory of undone patches that is being unmapped.
    pub gone: Vec<Range<Addr>>,
    /// Pages of the tracer that are to be taken over.
    pub runtime: Option<Addr>,
    /// Which of the [`PLACES`] holds the valid lines.
    place: usize,
}

impl Book {
    pub(super) fn new(at: Addr) -> Book {
        Book { at, patches: Vec::new(), used: 0, left: Vec::new(), gone: Vec::new(), runtime: None, place: 1 }
    }

    /// The memory it takes.
    pub(super) fn range(&self) -> Range<Addr> {
        self.at.span(LEN)
    }

    /// Where the next code goes, if `len` bytes fit.
    pub(super) fn room(&self, len: usize) -> Option<Addr> {
        (self.used + len as u64 <= LEN - CODE).then(|| self.at + CODE + self.used)
    }

    /// Whether nothing needs it.
    pub(super) fn is_empty(&self) -> bool {
        self.patches.is_empty() && self.left.is_empty() && self.gone.is_empty()
    }

    /// All memory it tells of, and its own.
    pub(super) fn memory(&self) -> Vec<Range<Addr>> {
        let held = self.patches.iter().map(Patch::holdings).chain(self.left.iter().cloned()).flatten();
        held.chain(self.gone.iter().cloned()).chain([self.range()]).collect()
    }

    /// Takes a patch out; what it held is left.
    pub(super) fn strike(&mut self, index: usize) -> Patch {
        let patch = self.patches.remove(index);
        let holdings = patch.holdings();
        if !holdings.is_empty() {
            self.left.push(holdings);
        }
        patch
    }

    /// Counts the code that is used anew.
    pub(super) fn recount(&mut self) {
        let code = self.at + CODE..self.at + LEN;
        let held = self.patches.iter().map(Patch::holdings).chain(self.left.iter().cloned()).flatten();
        let ends = held.filter(|range| code.contains(&range.start)).map(|range| range.end);
        self.used = ends.max().map_or(0, |end| end.align_up(ROUND).offset_from(code.start) as u64);
    }

    /// What is to be written, in this order, so that it is this record from the last byte on and the old one until then;
    /// `None` if there are too many patches. Then [`written`](Self::written).
    pub(super) fn writes(&self) -> Option<[(Addr, Vec<u8>); 2]> {
        let mut lines = format!("used {:x}\n", self.used);
        if let Some(runtime) = self.runtime {
            lines.push_str(&format!("runtime {:x}\n", runtime.0));
        }
        if !self.gone.is_empty() {
            lines.push_str(&format!("gone {}\n", ranges(&self.gone)));
        }
        for left in &self.left {
            lines.push_str(&format!("left {}\n", ranges(left)));
        }
        for patch in &self.patches {
            if let Some(note) = &patch.note {
                lines.push_str(&format!("note {}\n", escaped(&note.to_line())));
            }
            lines.push_str(&line(patch));
            lines.push('\n');
        }
        let other = 1 - self.place;
        let len = lines.len() as u64;
        if len > room_for_lines(other) {
            return None;
        }
        let word = PLACES[other] << 32 | len;
        let head = [&MAGIC[..], &word.to_le_bytes()].concat();
        Some([(self.at + PLACES[other], lines.into_bytes()), (self.at, head)])
    }

    /// What [`writes`](Self::writes) gave is in the process.
    pub(super) fn written(&mut self) {
        self.place = 1 - self.place;
    }

    fn read(view: &View, at: Addr) -> Option<Book> {
        let mut head = [0; WORD as usize + 8];
        if !view.read(at, &mut head) || !head.starts_with(&MAGIC) {
            return None;
        }
        let word = u64::from_le_bytes(*head.last_chunk()?);
        let mut book = Book::new(at);
        if word == 0 {
            return Some(book);
        }
        book.place = PLACES.iter().position(|place| *place == word >> 32)?;
        let len = word & 0xFFFF_FFFF;
        if len > room_for_lines(book.place) {
            return None;
        }
        let mut lines = vec![0; len as usize];
        if !view.read(at + PLACES[book.place], &mut lines) {
            return None;
        }
        let text = String::from_utf8(lines).ok()?;
        let mut note = None;
        for text in text.lines() {
            match text.split_once(' ')? {
                ("used", used) => book.used = u64::from_str_radix(used, 16).ok()?,
                ("runtime", at) => book.runtime = Some(Addr(u64::from_str_radix(at, 16).ok()?)),
                ("gone", list) => book.gone = parsed_ranges(list)?,
                ("left", list) => book.left.push(parsed_ranges(list)?),
                // Of the patch in the next line.
                ("note", line) => note = Note::parse(&unescaped(line)).ok(),
                _ => book.patches.push(Patch { note: note.take(), ..parsed(text)? }),
            }
        }
        Some(book)
    }
}

/// The most bytes of lines at one of the [`PLACES`].
fn room_for_lines(place: usize) -> u64 {
    PLACES.get(place + 1).copied().unwrap_or(CODE) - PLACES[place]
}

/// The books of a process, without what never took place.
///
/// A run of the tool may be killed between any two steps. A patch is recorded before it is made, and struck after it was
/// undone, so what is recorded is more than what is there, never less.
pub(super) fn books(view: &View) -> Vec<Book> {
    let mut books = recorded(view);
    reconcile(&mut books, |at, len| {
        let mut bytes = vec![0; len];
        view.read(at, &mut bytes).then_some(bytes)
    });
    books
}

/// Compares the patches with what is there, the latest first, each as it was before those that came later:
///
/// 1. Its new bytes are there: it stands.
/// 2. Its old bytes are there: it was not made, or is undone. It is struck.
/// 3. It was begun, and its new bytes were not known yet: they are those that are there.
/// 4. Others are there, or none: not ours to judge.
fn reconcile(books: &mut [Book], read: impl Fn(Addr, usize) -> Option<Vec<u8>>) {
    let mut order: Vec<(u32, usize)> = Vec::new();
    for (index, book) in books.iter().enumerate() {
        order.extend(book.patches.iter().map(|patch| (patch.id, index)));
    }
    order.sort_unstable_by(|a, b| b.cmp(a));
    // What was there before the patches that were looked at.
    let mut before: BTreeMap<Addr, u8> = BTreeMap::new();
    for (id, index) in order {
        let book = &mut books[index];
        let Some(position) = book.patches.iter().position(|patch| patch.id == id) else { continue };
        let patch = &mut book.patches[position];
        let Some(mut there) = read(patch.at, patch.old.len()).filter(|there| !there.is_empty()) else {
            if patch.new.is_empty() {
                book.strike(position);
            }
            continue;
        };
        for (byte, at) in there.iter_mut().zip((patch.at.0..).map(Addr)) {
            *byte = before.get(&at).copied().unwrap_or(*byte);
        }
        if there == patch.old && there != patch.new {
            book.strike(position);
            continue;
        }
        let stands = there == patch.new || patch.new.is_empty();
        if patch.new.is_empty() {
            patch.complete(&there);
        }
        if stands {
            before.extend((patch.at.0..).map(Addr).zip(patch.old.iter().copied()));
        }
    }
}

fn recorded(view: &View) -> Vec<Book> {
    let ours = view
        .regions()
        .iter()
        .filter(|region| region.permissions.execute && !region.permissions.write && region.name.is_empty());
    // Memory of trampolines may adjoin, and be one mapping with it.
    ours.flat_map(|region| {
        let first = region.range.start.align_up(ALIGN);
        (0..).map(move |index| first + index * ALIGN).take_while(move |at| *at < region.range.end)
    })
    .filter_map(|at| Book::read(view, at))
    .collect()
}

/// A free place for a book and a page behind it, near `at`.
pub(super) fn free_place(map: &MemoryMap, at: Addr) -> Option<Addr> {
    const REACH: u64 = 0x6000_0000;
    let low = Addr(at.0.saturating_sub(REACH)).max(Addr(1 << 20));
    let high = Addr(at.0.saturating_add(REACH)).min(Addr(1 << 47));
    // Not at the edge of a hole: the heap grows there, and mappings would join.
    let fit = |hole: Range<Addr>| {
        let start = (hole.start + ALIGN).align_up(ALIGN);
        let end = Addr(hole.end.0.checked_sub(LEN + ALIGN)?).align_down(ALIGN);
        (start <= end).then(|| {
            if hole.start >= at { start + (end.offset_from(start) as u64 / 2) } else { end }.align_down(ALIGN)
        })
    };
    map.holes(low, high).filter_map(fit).min_by_key(|place| place.offset_from(at).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_used_until_no_thread_is_inside() {
        let at = Addr(0x10_0000);
        let code = |from: u64| Some((at + CODE + from).span(20));
        let patch = |id, detour| Patch {
            id,
            text: "--nop".to_owned(),
            at: Addr(0x40_1136),
            old: vec![1],
            new: vec![2],
            heads: vec![0],
            code: true,
            detour,
            memory: Vec::new(),
            note: None,
        };
        let mut book = Book::new(at);
        book.patches = vec![patch(1, code(0)), patch(2, code(32))];
        book.recount();
        assert_eq!(book.used, 64);
        book.strike(1);
        book.recount();
        assert_eq!(book.used, 64, "a thread may be inside");
        book.left.clear();
        book.recount();
        assert_eq!(book.used, 32);
        book.strike(0);
        book.left.clear();
        book.recount();
        assert!(book.is_empty() && book.used == 0);
    }

    #[test]
    fn what_never_took_place_is_struck() {
        let patch = |id, old: [u8; 2], new: &[u8]| Patch {
            id,
            text: "--nop".to_owned(),
            at: Addr(0x40_1136),
            old: old.to_vec(),
            new: new.to_vec(),
            heads: vec![0],
            code: true,
            detour: None,
            memory: Vec::new(),
            note: None,
        };
        let left = |patches: Vec<Patch>, there: [u8; 2]| {
            let mut books = [Book { patches, ..Book::new(Addr(0x10_0000)) }];
            reconcile(&mut books, |_, _| Some(there.to_vec()));
            books[0].patches.iter().map(|patch| (patch.id, patch.new.clone())).collect::<Vec<_>>()
        };
        let two = || vec![patch(1, [1, 2], &[3, 4]), patch(2, [3, 4], &[5, 6])];
        assert_eq!(left(two(), [5, 6]), [(1, vec![3, 4]), (2, vec![5, 6])]);
        assert_eq!(left(two(), [3, 4]), [(1, vec![3, 4])]);
        assert_eq!(left(vec![patch(1, [1, 2], &[3, 4])], [1, 2]), []);
        assert_eq!(left(vec![patch(1, [1, 2], &[3, 4])], [8, 9]), [(1, vec![3, 4])]);
        assert_eq!(left(vec![patch(1, [1, 2], &[])], [1, 2]), []);
        assert_eq!(left(vec![patch(1, [1, 2], &[])], [1, 7]), [(1, vec![7])]);
    }
}
