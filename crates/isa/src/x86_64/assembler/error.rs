//! What is wrong with a text, and where.

use std::fmt;
use std::ops::Range;

/// Why a text is no machine code. Shown with the line and a mark under the place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AsmError {
    /// The line that is wrong.
    pub line: String,
    /// Which line of the text, from 1 on.
    pub number: usize,
    /// The wrong characters of the line, counted in characters.
    pub columns: Range<usize>,
    /// What is wrong with them.
    pub message: String,
    /// What would be right.
    pub help: Vec<String>,
}

impl std::error::Error for AsmError {}

impl fmt::Display for AsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.columns;
        let mark = "^".repeat(end.saturating_sub(start).max(1));
        write!(f, "{}\n  {}\n  {:start$}{mark}", self.message, self.line, "")?;
        self.help.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// An error before the text is at hand.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// Byte offsets in the text.
    pub span: Range<usize>,
    pub message: String,
    pub help: Vec<String>,
}

impl Problem {
    pub(super) fn new(span: Range<usize>, message: impl Into<String>) -> Problem {
        Problem { span, message: message.into(), help: Vec::new() }
    }

    pub(super) fn help(mut self, line: impl Into<String>) -> Problem {
        self.help.push(line.into());
        self
    }

    /// The line of `text` and the columns in it.
    pub(super) fn in_text(self, text: &str) -> AsmError {
        let at = self.span.start.min(text.len());
        let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        let column = |offset: usize| text[start..offset.clamp(start, end)].chars().count();
        AsmError {
            line: text[start..end].replace('\t', " "),
            number: text[..start].matches('\n').count() + 1,
            columns: column(at)..column(self.span.end.max(at)),
            message: self.message,
            help: self.help,
        }
    }
}
