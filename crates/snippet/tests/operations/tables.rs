//! What programs do with maps and rings of the tree, in memory.

use std::sync::atomic::Ordering;

use incise_snippet::data::operation::MapReader;
use incise_snippet::data::{RingReader, Value, tables};
use incise_snippet::tree::{Aggregate, Field, Map, Record, Type};

use crate::support::{Callable, Shared};

/// A map in memory, with its routines.
struct Table {
    map: Map,
    memory: Shared,
    get: Callable,
    update: Callable,
    delete: Callable,
}

impl Table {
    fn new(keys: &[Type], aggregate: Aggregate) -> Table {
        let map = tables::map("x", keys, &aggregate, 100).expect("small");
        let callable = |code: Option<Vec<u8>>| Callable::of(&code.expect("a routine"));
        let (get, update, delete) =
            (callable(tables::get(&map)), callable(tables::update(&map)), callable(tables::delete(&map)));
        let memory = Shared::new(map.block().size());
        Table { map, memory, get, update, delete }
    }

    fn update(&self, key: &[u64], value: i64) {
        self.update.call(self.memory.addr(), key.as_ptr() as u64, value as u64);
    }

    fn get(&self, key: &[u64]) -> u64 {
        self.get.call(self.memory.addr(), key.as_ptr() as u64, 0)
    }

    fn value(&self, key: &[u64]) -> Option<Value> {
        let layout = tables::map_layout(&self.map).expect("its layout");
        let (found, dropped) = MapReader(layout).read(self.memory.words());
        assert_eq!(dropped, 0);
        layout.aggregate().read(found.get(key)?)
    }
}

#[test]
fn plain_values_are_set_read_and_deleted() {
    let table = Table::new(&[Type::U64, Type::Text(16)], Aggregate::Plain(Type::I64));
    let (a, b) = ([1, 2, 3], [1, 2, 4]);
    assert_eq!(table.get(&a), 0);
    table.update(&a, -5);
    table.update(&b, 7);
    assert_eq!((table.get(&a) as i64, table.get(&b), table.get(&[1, 2, 5])), (-5, 7, 0));
    // What was only asked for is not there.
    assert_eq!(table.value(&[1, 2, 5]), None);
    table.delete.call(table.memory.addr(), a.as_ptr() as u64, 0);
    assert_eq!((table.get(&a), table.value(&a), table.get(&b)), (0, None, 7));
    table.update(&a, 0);
    assert_eq!(table.value(&a), Some(Value::Number(0)));
}

#[test]
fn a_map_without_keys_has_one_value() {
    let table = Table::new(&[], Aggregate::Sum { signed: true });
    for value in [5, -7, 20] {
        table.update(&[], value);
    }
    assert_eq!(table.value(&[0]), Some(Value::Number(18)));
}

#[test]
fn the_reader_reaches_the_same_values() {
    let table = Table::new(&[Type::U64], Aggregate::Stats { signed: true });
    let layout = tables::map_layout(&table.map).expect("its layout");
    table.update(&[9], 4);
    let words = table.memory.words();
    let entry = layout.entry(words, &[9], true).expect("there");
    layout.aggregate().add(entry, -6);
    let made = layout.entry(words, &[10], true).expect("room");
    layout.aggregate().add(made, 1);
    table.update(&[10], 2);
    assert_eq!(table.value(&[9]), Some(Value::Stats { count: 2, sum: -2, min: -6, max: 4 }));
    assert_eq!(table.value(&[10]), Some(Value::Stats { count: 2, sum: 3, min: 1, max: 2 }));
    assert!(layout.entry(words, &[11], false).is_none());
    layout.clear(words);
    assert_eq!((table.value(&[9]), table.value(&[10])), (None, None));
}

#[test]
fn records_have_their_number_and_fields() {
    let ring = tables::ring(2, 64).expect("small");
    let layout = tables::ring_layout(&ring).expect("its layout");
    let field = |name: &str, ty| Field { name: name.to_owned(), ty };
    let record = Record::new(7, "r", vec![field("a", Type::I64), field("t", Type::Text(16))], None);
    let memory = Shared::new(ring.block().size());
    for (word, bytes) in memory.words().iter().zip(ring.block().initial().chunks(8)) {
        let mut all = [0; 8];
        all[..bytes.len()].copy_from_slice(bytes);
        word.store(u64::from_le_bytes(all), Ordering::Relaxed);
    }
    let emit = Callable::of(&tables::emit(&ring, &record).expect("a routine"));
    for number in 0..5u64 {
        let fields = [number, 11, 12];
        emit.call(memory.addr(), fields.as_ptr() as u64, 0);
    }
    let mut seen = Vec::new();
    let mut last = 0;
    RingReader::new(layout, memory.words()).drain(memory.words(), 0, &mut |words| {
        assert_eq!((words[0], &words[3..5]), (7, &[11, 12][..]));
        last = words[1].max(last);
        seen.push(words[2]);
    });
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    assert!(last > 0, "a time stamp");
}
