//! Snippets as trees, for C: the functions of `tree.h`.
//!
//! # Safety
//! As for [`exports`](crate::exports); a tree comes from `patch_tree_new`, was not freed, and is used by one thread at a time. Arrays have
//! as many pieces as is said. Functions that are called are of the type that is said.

#![allow(unsafe_code, reason = "the boundary to C")]

use std::ffi::{CStr, c_char, c_uint};

use incise::Addr;
use incise::isa::native::Gpr;
use incise::snippet::{
    self, BinaryOp, Callee, Constant, Expr, LocalArray, LocalVar, Map, Place, PointFact, Program,
    ProgramBuilder, Register, Stmt, Storage, TreeError, Type, UnaryOp, Variable,
};

use crate::abi::Op;
use crate::data::store_value;
use crate::error::Error;
use crate::exports::status;
use crate::lock::lock;
use crate::operation::{Operation, What};
use crate::tree_records::Rings;

/// `patch_tree`: what was made in it; a piece is its place here, from 1.
#[derive(Default)]
pub struct Tree {
    exprs: Vec<Expr>,
    stmts: Vec<Stmt>,
    variables: Vec<Var>,
    maps: Vec<Map>,
    rings: Vec<Rings>,
    /// What is declared for one run.
    pub locals: ProgramBuilder,
}

/// What `patch_var` names.
pub enum Var {
    /// It outlives the runs.
    Lasting(Variable),
    /// Of one run.
    Local(LocalVar),
    /// Several of one run.
    Array(LocalArray),
}

/// `patch_expr`, `patch_stmt`, `patch_var`, `patch_table`, `patch_rings`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Piece {
    id: u32,
}

impl Piece {
    /// Nothing.
    pub const NONE: Piece = Piece { id: 0 };

    /// Whether it is nothing.
    pub fn is_none(self) -> bool {
        self.id == 0
    }
}

/// The piece at a place, if there is one.
fn at<T>(all: &[T], piece: Piece) -> Option<&T> {
    all.get((piece.id as usize).checked_sub(1)?)
}

fn keep<T>(all: &mut Vec<T>, piece: T) -> Piece {
    all.push(piece);
    Piece { id: all.len() as u32 }
}

pub(crate) fn unknown(what: &'static str, value: u64, most: usize) -> TreeError {
    TreeError::Limit { what, value, most: most as u64 }
}

pub(crate) fn of_type(number: c_uint) -> Result<Type, TreeError> {
    let all = Type::SCALARS;
    all.get(number as usize).copied().ok_or_else(|| unknown("types", number.into(), all.len() - 1))
}

fn general(number: c_uint) -> Result<Gpr, TreeError> {
    Gpr::ALL.get(number as usize).copied().ok_or_else(|| unknown("registers", number.into(), 15))
}

impl Tree {
    pub fn expr(&self, piece: Piece) -> Expr {
        let wrong =
            || Expr::from(Err(unknown("expressions of this tree", piece.id.into(), self.exprs.len())));
        at(&self.exprs, piece).cloned().unwrap_or_else(wrong)
    }

    /// 0 is nothing.
    pub fn body(&self, piece: Piece) -> Vec<Stmt> {
        match (piece.id, at(&self.stmts, piece)) {
            (0, _) => Vec::new(),
            (_, Some(stmt)) => vec![stmt.clone()],
            (id, None) => {
                vec![Stmt::Invalid(unknown("statements of this tree", id.into(), self.stmts.len()))]
            }
        }
    }

    fn var(&self, piece: Piece) -> Result<&Var, TreeError> {
        let wrong = || unknown("variables of this tree", piece.id.into(), self.variables.len());
        at(&self.variables, piece).ok_or_else(wrong)
    }

    fn variable(&self, piece: Piece) -> Result<&Variable, TreeError> {
        match self.var(piece)? {
            Var::Lasting(variable) => Ok(variable),
            _ => Err(TreeError::Storage("a variable of one run".to_owned(), "read or added to so")),
        }
    }

    /// An array of one run.
    pub fn array(&self, piece: Piece) -> Result<LocalArray, TreeError> {
        match self.var(piece)? {
            Var::Array(array) => Ok(*array),
            _ => Err(TreeError::Storage("a variable".to_owned(), "an array")),
        }
    }

