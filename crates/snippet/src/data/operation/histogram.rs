//! Histograms, with buckets for each CPU.

use std::sync::atomic::Ordering;

use super::super::{Aggregate, Buckets, Log, Value, Words};
use super::cpu;

/// A histogram: for each CPU the quadwords of [`Aggregate::Histogram`], from a multiple of 64 bytes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistogramLayout {
    cpus: u8,
    log: Log,
}

impl HistogramLayout {
    /// For `cpus` CPUs, with these buckets.
    pub fn new(cpus: usize, log: Log) -> HistogramLayout {
        HistogramLayout { cpus: cpus.clamp(1, 4096).next_power_of_two().trailing_zeros() as u8, log }
    }

    /// Its buckets.
    pub fn buckets(self) -> Buckets {
        Buckets::Log(self.log)
    }

    fn aggregate(self) -> Aggregate {
        Aggregate::Histogram(self.buckets())
    }

    fn stride(self) -> u64 {
        (u64::from(self.aggregate().words()) * 8).next_multiple_of(64)
    }

    /// Size of its memory, a multiple of 64.
    pub fn bytes(self) -> u64 {
        self.stride() << self.cpus
    }

    /// For each CPU a number that changes with what is added: the sum, wrapping, and how many zeros there were.
    pub fn marks(self, words: &Words) -> impl Iterator<Item = u64> + '_ {
        let zeros = 1 + self.buckets().of(0) as usize;
        let parts = words.chunks(self.stride() as usize / 8).take(1 << self.cpus);
        parts.map(move |part| {
            part[0].load(Ordering::Acquire).wrapping_add(part[zeros].load(Ordering::Relaxed))
        })
    }

    /// What it holds: the sum of all values (wrapping) and how many lie in each bucket.
    pub fn read(self, words: &Words) -> (i64, Vec<u64>) {
        let aggregate = self.aggregate();
        let mut all = vec![0; aggregate.words() as usize];
        for part in words.chunks(self.stride() as usize / 8).take(1 << self.cpus) {
            let copy: Vec<u64> =
                part.iter().take(all.len()).map(|word| word.load(Ordering::Relaxed)).collect();
            aggregate.merge(&mut all, &copy);
        }
        match aggregate.read(&all) {
            Some(Value::Histogram { sum, counts }) => (sum, counts),
            _ => (0, vec![0; self.buckets().count() as usize]),
        }
    }
}

/// Adds a value to a histogram, to its sum last: who reads that first sees in the buckets all that is in it. In: `r11` the histogram, `rax` the value. Changes `rcx`, `r9`, `r10`, `r11`, flags.
pub fn histogram_add(layout: HistogramLayout) -> String {
    let (bits, stride, mask) = (layout.log.bits(), layout.stride(), (1u32 << layout.cpus) - 1);
    let part = if layout.cpus == 0 {
        String::new()
    } else {
        format!("{}and r9d, {mask}\nimul r9d, r9d, {stride}\nadd r11, r9\n", cpu("r9"))
    };
    format!("{part}{}lock inc qword ptr [r11+r10*8+8]\nlock add [r11], rax\n", bucket(bits))
}

/// `r10 = bucket of rax`, as [`Log`] has them. Changes `rcx`, `r9`, flags.
pub(super) fn bucket(bits: u8) -> String {
    let one = 1 << bits;
    format!(
        "mov rcx, rax
         or rcx, {one}
         bsr rcx, rcx
         sub ecx, {bits}
         mov r10, rax
         shr r10, cl
         shl ecx, {bits}
         lea r10, [r10+rcx+1]
         xor r9d, r9d
         test rax, rax
         cmovs r10, r9
        "
    )
}
