//! Tables and JSON Lines, at each interval.

use std::io::{self, Write};
use std::time::Duration;

use incise::timing::{Look, Snapshot};
use serde::Serialize;

use super::args::{Sort, TopArgs};
use super::rows::{Row, rows, sort};
use crate::report::group;
use crate::trace::duration;

/// Writes one table after the other.
pub(super) struct Table {
    json: bool,
    once: bool,
    sort: Sort,
    number: usize,
    before: Option<Snapshot>,
    written: usize,
    out: Box<dyn Write>,
}

#[derive(Serialize)]
struct Line<'a> {
    /// Always `function`.
    #[serde(rename = "type")]
    kind: &'a str,
    /// Seconds since the start.
    at: f64,
    #[serde(flatten)]
    row: &'a Row,
}

impl Table {
    pub(super) fn new(args: &TopArgs, out: Box<dyn Write>) -> Table {
        let TopArgs { json, once, sort, number, .. } = *args;
        Table { json, once, sort, number, before: None, written: 0, out }
    }

    /// Writes what changed, if an interval is over. Whether it was.
    pub(super) fn show(&mut self, look: &mut Look<'_>, pause: Duration) -> io::Result<bool> {
        let since = self.before.as_ref().map_or(Duration::ZERO, |before| before.elapsed);
        if look.elapsed().saturating_sub(since) < pause / 2 {
            return Ok(false);
        }
        let now = look.snapshot();
        self.write(&now)?;
        self.before = Some(now);
        Ok(true)
    }

    /// Writes what came since, when the program has ended.
    pub(super) fn finish(&mut self, now: &Snapshot) -> io::Result<()> {
        if self.once && self.written > 0 { Ok(()) } else { self.write(now) }
    }

    fn write(&mut self, now: &Snapshot) -> io::Result<()> {
        self.written += 1;
        let mut rows = rows(self.before.as_ref(), now);
        rows.retain(|row| row.calls_per_second > 0.0);
        sort(&mut rows, self.sort);
        rows.truncate(self.number);
        let at = now.elapsed.as_secs_f64();
        if self.json {
            for row in &rows {
                serde_json::to_writer(&mut self.out, &Line { kind: "function", at, row })?;
                writeln!(self.out)?;
            }
            return self.out.flush();
        }
        let out = &mut self.out;
        writeln!(out, "{at:.1} s")?;
        writeln!(
            out,
            "{:>12} {:>10} {:>10} {:>10} {:>14}  function",
            "calls/s", "time/s", "p50", "p99", "calls"
        )?;
        let time = |nanos: f64| duration(nanos.max(0.0) as u64);
        for row in rows {
            let Row { calls_per_second, time_per_second, p50, p99, calls, module, function, .. } = &row;
            writeln!(
                out,
                "{:>12} {:>10} {:>10} {:>10} {:>14}  {module}!{function}",
                group(*calls_per_second as u64),
                time(*time_per_second),
                time(*p50),
                time(*p99),
                group(*calls)
            )?;
        }
        writeln!(out)?;
        out.flush()
    }
}
