//! Histograms as JSON Lines.

use std::io::{self, Write};

use serde::Serialize;

use super::Measured;
use super::args::Of;

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Histogram {
        module: &'a str,
        function: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        key: Option<&'a str>,
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

pub(super) fn write(measured: &Measured, of: &Of, out: &mut dyn Write) -> io::Result<()> {
    let (of, buckets, probes) = (of.to_string(), measured.buckets, &measured.probes);
    for histogram in &measured.histograms {
        let quantile = |share| buckets.quantile(&histogram.counts, share).unwrap_or(0.0);
        let full = (0..).zip(&histogram.counts).filter(|(_, count)| **count > 0);
        let full = full.map(|(bucket, &count)| Bucket {
            from: buckets.start(bucket),
            to: buckets.end(bucket),
            count,
        });
        let line = Line::Histogram {
            module: &histogram.module,
            function: &histogram.function,
            key: histogram.key.as_deref(),
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
        untimed: measured.untimed,
        unpaired: measured.unpaired,
        left_out: measured.left_out,
        stop_us: probes.stop.as_micros() as u64,
    };
    serde_json::to_writer(&mut *out, &summary)?;
    writeln!(out)
}
