//! Rings that many threads write into while one reads.
//!
//! # Safety
//! The memory is [`Shared`], which lives as long as the threads and children that use it; children leave by `_exit`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use incise_snippet::data::operation::Function;
use incise_snippet::data::{RingLayout, RingReader, Words};

use crate::support::{Callable, Numbers, Shared};

/// Rings, and what writes into them.
struct Rings {
    layout: RingLayout,
    memory: Shared,
    reserve: Callable,
}

impl Rings {
    fn new(rings: usize, slots: usize) -> Rings {
        let layout = RingLayout::new(rings, slots, 7).expect("small");
        let memory = Shared::new(layout.bytes());
        layout.format(memory.words(), 0);
        assert_eq!(RingLayout::of(memory.words()), Some(layout));
        Rings { layout, memory, reserve: Callable::new(Function::RingReserve(layout)) }
    }

    /// The quadwords of a slot that is taken now.
    fn reserve(&self) -> Option<&Words> {
        let at = self.reserve.call(self.memory.addr(), 0, 0);
        let index = at.checked_sub(self.memory.addr())? as usize / 8;
        Some(&self.memory.words()[index..index + 8])
    }

    /// A record that shows whether it is whole. Whether it was not dropped.
    fn write(&self, writer: u64, number: u64) -> bool {
        let Some(slot) = self.reserve() else { return false };
        let words = whole(writer, number);
        slot[1..].iter().zip(words).for_each(|(slot, word)| slot.store(word, Ordering::Relaxed));
        slot[0].fetch_add(1, Ordering::Release);
        true
    }

    fn reader(&self) -> RingReader {
        RingReader::new(self.layout, self.memory.words())
    }

    fn read(&self, reader: &mut RingReader) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        reader.drain(self.memory.words(), 0, &mut |words| {
            assert_eq!(words, whole(words[0], words[1]), "torn");
            found.push((words[0], words[1]));
        });
        found
    }

    fn dropped(&self, reader: &RingReader) -> u64 {
        reader.dropped(self.memory.words())
    }
}

fn whole(writer: u64, number: u64) -> [u64; 7] {
    let mut numbers = Numbers(writer << 32 | number | 1 << 63);
    let mut more = || numbers.next();
    [writer, number, more(), more(), more(), more(), more()]
}

/// A child process that runs `work`, then ends.
fn child(work: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child runs generated code and atomics, and leaves without running anything of ours.
    unsafe {
        let pid = libc::fork();
        if pid == 0 {
            work();
            libc::_exit(0);
        }
        assert!(pid > 0);
        pid
    }
}

fn end(pid: libc::pid_t, signal: i32) {
    // SAFETY: a child of ours.
    unsafe {
        libc::kill(pid, signal);
        assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
    }
}

#[test]
fn a_full_ring_drops_and_counts() {
    let rings = Rings::new(1, 16);
    let mut reader = rings.reader();
    let written: Vec<u64> = (0..21).filter(|number| rings.write(1, *number)).collect();
    assert_eq!(written, (0..16).collect::<Vec<_>>());
    assert_eq!(rings.read(&mut reader), (0..16).map(|number| (1, number)).collect::<Vec<_>>());
    assert_eq!((reader.read(), rings.dropped(&reader), reader.unfinished()), (16, 5, 0));
}

#[test]
fn a_ring_goes_round() {
    let rings = Rings::new(1, 16);
    let mut reader = rings.reader();
    for lap in 0..1000 {
        let count = lap % 17;
        (0..count).for_each(|number| assert!(rings.write(lap, number)));
        assert_eq!(rings.read(&mut reader), (0..count).map(|number| (lap, number)).collect::<Vec<_>>());
    }
    assert_eq!(rings.dropped(&reader), 0);
}

#[test]
fn what_threads_write_is_read_or_counted() {
    const EACH: u64 = 200_000;
    for (count, slots) in [(1, 64), (4, 1024)] {
        let rings = Rings::new(count, slots);
        let mut reader = rings.reader();
        let done = AtomicBool::new(false);
        let mut found = Vec::new();
        let written: u64 = thread::scope(|scope| {
            let rings = &rings;
            let write = |writer| (0..EACH).filter(|number| rings.write(writer, *number)).count() as u64;
            let writers: Vec<_> = (0..4).map(|writer| scope.spawn(move || write(writer))).collect();
            let done = &done;
            let read = scope.spawn(|| {
                let mut found = Vec::new();
                while !done.load(Ordering::Acquire) {
                    found.extend(rings.read(&mut reader));
                    thread::sleep(Duration::from_micros(50));
                }
                found.extend(rings.read(&mut reader));
                found
            });
            let written = writers.into_iter().map(|writer| writer.join().expect("a writer")).sum();
            done.store(true, Ordering::Release);
            found = read.join().expect("the reader");
            written
        });
        assert_eq!(found.len() as u64, written);
        assert_eq!(reader.unfinished(), 0);
        assert_eq!(written + rings.dropped(&reader), 4 * EACH);
        // Each once.
        let total = found.len();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), total);
    }
}

