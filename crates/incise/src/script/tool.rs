//! Clauses that run in the tool: `begin`, `end`, intervals. They see the maps of the program, and nothing else of it.

use std::sync::atomic::Ordering;

use incise_snippet::data::tables::map_layout;
use incise_snippet::interpret::{Datum, World};
use incise_snippet::tree::{
    Callee, Constant, Map, PointFact, Record, Register, Ring, SystemFact, Type, Variable,
};

use super::memory::Memory;

/// What a clause in the tool sees.
pub(super) struct Tool<'a> {
    /// The maps.
    pub memory: &'a mut Memory,
    /// Its records: the number, and the fields as quadwords.
    pub records: Vec<(u16, Vec<u64>)>,
}

/// A datum as quadwords: scalars with the sign they have.
fn words(values: &[Datum]) -> Vec<u64> {
    let mut all = Vec::new();
    for value in values {
        match value {
            Datum::Scalar(constant) => all.push(constant.quadword()),
            Datum::Bytes(bytes) => all.extend(bytes.chunks(8).map(|chunk| {
                let mut quadword = [0; 8];
                quadword[..chunk.len()].copy_from_slice(chunk);
                u64::from_le_bytes(quadword)
            })),
        }
    }
    all
}

/// Keys as a map takes them: texts as long as the map has them.
fn key(map: &Map, keys: &[Datum]) -> Vec<u64> {
    let mut all = Vec::new();
    for (ty, value) in map.keys().iter().zip(keys) {
        let mut part = words(std::slice::from_ref(value));
        part.resize(ty.size().div_ceil(8) as usize, 0);
        all.extend(part);
    }
    if all.is_empty() { vec![0] } else { all }
}

impl Tool<'_> {
    /// Works on the value at a key.
    fn entry<R>(
        &mut self,
        map: &Map,
        keys: &[Datum],
        make: bool,
        work: impl FnOnce(&incise_snippet::data::Words) -> R,
    ) -> Option<R> {
        let layout = map_layout(map)?;
        let key = key(map, keys);
        self.memory.with(map.block(), |words| layout.entry(words, &key, make).map(work))
    }
}

impl World for Tool<'_> {
    fn read(&mut self, _: u64, _: &mut [u8]) -> bool {
        false
    }

    fn write(&mut self, _: u64, _: &[u8]) -> bool {
        false
    }

    fn register(&mut self, _: Register) -> u64 {
        0
    }

    fn set_register(&mut self, _: Register, _: u64) {}

    fn argument(&mut self, _: u8) -> u64 {
        0
    }

    fn float(&mut self, _: Option<u8>) -> u64 {
        0
    }

    fn returned(&mut self) -> u64 {
        0
    }

    fn point(&mut self, _: PointFact) -> u64 {
        0
    }

    fn system(&mut self, fact: SystemFact) -> u64 {
        match fact {
            SystemFact::Thread => rustix::thread::gettid().as_raw_nonzero().get() as u64,
            SystemFact::Process => rustix::process::getpid().as_raw_nonzero().get() as u64,
            SystemFact::Cpu => rustix::thread::sched_getcpu() as u64,
            SystemFact::Cycles => crate::trace::ticks(),
            SystemFact::Nanoseconds => crate::wall::nanoseconds(),
        }
    }

    fn command(&mut self) -> Vec<u8> {
        b"incise".to_vec()
    }

    fn stack(&mut self, _: u8) -> Vec<u64> {
        Vec::new()
    }

    fn variable(&mut self, variable: &Variable) -> u64 {
        let at = variable.offsets().next().unwrap_or(0) as usize / 8;
        let mask = variable.ty().mask();
        self.memory.with(variable.block(), |words| words[at].load(Ordering::Relaxed)) & mask
    }

    fn set_variable(&mut self, variable: &Variable, bits: u64) {
        let at = variable.offsets().next().unwrap_or(0) as usize / 8;
        self.memory.with(variable.block(), |words| words[at].store(bits, Ordering::Relaxed));
    }

    fn call(&mut self, _: &Callee, _: &[Constant]) -> u64 {
        0
    }

    fn map_value(&mut self, map: &Map, keys: &[Datum]) -> Option<u64> {
        let layout = map_layout(map)?;
        let copy = self.entry(map, keys, false, |words| {
            words.iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<u64>>()
        })?;
        // A value that was never set, or was deleted, is none.
        layout.aggregate().read(&copy).map(|_| copy[0])
    }

    fn update(&mut self, map: &Map, keys: &[Datum], value: Option<Constant>) {
        let Some(layout) = map_layout(map) else { return };
        let value = value.map_or(1, |value| match value.ty {
            Type::F32 | Type::F64 => value.bits as i64,
            _ => value.quadword() as i64,
        });
        self.entry(map, keys, true, |words| layout.aggregate().add(words, value));
    }

    fn delete(&mut self, map: &Map, keys: &[Datum]) {
        self.entry(map, keys, false, |words| words.iter().for_each(|word| word.store(0, Ordering::Relaxed)));
    }

    fn emit(&mut self, _: &Ring, record: &Record, values: &[Datum]) {
        let mut fields = Vec::new();
        for (field, value) in record.fields().iter().zip(values) {
            let mut part = words(std::slice::from_ref(value));
            part.resize(field.ty.size().div_ceil(8) as usize, 0);
            fields.extend(part);
        }
        self.records.push((record.id(), fields));
    }

    fn stop(&mut self, _: bool) {}
}