    fn value(&self, piece: Piece) -> Result<Expr, TreeError> {
        match self.var(piece)? {
            Var::Lasting(variable) => Ok(variable.get()),
            Var::Local(local) => Ok(local.get()),
            Var::Array(_) => Err(TreeError::Storage("an array".to_owned(), "a value")),
        }
    }

    fn set(&self, piece: Piece, value: Expr) -> Result<Stmt, TreeError> {
        match self.var(piece)? {
            Var::Lasting(variable) => Ok(variable.set(value)),
            Var::Local(local) => Ok(local.set(value)),
            Var::Array(_) => Err(TreeError::Storage("an array".to_owned(), "set as a whole")),
        }
    }

    fn add(&self, piece: Piece, value: Expr) -> Result<Stmt, TreeError> {
        match self.var(piece)? {
            Var::Local(local) => Ok(local.set(local.get().add(value))),
            _ => Ok(self.variable(piece)?.add(value)),
        }
    }

    /// A map of this tree.
    pub fn map(&self, piece: Piece) -> Result<&Map, TreeError> {
        at(&self.maps, piece).ok_or_else(|| unknown("maps of this tree", piece.id.into(), self.maps.len()))
    }

    /// Rings of this tree.
    pub fn rings(&self, piece: Piece) -> Result<&Rings, TreeError> {
        at(&self.rings, piece).ok_or_else(|| unknown("rings of this tree", piece.id.into(), self.rings.len()))
    }

    pub fn rings_mut(&mut self, piece: Piece) -> Result<&mut Rings, TreeError> {
        let (index, most) = ((piece.id as usize).wrapping_sub(1), self.rings.len());
        self.rings.get_mut(index).ok_or_else(|| unknown("rings of this tree", piece.id.into(), most))
    }

    pub fn keep_rings(&mut self, rings: Rings) -> Piece {
        keep(&mut self.rings, rings)
    }

    pub fn keep_variable(&mut self, variable: Var) -> Piece {
        keep(&mut self.variables, variable)
    }

    pub fn keep_map(&mut self, map: Map) -> Piece {
        keep(&mut self.maps, map)
    }

    fn program(&self, body: Piece) -> Result<Program, Error> {
        let body = self.body(body);
        // Without locals, which most bodies do not use, it may be put in line.
        let made = match Program::new(body.clone()) {
            Err(TreeError::Local(_)) => self.locals.clone().finish(body),
            made => made,
        };
        made.map_err(|error| Error::Snippet(error.to_string()))
    }
}

/// Adds an expression to a tree; none to NULL.
///
/// # Safety
/// See the head of the file.
pub(crate) unsafe fn expr(tree: *mut Tree, make: impl FnOnce(&Tree) -> Result<Expr, TreeError>) -> Piece {
    // SAFETY: the caller's.
    let Some(tree) = (unsafe { tree.as_mut() }) else { return Piece { id: 0 } };
    let made = Expr::from(make(tree));
    keep(&mut tree.exprs, made)
}

/// Adds a statement to a tree; none to NULL.
///
/// # Safety
/// See the head of the file.
pub(crate) unsafe fn stmt(tree: *mut Tree, make: impl FnOnce(&Tree) -> Result<Stmt, TreeError>) -> Piece {
    // SAFETY: the caller's.
    let Some(tree) = (unsafe { tree.as_mut() }) else { return Piece { id: 0 } };
    let made = make(tree).unwrap_or_else(Stmt::Invalid);
    keep(&mut tree.stmts, made)
}

/// An array of C.
///
/// # Safety
/// See the head of the file.
pub(crate) unsafe fn array<'a>(from: *const Piece, count: usize) -> &'a [Piece] {
    if from.is_null() {
        return &[];
    }
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts(from, count) }
}

/// A new tree.
#[unsafe(no_mangle)]
pub extern "C" fn patch_tree_new() -> *mut Tree {
    Box::into_raw(Box::default())
}

/// Frees a tree.
///
/// # Safety
/// See the head of the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_tree_free(tree: *mut Tree) {
    if !tree.is_null() {
        // SAFETY: it was made by `patch_tree_new`, and this is the last use.
        drop(unsafe { Box::from_raw(tree) });
    }
}

