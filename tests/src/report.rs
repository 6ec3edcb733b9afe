//! Reports of `count --json`, read back.

use std::path::Path;

use serde_json::Value;

/// One line of type `count`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Count {
    /// File name of the module.
    pub module: String,
    /// The function.
    pub function: String,
    /// Run-time address.
    pub address: u64,
    /// The kind of point.
    pub kind: String,
    /// On an edge, the instructions it leaves and leads to.
    pub edge: Option<(u64, u64)>,
    /// How it was patched.
    pub tactic: String,
    /// How often it ran.
    pub hits: u64,
}

/// One line of type `refused`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// File name of the module.
    pub module: String,
    /// The function.
    pub function: String,
    /// Why.
    pub reason: String,
}

/// The last line.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Functions counted.
    pub installed: u64,
    /// Functions that could not be.
    pub refused: u64,
    /// Of those counted, how many are traps.
    pub trapped: u64,
    /// Mappings the program gained.
    pub mappings: u64,
    /// How long it stood still, in microseconds.
    pub stop_us: u64,
}

/// A whole report.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Report {
    /// Counted functions, as they are sorted.
    pub counts: Vec<Count>,
    /// The others.
    pub refused: Vec<Refused>,
    /// Totals.
    pub summary: Summary,
}

impl Report {
    /// Reads a file of JSON Lines, strictly: every line has exactly the fields of its type, the summary is
    /// last and agrees with the lines before it.
    ///
    /// # Errors
    /// What is wrong, with the line.
    pub fn read(path: &Path) -> Result<Report, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("no report: {error}"))?;
        Report::parse(&text)
    }

    /// As [`read`](Report::read).
    ///
    /// # Errors
    /// As for [`read`](Report::read).
    pub fn parse(text: &str) -> Result<Report, String> {
        let mut report = Report::default();
        let mut ended = false;
        for line in text.lines() {
            let wrong = |what: &str| format!("{what}: {line}");
            if ended {
                return Err(wrong("a line behind the summary"));
            }
            let value: Value = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
            let fields = value.as_object().ok_or_else(|| wrong("no object"))?;
            let exactly = |names: &[&str]| match fields.keys().all(|key| names.contains(&key.as_str())) {
                true if fields.len() == names.len() => Ok(()),
                _ => Err(wrong("not the fields of its type")),
            };
            let text = |name: &str| value[name].as_str().map(str::to_owned).ok_or_else(|| wrong(name));
            let number = |name: &str| value[name].as_u64().ok_or_else(|| wrong(name));
            let address = |name: &str| {
                let text = text(name)?;
                let digits = text.strip_prefix("0x").ok_or_else(|| wrong(name))?;
                u64::from_str_radix(digits, 16).map_err(|_| wrong(name))
            };
            match value["type"].as_str() {
                Some("count") => {
                    let mut names = vec!["type", "module", "function", "address", "kind", "tactic", "hits"];
                    let edge = fields.contains_key("from");
                    names.extend(["from", "to"].iter().filter(|_| edge));
                    exactly(&names)?;
                    report.counts.push(Count {
                        module: text("module")?,
                        function: text("function")?,
                        address: address("address")?,
                        kind: text("kind")?,
                        edge: if edge { Some((address("from")?, address("to")?)) } else { None },
                        tactic: text("tactic")?,
                        hits: number("hits")?,
                    });
                }
                Some("refused") => {
                    exactly(&["type", "module", "function", "address", "reason"])?;
                    address("address")?;
                    report.refused.push(Refused {
                        module: text("module")?,
                        function: text("function")?,
                        reason: text("reason")?,
                    });
                }
                Some("summary") => {
                    exactly(&["type", "installed", "refused", "trapped", "mappings", "stop_us"])?;
                    report.summary = Summary {
                        installed: number("installed")?,
                        refused: number("refused")?,
                        trapped: number("trapped")?,
                        mappings: number("mappings")?,
                        stop_us: number("stop_us")?,
                    };
                    ended = true;
                }
                _ => return Err(wrong("no known type")),
            }
        }
        let Summary { installed, refused, trapped, .. } = report.summary;
        let traps = report.counts.iter().filter(|count| count.tactic == "trap").count();
        let found = [report.counts.len(), report.refused.len(), traps];
        if !ended || found.map(|n| n as u64) != [installed, refused, trapped] {
            return Err(format!(
                "the summary {:?} does not tell what the lines do: {found:?}",
                report.summary
            ));
        }
        if !report.counts.is_sorted_by(|a, b| a.hits >= b.hits) {
            return Err("not sorted by hits".into());
        }
        Ok(report)
    }

    /// The hits of a function in the modules that have it, summed up; `None` if nobody counted it.
    pub fn hits(&self, function: &str) -> Option<u64> {
        let mut found = self.counts.iter().filter(|count| count.function == function).peekable();
        found.peek()?;
        Some(found.map(|count| count.hits).sum())
    }

    /// The tactic a function was counted with.
    pub fn tactic(&self, function: &str) -> Option<&str> {
        self.counts.iter().find(|count| count.function == function).map(|count| count.tactic.as_str())
    }

    /// Why a function was refused.
    pub fn reason(&self, function: &str) -> Option<&str> {
        self.refused.iter().find(|refused| refused.function == function).map(|r| r.reason.as_str())
    }
}
