//! Histogram buckets.

/// How values are sorted into buckets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Buckets {
    /// By powers of two.
    Log(Log),
    /// Of equal width.
    Linear(Linear),
}

/// Buckets whose width grows with the value: each power of two is split into `2^bits` of them.
///
/// Bucket 0 is for negative values, then one each for 0, 1, ... `2^bits - 1`, then the split powers of two.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Log {
    bits: u8,
}

/// Buckets of `step` from `min` up to `max`; the first is for what is below, the last for what is above.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Linear {
    min: i64,
    step: u64,
    count: u32,
}

/// The most buckets a histogram may have.
pub(super) const BUCKETS_MAX: u32 = 4096;

impl Log {
    /// One bucket for each power of two.
    pub const PLAIN: Log = Log { bits: 0 };

    /// Each power of two split into `2^bits` buckets, for `bits` up to 5.
    pub fn split(bits: u8) -> Option<Log> {
        (bits <= 5).then_some(Log { bits })
    }

    /// Into how many parts a power of two is split, as a power of two.
    pub fn bits(self) -> u8 {
        self.bits
    }

    fn count(self) -> u32 {
        1 + ((62 - u32::from(self.bits)) << self.bits) + (2 << self.bits)
    }

    fn of(self, value: i64) -> u32 {
        if value < 0 {
            return 0;
        }
        let shift = (value as u64 | 1 << self.bits).ilog2() - u32::from(self.bits);
        1 + (shift << self.bits) + (value >> shift) as u32
    }

    fn start(self, bucket: u32) -> i64 {
        let Some(place) = bucket.checked_sub(1) else { return i64::MIN };
        let shift = (place >> self.bits).saturating_sub(1);
        i64::from(place - (shift << self.bits)).checked_shl(shift).unwrap_or(i64::MAX)
    }
}

impl Linear {
    /// Buckets of `step` from `min` to `max`, which is rounded up to the end of a bucket. Nothing if there are none,
    /// or too many (over 4,094).
    pub fn new(min: i64, max: i64, step: u64) -> Option<Linear> {
        let width = u64::try_from(i128::from(max) - i128::from(min)).ok()?;
        let count = u32::try_from(width.div_ceil(step.max(1))).ok()?;
        let end = i128::from(min) + i128::from(count) * i128::from(step);
        let fits = step > 0 && count > 0 && count <= BUCKETS_MAX - 2 && i64::try_from(end).is_ok();
        fits.then_some(Linear { min, step, count })
    }

    /// The least value of the first bucket.
    pub fn min(self) -> i64 {
        self.min
    }

    /// The width of a bucket.
    pub fn step(self) -> u64 {
        self.step
    }

    /// How many buckets there are between the first and the last.
    pub fn inner(self) -> u32 {
        self.count
    }

    fn of(self, value: i64) -> u32 {
        if value < self.min {
            return 0;
        }
        let place = value.wrapping_sub(self.min) as u64 / self.step;
        1 + place.min(u64::from(self.count)) as u32
    }

    fn start(self, bucket: u32) -> i64 {
        let Some(place) = bucket.checked_sub(1) else { return i64::MIN };
        self.min.saturating_add_unsigned(u64::from(place) * self.step)
    }
}

impl Buckets {
    /// How many there are.
    pub fn count(self) -> u32 {
        match self {
            Buckets::Log(log) => log.count(),
            Buckets::Linear(linear) => linear.count + 2,
        }
    }

    /// The bucket of a value.
    pub fn of(self, value: i64) -> u32 {
        match self {
            Buckets::Log(log) => log.of(value),
            Buckets::Linear(linear) => linear.of(value),
        }
    }

    /// The least value of a bucket.
    pub fn start(self, bucket: u32) -> i64 {
        match self {
            Buckets::Log(log) => log.start(bucket),
            Buckets::Linear(linear) => linear.start(bucket),
        }
    }

    /// The least value that is above a bucket; none above the last.
    pub fn end(self, bucket: u32) -> Option<i64> {
        (bucket + 1 < self.count()).then(|| self.start(bucket + 1))
    }

    /// The value below which `share` (0 to 1) of the values of `counts` lie, as near as the buckets tell: values are
    /// taken to be spread evenly inside one.
    pub fn quantile(self, counts: &[u64], share: f64) -> Option<f64> {
        let total: u64 = counts.iter().sum();
        let wanted = share * total as f64;
        let mut below = 0.0;
        for (bucket, &count) in (0..).zip(counts).filter(|(_, count)| **count > 0) {
            let count = count as f64;
            if below + count >= wanted {
                let start = self.start(bucket) as f64;
                let Some(end) = self.end(bucket).filter(|_| bucket > 0) else { return Some(start) };
                return Some(start + (end as f64 - 1.0 - start).max(0.0) * ((wanted - below) / count));
            }
            below += count;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn powers_of_two_begin_buckets() {
        let log = Buckets::Log(Log::PLAIN);
        assert_eq!([-5, 0, 1, 2, 3, 4, 1023, 1024].map(|v| log.of(v)), [0, 1, 2, 3, 3, 4, 11, 12]);
        assert_eq!(log.of(i64::MAX), log.count() - 1);
        let split = Buckets::Log(Log::split(2).expect("small"));
        assert_eq!([0, 3, 4, 5, 7, 8, 9, 10, 16].map(|v| split.of(v)), [1, 4, 5, 6, 8, 9, 9, 10, 13]);
        assert_eq!(Log::split(6), None);
    }

    #[test]
    fn linear_buckets_have_their_ends() {
        let linear = Buckets::Linear(Linear::new(10, 30, 5).expect("four"));
        assert_eq!([9, 10, 14, 15, 29, 30, i64::MAX].map(|v| linear.of(v)), [0, 1, 1, 2, 4, 5, 5]);
        assert_eq!(linear.count(), 6);
        for (min, max, step) in [(0, 0, 1), (5, 0, 1), (0, 10, 0), (0, i64::MAX, 1)] {
            assert_eq!(Linear::new(min, max, step), None, "{min} {max} {step}");
        }
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let log = Buckets::Log(Log::PLAIN);
        let mut counts = vec![0; log.count() as usize];
        counts[log.of(100) as usize] = 99;
        counts[log.of(5000) as usize] = 1;
        let median = log.quantile(&counts, 0.5).expect("values");
        assert!((64.0..128.0).contains(&median), "{median}");
        let most = log.quantile(&counts, 1.0).expect("values");
        assert!((4096.0..8192.0).contains(&most), "{most}");
        assert_eq!(log.quantile(&[], 0.5), None);
    }

    proptest! {
        #[test]
        fn a_value_lies_between_the_ends_of_its_bucket(value: i64, shift in 0u32..64, bits in 0u8..=5) {
            let value = value >> shift;
            let linear = Linear::new(-100, 1000, 7).expect("some");
            for buckets in [Buckets::Log(Log::split(bits).expect("small")), Buckets::Linear(linear)] {
                let bucket = buckets.of(value);
                prop_assert!(bucket < buckets.count());
                prop_assert!(buckets.start(bucket) <= value);
                prop_assert!(buckets.end(bucket).is_none_or(|end| value < end));
            }
        }
    }
}
