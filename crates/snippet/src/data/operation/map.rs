//! Maps from keys to values that are aggregated.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::super::{Aggregate, Buckets, Words};
use super::histogram::bucket;

/// A map of keys of a number of quadwords, in open addressing.
///
/// The first quadword of the memory counts what was dropped because there was no room for its key. Slots begin at 64. A slot is
/// its *tag*, the key, the value. The tag is 0 where nothing is; who wants the slot exchanges the key's hash, with the lowest
/// two bits 01, for it, writes the key, and sets the lowest two bits to 11. Who finds a tag that ends in 01 does not wait: it goes
/// on, so that one key may have two slots, which a reader adds up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapLayout {
    keys: u8,
    slots: u8,
    aggregate: Aggregate,
}

/// How many slots are looked at for a key.
const PROBES: u32 = 64;
/// 2^64 divided by the golden ratio, made odd: multiplying by it spreads (Knuth, vol. 3, 6.4).
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;
const SLOTS_AT: u64 = 64;

impl MapLayout {
    /// For keys of `keys` quadwords (1 to 64), with room for at least `capacity` of them. Nothing if that is too much: over 2^22.
    pub fn new(keys: usize, capacity: usize, aggregate: Aggregate) -> Option<MapLayout> {
        // Half of the slots stay free, or there would be too many to look at.
        let slots = (capacity.max(32) * 2).next_power_of_two().trailing_zeros() as u8;
        ((1..=64).contains(&keys) && slots <= 23).then_some(MapLayout { keys: keys as u8, slots, aggregate })
    }

    /// What its values are.
    pub fn aggregate(self) -> Aggregate {
        self.aggregate
    }

    fn stride(self) -> u64 {
        8 * (1 + u64::from(self.keys) + u64::from(self.aggregate.words()))
    }

    /// Size of its memory.
    pub fn bytes(self) -> u64 {
        SLOTS_AT + (self.stride() << self.slots)
    }

    /// Finds the value of a key, makes one where there is none. In: `r11` the map, `rsi` points to the key. Out: `r10` the value's
    /// quadwords, 0 if there is no room. Changes `rax`, `rcx`, `rdx`, `r8`, `r9`, flags.
    pub fn find(self) -> String {
        self.find_key(&|index| format!("[rsi+{}]", 8 * u32::from(index)), true)
    }

    /// The same without making a value: `r10` is 0 if there is none. One that is being made counts as none.
    pub fn look_up(self) -> String {
        self.find_key(&|index| format!("[rsi+{}]", 8 * u32::from(index)), false)
    }

    /// The same with a key of one quadword in `rsi`.
    pub fn find_word(self) -> String {
        self.find_key(&|_| "rsi".to_owned(), true)
    }

    /// [`look_up`](Self::look_up) with a key of one quadword in `rsi`.
    pub fn look_up_word(self) -> String {
        self.find_key(&|_| "rsi".to_owned(), false)
    }

    fn find_key(self, key: &dyn Fn(u8) -> String, make: bool) -> String {
        let (stride, value, mask) = (self.stride(), 8 * (1 + u64::from(self.keys)), (1u64 << self.slots) - 1);
        let mut text = format!("mov r9, {}\nmov r8, {GOLDEN}\nimul r9, r8\n", key(0));
        for index in 1..self.keys {
            // What was spread already moves on, so that the order of the quadwords counts.
            text += &format!("rol r9, 23\nxor r9, {}\nimul r9, r8\n", key(index));
        }
        let mut compare = String::new();
        let mut store = String::new();
        for index in 0..self.keys {
            let at = 8 * (1 + u32::from(index));
            compare += &format!("mov rax, {}\ncmp [r10+{at}], rax\njne 73f\n", key(index));
            store += &format!("mov rax, {}\nmov [r10+{at}], rax\n", key(index));
        }
        let (made, full) = match make {
            true => (
                format!("lea rdx, [r9-2]\nlock cmpxchg [r10], rdx\njne 71b\n{store}mov [r10], r9\njmp 74f\n"),
                "lock inc qword ptr [r11]\n",
            ),
            false => ("xor r10d, r10d\njmp 75f\n".to_owned(), ""),
        };
        text += &format!(
            "mov r8, r9
             shr r8, {shift}
             or r9, 3
             mov ecx, {PROBES}
             71: imul r10, r8, {stride}
             lea r10, [r11+r10+{SLOTS_AT}]
             mov rax, [r10]
             cmp rax, r9
             je 72f
             test rax, rax
             jnz 73f
             {made}\
             72: {compare}\
             jmp 74f
             73: inc r8d
             and r8d, {mask}
             dec ecx
             jnz 71b
             {full}\
             xor r10d, r10d
             jmp 75f
             74: add r10, {value}
             75:
            ",
            shift = 64 - self.slots,
        );
        text
    }
}

