//! From the syntax tree to the tree of typed expressions: names, types, conversions, in order of evaluation.

mod builtin;
mod call;
mod convert;
mod elsewhere;
mod expression;
mod map;
mod place;
mod statement;

use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::ast::{BaseType, Block, Clause, Expr, ExprKind, StructDeclaration, Tag, TypeName};
use super::output::Output;
use super::scope::{Part, Scope};
use super::types::{Member, Structure, Type};
use super::{Diagnostic, Diagnostics, Span};
use crate::tree::{self, LocalArray, LocalVar, Place, Program, ProgramBuilder, Stmt, Variable};

/// How deep names of types may lead to others.
const TYPE_DEPTH: u32 = 64;

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

    /// Lays out a declared structure as the System V ABI does.
    fn declare(&mut self, declaration: &StructDeclaration) {
        let name = declaration.name.clone();
        let (mut size, mut align, mut members) = (0u64, 1u64, Vec::new());
        for member in &declaration.members {
            let Some(ty) = self.plain_type(&member.ty) else { continue };
            let (bytes, alignment) = self.layout(&ty, 0);
            let (mut offset, mut bits) = (size.next_multiple_of(alignment), None);
            match member.bits {
                Some(width) if u64::from(width) <= bytes * 8 => {
                    // A bit field goes on in the unit before it if that has room.
                    let used = self.bits_used(&members);
                    let unit = used / (bytes * 8).max(1);
                    let start = if used % (bytes * 8) + u64::from(width) > bytes * 8 {
                        (unit + 1) * bytes * 8
                    } else {
                        used
                    };
                    let start =
                        if declaration.union { 0 } else { start.max(if used == 0 { size * 8 } else { 0 }) };
                    offset = start / (bytes * 8) * bytes;
                    bits = Some(((start % (bytes * 8)) as u8, width as u8));
                    size = size.max((start + u64::from(width)).div_ceil(8));
                }
                _ if declaration.union => {
                    offset = 0;
                    size = size.max(bytes);
                }
                _ => size = offset.saturating_add(bytes),
            }
            align = align.max(alignment);
            members.push(Member { name: member.name.clone(), ty, offset, bits });
        }
        let tag = if declaration.union { Tag::Union } else { Tag::Struct };
        let structure = Structure { name: name.clone(), tag, size: size.next_multiple_of(align), members };
        self.structures.insert(name, Type::Structure(structure.into()));
    }

    /// Bits up to the end of the last member if that is a bit field.
    fn bits_used(&self, members: &[Member]) -> u64 {
        let last = members.last();
        last.and_then(|m| m.bits.map(|(at, width)| m.offset * 8 + u64::from(at) + u64::from(width)))
            .unwrap_or(0)
    }

    /// Size and alignment of a type of a declared structure.
    fn layout(&self, ty: &Type, depth: u32) -> (u64, u64) {
        match ty {
            Type::Array(of, count) => {
                let (size, align) = self.layout(of, depth);
                (size.saturating_mul(*count), align)
            }
            Type::Structure(structure) => (structure.size, 8),
            Type::Named(_, name) if depth < TYPE_DEPTH => {
                self.structures.get(&**name).map_or((0, 1), |ty| self.layout(ty, depth + 1))
            }
            other => {
                let size = other.lowered().map_or(0, |ty| u64::from(ty.size()));
                (size, size.max(1))
            }
        }
    }

    /// A type without asking the program; array lengths have to be plain numbers.
    fn plain_type(&self, name: &TypeName) -> Option<Type> {
        let mut ty = match &name.base {
            BaseType::Void => Type::Void,
            BaseType::Bool => Type::Bool,
            BaseType::Int { bytes, signed } => Type::Int { bytes: *bytes, signed: *signed },
            BaseType::Float => Type::Float,
            BaseType::Double => Type::Double,
            BaseType::Tagged(tag, name) => Type::Named(Some(*tag), name.as_str().into()),
            BaseType::Named(name) => Type::Named(None, name.as_str().into()),
        };
        for _ in 0..name.pointers {
            ty = ty.pointer();
        }
        for length in name.arrays.iter().rev() {
            let ExprKind::Int { value, .. } = length.as_ref()?.kind else { return None };
            ty = Type::Array(ty.into(), value);
        }
        Some(ty)
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

    /// The type a name of a type means.
    fn type_of(&mut self, name: &TypeName) -> Checked<Type> {
        let mut ty = match &name.base {
            BaseType::Tagged(..) | BaseType::Named(_) => {
                let base = TypeName { pointers: 0, arrays: Vec::new(), ..name.clone() };
                let ty = self.shared.plain_type(&base).unwrap_or(Type::Void);
                // Something behind a pointer may stay unknown until it is used.
                if name.pointers > 0 { ty } else { self.resolve(&ty, name.span)? }
            }
            _ => {
                let base = TypeName { pointers: 0, arrays: Vec::new(), ..name.clone() };
                self.shared.plain_type(&base).unwrap_or(Type::Void)
            }
        };
        for _ in 0..name.pointers {
            ty = ty.pointer();
        }
        for length in name.arrays.iter().rev() {
            let Some(length) = length else { return self.error(name.span, "this array needs a length") };
            ty = Type::Array(ty.into(), self.array_length(length)?);
        }
        Ok(ty)
    }

    fn array_length(&mut self, length: &Expr) -> Checked<u64> {
        match self.constant_integer(length)? {
            count @ 1..=8192 => Ok(count as u64),
            count => self.error(length.span, format!("an array has 1 to 8192 elements, not {count}")),
        }
    }

    /// The type a named one stands for.
    fn resolve(&self, ty: &Type, span: Span) -> Checked<Type> {
        let mut ty = ty.clone();
        for _ in 0..TYPE_DEPTH {
            let (found, name) = match &ty {
                Type::Named(tag, name) => {
                    let found = self.shared.structures.get(&**name).cloned();
                    (found.or_else(|| self.scope.named_type(*tag, name)), name)
                }
                Type::Program(known) => (self.scope.program_type(known.number), &known.name),
                _ => return Ok(ty),
            };
            ty = match found {
                Some(found) => found,
                None => {
                    let error = Diagnostic::error(span, format!("the type `{ty}` is not known"));
                    let near = self.scope.suggest(name);
                    let error = if near.is_empty() {
                        error.help("the program's debugging information does not tell it; declare it: struct name { … };")
                    } else {
                        error.did_you_mean(&near)
                    };
                    return Err(error);
                }
            };
        }
        self.error(span, "this type is defined by itself")
    }

    /// Size of a value in bytes.
    fn size_of(&self, ty: &Type, span: Span) -> Checked<u64> {
        match self.resolve(ty, span)? {
            Type::Void => Ok(1),
            Type::Array(of, count) => Ok(self.size_of(&of, span)?.saturating_mul(count)),
            Type::Structure(structure) => Ok(structure.size),
            other => Ok(other.lowered().map_or(0, |ty| u64::from(ty.size()))),
        }
    }
}
