//! Rings of records, one for each CPU: their layout, version 1, and their reader.
//!
//! | offset | what |
//! |---|---|
//! | 0 | quadword: [`MAGIC`] in the low half, version in the high one |
//! | 8 | bytes: log2 of the number of rings, of the slots of each, of the bytes of a slot |
//! | 128 + 128 i | head of ring i: quadwords *position*, *dropped*, distance from here to its slots, a word for writers |
//! | 128 + 128 i + 64 | where the reader is |
//! | next multiple of 4096 | the slots of ring 0, those of ring 1, ... |
//!
//! Position `p` of a ring of `n` slots is slot `p mod n` in lap `p / n`. The first quadword of a slot is its *turn*:
//!
//! 1. `2 lap`: free, or taken by a writer that has not finished. A writer finds it so at the ring's position, and takes it by
//!    moving that one on (compare and exchange).
//! 2. `2 lap + 1`: a record, finished; the writer adds one when it has written the rest of the slot.
//! 3. `2 (lap + 1)`: the reader has read it.
//!
//! A writer that finds a record of an earlier lap drops its own: the ring is full. One that finds a slot that was taken in an
//! earlier lap and not finished moves the position past it, and drops its record too: a writer that was killed, or does
//! not get its CPU for long, costs others one record a lap, and no time. Nobody waits for anybody, and nobody touches a
//! slot that another one has. Zeroed memory with its heads set is an empty ring.
//!
//! The CPU only spreads writers: all of this holds with several on one ring.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Words;

/// What memory with rings begins with.
pub const MAGIC: u32 = u32::from_le_bytes(*b"INCR");
/// The version of the layout that this is.
pub const VERSION: u32 = 1;

/// Bytes between heads, and before the first one.
pub(super) const HEAD: u64 = 128;
const PAGE: u64 = 4096;
/// Log2 of the most bytes of a slot.
const MOST: u8 = 16;

/// The sizes of a set of rings, each a power of two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingLayout {
    pub(super) rings: u8,
    pub(super) slots: u8,
    /// Bytes.
    pub(super) slot: u8,
}

impl RingLayout {
    /// `rings` rings of at least `slots` records of up to `words` quadwords. Nothing if that is too much: over 4096 rings, 2^24
    /// slots, 8191 quadwords.
    pub fn new(rings: usize, slots: usize, words: usize) -> Option<RingLayout> {
        let log = |number: usize| number.max(1).next_power_of_two().trailing_zeros() as u8;
        let (rings, slots, slot) = (log(rings), log(slots.max(2)), log((words + 1) * 8).max(6));
        (rings <= 12 && slots <= 24 && slot <= MOST).then_some(RingLayout { rings, slots, slot })
    }

    /// That of memory with rings in it.
    pub fn of(words: &Words) -> Option<RingLayout> {
        let load = |index: usize| Some(words.get(index)?.load(Ordering::Acquire));
        let [rings, slots, slot, ..] = load(1)?.to_le_bytes();
        let known = load(0)? == u64::from(MAGIC) | u64::from(VERSION) << 32;
        let layout = RingLayout { rings, slots, slot };
        let sane = rings <= 12 && (1..=24).contains(&slots) && (6..=MOST).contains(&slot);
        (known && sane && layout.bytes() <= words.len() as u64 * 8).then_some(layout)
    }

    /// How many rings there are.
    pub fn rings(self) -> usize {
        1 << self.rings
    }

    /// How many records each holds.
    pub fn slots(self) -> usize {
        1 << self.slots
    }

    /// Quadwords of a record.
    pub fn words(self) -> usize {
        (1 << self.slot) / 8 - 1
    }

    /// Size of the memory: whole pages.
    pub fn bytes(self) -> u64 {
        let slots = 1u64 << (self.rings + self.slots + self.slot);
        (self.slots_at(0) + slots).next_multiple_of(PAGE)
    }

    fn head_at(self, ring: usize) -> u64 {
        HEAD + ring as u64 * HEAD
    }

    pub(super) fn slots_at(self, ring: usize) -> u64 {
        let heads = (HEAD + ((HEAD) << self.rings)).next_multiple_of(PAGE);
        heads + ((ring as u64) << (self.slots + self.slot))
    }

    /// Makes zeroed memory a set of empty rings. `word` is at offset 24 of each head, for writers.
    ///
    /// # Panics
    /// If the memory is smaller than [`bytes`](Self::bytes).
    pub fn format(self, words: &Words, word: u64) {
        for ring in 0..self.rings() {
            let head = (self.head_at(ring) / 8) as usize;
            let distance = self.slots_at(ring) - self.head_at(ring);
            words[head + 2].store(distance, Ordering::Relaxed);
            words[head + 3].store(word, Ordering::Relaxed);
        }
        let sizes = [self.rings, self.slots, self.slot, 0, 0, 0, 0, 0];
        words[1].store(u64::from_le_bytes(sizes), Ordering::Relaxed);
        words[0].store(u64::from(MAGIC) | u64::from(VERSION) << 32, Ordering::Release);
    }

    /// Changes the word for writers.
    pub fn set_word(self, words: &Words, word: u64) {
        for ring in 0..self.rings() {
            words[(self.head_at(ring) / 8) as usize + 3].store(word, Ordering::Relaxed);
        }
    }

    /// How many slots of a ring were taken so far.
    pub(super) fn taken(self, words: &Words, ring: usize) -> u64 {
        self.position(words, ring).load(Ordering::Acquire)
    }