/// Takes a value in. In: `r10` the value's quadwords, `rax` what is taken in. Changes `rax`, `rcx`, `rdx`, `r8`, `r9`, `r10`,
/// flags.
pub fn aggregate(kind: Aggregate) -> String {
    // The greatest of what is there and rdx, unsigned.
    let raise = |index: u32| {
        format!(
            "mov rax, [r10+{at}]
             6{index}: cmp rdx, rax
             jbe 5{index}f
             lock cmpxchg [r10+{at}], rdx
             jne 6{index}b
             5{index}:
            ",
            at = 8 * index
        )
    };
    let rising = "mov rdx, 0x8000000000000000\nxor rdx, rax\n";
    let falling = "mov rdx, 0x7fffffffffffffff\nxor rdx, rax\n";
    let present = "mov qword ptr [r10+8], 1\n";
    match kind {
        Aggregate::Last => format!("mov [r10], rax\n{present}"),
        Aggregate::Count => "lock inc qword ptr [r10]\n".to_owned(),
        Aggregate::Sum => format!("lock add [r10], rax\n{present}"),
        Aggregate::Min => format!("{falling}{}{present}", raise(0)),
        Aggregate::Max => format!("{rising}{}{present}", raise(0)),
        Aggregate::Average => "lock inc qword ptr [r10]\nlock add [r10+8], rax\n".to_owned(),
        Aggregate::Stats => format!(
            "lock inc qword ptr [r10]\nlock add [r10+8], rax\nmov r8, rax\n{falling}{}mov rax, r8\n{rising}{}",
            raise(2),
            raise(3)
        ),
        Aggregate::Histogram(Buckets::Log(log)) => format!(
            "lock add [r10], rax\nmov r8, r10\n{}lock inc qword ptr [r8+r10*8+8]\n",
            bucket(log.bits())
        ),
        Aggregate::Histogram(Buckets::Linear(linear)) => {
            let (min, step, last) = (linear.min(), linear.step(), linear.inner());
            format!(
                "lock add [r10], rax
                 xor ecx, ecx
                 mov rdx, {min}
                 cmp rax, rdx
                 jl 52f
                 sub rax, rdx
                 xor edx, edx
                 mov r8, {step}
                 div r8
                 mov ecx, {last}
                 cmp rax, rcx
                 cmovb rcx, rax
                 inc rcx
                 52: lock inc qword ptr [r10+rcx*8+8]
                "
            )
        }
    }
}

/// Reads a map.
#[derive(Clone, Copy, Debug)]
pub struct MapReader(pub MapLayout);

impl MapReader {
    /// Each key with the quadwords of its value, and how many values were dropped.
    pub fn read(self, words: &Words) -> (BTreeMap<Vec<u64>, Vec<u64>>, u64) {
        let MapReader(layout) = self;
        let (keys, stride) = (usize::from(layout.keys), layout.stride() as usize / 8);
        let mut found: BTreeMap<Vec<u64>, Vec<u64>> = BTreeMap::new();
        for slot in words[SLOTS_AT as usize / 8..].chunks_exact(stride).take(1 << layout.slots) {
            if slot[0].load(Ordering::Acquire) & 3 != 3 {
                continue;
            }
            let copy: Vec<u64> = slot[1..].iter().map(|word| word.load(Ordering::Relaxed)).collect();
            let (key, value) = copy.split_at(keys);
            match found.get_mut(key) {
                Some(into) => layout.aggregate.merge(into, value),
                None => drop(found.insert(key.to_vec(), value.to_vec())),
            }
        }
        (found, words[0].load(Ordering::Relaxed))
    }
}

impl MapLayout {
    /// The quadwords of the value of a key in `words`, for the side of the reader; made where there is none, as the
    /// program does. Nothing if there is no room, which is counted.
    pub fn entry<'w>(self, words: &'w Words, key: &[u64], make: bool) -> Option<&'w Words> {
        if key.len() != usize::from(self.keys) {
            return None;
        }
        let mut spread = key[0].wrapping_mul(GOLDEN);
        for word in &key[1..] {
            spread = (spread.rotate_left(23) ^ word).wrapping_mul(GOLDEN);
        }
        let (tag, mask) = (spread | 3, (1u64 << self.slots) - 1);
        let (stride, keys) = (self.stride() as usize / 8, key.len());
        let mut index = spread >> (64 - u32::from(self.slots));
        let mut tries = PROBES;
        while tries > 0 {
            let at = SLOTS_AT as usize / 8 + index as usize * stride;
            let slot = words.get(at..at + stride)?;
            match slot[0].load(Ordering::Acquire) {
                0 if !make => return None,
                0 => {
                    let taken = slot[0].compare_exchange(0, tag - 2, Ordering::AcqRel, Ordering::Acquire);
                    if taken.is_err() {
                        // Somebody else was faster: looked at once more.
                        continue;
                    }
                    for (word, key) in slot[1..].iter().zip(key) {
                        word.store(*key, Ordering::Relaxed);
                    }
                    slot[0].store(tag, Ordering::Release);
                    return Some(&slot[1 + keys..]);
                }
                found if found == tag => {
                    let same =
                        slot[1..].iter().zip(key).all(|(word, key)| word.load(Ordering::Relaxed) == *key);
                    if same {
                        return Some(&slot[1 + keys..]);
                    }
                }
                _ => {}
            }
            index = (index + 1) & mask;
            tries -= 1;
        }
        if make {
            words[0].fetch_add(1, Ordering::Relaxed);
        }
        None
    }

    /// Forgets all values. What is added meanwhile may be lost in part.
    pub fn clear(self, words: &Words) {
        let (stride, keys) = (self.stride() as usize / 8, usize::from(self.keys));
        for slot in words[SLOTS_AT as usize / 8..].chunks_exact(stride).take(1 << self.slots) {
            if slot[0].load(Ordering::Acquire) != 0 {
                slot[1 + keys..].iter().for_each(|word| word.store(0, Ordering::Relaxed));
            }
        }
    }
}
