//! Filters: which of the points that a query finds are wanted.

mod compile;
mod fact;

use std::fmt;
use std::sync::Arc;

use incise_snippet::language::{Diagnostics, parse_expression};

use crate::flow::PointView;

/// A predicate over points: a closure, or an expression in text.
#[derive(Clone)]
pub struct Filter {
    accepts: Arc<dyn Fn(&PointView<'_>) -> bool + Send + Sync>,
}

impl Filter {
    /// Accepts what `accepts` accepts.
    pub fn new(accepts: impl Fn(&PointView<'_>) -> bool + Send + Sync + 'static) -> Filter {
        Filter { accepts: Arc::new(accepts) }
    }

    /// Reads an expression such as `callee ~ "mem*" && loop_depth > 0`: C's operators over facts of the point, and
    /// `~`, which compares a name with a pattern of the shell. The facts are listed in `docs/points.md`.
    ///
    /// A fact that a point does not have (the callee of what calls nothing, the line of code without DWARF) compares
    /// as false with everything, and `!=` is the opposite of `==`. Of facts with several values (the names of a
    /// function, the operands of an instruction) one has to fit.
    ///
    /// ```
    /// use incise::Filter;
    ///
    /// assert!(Filter::parse(r#"mnemonic == "div" || writes_memory && operand ~ "*rsp*""#).is_ok());
    /// let error = Filter::parse(r#"calee ~ "mem*""#).unwrap_err().to_string();
    /// assert!(error.contains("did you mean `callee`?"), "{error}");
    /// ```
    ///
    /// # Errors
    /// What is wrong with the text, with the place underlined.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        let syntax = parse_expression("filter", text).map_err(FilterError)?;
        let condition = compile::condition(&syntax).map_err(|diagnostic| {
            let mut diagnostics = Diagnostics::new("filter", text);
            diagnostics.push(diagnostic);
            FilterError(diagnostics)
        })?;
        Ok(Filter::new(move |view| condition.holds(view)))
    }

    /// Accepts what both accept.
    pub fn and(self, other: Filter) -> Filter {
        Filter::new(move |view| self.accepts(view) && other.accepts(view))
    }

    /// Whether it accepts a point.
    pub fn accepts(&self, view: &PointView<'_>) -> bool {
        (self.accepts)(view)
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Filter")
    }
}

/// A filter's text that has no meaning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterError(Diagnostics);

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the filter has no meaning\n{}", self.0)
    }
}

impl std::error::Error for FilterError {}
