//! The language: C with probes, maps and the words of bpftrace, a superset of DynC.
//!
//! A script is parsed once ([`parse_script`]) and its clauses are compiled at each point ([`Compiler`]), where a
//! [`Scope`] says what names mean. The grammar and the manual are in `docs/language.md`.

pub mod ast;
mod check;
mod diagnostics;
mod lexer;
mod output;
mod parser;
mod scope;
mod span;
mod types;
mod unset;

use incise_image::suggest;

pub use check::Compiler;
pub use diagnostics::{Diagnostic, Diagnostics};
pub use output::{Action, MapInfo, Output, RecordInfo};
pub use parser::{parse_expression, parse_script, parse_snippet};
pub use scope::{Function, Home, Part, PointInfo, ProgramVariable, Scope};
pub use span::Span;
pub use types::{Member, ProgramType, Structure, Type};
pub use unset::check_maps;
