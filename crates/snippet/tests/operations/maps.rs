use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use incise_snippet::data::Aggregate;
use incise_snippet::data::operation::{Function, MapLayout, MapReader};

use crate::support::{Callable, Numbers, Shared};

/// A map of counts.
struct Counts {
    layout: MapLayout,
    memory: Shared,
    find: Callable,
}

impl Counts {
    fn new(keys: usize, capacity: usize) -> Counts {
        let layout = MapLayout::new(keys, capacity, Aggregate::Count).expect("small");
        let find = Callable::new(Function::MapFind(layout));
        Counts { layout, memory: Shared::new(layout.bytes()), find }
    }

    fn count(&self, key: &[u64]) -> bool {
        let at = self.find.call(self.memory.addr(), key.as_ptr() as u64, 0);
        if let Some(offset) = at.checked_sub(self.memory.addr()) {
            self.memory.words()[offset as usize / 8].fetch_add(1, Ordering::Relaxed);
        }
        at != 0
    }

    fn read(&self) -> (BTreeMap<Vec<u64>, u64>, u64) {
        let (found, dropped) = MapReader(self.layout).read(self.memory.words());
        (found.into_iter().map(|(key, value)| (key, value[0])).collect(), dropped)
    }
}

#[test]
fn threads_count_the_same_keys() {
    const EACH: usize = 100_000;
    for keys in [1, 2, 5] {
        let counts = Counts::new(keys, 1000);
        let key = |numbers: &mut Numbers| (0..keys).map(|_| numbers.next() % 4).collect::<Vec<u64>>();
        thread::scope(|scope| {
            for seed in 1..=4 {
                let counts = &counts;
                scope.spawn(move || {
                    let mut numbers = Numbers(seed);
                    (0..EACH).for_each(|_| assert!(counts.count(&key(&mut numbers))));
                });
            }
        });
        let mut expected: BTreeMap<Vec<u64>, u64> = BTreeMap::new();
        for seed in 1..=4 {
            let mut numbers = Numbers(seed);
            (0..EACH).for_each(|_| *expected.entry(key(&mut numbers)).or_default() += 1);
        }
        assert_eq!(counts.read(), (expected, 0), "{keys} quadwords");
    }
}

#[test]
fn keys_that_find_no_room_are_counted() {
    let counts = Counts::new(1, 100);
    let room = AtomicU64::new(0);
    thread::scope(|scope| {
        for writer in 0..4u64 {
            let (counts, room) = (&counts, &room);
            scope.spawn(move || {
                for number in 0..5000 {
                    room.fetch_add(counts.count(&[writer << 40 | number]).into(), Ordering::Relaxed);
                }
            });
        }
    });
    let (found, dropped) = counts.read();
    let room = room.into_inner();
    assert!(room >= 100, "{room}");
    assert_eq!((found.len() as u64, found.values().sum::<u64>(), dropped), (room, room, 20_000 - room));
}

#[test]
fn any_number_is_a_key() {
    let counts = Counts::new(1, 100);
    let keys = [0, 1, 3, u64::MAX, 1 << 63, u64::MAX - 2];
    for key in keys.iter().chain(&keys) {
        assert!(counts.count(&[*key]));
    }
    let (found, dropped) = counts.read();
    assert_eq!((found.len(), dropped), (keys.len(), 0));
    assert!(found.values().all(|count| *count == 2));
}
