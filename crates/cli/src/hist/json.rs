//! Histograms as JSON Lines.

use std::io::{self, Write};

use incise::CountResult;
use incise::timing::{Measure, Snapshot, Values};
use serde::Serialize;

use super::measured;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Histogram {
        module: &'a str,
        function: &'a str,
        of: &'a str,
        count: u64,
        sum: i64,
        p50: f64,
        p90: f64,
        p99: f64,
        buckets: Vec<Bucket>,
    },
    Refused {
        module: &'a str,
        function: &'a str,
        address: String,
        reason: &'a str,
    },
    Summary {
        installed: usize,
        refused: usize,
        untimed: u64,
        unpaired: u64,
        left_out: usize,
        stop_us: u64,
    },
}

/// Values from `from` to below `to`.
#[derive(Serialize)]
struct Bucket {
    from: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<i64>,
    count: u64,
}

pub(super) fn write(
    histograms: &[Values],
    of: Measure,
    values: &Snapshot,
    probes: &CountResult,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (of, buckets) = (measured(of), values.buckets);
    for histogram in histograms {
        let quantile = |share| buckets.quantile(&histogram.counts, share).unwrap_or(0.0);
        let full = (0..).zip(&histogram.counts).filter(|(_, count)| **count > 0);
        let full = full.map(|(bucket, &count)| Bucket {
            from: buckets.start(bucket),
            to: buckets.end(bucket),
            count,
        });
        let line = Line::Histogram {
            module: &histogram.function.module,
            function: &histogram.function.name,
            of: &of,
            count: histogram.count(),
            sum: histogram.sum,
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            buckets: full.collect(),
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    }
    for refused in &probes.refused {
        let line = Line::Refused {
            module: &refused.module,
            function: &refused.function,
            address: refused.addr.to_string(),
            reason: &refused.reason,
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    }
    let summary = Line::Summary {
        installed: probes.counted.len(),
        refused: probes.refused.len(),
        untimed: values.untimed,
        unpaired: values.unpaired,
        left_out: values.left_out,
        stop_us: probes.stop.as_micros() as u64,
    };
    serde_json::to_writer(&mut *out, &summary)?;
    writeln!(out)
}
