//! The language: C with probes, maps and the words of bpftrace, a superset of DynC.

pub mod ast;
mod diagnostics;
mod lexer;
mod parser;
mod span;

use incise_image::suggest;

pub use diagnostics::{Diagnostic, Diagnostics};
pub use parser::{parse_expression, parse_script, parse_snippet};
pub use span::Span;
