//! Histograms in bars.

use std::fmt::Write as _;

use crate::data::Buckets;

/// Characters of the longest bar.
const WIDTH: u64 = 52;

/// A bucket of a histogram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// Its least value; `None` of the one that is open below.
    pub from: Option<i64>,
    /// The least value above it; `None` of the one that is open above.
    pub to: Option<i64>,
    /// How many values are in it.
    pub count: u64,
}

/// The buckets from the first to the last that have values in them.
pub fn buckets(kind: Buckets, counts: &[u64]) -> Vec<Bucket> {
    let used = |count: &u64| *count > 0;
    let (Some(first), Some(last)) = (counts.iter().position(used), counts.iter().rposition(used)) else {
        return Vec::new();
    };
    let bucket = |index: usize| {
        let number = index as u32;
        Bucket {
            from: Some(kind.start(number)).filter(|start| *start != i64::MIN),
            to: kind.end(number),
            count: counts[index],
        }
    };
    (first..=last).map(bucket).collect()
}

/// Adds a line for each bucket.
pub(super) fn bars(buckets: &[Bucket], out: &mut String) {
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(0).max(1);
    for Bucket { from, to, count } in buckets {
        let label = match (from, to) {
            (Some(from), Some(to)) if to.checked_sub(*from) == Some(1) => format!("[{}]", short(*from)),
            (Some(from), Some(to)) => format!("[{}, {})", short(*from), short(*to)),
            (None, Some(to)) => format!("(..., {})", short(*to)),
            (Some(from), None) => format!("[{}, ...)", short(*from)),
            (None, None) => "(..., ...)".to_owned(),
        };
        let bar = "@".repeat((u128::from(*count) * u128::from(WIDTH) / u128::from(most)) as usize);
        let _ = writeln!(out, "{label:<16} {count:>8} |{bar:<52}|");
    }
}

/// Whole multiples of powers of 1024 with a letter.
fn short(value: i64) -> String {
    const LETTERS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    let (mut value, mut letter) = (value, 0);
    while value != 0 && value % 1024 == 0 && letter + 1 < LETTERS.len() {
        value /= 1024;
        letter += 1;
    }
    format!("{value}{}", LETTERS[letter])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Linear, Log};

    #[test]
    fn powers_of_two() {
        let kind = Buckets::Log(Log::PLAIN);
        let mut counts = vec![0; kind.count() as usize];
        for (value, times) in [(0, 1), (1, 2), (3, 4), (1024, 1)] {
            counts[kind.of(value) as usize] += times;
        }
        let mut text = String::new();
        bars(&buckets(kind, &counts), &mut text);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("[0]                     1 |{:<52}|", "@".repeat(13)));
        assert_eq!(lines[1], format!("[1]                     2 |{:<52}|", "@".repeat(26)));
        assert_eq!(lines[2], format!("[2, 4)                  4 |{:<52}|", "@".repeat(52)));
        assert!(lines.last().is_some_and(|line| line.starts_with("[1K, 2K)                1 |")), "{text}");
    }

    #[test]
    fn steps() {
        let kind = Buckets::Linear(Linear::new(0, 300, 100).expect("buckets"));
        let mut counts = vec![0; kind.count() as usize];
        for value in [-1, 50, 50, 150, 300] {
            counts[kind.of(value) as usize] += 1;
        }
        let mut text = String::new();
        bars(&buckets(kind, &counts), &mut text);
        let labels: Vec<&str> = text.lines().map(|line| line[..16].trim_end()).collect();
        assert_eq!(labels, ["(..., 0)", "[0, 100)", "[100, 200)", "[200, 300)", "[300, ...)"]);
    }
}
