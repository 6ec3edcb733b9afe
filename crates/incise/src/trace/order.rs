//! Records of several CPUs, put in the order of time.

/// Keeps what came until nothing older can come.
#[derive(Debug, Default)]
pub(crate) struct Order {
    waiting: Vec<(u64, Box<[u64]>)>,
}

impl Order {
    /// One more; its first quadword is its time.
    pub(crate) fn push(&mut self, record: &[u64]) {
        self.waiting.push((record[0], record.into()));
    }

    /// Those older than `until`, in order.
    pub(crate) fn take(&mut self, until: u64) -> impl Iterator<Item = Box<[u64]>> + '_ {
        self.waiting.sort_by_key(|(time, _)| *time);
        let count = self.waiting.partition_point(|(time, _)| *time < until);
        self.waiting.drain(..count).map(|(_, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_preceded_waits() {
        let mut order = Order::default();
        [30, 10, 50, 20].iter().for_each(|time| order.push(&[*time, 0]));
        let take = |order: &mut Order, until| order.take(until).map(|record| record[0]).collect::<Vec<_>>();
        assert_eq!(take(&mut order, 30), [10, 20]);
        order.push(&[25, 0]);
        assert_eq!(take(&mut order, 31), [25, 30]);
        assert_eq!(take(&mut order, u64::MAX), [50]);
    }
}
