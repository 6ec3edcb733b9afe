//! What the head comments of a test program say.
//!
//! A program begins with comments; those that begin with `//@` (in assembler `#@`) are directives, one a line:
//!
//! | directive | meaning |
//! |---|---|
//! | `compile: COMMAND` | how it is built; several are variants, each of which is tested. `-o PROGRAM SOURCE` is added |
//! | `extra: COMMAND` | a shell command run in the program's folder before it is compiled: libraries, other programs |
//! | `strip` | take all symbols away after addresses were noted |
//! | `needs: cpu FLAG` / `needs: command NAME` / `needs: root` | skipped where that is not there |
//! | `traps: no, REASON` | do not count again with `--trap force` |
//! | `unsteady: REASON` | standard output differs from run to run |
//! | `count: [OPTIONS] PATTERN... -- [ARGS]` | one run; the expectations below belong to it |
//! | `expect-count: FUNCTION N` | exactly so many hits; also `>=N` |
//! | `expect-tactic: FUNCTION TACTIC` | `a|b` where variants differ; `INCISE_BLESS=1` writes what was found |
//! | `expect-refused: FUNCTION TEXT` | refused, with TEXT in the reason |
//! | `expect-exit: N` / `expect-signal: N` | the program's end; without it exit code 0 |
//! | `expect-stdout: TEXT` | one line of the program's output; several are several lines |
//!
//! In commands `{program}`, `{source}` and `{dir}` stand for paths, `{link:NAME}` for the address the linker
//! gave a symbol, `{hex:NAME}` for the same without `0x`.
//!
//! Whatever is expected, output and ending have to be those of the program without probes.

/// How often something is expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Times {
    /// Exactly.
    Exactly(u64),
    /// At least.
    AtLeast(u64),
}

impl Times {
    /// Whether `found` is as expected.
    pub fn allows(self, found: u64) -> bool {
        match self {
            Times::Exactly(times) => found == times,
            Times::AtLeast(times) => found >= times,
        }
    }

    fn parse(word: &str) -> Option<Times> {
        match word.strip_prefix(">=") {
            Some(word) => word.parse().ok().map(Times::AtLeast),
            None => word.parse().ok().map(Times::Exactly),
        }
    }
}

/// A tool or a right a program needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Need {
    /// A flag in /proc/cpuinfo.
    Cpu(String),
    /// A program in PATH.
    Command(String),
    /// Root's rights.
    Root,
}

/// One `count:` and what is expected of it.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Run {
    /// Options and patterns.
    pub options: Vec<String>,
    /// The program's arguments.
    pub arguments: Vec<String>,
    /// Function and hits.
    pub counts: Vec<(String, Times)>,
    /// Line number, function, tactics.
    pub tactics: Vec<(usize, String, String)>,
    /// Function and a part of the reason.
    pub refused: Vec<(String, String)>,
    /// Exit code.
    pub exit: i32,
    /// Signal that kills it.
    pub signal: Option<i32>,
    /// Lines of output.
    pub stdout: Vec<String>,
}

/// All directives of a program.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Directives {
    /// Commands that build it, each a variant.
    pub compile: Vec<String>,
    /// Shell commands before that.
    pub extra: Vec<String>,
    /// Take symbols away.
    pub strip: bool,
    /// What it needs.
    pub needs: Vec<Need>,
    /// Count with traps too.
    pub traps: bool,
    /// Output is the same every time.
    pub steady: bool,
    /// The runs.
    pub runs: Vec<Run>,
}

impl Directives {
    /// Reads the head of a source file.
    ///
    /// # Errors
    /// The line that is not understood.
    pub fn parse(source: &str) -> Result<Directives, String> {
        let mut directives = Directives { traps: true, steady: true, ..Directives::default() };
        for (number, line) in source.lines().enumerate() {
            let Some(text) = line.strip_prefix("//@").or_else(|| line.strip_prefix("#@")) else { continue };
            let understood = directives.take(number, text.trim());
            understood.ok_or_else(|| format!("line {}: not understood: {line}", number + 1))?;
        }
        if directives.compile.is_empty() || directives.runs.is_empty() {
            return Err("at least one compile: and one count: are needed".into());
        }
        Ok(directives)
    }

    fn take(&mut self, number: usize, text: &str) -> Option<()> {
        let (key, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.trim();
        match key {
            "compile" => self.compile.push(value.to_owned()),
            "extra" => self.extra.push(value.to_owned()),
            "strip" => self.strip = true,
            "needs" => self.needs.push(match value.split_once(' ') {
                Some(("cpu", flag)) => Need::Cpu(flag.to_owned()),
                Some(("command", name)) => Need::Command(name.to_owned()),
                None if value == "root" => Need::Root,
                _ => return None,
            }),
            "traps" if value.starts_with("no, ") => self.traps = false,
            "unsteady" => self.steady = false,
            "count" => {
                let (options, arguments) =
                    value.split_once(" -- ").or(value.strip_suffix(" --").map(|v| (v, "")))?;
                let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
                self.runs.push(Run {
                    options: words(options),
                    arguments: words(arguments),
                    ..Run::default()
                });
            }
            _ => return self.runs.last_mut()?.take(number, key, value),
        }
        Some(())
    }
}

impl Run {
    fn take(&mut self, number: usize, key: &str, value: &str) -> Option<()> {
        match key {
            "expect-count" => {
                let (function, times) = value.rsplit_once(' ')?;
                self.counts.push((function.to_owned(), Times::parse(times)?));
            }
            "expect-tactic" => {
                let (function, tactics) = value.rsplit_once(' ')?;
                self.tactics.push((number, function.to_owned(), tactics.to_owned()));
            }
            "expect-refused" => {
                let (function, reason) = value.split_once(' ')?;
                self.refused.push((function.to_owned(), reason.to_owned()));
            }
            "expect-exit" => self.exit = value.parse().ok()?,
            "expect-signal" => self.signal = Some(value.parse().ok()?),
            "expect-stdout" => self.stdout.push(value.to_owned()),
            _ => return None,
        }
        Some(())
    }
}
