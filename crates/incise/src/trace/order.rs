//! Records of several CPUs, put in the order of time.

use super::TraceRecord;

/// Keeps what came until nothing older can come. Its times are ticks of the processor's counter.
#[derive(Debug, Default)]
pub(super) struct Order {
    waiting: Vec<TraceRecord>,
}

impl Order {
    /// One more.
    pub(super) fn push(&mut self, record: TraceRecord) {
        self.waiting.push(record);
    }

    /// Those older than `until`, in order.
    pub(super) fn take(&mut self, until: u64) -> impl Iterator<Item = TraceRecord> + '_ {
        self.waiting.sort_by_key(|record| record.time);
        let count = self.waiting.partition_point(|record| record.time < until);
        self.waiting.drain(..count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(time: u64) -> TraceRecord {
        let (process, thread, function, exit, stack) = (1, 1, 0, false, 0);
        TraceRecord { time, process, thread, function, exit, stack, values: Vec::new(), callers: None }
    }

    #[test]
    fn what_may_be_preceded_waits() {
        let mut order = Order::default();
        [30, 10, 50, 20].into_iter().for_each(|ticks| order.push(record(ticks)));
        let take = |order: &mut Order, until| order.take(until).map(|record| record.time).collect::<Vec<_>>();
        assert_eq!(take(&mut order, 30), [10, 20]);
        order.push(record(25));
        assert_eq!(take(&mut order, 31), [25, 30]);
        assert_eq!(take(&mut order, u64::MAX), [50]);
    }
}
