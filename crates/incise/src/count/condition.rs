//! Conditions on what runs at points, such as `arg0 > 100`: probes do what they do only where they hold.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use incise_patch::{Data, Snippet};
use incise_snippet::data::tables::Tables;
use incise_snippet::language::ast::Expr;
use incise_snippet::language::{Compiler, Diagnostic, Diagnostics, Span, parse_expression};
use incise_snippet::tree::{self, Fault};

use super::probes::Found;
use crate::compiled::Compiled;
use crate::script::{Frames, PointScope, Shared, place_of};

/// An expression of the language of snippets, to be evaluated whenever a thread comes by a point.
#[derive(Clone, Debug)]
pub struct Condition {
    text: Arc<str>,
    syntax: Arc<Expr>,
}

impl Condition {
    /// Reads an expression such as `arg0 > 100 && tid != 1`. What its names mean is looked up at each point.
    ///
    /// ```
    /// use incise::Condition;
    ///
    /// assert!(Condition::parse("arg0 > 100 && *(int *)arg1 == 7").is_ok());
    /// assert!(Condition::parse("arg0 >").is_err());
    /// ```
    ///
    /// # Errors
    /// What is wrong with the text, with the place underlined.
    pub fn parse(text: &str) -> Result<Condition, ConditionError> {
        let syntax = parse_expression(NAME, text).map_err(ConditionError)?;
        Ok(Condition { text: text.into(), syntax: syntax.into() })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// What conditions are called in messages.
const NAME: &str = "condition";

/// A condition's text that has no meaning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConditionError(Diagnostics);

impl fmt::Display for ConditionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the condition has no meaning\n{}", self.0)
    }
}

impl std::error::Error for ConditionError {}

/// The condition as code of one process.
pub(super) struct Guards {
    condition: Condition,
    compiler: Compiler,
    shared: Shared,
    /// At most points it is the same program.
    known: Vec<(tree::Program, Compiled)>,
}

impl Guards {
    pub(super) fn new(condition: Condition) -> Guards {
        let (compiler, shared) = (Compiler::default(), Shared::new(0, 0));
        Guards { condition, compiler, shared, known: Vec::new() }
    }

    /// The same condition for another process.
    pub(super) fn again(&self) -> Guards {
        Guards::new(self.condition.clone())
    }

    /// `then`, where the condition holds.
    ///
    /// # Errors
    /// Why the condition has no meaning at the point.
    pub(super) fn guard(&mut self, found: &Found<'_>, then: Snippet) -> Result<Snippet, Diagnostics> {
        let Found { point, program, memory, .. } = *found;
        // What is said of stacks is not followed: no condition asks for one.
        let frames = &Frames::new(incise_snippet::data::walk::SPARE);
        let scope = PointScope {
            shared: &self.shared,
            point,
            program,
            memory,
            place: place_of(point),
            frames,
            texts: None,
            anywhere: false,
        };
        let text = &self.condition.text;
        let tree = self.compiler.condition(NAME, text, &self.condition.syntax, &scope)?;
        let wrong = |message: String| {
            let mut wrong = Diagnostics::new(NAME, text);
            wrong.push(Diagnostic::error(Span::new(0, text.len()), message));
            wrong
        };
        if !self.compiler.output().maps.is_empty() || !self.compiler.output().records.is_empty() {
            return Err(wrong("there are no maps here, and nothing is printed".to_owned()));
        }
        let known = self.known.iter().find(|(known, _)| *known == tree);
        let compiled = match known {
            Some((_, compiled)) => compiled.clone(),
            None => {
                let data = &mut |block: &tree::Block| Data::new(block.size(), block.align(), block.initial());
                let compiled = Compiled::new(&tree, &Tables, true, data)
                    .map_err(|error| wrong(format!("it cannot be compiled: {error}")))?;
                self.known.push((tree, compiled.clone()));
                compiled
            }
        };
        compiled.guard(then).ok_or_else(|| wrong("this probe cannot depend on a condition".to_owned()))
    }

    /// Adds how often the condition could not be evaluated.
    pub(super) fn faults(&self, into: &mut BTreeMap<Fault, u64>) {
        for (fault, (_, compiled)) in Fault::ALL.iter().flat_map(|f| self.known.iter().map(move |k| (f, k))) {
            match compiled.faults(*fault) {
                0 => {}
                count => *into.entry(*fault).or_default() += count,
            }
        }
    }
}
