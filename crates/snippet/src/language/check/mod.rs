//! From the syntax tree to the tree of typed expressions: names, types, conversions, in order of evaluation.

mod builtin;
mod call;
mod convert;
mod elsewhere;
mod expression;
mod map;
mod operate;
mod place;
mod record;
mod statement;
mod types;

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::ast::{Block, Clause, Expr, ExprKind, StructDeclaration};
use super::output::Output;
use super::scope::{Part, Scope};
use super::types::Type;
use super::{Diagnostic, Diagnostics, Span};
use crate::tree::{self, LocalArray, LocalVar, Place, Program, ProgramBuilder, Stmt, Variable};

type Checked<T> = Result<T, Diagnostic>;

/// Compiles the clauses of one script, or one snippet, for one point after the other. What clauses share is kept here:
/// maps, variables, the kinds of records.
#[derive(Default)]
pub struct Compiler {
    pub(super) output: Output,
    structures: FxHashMap<String, Type>,
    /// `static` variables by where they are declared; `global` ones by name.
    statics: FxHashMap<(u32, String), (Type, Variable)>,
}

impl Compiler {
    /// For a script that declares `structures`.
    pub fn new(structures: &[StructDeclaration]) -> Compiler {
        let mut compiler = Compiler::default();
        for declaration in structures {
            compiler.declare(declaration);
        }
        compiler
    }

    /// The maps and records of all that was compiled.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Compiles a clause of a script at one point.
    ///
    /// # Errors
    /// What is wrong with it; `name` and `source` are shown.
    pub fn clause(
        &mut self,
        name: &str,
        source: &str,
        clause: &Clause,
        scope: &dyn Scope,
    ) -> Result<Program, Diagnostics> {
        self.compile(name, source, scope, |check| {
            if let Some(filter) = &clause.filter {
                match check.condition(filter) {
                    Ok(holds) => check.out.push(Stmt::when(holds.is_false(), [Stmt::Return(None)])),
                    Err(error) => check.diagnostics.push(error),
                }
            }
            check.block(&clause.body);
            clause.body.span
        })
    }

    /// Compiles a snippet at one point.
    ///
    /// # Errors
    /// What is wrong with it; `name` and `source` are shown.
    pub fn snippet(
        &mut self,
        name: &str,
        source: &str,
        body: &Block,
        scope: &dyn Scope,
    ) -> Result<Program, Diagnostics> {
        self.compile(name, source, scope, |check| {
            check.block(body);
            body.span
        })
    }

    /// Compiles an expression to a program that returns whether it holds at one point.
    ///
    /// # Errors
    /// What is wrong with it; `name` and `source` are shown.
    pub fn condition(
        &mut self,
        name: &str,
        source: &str,
        condition: &Expr,
        scope: &dyn Scope,
    ) -> Result<Program, Diagnostics> {
        self.compile(name, source, scope, |check| {
            let holds = match condition.kind {
                ExprKind::Assign { op: None, .. } => {
                    let error = Diagnostic::error(condition.span, "a condition changes nothing");
                    Err(error.help("to compare, write `==`"))
                }
                _ => check.condition(condition),
            };
            match holds {
                Ok(holds) => check.out.push(Stmt::give(holds)),
                Err(error) => check.diagnostics.push(error),
            }
            condition.span
        })
    }

    /// Compiles an expression to a program that prints its value.
    ///
    /// # Errors
    /// What is wrong with it; `name` and `source` are shown.
    pub fn print(
        &mut self,
        name: &str,
        source: &str,
        value: &Expr,
        scope: &dyn Scope,
    ) -> Result<Program, Diagnostics> {
        self.compile(name, source, scope, |check| {
            if let Err(error) = check.print_value(value) {
                check.diagnostics.push(error);
            }
            value.span
        })
    }

    /// `make` makes the statements, and tells where they come from.
    fn compile(
        &mut self,
        name: &str,
        source: &str,
        scope: &dyn Scope,
        make: impl FnOnce(&mut Check<'_>) -> Span,
    ) -> Result<Program, Diagnostics> {
        let mut diagnostics = Diagnostics::new(name, source);
        let mut check = Check {
            shared: self,
            scope,
            diagnostics: &mut diagnostics,
            builder: ProgramBuilder::new(),
            names: vec![FxHashMap::default()],
            scratch: FxHashMap::default(),
            out: Vec::new(),
            loops: 0,
            switches: 0,
            statements: 0,
            overridden: None,
            returned: None,
        };
        let span = make(&mut check);
        if let Some(span) = check.returned.filter(|_| check.overridden.is_some()) {
            let error = Diagnostic::error(span, "a value is returned by override() here");
            check.diagnostics.push(error.help("return without a value goes on with the function"));
        }
        let Check { builder, out, .. } = check;
        if !diagnostics.has_errors() {
            match builder.finish(out) {
                Ok(program) => return Ok(program),
                Err(error) => diagnostics.push(Diagnostic::error(span, error.to_string())),
            }
        }
        Err(diagnostics)
    }
}

/// A variable of the snippet.
#[derive(Clone)]
enum Own {
    Scalar(Type, LocalVar),
    Array(Type, LocalArray, u64),
    Static(Type, Variable),
}

struct Check<'a> {
    shared: &'a mut Compiler,
    scope: &'a dyn Scope,
    diagnostics: &'a mut Diagnostics,
    builder: ProgramBuilder,
    /// Declared variables, the innermost block last.
    names: Vec<FxHashMap<String, Own>>,
    /// `$name` variables.
    scratch: FxHashMap<String, (Type, LocalVar)>,
    /// Statements so far, of the block at hand.
    out: Vec<Stmt>,
    loops: u32,
    switches: u32,
    /// Statements so far, each time `unroll` repeats them.
    statements: u32,
    /// There is an `override`, of a float or something else.
    overridden: Option<bool>,
    /// A `return` with a value.
    returned: Option<Span>,
}

/// A value, and its type in the language.
#[derive(Clone, Debug)]
struct Value {
    ty: Type,
    expr: tree::Expr,
}

/// What can be given a value.
#[derive(Clone, Debug)]
enum Target {
    /// Something the tree has a word for.
    Place(Type, Place),
    /// Memory that holds a structure or an array.
    Memory(Type, tree::Expr),
    /// Some bits of memory: at an address, as this integer, from this bit on, so many.
    Bits(Type, tree::Expr, u8, u8),
    /// An own array as a whole.
    Array(Type, LocalArray),
    /// Parts of the program's, of which the type begins so many bytes behind the first.
    Parts(Type, Rc<[Part]>, u64),
    /// Only a value.
    Value(Value),
}

impl Target {
    fn ty(&self) -> &Type {
        match self {
            Target::Place(ty, _)
            | Target::Memory(ty, _)
            | Target::Bits(ty, ..)
            | Target::Array(ty, ..)
            | Target::Parts(ty, ..) => ty,
            Target::Value(value) => &value.ty,
        }
    }
}

impl Check<'_> {
    fn error<T>(&self, span: Span, message: impl Into<String>) -> Checked<T> {
        Err(Diagnostic::error(span, message))
    }

    /// Statements that `work` makes, apart from those so far.
    fn apart<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> (T, Vec<Stmt>) {
        let before = std::mem::take(&mut self.out);
        let value = work(self);
        (value, std::mem::replace(&mut self.out, before))
    }

    /// A tree error as a diagnostic.
    fn sound(&self, expr: tree::Expr, span: Span) -> Checked<tree::Expr> {
        match expr.check() {
            Ok(()) => Ok(expr),
            Err(error) => self.error(span, error.to_string()),
        }
    }
}
