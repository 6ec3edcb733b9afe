//! How a command ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Ending {
        match status.code() {
            Some(code) => Ending::Exited(code),
            None => Ending::Killed(status.signal().unwrap_or(0)),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "exit code {code}"),
            Ending::Killed(signal) => write!(f, "killed by signal {signal}"),
        }
    }
}

/// What a command left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Standard error as text.
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Where `other` differs from this, in words for a failed test; `None` if nowhere.
    pub fn difference(&self, other: &Outcome) -> Option<String> {
        if self.ending != other.ending {
            let error = other.error_text();
            return Some(format!("{} became {}: {}", self.ending, other.ending, last_lines(&error)));
        }
        let streams = [("stdout", &self.stdout, &other.stdout), ("stderr", &self.stderr, &other.stderr)];
        streams.into_iter().find(|(_, a, b)| a != b).map(|(name, a, b)| {
            let at = a.iter().zip(b.iter()).take_while(|(x, y)| x == y).count();
            let part = |text: &[u8]| {
                String::from_utf8_lossy(&text[at.saturating_sub(30)..text.len().min(at + 60)]).into_owned()
            };
            format!("{name} differs at byte {at}: {:?} became {:?}", part(a), part(b))
        })
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(4)..].join(" / ")
}