/// Functions that add a piece to a tree.
macro_rules! pieces {
    ($($(#[$doc:meta])* $adder:ident $name:ident($($arg:ident: $ty:ty),*) |$tree:pat_param| $make:expr;)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// See the head of the file.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(tree: *mut $crate::tree::Tree, $($arg: $ty),*) -> $crate::tree::Piece {
            let make = |$tree: &$crate::tree::Tree| $make;
            // SAFETY: the caller's.
            unsafe { $adder(tree, make) }
        }
    )*};
}
pub(crate) use pieces;

pieces! {
    /// A number by its bits.
    expr patch_const(ty: c_uint, bits: u64) |_| Ok(Constant::new(of_type(ty)?, bits).into());
    /// An integer argument.
    expr patch_arg(number: c_uint) |_| Ok(snippet::arg(number.min(255) as u8));
    /// A float argument.
    expr patch_float_arg(number: c_uint) |_| Ok(snippet::float_arg(number.min(255) as u8));
    /// What a function returns.
    expr patch_returned() |_| Ok(snippet::retval());
    /// A general register.
    expr patch_register(number: c_uint) |_| Ok(snippet::register(Register::General(general(number)?)));
    /// A fact.
    expr patch_fact_of(fact: c_uint) |_| Ok(match fact {
        0 => snippet::tid(),
        1 => snippet::pid(),
        2 => snippet::cpu(),
        3 => snippet::cycles(),
        4 => snippet::nanoseconds(),
        5 => snippet::point(PointFact::EffectiveAddress),
        6 => snippet::point(PointFact::OriginalAddress),
        7 => snippet::point(PointFact::Target),
        8 => snippet::point(PointFact::BytesAccessed),
        other => return Err(unknown("facts", other.into(), 8)),
    });
    /// Memory of the program.
    expr patch_load(ty: c_uint, address: Piece) |tree| Ok(tree.expr(address).load(of_type(ty)?));
    /// An operator with one operand.
    expr patch_unary(op: c_uint, operand: Piece) |tree| {
        let op = UnaryOp::ALL.get(op as usize).ok_or_else(|| unknown("unary operators", op.into(), 8))?;
        Expr::unary(*op, tree.expr(operand))
    };
    /// An operator with two operands.
    expr patch_binary(op: c_uint, left: Piece, right: Piece) |tree| {
        let (left, right) = (tree.expr(left), tree.expr(right));
        match (BinaryOp::ALL.get(op as usize), op) {
            (Some(op), _) => Expr::binary(*op, left, right),
            (None, 20) => Ok(left.and(right)),
            (None, 21) => Ok(left.or(right)),
            (None, other) => Err(unknown("binary operators", other.into(), 21)),
        }
    };
    /// A conversion.
    expr patch_cast(ty: c_uint, value: Piece) |tree| Ok(tree.expr(value).cast(of_type(ty)?));
    /// One of two values.
    expr patch_choose(condition: Piece, yes: Piece, no: Piece) |tree| {
        Ok(tree.expr(condition).choose(tree.expr(yes), tree.expr(no)))
    };
    /// A call of a function of this program.
    expr patch_call(function: usize, arguments: *const Piece, count: usize) |tree| {
        let callee = Callee::new(&format!("{function:#x}"), Addr(function as u64));
        // SAFETY: the caller's.
        let arguments = unsafe { array(arguments, count) };
        Ok(Expr::call(callee, arguments.iter().map(|piece| tree.expr(*piece)).collect()))
    };
    /// The value of a variable.
    expr patch_value(variable: Piece) |tree| tree.value(variable);

    /// Sets a variable.
    stmt patch_set(variable: Piece, value: Piece) |tree| tree.set(variable, tree.expr(value));
    /// Adds to a variable.
    stmt patch_add(variable: Piece, value: Piece) |tree| tree.add(variable, tree.expr(value));
    /// Writes memory.
    stmt patch_store(ty: c_uint, address: Piece, value: Piece) |tree| {
        Ok(Stmt::assign(Place::memory(of_type(ty)?, tree.expr(address)), tree.expr(value)))
    };
    /// Sets a register.
    stmt patch_set_register(number: c_uint, value: Piece) |tree| {
        Ok(Stmt::assign(Place::Register(Register::General(general(number)?)), tree.expr(value)))
    };
    /// Evaluates an expression.
    stmt patch_evaluate(value: Piece) |tree| Ok(Stmt::Evaluate(tree.expr(value)));
    /// One of two statements.
    stmt patch_if(condition: Piece, then: Piece, otherwise: Piece) |tree| {
        Ok(Stmt::either(tree.expr(condition), tree.body(then), tree.body(otherwise)))
    };
    /// A loop.
    stmt patch_while(condition: Piece, body: Piece) |tree| {
        Ok(Stmt::repeat_while(tree.expr(condition), tree.body(body)))
    };
    /// One statement after the other.
    stmt patch_sequence(body: *const Piece, count: usize) |tree| {
        // SAFETY: the caller's.
        let body = unsafe { array(body, count) };
        Ok(Stmt::Sequence(body.iter().flat_map(|piece| tree.body(*piece)).collect()))
    };
    /// Ends the run.
    stmt patch_return(value: Piece) |tree| {
        Ok(Stmt::Return((value.id != 0).then(|| tree.expr(value))))
    };
}

