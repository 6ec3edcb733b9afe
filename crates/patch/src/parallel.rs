//! Work that several threads share.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Fewer items are not worth the start of a thread.
const ITEMS_MIN: usize = 4;

/// What `work` makes of each item, in the order of the items, by up to so many threads.
pub(crate) fn each<T: Send, R: Send>(items: Vec<T>, threads: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = if items.len() < ITEMS_MIN { 1 } else { threads.min(items.len()) };
    if threads <= 1 {
        return items.into_iter().map(work).collect();
    }
    let count = items.len();
    let queue = Mutex::new(items.into_iter().enumerate());
    let part = || {
        let mut done = Vec::new();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            match next {
                Some((index, item)) => done.push((index, work(item))),
                None => return done,
            }
        }
    };
    let mut done = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(part)).collect();
        let mut done = Vec::with_capacity(count);
        done.extend(part());
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, done)| done).collect()
}

#[cfg(test)]
mod tests {
    use super::each;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        for threads in [0, 1, 3, 200] {
            let doubled = each((0..100).collect(), threads, |n: u64| 2 * n);
            assert!(doubled.into_iter().eq((0..100).map(|n| 2 * n)), "{threads} threads");
        }
    }
}
