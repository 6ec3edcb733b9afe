//! What a map keeps for each key, and how one more value changes it.

use std::sync::atomic::Ordering;

use super::Words;
use super::bucket::Buckets;

/// What a map keeps for each key.
///
/// In memory all zero means that nothing was ever added, so that a reader clears by zeroing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Aggregate {
    /// The value itself, the last one given: value, 1.
    Last,
    /// How many times: count.
    Count,
    /// The sum, wrapping: sum, 1.
    Sum,
    /// The least value: mapped so that a greater word is a lesser value; 1.
    Min,
    /// The greatest value: mapped so that words are in the order of values; 1.
    Max,
    /// Count, sum.
    Average,
    /// Count, sum, least, greatest.
    Stats,
    /// Sum, then a count for each bucket.
    Histogram(Buckets),
}

/// What was aggregated for one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// Of [`Aggregate::Last`], [`Aggregate::Sum`], [`Aggregate::Min`], [`Aggregate::Max`].
    Number(i64),
    /// Of [`Aggregate::Count`].
    Count(u64),
    /// Of [`Aggregate::Average`].
    Average {
        /// How many values.
        count: u64,
        /// Their sum, wrapping.
        sum: i64,
    },
    /// Of [`Aggregate::Stats`].
    Stats {
        /// How many values.
        count: u64,
        /// Their sum, wrapping.
        sum: i64,
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// Of [`Aggregate::Histogram`].
    Histogram {
        /// The sum of the values, wrapping.
        sum: i64,
        /// How many lie in each bucket.
        counts: Vec<u64>,
    },
}

/// A word whose unsigned order is that of signed values, so that zero is below all but one.
fn rising(value: i64) -> u64 {
    value as u64 ^ 1 << 63
}

fn risen(word: u64) -> i64 {
    (word ^ 1 << 63) as i64
}

impl Aggregate {
    /// How many quadwords a value takes.
    pub fn words(self) -> u32 {
        match self {
            Aggregate::Count => 1,
            Aggregate::Last | Aggregate::Sum | Aggregate::Min | Aggregate::Max | Aggregate::Average => 2,
            Aggregate::Stats => 4,
            Aggregate::Histogram(buckets) => 1 + buckets.count(),
        }
    }

    /// Adds `value` to what `words` hold. Exact under any number of threads.
    pub fn add(self, words: &Words, value: i64) {
        let plus = |index: usize, by: u64| words[index].fetch_add(by, Ordering::Relaxed);
        let raise = |index: usize, to: u64| words[index].fetch_max(to, Ordering::Relaxed);
        let present = || words[1].store(1, Ordering::Relaxed);
        match self {
            Aggregate::Last => words[0].store(value as u64, Ordering::Relaxed),
            Aggregate::Count => drop(plus(0, 1)),
            Aggregate::Sum => drop(plus(0, value as u64)),
            Aggregate::Min => drop(raise(0, !rising(value))),
            Aggregate::Max => drop(raise(0, rising(value))),
            Aggregate::Average => {
                plus(0, 1);
                plus(1, value as u64);
            }
            Aggregate::Stats => {
                plus(0, 1);
                plus(1, value as u64);
                raise(2, !rising(value));
                raise(3, rising(value));
            }
            Aggregate::Histogram(buckets) => {
                plus(1 + buckets.of(value) as usize, 1);
                plus(0, value as u64);
            }
        }
        if matches!(self, Aggregate::Last | Aggregate::Sum | Aggregate::Min | Aggregate::Max) {
            present();
        }
    }

    /// What `words` (a copy) say; nothing if no value was ever added.
    pub fn read(self, words: &[u64]) -> Option<Value> {
        if words.len() != self.words() as usize || words.iter().all(|word| *word == 0) {
            return None;
        }
        Some(match self {
            Aggregate::Last | Aggregate::Sum => Value::Number(words[0] as i64),
            Aggregate::Min => Value::Number(risen(!words[0])),
            Aggregate::Max => Value::Number(risen(words[0])),
            Aggregate::Count => Value::Count(words[0]),
            Aggregate::Average => Value::Average { count: words[0], sum: words[1] as i64 },
            Aggregate::Stats => Value::Stats {
                count: words[0],
                sum: words[1] as i64,
                min: risen(!words[2]),
                max: risen(words[3]),
            },
            Aggregate::Histogram(_) => Value::Histogram { sum: words[0] as i64, counts: words[1..].to_vec() },
        })
    }

    /// Adds the words of one key to those of the same key from elsewhere.
    pub fn merge(self, into: &mut [u64], from: &[u64]) {
        for (index, (into, from)) in into.iter_mut().zip(from).enumerate() {
            *into = match (self, index) {
                (Aggregate::Last, _) if *from != 0 => *from,
                (Aggregate::Last, _) => *into,
                (Aggregate::Sum, 1) | (Aggregate::Min | Aggregate::Max, _) | (Aggregate::Stats, 2..) => {
                    (*into).max(*from)
                }
                _ => into.wrapping_add(*from),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn of(aggregate: Aggregate, values: &[i64]) -> Option<Value> {
        let words: Vec<AtomicU64> = (0..aggregate.words()).map(|_| AtomicU64::new(0)).collect();
        values.iter().for_each(|value| aggregate.add(&words, *value));
        let copy: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        aggregate.read(&copy)
    }

    #[test]
    fn values_aggregate() {
        let values = [3, -7, 12, 0];
        assert_eq!(of(Aggregate::Last, &values), Some(Value::Number(0)));
        assert_eq!(of(Aggregate::Count, &values), Some(Value::Count(4)));
        assert_eq!(of(Aggregate::Sum, &values), Some(Value::Number(8)));
        assert_eq!(of(Aggregate::Min, &values), Some(Value::Number(-7)));
        assert_eq!(of(Aggregate::Max, &values), Some(Value::Number(12)));
        assert_eq!(of(Aggregate::Average, &values), Some(Value::Average { count: 4, sum: 8 }));
        assert_eq!(of(Aggregate::Stats, &values), Some(Value::Stats { count: 4, sum: 8, min: -7, max: 12 }));
        assert_eq!(of(Aggregate::Sum, &[0]), Some(Value::Number(0)));
        assert_eq!(of(Aggregate::Sum, &[]), None);
        for extreme in [i64::MIN, i64::MAX] {
            assert_eq!(of(Aggregate::Min, &[extreme]), Some(Value::Number(extreme)));
            assert_eq!(of(Aggregate::Max, &[extreme]), Some(Value::Number(extreme)));
        }
    }
}