#[test]
fn a_writer_that_never_finishes_costs_a_record_a_lap() {
    let rings = Rings::new(1, 16);
    let mut reader = rings.reader();
    assert!(rings.write(1, 0));
    end(child(|| assert!(rings.reserve().is_some())), 0);
    let mut found = rings.read(&mut reader);
    assert_eq!((found.len(), reader.unfinished()), (1, 1));
    let mut written = 0;
    for number in 0..160 {
        written += u64::from(rings.write(2, number));
        found.extend(rings.read(&mut reader));
    }
    assert_eq!(found.len() as u64, written + 1);
    assert_eq!(written + rings.dropped(&reader), 160);
    assert_eq!(rings.dropped(&reader), 10);
    assert_eq!(reader.unfinished(), 1);
    // One that comes later knows of it too.
    assert_eq!(rings.reader().unfinished(), 1);
}

#[test]
fn a_record_that_is_finished_late_is_read_once_and_its_slot_used_again() {
    let rings = Rings::new(1, 16);
    let mut reader = rings.reader();
    let late = rings.reserve().expect("an empty ring");
    for number in 0..40 {
        rings.write(1, number);
        rings.read(&mut reader);
    }
    assert_eq!(reader.unfinished(), 1);
    let dropped = rings.dropped(&reader);
    assert!((1..=3).contains(&dropped), "{dropped}");
    late[1..].iter().zip(whole(7, 7)).for_each(|(slot, word)| slot.store(word, Ordering::Relaxed));
    late[0].fetch_add(1, Ordering::Release);
    assert_eq!(rings.read(&mut reader), [(7, 7)]);
    assert_eq!(reader.unfinished(), 0);
    for lap in 0..10 {
        for number in 0..16 {
            rings.write(lap, number);
        }
        rings.read(&mut reader);
    }
    // At most while its turn was not there yet.
    assert!(rings.dropped(&reader) <= dropped + 3);
    let before = rings.dropped(&reader);
    for lap in 0..10 {
        (0..16).for_each(|number| assert!(rings.write(lap, number)));
        assert_eq!(rings.read(&mut reader).len(), 16);
    }
    assert_eq!(rings.dropped(&reader), before);
}

/// Children write and are killed whenever it happens to be; the books balance.
#[test]
fn killed_writers_leave_nothing_uncounted() {
    let rings = Rings::new(2, 64);
    let begun = Shared::new(4096);
    let mut reader = rings.reader();
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    let mut chance = Numbers(3);
    const CHILDREN: u64 = 60;
    for writer in 0..CHILDREN {
        let pid = child(|| {
            for number in 0.. {
                begun.words()[0].fetch_add(1, Ordering::Relaxed);
                rings.write(writer, number);
            }
        });
        let until = std::time::Instant::now() + Duration::from_micros(500 + chance.next() % 3000);
        while std::time::Instant::now() < until {
            rings
                .read(&mut reader)
                .into_iter()
                .for_each(|(writer, _)| *found.entry(writer).or_default() += 1);
        }
        end(pid, libc::SIGKILL);
    }
    rings.read(&mut reader).into_iter().for_each(|(writer, _)| *found.entry(writer).or_default() += 1);
    let begun = begun.words()[0].load(Ordering::Relaxed);
    let counted = reader.read() + rings.dropped(&reader) + reader.unfinished() as u64;
    assert_eq!(found.values().sum::<u64>(), reader.read());
    // Between counting and taking a slot a child may be killed too.
    assert!(counted <= begun && begun <= counted + CHILDREN, "{counted} of {begun}");
    println!(
        "{} read, {} dropped, {} unfinished of {begun}",
        reader.read(),
        rings.dropped(&reader),
        reader.unfinished()
    );
}

#[test]
fn a_new_reader_goes_on_where_the_old_one_ended() {
    let rings = Rings::new(1, 64);
    let mut found = Vec::new();
    for number in 0..100 {
        assert!(rings.write(1, number));
        if number % 10 == 9 {
            found.extend(rings.read(&mut rings.reader()));
        }
    }
    assert_eq!(found, (0..100).map(|number| (1, number)).collect::<Vec<_>>());
}

#[test]
fn memory_that_holds_no_rings_is_not_read() {
    let none: Vec<AtomicU64> = (0..64).map(|_| AtomicU64::new(0)).collect();
    assert_eq!(RingLayout::of(&none), None);
    let rings = Rings::new(1, 16);
    assert_eq!(RingLayout::of(&rings.memory.words()[..256]), None, "too short");
    assert_eq!(RingLayout::new(1 << 20, 16, 7), None);
}