    fn position(self, words: &Words, ring: usize) -> &AtomicU64 {
        &words[(self.head_at(ring) / 8) as usize]
    }

    fn reader(self, words: &Words, ring: usize) -> &AtomicU64 {
        &words[(self.head_at(ring) / 8) as usize + 8]
    }

    /// The slot of a position, and the turn at which it is free for it.
    fn slot(self, words: &Words, ring: usize, position: u64) -> (&Words, u64) {
        let index = position & ((1 << self.slots) - 1);
        let at = ((self.slots_at(ring) + (index << self.slot)) / 8) as usize;
        (&words[at..at + self.words() + 1], 2 * (position >> self.slots))
    }
}

/// A slot that was taken and not finished when the reader came by.
#[derive(Clone, Copy, Debug)]
struct Unfinished {
    ring: usize,
    position: u64,
    since: u64,
}

/// Reads a set of rings; there may be one reader at a time.
#[derive(Debug)]
pub struct RingReader {
    layout: RingLayout,
    next: Vec<u64>,
    unfinished: Vec<Unfinished>,
    previous: u64,
    read: u64,
    buffer: Vec<u64>,
}

impl RingReader {
    /// Goes on where the last reader stopped.
    pub fn new(layout: RingLayout, words: &Words) -> RingReader {
        let next: Vec<u64> =
            (0..layout.rings()).map(|ring| layout.reader(words, ring).load(Ordering::Acquire)).collect();
        let mut reader = RingReader {
            layout,
            next,
            unfinished: Vec::new(),
            previous: 0,
            read: 0,
            buffer: vec![0; layout.words()],
        };
        for ring in 0..layout.rings() {
            reader.find_unfinished(words, ring);
        }
        reader
    }

    /// Slots that an earlier reader passed by because they were not finished.
    fn find_unfinished(&mut self, words: &Words, ring: usize) {
        let (layout, next) = (self.layout, self.next[ring]);
        for position in next.saturating_sub(layout.slots() as u64)..next {
            let turn = layout.slot(words, ring, position).0[0].load(Ordering::Acquire);
            // The lap it was taken in may be an older one.
            let index = position & (layout.slots() as u64 - 1);
            let taken = turn / 2 * layout.slots() as u64 + index;
            if taken < next {
                self.unfinished.push(Unfinished { ring, position: taken, since: 0 });
            }
        }
    }

    /// Shows `take` every finished record: the quadwords behind the turn. Those of one ring come in the order in which
    /// their slots were taken, but for those that were finished late. `now` is any clock of the caller's; see
    /// [`unfinished_since`](Self::unfinished_since).
    pub fn drain(&mut self, words: &Words, now: u64, take: &mut dyn FnMut(&[u64])) {
        for late in std::mem::take(&mut self.unfinished) {
            if !self.take_late(words, late, take) {
                self.unfinished.push(late);
            }
        }
        for ring in 0..self.layout.rings() {
            let end = self.layout.taken(words, ring);
            let first = self.next[ring];
            for position in first..end {
                let (slot, free) = self.layout.slot(words, ring, position);
                match slot[0].load(Ordering::Acquire) {
                    turn if turn == free + 1 => {
                        self.copy(slot, take);
                        slot[0].store(free + 2, Ordering::Release);
                    }
                    turn if turn == free => {
                        let since = self.previous;
                        self.unfinished.push(Unfinished { ring, position, since });
                    }
                    // Passed by: still unfinished from an earlier lap. Or read, by a reader that ended just then.
                    _ => {}
                }
            }
            self.next[ring] = end;
            if first != end {
                self.layout.reader(words, ring).store(end, Ordering::Release);
            }
        }
        self.previous = now;
    }

    /// A record that was not finished before; whether it is now.
    fn take_late(&mut self, words: &Words, late: Unfinished, take: &mut dyn FnMut(&[u64])) -> bool {
        let Unfinished { ring, position, .. } = late;
        let (slot, free) = self.layout.slot(words, ring, position);
        if slot[0].load(Ordering::Acquire) != free + 1 {
            return false;
        }
        self.copy(slot, take);
        // It is free for a lap that writers cannot come to before this is written: what they write until then is not read, so
        // that they get at most once around and up to the next slot that is not passed by.
        let slots = self.layout.slots() as u64;
        let at = self.layout.position(words, ring).load(Ordering::Acquire);
        let next = at + (position.wrapping_sub(at) & (slots - 1)) + 2 * slots;
        slot[0].store(2 * (next / slots), Ordering::Release);
        true
    }

    fn copy(&mut self, slot: &Words, take: &mut dyn FnMut(&[u64])) {
        for (into, from) in self.buffer.iter_mut().zip(&slot[1..]) {
            *into = from.load(Ordering::Relaxed);
        }
        self.read += 1;
        take(&self.buffer);
    }

    /// Records read so far.
    pub fn read(&self) -> u64 {
        self.read
    }

    /// Records that were begun and are not finished: their writers were interrupted, or killed.
    pub fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    /// The `now` of the drain before the one that first found a record unfinished, the least of all: no record that is still to
    /// come was begun before it, unless one is given up.
    pub fn unfinished_since(&self) -> Option<u64> {
        self.unfinished.iter().map(|unfinished| unfinished.since).min()
    }

    /// Records that were dropped so far, over all readers.
    pub fn dropped(&self, words: &Words) -> u64 {
        let of = |ring| words[(self.layout.head_at(ring) / 8) as usize + 1].load(Ordering::Relaxed);
        (0..self.layout.rings()).map(of).sum()
    }
}
