//! What `count` prints: a table for people, JSON Lines for programs.

use std::io::{self, Write};

use incise::{Counted, NotCounted, Tactic};
use serde::Serialize;

/// One counted function.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Count {
    /// File name of the module.
    pub module: String,
    /// The function, as its programmer wrote it.
    pub function: String,
    /// Run-time address of the instruction patched.
    pub address: String,
    /// The kind of point.
    pub kind: &'static str,
    /// On an edge, the instruction it leaves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// On an edge, the instruction it leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// How it was patched.
    pub tactic: &'static str,
    /// How often it ran.
    pub hits: u64,
}

/// One function that is not counted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Refused {
    /// File name of the module.
    pub module: String,
    /// The function, as its programmer wrote it.
    pub function: String,
    /// Run-time address.
    pub address: String,
    /// Why.
    pub reason: String,
}

/// The whole run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Summary {
    /// Functions counted.
    pub installed: usize,
    /// Functions that could not be.
    pub refused: usize,
    /// Of those counted, how many are traps.
    pub trapped: usize,
    /// Mappings the program gained.
    pub mappings: usize,
    /// How long the program stood still, in microseconds.
    pub stop_us: u64,
}

/// Everything to be printed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Counts, in any order.
    pub counts: Vec<Count>,
    /// Refusals.
    pub refused: Vec<Refused>,
    /// Totals.
    pub summary: Summary,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Count(&'a Count),
    Refused(&'a Refused),
    Summary(&'a Summary),
}

/// Widest bar, in columns.
const BAR: usize = 30;

impl Report {
    /// Of what was counted; the summary has no mappings and no stop yet. Sorted.
    pub(crate) fn of(counted: &[Counted], refused: &[NotCounted]) -> Report {
        let trapped = counted.iter().filter(|counted| counted.tactic == Tactic::Trap).count();
        let summary =
            Summary { installed: counted.len(), refused: refused.len(), trapped, ..Summary::default() };
        let counts = counted.iter().map(|counted| Count {
            module: counted.point.module.clone(),
            function: counted.point.display_name.clone(),
            address: counted.point.addr.to_string(),
            kind: counted.point.kind.name(),
            from: counted.point.edge.map(|(from, _)| from.to_string()),
            to: counted.point.edge.map(|(_, to)| to.to_string()),
            tactic: counted.tactic.name(),
            hits: counted.hits,
        });
        let refused = refused.iter().map(|refused| Refused {
            module: refused.module.clone(),
            function: refused.function.clone(),
            address: refused.addr.to_string(),
            reason: refused.reason.clone(),
        });
        let mut report = Report { counts: counts.collect(), refused: refused.collect(), summary };
        report.sort();
        report
    }

    /// The most hit first; equal ones by module and name.
    pub fn sort(&mut self) {
        self.counts.sort_by(|a, b| {
            b.hits.cmp(&a.hits).then_with(|| (&a.module, &a.function).cmp(&(&b.module, &b.function)))
        });
    }

    /// Writes JSON Lines: every count, every refusal, the summary.
    ///
    /// # Errors
    /// Of `out`.
    pub fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        let counts = self.counts.iter().map(Line::Count);
        let refused = self.refused.iter().map(Line::Refused);
        for line in counts.chain(refused).chain([Line::Summary(&self.summary)]) {
            serde_json::to_writer(&mut *out, &line)?;
            writeln!(out)?;
        }
        Ok(())
    }

    /// Writes a table with proportional bars, then one line of totals. Functions that were never called are
    /// left out, unless `explain` asks for everything.
    ///
    /// # Errors
    /// Of `out`.
    pub fn table(&self, out: &mut dyn Write, explain: bool) -> io::Result<()> {
        self.hits(out, explain)?;
        self.refusals(out, explain)?;
        let Summary { installed, refused, trapped, stop_us, .. } = self.summary;
        let asked = installed + refused;
        writeln!(
            out,
            "installed {installed} of {asked}, {refused} refused, {trapped} trapped; stopped {stop_us} us"
        )
    }

    /// The table alone.
    pub(crate) fn hits(&self, out: &mut dyn Write, explain: bool) -> io::Result<()> {
        let shown: Vec<&Count> = self.counts.iter().filter(|count| explain || count.hits > 0).collect();
        let most = shown.iter().map(|count| count.hits).max().unwrap_or(0);
        let hits = shown.iter().map(|count| group(count.hits).len()).max().unwrap_or(0).max("hits".len());
        let name = shown.iter().map(|count| count.function.chars().count()).max().unwrap_or(0).clamp(8, 60);
        let module = shown.iter().map(|count| count.module.chars().count()).max().unwrap_or(0).max(6);
        if !shown.is_empty() {
            let tactic = if explain { "tactic    address             " } else { "" };
            let head = format!("{:>hits$}  {:<name$}  {:<module$}  {tactic}", "hits", "function", "module");
            writeln!(out, "{}", head.trim_end())?;
        }
        for count in &shown {
            let function = if explain { count.function.clone() } else { fit(&count.function, name) };
            write!(out, "{:>hits$}  {function:<name$}  {:<module$}  ", group(count.hits), count.module)?;
            if explain {
                write!(out, "{:<8}  {:<18}  ", count.tactic, count.address)?;
            }
            writeln!(out, "{}", bar(count.hits, most))?;
        }
        let silent = self.counts.len() - shown.len();
        if silent > 0 {
            writeln!(out, "{silent} more never ran")?;
        }
        Ok(())
    }

    /// The refusals: a few, unless `explain` asks for everything.
    pub(crate) fn refusals(&self, out: &mut dyn Write, explain: bool) -> io::Result<()> {
        let reasons = if explain { self.refused.len() } else { self.refused.len().min(3) };
        for refused in &self.refused[..reasons] {
            let Refused { module, function, address, reason } = refused;
            writeln!(out, "refused: {module}!{function} at {address}: {reason}")?;
        }
        if reasons < self.refused.len() {
            writeln!(out, "({} more refused: --explain shows them)", self.refused.len() - reasons)?;
        }
        Ok(())
    }
}

/// A name in so many columns: of a longer one the ends, which tell most.
pub(crate) fn fit(name: &str, columns: usize) -> String {
    let length = name.chars().count();
    if length <= columns {
        return name.to_owned();
    }
    let (head, tail) = (columns * 2 / 3, columns - columns * 2 / 3 - 1);
    name.chars().take(head).chain(['…']).chain(name.chars().skip(length - tail)).collect()
}

/// A number with its thousands set apart.
pub(crate) fn group(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bar of up to [`BAR`] columns, in eighths of a column.
pub(crate) fn bar(value: u64, most: u64) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if most == 0 {
        return String::new();
    }
    let eighths = (u128::from(value) * BAR as u128 * 8 / u128::from(most)) as usize;
    let least = usize::from(value > 0);
    let eighths = eighths.max(least);
    "█".repeat(eighths / 8) + PARTS[eighths % 8]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        let count = |function: &str, hits| Count {
            module: "libc.so.6".into(),
            function: function.into(),
            address: "0x7f0000001000".into(),
            kind: "entry",
            from: None,
            to: None,
            tactic: "group",
            hits,
        };
        let mut report = Report {
            counts: vec![count("free", 12), count("malloc", 1_234_567), count("calloc", 0)],
            refused: vec![Refused {
                module: "a".into(),
                function: "f".into(),
                address: "0x1".into(),
                reason: "because".into(),
            }],
            summary: Summary { installed: 3, refused: 1, trapped: 0, mappings: 4, stop_us: 310 },
        };
        report.sort();
        report
    }

    #[test]
    fn the_table_is_sorted_and_barred() {
        let mut out = Vec::new();
        sample().table(&mut out, false).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        let expected = format!(
            "     hits  function  module\n\
             1,234,567  malloc    libc.so.6  {}\n\
             \x20      12  free      libc.so.6  ▏\n\
             1 more never ran\n\
             refused: a!f at 0x1: because\n\
             installed 3 of 4, 1 refused, 0 trapped; stopped 310 us\n",
            "█".repeat(30)
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn long_names_lose_their_middle() {
        assert_eq!(fit("short", 8), "short");
        assert_eq!(fit("a_very_long_name", 9), "a_very…me");
        assert_eq!(fit("a_very_long_name", 9).chars().count(), 9);
    }

    #[test]
    fn json_lines_end_with_the_summary() {
        let mut out = Vec::new();
        sample().json(&mut out).expect("a vector takes all");
        let text = String::from_utf8(out).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"type":"count","module":"libc.so.6","function":"malloc","address":"0x7f0000001000","kind":"entry","tactic":"group","hits":1234567}"#
        );
        assert_eq!(
            lines[3],
            r#"{"type":"refused","module":"a","function":"f","address":"0x1","reason":"because"}"#
        );
        assert_eq!(
            lines[4],
            r#"{"type":"summary","installed":3,"refused":1,"trapped":0,"mappings":4,"stop_us":310}"#
        );
    }
}
