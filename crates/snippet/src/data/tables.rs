//! Maps and rings of the tree in shared memory: how they are laid out, and what programs do with them.

use super::operation::{MapLayout, aggregate, assemble, ring_commit, ring_reserve};
use super::{Aggregate, Buckets, Linear, Log, RingLayout};
use crate::compile::{Operation, Operations};
use crate::tree::{self, Block, Map, Record, Ring};

/// Quadwords of a slot of a ring, the first not counted: a record's number, its time, its fields.
const SLOT: usize = 63;

/// Quadwords of a record before its fields.
pub const HEADER: usize = 2;

/// Quadwords that the fields of a record may take.
pub const RECORD_WORDS: usize = SLOT - HEADER;

/// How a map gathers values, as its memory does.
fn gathers(aggregate: &tree::Aggregate) -> Option<Aggregate> {
    Some(match *aggregate {
        tree::Aggregate::Plain(_) => Aggregate::Last,
        tree::Aggregate::Count => Aggregate::Count,
        tree::Aggregate::Sum { .. } => Aggregate::Sum,
        tree::Aggregate::Min { .. } => Aggregate::Min,
        tree::Aggregate::Max { .. } => Aggregate::Max,
        tree::Aggregate::Average { .. } => Aggregate::Average,
        tree::Aggregate::Stats { .. } => Aggregate::Stats,
        tree::Aggregate::Histogram => Aggregate::Histogram(Buckets::Log(Log::PLAIN)),
        tree::Aggregate::Linear { least, most, step } => {
            Aggregate::Histogram(Buckets::Linear(Linear::new(least, most, step)?))
        }
    })
}

/// Quadwords of a key; a map without keys has one that is 0.
fn key_words(keys: &[tree::Type]) -> usize {
    keys.iter().map(|ty| ty.size().div_ceil(8) as usize).sum::<usize>().max(1)
}

/// A map in a block of its own. Nothing if its keys are longer than 64 quadwords, or its buckets too many.
pub fn map(name: &str, keys: &[tree::Type], aggregate: &tree::Aggregate, capacity: u32) -> Option<Map> {
    let layout = MapLayout::new(key_words(keys), capacity as usize, gathers(aggregate)?)?;
    let block = Block::new(layout.bytes(), 64, Vec::new());
    Some(Map::new(name, keys.to_vec(), aggregate.clone(), capacity, block))
}

/// How a map that [`map`] made lies in its block.
pub fn map_layout(map: &Map) -> Option<MapLayout> {
    let layout = MapLayout::new(key_words(map.keys()), map.capacity() as usize, gathers(map.aggregate())?)?;
    (layout.bytes() <= map.block().size()).then_some(layout)
}

/// Rings for `cpus` CPUs, each of at least `slots` records. Nothing if that is too much.
pub fn ring(cpus: usize, slots: usize) -> Option<Ring> {
    let layout = RingLayout::new(cpus, slots, SLOT)?;
    // The heads are all that is not zero.
    let heads: Vec<std::sync::atomic::AtomicU64> = (0..layout.bytes() / 8).map(|_| 0.into()).collect();
    layout.format(&heads, 0);
    let used = heads.iter().rposition(|word| word.load(std::sync::atomic::Ordering::Relaxed) != 0);
    let used = used.map_or(0, |last| last + 1);
    let initial = heads.into_iter().take(used).flat_map(|word| word.into_inner().to_le_bytes()).collect();
    let size = (layout.slots() * (SLOT + 1) * 8) as u32;
    Some(Ring::new(size, Block::new(layout.bytes(), 4096, initial)))
}

/// How rings that [`ring`] made lie in their block.
pub fn ring_layout(ring: &Ring) -> Option<RingLayout> {
    let slots = ring.size() as usize / ((SLOT + 1) * 8);
    let with = |log: u32| RingLayout::new(1 << log, slots, SLOT);
    (0..=12).filter_map(with).find(|layout| layout.bytes() == ring.block().size())
}

