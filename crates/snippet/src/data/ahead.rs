//! Memory for slots of rings before their writers come there: the first touch of a page of shared memory takes the kernel 2.4 us (Zen 4, in
//! a virtual machine), which the program would wait for.

use std::ops::Range;

use super::{RingLayout, Words};

/// Bytes of a ring that are given memory at a time.
const STEP: u64 = 1 << 20;

/// How far the slots of each ring have memory. They need it once: slots are used again in each lap.
#[derive(Debug)]
pub struct Ahead {
    layout: RingLayout,
    ready: Vec<u64>,
}

impl Ahead {
    /// None has any yet.
    pub fn new(layout: RingLayout) -> Ahead {
        Ahead { layout, ready: vec![0; layout.rings()] }
    }

    /// The bytes that need memory now, so that there are between one and two MiB of it before each writer. They are taken to have it from
    /// then on.
    pub fn take(&mut self, words: &Words) -> Vec<Range<u64>> {
        let layout = self.layout;
        let step = (STEP >> layout.slot).max(1);
        let mut wanted = Vec::new();
        for (ring, ready) in self.ready.iter_mut().enumerate() {
            let until = (layout.taken(words, ring) + 2 * step).min(layout.slots() as u64);
            if until >= *ready + step || (until > *ready && until == layout.slots() as u64) {
                let at = |slot: u64| layout.slots_at(ring) + (slot << layout.slot);
                wanted.push(at(*ready)..at(until));
                *ready = until;
            }
        }
        wanted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn memory_is_there_before_writers_once() {
        // Slots of 64 bytes: 16,384 are a MiB.
        let layout = RingLayout::new(1, 65_536, 7).expect("a layout");
        let words: Vec<AtomicU64> = (0..layout.bytes() / 8).map(|_| AtomicU64::new(0)).collect();
        layout.format(&words, 0);
        let (start, slot) = (layout.slots_at(0), 64);
        let mut ahead = Ahead::new(layout);
        let mut at = |position: u64| {
            words[16].store(position, Ordering::Relaxed);
            let ranges = ahead.take(&words).into_iter();
            ranges.map(|range| ((range.start - start) / slot, (range.end - start) / slot)).collect::<Vec<_>>()
        };
        assert_eq!(at(0), [(0, 32_768)]);
        assert_eq!(at(10_000), []);
        assert_eq!(at(17_000), [(32_768, 49_768)]);
        assert_eq!(at(60_000), [(49_768, 65_536)]);
        assert_eq!(at(1 << 20), []);
    }
}