/// A variable.
///
/// # Safety
/// See the head of the file; `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_variable(
    tree: *mut Tree,
    ty: c_uint,
    storage: c_uint,
    name: *const c_char,
) -> Piece {
    // SAFETY: the caller's.
    let Some(tree) = (unsafe { tree.as_mut() }) else { return Piece { id: 0 } };
    let storage = match storage {
        0 => Storage::Global,
        1 => Storage::PerThread,
        2 => Storage::PerCpu,
        _ => return Piece { id: 0 },
    };
    let Ok(ty) = of_type(ty) else { return Piece { id: 0 } };
    // SAFETY: the caller's.
    let variable = Variable::new(&unsafe { self::name(name) }, ty, storage);
    tree.keep_variable(Var::Lasting(variable))
}

/// A name, for people; empty for NULL.
///
/// # Safety
/// It is NULL or ends with a NUL.
pub(crate) unsafe fn name(from: *const c_char) -> String {
    if from.is_null() {
        return String::new();
    }
    // SAFETY: the caller's.
    unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned()
}

/// A tree that is there.
///
/// # Safety
/// See the head of the file.
pub(crate) unsafe fn given<'a>(tree: *const Tree) -> Result<&'a Tree, Error> {
    // SAFETY: the caller's.
    unsafe { tree.as_ref() }.ok_or(Error::Null("`tree`"))
}

/// Queues a tree.
///
/// # Safety
/// See the head of the file; `op` is NULL or points to an operation, whose strings are NULL or end with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_queue_tree(flags: u64, op: *mut Op, tree: *const Tree, body: Piece) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        // SAFETY: the caller's.
        let (op, tree) = unsafe { (op.as_mut().ok_or(Error::Null("`op`"))?, given(tree)?) };
        library.active()?.follow_modules()?;
        let what = What::Tree(tree.program(body)?);
        // SAFETY: the caller's.
        let operation = unsafe { Operation::read_tree(flags, op, what) }?;
        op.cookie = library.queue(operation, op.cookie)?;
        Ok(())
    })
}

/// Runs a tree once.
///
/// # Safety
/// See the head of the file; `value` is NULL or points to a variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_run_tree(tree: *const Tree, body: Piece, value: *mut i64) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        // SAFETY: the caller's.
        let program = unsafe { given(tree) }?.program(body)?;
        library.active()?.follow_modules()?;
        let ran = library.active()?.session.once(&program)?;
        // SAFETY: the caller's.
        unsafe { store_value(ran, value) }
    })
}

/// Reads a variable.
///
/// # Safety
/// See the head of the file; `value` is NULL or points to a variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_read_variable(tree: *const Tree, variable: Piece, value: *mut u64) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        // SAFETY: the caller's.
        let tree = unsafe { given(tree) }?;
        let variable = tree.variable(variable).map_err(|error| Error::Snippet(error.to_string()))?;
        if value.is_null() {
            return Err(Error::Null("`value`"));
        }
        let held = library.active()?.session.variable(variable).get();
        // SAFETY: the caller's.
        unsafe { value.write(held) };
        Ok(())
    })
}
