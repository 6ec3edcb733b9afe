use std::sync::atomic::Ordering;
use std::thread;

use incise_snippet::data::operation::{Function, HistogramLayout};
use incise_snippet::data::{Aggregate, Buckets, Linear, Log};
use proptest::prelude::*;

use crate::support::{Callable, Numbers, Shared};

#[test]
fn no_value_is_lost_between_threads() {
    const EACH: u64 = 200_000;
    let layout = HistogramLayout::new(4, Log::split(2).expect("small"));
    let memory = Shared::new(layout.bytes());
    let add = Callable::new(Function::HistogramAdd(layout));
    thread::scope(|scope| {
        for seed in 1..=4 {
            let at = memory.addr();
            scope.spawn(move || {
                let mut numbers = Numbers(seed);
                for _ in 0..EACH {
                    let number = numbers.next();
                    add.call(at, number >> (number & 63), 0);
                }
            });
        }
    });
    let mut expected = vec![0; layout.buckets().count() as usize];
    let mut total = 0i64;
    for seed in 1..=4 {
        let mut numbers = Numbers(seed);
        for _ in 0..EACH {
            let number = numbers.next();
            let value = (number >> (number & 63)) as i64;
            expected[layout.buckets().of(value) as usize] += 1;
            total = total.wrapping_add(value);
        }
    }
    assert_eq!(layout.read(memory.words()), (total, expected));
}

proptest! {
    /// Machine code takes values in as the model does.
    #[test]
    fn aggregates_agree_with_the_model(values in prop::collection::vec((any::<i64>(), 0u32..64), 1..40), bits in 0u8..=5) {
        let linear = Linear::new(-100, 1000, 7).expect("some");
        let kinds = [
            Aggregate::Last, Aggregate::Count, Aggregate::Sum, Aggregate::Min, Aggregate::Max, Aggregate::Average,
            Aggregate::Stats, Aggregate::Histogram(Buckets::Log(Log::split(bits).expect("small"))),
            Aggregate::Histogram(Buckets::Linear(linear)),
        ];
        for kind in kinds {
            let (ours, model) = (Shared::new(16384), Shared::new(16384));
            let add = Callable::new(Function::Aggregate(kind));
            for (value, shift) in &values {
                add.call(ours.addr(), (value >> shift) as u64, 0);
                kind.add(model.words(), value >> shift);
            }
            let load = |memory: &Shared| memory.words().iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>();
            prop_assert_eq!(load(&ours), load(&model), "{:?}", kind);
        }
    }
}
