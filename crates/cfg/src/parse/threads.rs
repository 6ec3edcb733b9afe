//! Work on numbered things, shared among threads, with results in order.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work` with ranges that make up `0..len`, on `threads` threads (0 and 1: the calling one alone), and
/// puts the results one behind the other: the same for any number of threads.
pub(crate) fn in_order<T: Send>(
    len: usize,
    threads: usize,
    work: impl Fn(Range<usize>) -> Vec<T> + Sync,
) -> Vec<T> {
    /// Things a thread takes at a time.
    const CHUNK: usize = 4096;
    let threads = threads.min(len.div_ceil(CHUNK));
    if threads <= 1 {
        return work(0..len);
    }
    let next = AtomicUsize::new(0);
    let run = || {
        let mut found = Vec::new();
        loop {
            let first = next.fetch_add(CHUNK, Ordering::Relaxed);
            if first >= len {
                return found;
            }
            found.push((first, work(first..len.min(first + CHUNK))));
        }
    };
    let mut parts: Vec<(usize, Vec<T>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let join = |worker: std::thread::ScopedJoinHandle<'_, _>| match worker.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        workers.into_iter().flat_map(join).collect()
    });
    parts.sort_unstable_by_key(|(first, _)| *first);
    let mut all = Vec::with_capacity(parts.iter().map(|(_, part)| part.len()).sum());
    parts.into_iter().for_each(|(_, part)| all.extend(part));
    all
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_order() {
        for threads in [0, 1, 2, 5] {
            let found = super::in_order(20_000, threads, |range| range.filter(|n| n % 3 != 0).collect());
            assert!(found.len() == 13_333 && found.is_sorted(), "{threads}");
        }
    }
}
