//! Records of several CPUs, put in the order of time.

use super::Callers;

/// A record that older ones may come before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    /// When, in ticks of the processor's counter.
    pub ticks: u64,
    pub process: u32,
    pub thread: u32,
    pub function: usize,
    pub exit: bool,
    pub stack: u64,
    pub values: Vec<u64>,
    pub callers: Option<Callers>,
}

/// Keeps what came until nothing older can come.
#[derive(Debug, Default)]
pub(super) struct Order {
    waiting: Vec<Waiting>,
}

impl Order {
    /// One more.
    pub(super) fn push(&mut self, record: Waiting) {
        self.waiting.push(record);
    }

    /// Those older than `until`, in order.
    pub(super) fn take(&mut self, until: u64) -> impl Iterator<Item = Waiting> + '_ {
        self.waiting.sort_by_key(|record| record.ticks);
        let count = self.waiting.partition_point(|record| record.ticks < until);
        self.waiting.drain(..count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ticks: u64) -> Waiting {
        let (process, thread, function, exit, stack) = (1, 1, 0, false, 0);
        Waiting { ticks, process, thread, function, exit, stack, values: Vec::new(), callers: None }
    }

    #[test]
    fn what_may_be_preceded_waits() {
        let mut order = Order::default();
        [30, 10, 50, 20].into_iter().for_each(|ticks| order.push(record(ticks)));
        let take =
            |order: &mut Order, until| order.take(until).map(|record| record.ticks).collect::<Vec<_>>();
        assert_eq!(take(&mut order, 30), [10, 20]);
        order.push(record(25));
        assert_eq!(take(&mut order, 31), [25, 30]);
        assert_eq!(take(&mut order, u64::MAX), [50]);
    }
}
