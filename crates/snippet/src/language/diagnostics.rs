//! What is wrong with a program, shown under its source.

use std::fmt;

use ariadne::{CharSet, Config, IndexType, Label, Report, ReportKind, Source};

use super::Span;

/// Most errors collected about one source; what follows an error is often caused by it.
const MOST: usize = 10;

/// One thing that is wrong, or worth a warning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// What is wrong, in one line.
    pub message: String,
    /// Where.
    pub span: Span,
    /// What the underlined text is, in the light of the message.
    pub label: Option<String>,
    /// Other places that matter, and why.
    pub related: Vec<(Span, String)>,
    /// What to write instead.
    pub help: Option<String>,
    /// It does not prevent the program from running.
    pub warning: bool,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(span: Span, message: impl Into<String>) -> Diagnostic {
        let (message, related) = (message.into(), Vec::new());
        Diagnostic { message, span, label: None, related, help: None, warning: false }
    }

    /// A warning at `span`.
    pub fn warning(span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { warning: true, ..Diagnostic::error(span, message) }
    }

    /// With a text beside the underlining.
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }

    /// With another place that matters.
    pub fn also(mut self, span: Span, why: impl Into<String>) -> Diagnostic {
        self.related.push((span, why.into()));
        self
    }

    /// With advice.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// With the advice to write one of `near`, if there is any.
    pub fn did_you_mean(self, near: &[String]) -> Diagnostic {
        match near {
            [] => self,
            [one] => self.help(format!("did you mean `{one}`?")),
            [most @ .., last] => {
                let most: Vec<String> = most.iter().map(|name| format!("`{name}`")).collect();
                self.help(format!("did you mean {} or `{last}`?", most.join(", ")))
            }
        }
    }
}

/// All that is wrong with a source, with the source, so that it can be shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostics {
    name: String,
    source: String,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// About `source`, which is called `name` in reports.
    pub fn new(name: &str, source: &str) -> Diagnostics {
        Diagnostics { name: name.to_owned(), source: source.to_owned(), list: Vec::new() }
    }

    /// Adds one, unless there are very many already.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        if self.list.len() < MOST && !self.list.contains(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    /// Each in the order found; at most ten.
    pub fn list(&self) -> &[Diagnostic] {
        &self.list
    }

    /// Something prevents the program from running.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| !diagnostic.warning)
    }

    /// Only the first so many.
    pub(super) fn truncate(&mut self, count: usize) {
        self.list.truncate(count);
    }

    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MOST
    }

    /// `Ok(value)` if nothing prevents the program from running.
    pub(super) fn unless_errors<T>(self, value: T) -> Result<T, Diagnostics> {
        if self.has_errors() { Err(self) } else { Ok(value) }
    }

    /// The reports, each with the source underlined; with colours for a terminal if `color`.
    pub fn render(&self, color: bool) -> String {
        let mut out = Vec::new();
        let config = Config::default()
            .with_color(color)
            .with_index_type(IndexType::Byte)
            .with_char_set(CharSet::Unicode);
        for diagnostic in &self.list {
            self.report(diagnostic, config, &mut out);
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    fn report(&self, diagnostic: &Diagnostic, config: Config, out: &mut Vec<u8>) {
        let kind = if diagnostic.warning { ReportKind::Warning } else { ReportKind::Error };
        let place = |span: Span| (self.name.as_str(), self.shown(span));
        let mut report = Report::build(kind, place(diagnostic.span))
            .with_config(config)
            .with_message(&diagnostic.message)
            .with_label(
                Label::new(place(diagnostic.span))
                    .with_message(diagnostic.label.as_deref().unwrap_or("here"))
                    .with_color(ariadne::Color::Red),
            );
        for (span, why) in &diagnostic.related {
            report.add_label(Label::new(place(*span)).with_message(why).with_color(ariadne::Color::Blue));
        }
        if let Some(help) = &diagnostic.help {
            report.set_help(help);
        }
        // Writing to a vector cannot fail.
        let _ = report.finish().write((self.name.as_str(), Source::from(self.source.as_str())), out);
    }

    /// The bytes of the source to underline: inside it, on character boundaries, at least one if there is one.
    fn shown(&self, span: Span) -> std::ops::Range<usize> {
        let floor =
            |at: usize| (0..=at.min(self.source.len())).rev().find(|&i| self.source.is_char_boundary(i));
        let mut start = floor(span.start as usize).unwrap_or(0);
        if start == self.source.len() {
            // The end of the source: show its last character.
            start = self.source.char_indices().next_back().map_or(0, |(at, _)| at);
        }
        let next = self.source[start..].chars().next().map_or(start, |c| start + c.len_utf8());
        start..floor(span.end as usize).unwrap_or(0).max(next)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl std::error::Error for Diagnostics {}