/// Whether a record has room in a slot.
pub fn fits(record: &Record) -> bool {
    record.size().div_ceil(8) as usize + HEADER <= SLOT
}

/// `rsi` is the key itself in a map whose key is one quadword, else its address.
fn find(map: &Map, layout: MapLayout, make: bool) -> String {
    match (map.keys().is_empty(), make) {
        (true, true) => format!("xor esi, esi\n{}", layout.find_word()),
        (true, false) => format!("xor esi, esi\n{}", layout.look_up_word()),
        (false, true) => layout.find(),
        (false, false) => layout.look_up(),
    }
}

/// `(map, keys) -> (value, whether there is one)`, the latter in `rdx`.
pub fn get(map: &Map) -> Option<Vec<u8>> {
    let layout = map_layout(map)?;
    let present = match layout.aggregate() {
        Aggregate::Last | Aggregate::Sum | Aggregate::Min | Aggregate::Max => "mov rdx, [r10+8]\n",
        Aggregate::Count | Aggregate::Average | Aggregate::Stats => "mov rdx, [r10]\n",
        // One that was cleared has its key still, and no value in any bucket.
        Aggregate::Histogram(buckets) => &format!(
            "mov ecx, {}\n1: mov rdx, [r10+rcx*8]\ntest rdx, rdx\njnz 2f\ndec ecx\njnz 1b\n2:\n",
            buckets.count()
        ),
    };
    Some(assemble(&format!(
        "mov r11, rdi\n{}xor eax, eax\nxor edx, edx\ntest r10, r10\njz 99f\n{present}\
         xor eax, eax\ntest rdx, rdx\njz 99f\nmov rax, [r10]\nmov edx, 1\n99: ret\n",
        find(map, layout, false)
    )))
}

/// `(map, keys, value)`
pub fn update(map: &Map) -> Option<Vec<u8>> {
    let layout = map_layout(map)?;
    Some(assemble(&format!(
        "mov r11, rdi\nmov rdi, rdx\n{}test r10, r10\njz 99f\nmov rax, rdi\n{}99: ret\n",
        find(map, layout, true),
        aggregate(layout.aggregate())
    )))
}

/// `(map, keys)`: the key stays, without a value.
pub fn delete(map: &Map) -> Option<Vec<u8>> {
    let layout = map_layout(map)?;
    Some(assemble(&format!(
        "mov r11, rdi\n{}test r10, r10\njz 99f\nmov ecx, {}\nxor eax, eax\n\
         1: mov [r10+rcx*8-8], rax\ndec ecx\njnz 1b\n99: ret\n",
        find(map, layout, false),
        layout.aggregate().words()
    )))
}

/// `(rings, fields)`: the number of the record, the time stamp counter, and the fields, if there is room.
pub fn emit(ring: &Ring, record: &Record) -> Option<Vec<u8>> {
    let layout = ring_layout(ring).filter(|_| fits(record))?;
    let mut copy = String::new();
    for word in 0..record.size().div_ceil(8) {
        copy +=
            &format!("mov rax, [rsi+{}]\nmov [r10+{}], rax\n", 8 * word, 8 * (word as usize + 1 + HEADER));
    }
    Some(assemble(&format!(
        "mov r11, rdi\n{}test r10, r10\njz 99f\nmov eax, {}\nmov [r10+8], rax\n\
         rdtsc\nshl rdx, 32\nor rax, rdx\nmov [r10+16], rax\n{copy}{}99: ret\n",
        ring_reserve(layout),
        record.id(),
        ring_commit()
    )))
}

/// Maps and rings of [`map`] and [`ring`], for compiled programs.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tables;

impl Operations for Tables {
    fn routine(&self, operation: Operation<'_>) -> Option<Vec<u8>> {
        match operation {
            Operation::Get(map) => get(map),
            Operation::Update(map) => update(map),
            Operation::Delete(map) => delete(map),
            Operation::Emit(ring, record) => emit(ring, record),
        }
    }
}
