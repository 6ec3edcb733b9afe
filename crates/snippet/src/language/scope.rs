//! What the checker asks about the program and the point.

use super::ast::{Domain, Place, Tag};
use super::types::Type;
use crate::tree;

/// Answers what names mean at one point. All methods have an answer that means "not known".
pub trait Scope {
    /// Where the snippet will be; `None` for what runs in the tool (`begin`, `end`, `interval`).
    fn point(&self) -> Option<PointInfo> {
        None
    }

    /// A function of the program.
    fn function(&self, _name: &str) -> Option<Function> {
        None
    }

    /// A variable of the program that is seen from the point; `domain` is [`Domain::Local`], [`Domain::Parameter`],
    /// [`Domain::Global`], or [`Domain::Default`] for the innermost that is local or a parameter.
    ///
    /// # Errors
    /// Why a variable that exists has no value here, such as "optimized out".
    fn variable(&self, _domain: Domain, _name: &str) -> Result<Option<ProgramVariable>, String> {
        Ok(None)
    }

    /// A type of the program.
    fn named_type(&self, _tag: Option<Tag>, _name: &str) -> Option<Type> {
        None
    }

    /// What a [`Type::Program`] is, by its number.
    fn program_type(&self, _number: u64) -> Option<Type> {
        None
    }

    /// The value of an enumerator of the program.
    fn enumerator(&self, _name: &str) -> Option<i64> {
        None
    }

    /// What the function at whose exit the point is returns, if that is known.
    fn returns(&self) -> Option<Type> {
        None
    }

    /// The argument `argN` of a probe that a programmer has put at the point, as 64 bits with its sign or without: `None` if there is no such probe, `Some(None)` if
    /// it has no such argument.
    fn probe_argument(&self, _number: u8) -> Option<Option<tree::Expr>> {
        None
    }

    /// Names that are nearest to one that was not found.
    fn suggest(&self, _name: &str) -> Vec<String> {
        Vec::new()
    }

    /// The address of `text`, with a zero behind it, kept in the memory of the program for functions that are
    /// called with it.
    fn text(&self, _text: &[u8]) -> Option<tree::Expr> {
        None
    }

    /// Makes a map; `None` if there can be no more.
    fn map(&self, name: &str, keys: &[tree::Type], aggregate: &tree::Aggregate) -> Option<tree::Map>;

    /// Where records go.
    fn ring(&self) -> Option<tree::Ring>;

    /// How stacks are walked at the point, as a table of [`walk`](crate::data::walk); by frame pointers if there is none.
    fn frames(&self) -> Option<tree::Block> {
        None
    }

    /// The argument `$n` of the script, from 1.
    fn argument(&self, _n: u32) -> Option<String> {
        None
    }

    /// When the tracing began, by CLOCK_MONOTONIC in nanoseconds.
    fn began(&self) -> u64 {
        0
    }
}

/// Where a snippet will be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PointInfo {
    /// The function, as its programmer wrote it.
    pub function: String,
    /// File name of the module.
    pub module: String,
    /// The probe, as it is shown.
    pub probe: String,
    /// Which point of the function.
    pub place: Place,
}

/// A function of the program.
#[derive(Clone, PartialEq, Debug)]
pub struct Function {
    /// How to call it.
    pub callee: tree::Callee,
    /// What it returns.
    pub returns: Type,
}

/// A variable of the program.
#[derive(Clone, PartialEq, Debug)]
pub struct ProgramVariable {
    /// Its type.
    pub ty: Type,
    /// Where it is.
    pub home: Home,
}

/// Where a variable of the program is.
#[derive(Clone, PartialEq, Debug)]
pub enum Home {
    /// In memory at this address.
    Memory(tree::Expr),
    /// In the low bits of this register.
    Register(tree::Register),
    /// Nowhere, but this is its value.
    Value(tree::Expr),
    /// In parts, which can be read only.
    Parts(Vec<Part>),
}

/// A part of a variable.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// Bytes from the start of the variable.
    pub offset: u64,
    /// How many bytes it has, at most eight.
    pub bytes: u8,
    /// Its bytes, as the lowest of a `u64`; `None` if nothing holds them.
    pub value: Option<tree::Expr>,
}
