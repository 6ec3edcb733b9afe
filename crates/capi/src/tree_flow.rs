//! Trees, for C: variables of one run, loops, `switch`, what is changed at once, what stops a thread.
//!
//! # Safety
//! As for [`tree`](crate::tree).

#![allow(unsafe_code, reason = "the boundary to C")]

use std::ffi::{c_char, c_uint};

use incise::snippet::{self, AtomicOp, Case, Constant, Expr, Place, Register, Stmt, TreeError, Type};

use crate::tree::{Piece, Tree, Var, expr, name, of_type, pieces, stmt, unknown};

/// `patch_case`.
#[repr(C)]
pub struct SwitchCase {
    values: *const i64,
    count: usize,
    body: Piece,
}

/// Elements that an array has at most.
const LENGTH: c_uint = 8192;

/// A variable of one run.
///
/// # Safety
/// See the head of the file; `text` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_local(tree: *mut Tree, ty: c_uint, text: *const c_char) -> Piece {
    // SAFETY: the caller's.
    let (Some(tree), Ok(ty)) = (unsafe { tree.as_mut() }, of_type(ty)) else { return Piece::NONE };
    // SAFETY: the caller's.
    let local = tree.locals.local(&unsafe { name(text) }, ty);
    tree.keep_variable(Var::Local(local))
}

/// So many variables of one run.
///
/// # Safety
/// See the head of the file; `text` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_array(
    tree: *mut Tree,
    ty: c_uint,
    length: c_uint,
    text: *const c_char,
) -> Piece {
    // SAFETY: the caller's.
    let (Some(tree), Ok(ty)) = (unsafe { tree.as_mut() }, of_type(ty)) else { return Piece::NONE };
    if !(1..=LENGTH).contains(&length) {
        return Piece::NONE;
    }
    // SAFETY: the caller's.
    let array = tree.locals.array(&unsafe { name(text) }, ty, length);
    tree.keep_variable(Var::Array(array))
}

fn memory(tree: &Tree, ty: c_uint, address: Piece) -> Result<Place, TreeError> {
    Ok(Place::memory(of_type(ty)?, tree.expr(address)))
}

pieces! {
    /// An element of an array.
    expr patch_element(array: Piece, index: Piece) |tree| {
        Ok(tree.array(array)?.get(tree.expr(index)))
    };
    /// The lowest 64 bits of a vector register.
    expr patch_vector(number: c_uint) |_| match u8::try_from(number) {
        Ok(number @ 0..=15) => Ok(snippet::register(Register::Vector(number))),
        _ => Err(unknown("vector registers", number.into(), 15)),
    };
    /// The same bits as another type.
    expr patch_bits(ty: c_uint, value: Piece) |tree| Ok(tree.expr(value).reinterpret(of_type(ty)?));
    /// Changes memory at once; the value before.
    expr patch_atomic(op: c_uint, ty: c_uint, address: Piece, value: Piece) |tree| {
        let op = AtomicOp::ALL.get(op as usize).ok_or_else(|| unknown("atomic operations", op.into(), 7))?;
        Ok(Expr::atomic(*op, memory(tree, ty, address)?, tree.expr(value)))
    };
    /// Stores a value if another one is there; the value before.
    expr patch_compare_exchange(ty: c_uint, address: Piece, expected: Piece, value: Piece) |tree| {
        Ok(Expr::compare_exchange(memory(tree, ty, address)?, tree.expr(expected), tree.expr(value)))
    };

    /// Sets an element of an array.
    stmt patch_set_element(array: Piece, index: Piece, value: Piece) |tree| {
        Ok(tree.array(array)?.set(tree.expr(index), tree.expr(value)))
    };
    /// A loop whose condition stands behind it.
    stmt patch_do_while(body: Piece, condition: Piece) |tree| Ok(Stmt::Loop {
        before: None,
        body: tree.body(body),
        step: Vec::new(),
        after: Some(tree.expr(condition)),
    });
    /// A loop with a step behind each round.
    stmt patch_for(condition: Piece, step: Piece, body: Piece) |tree| Ok(Stmt::Loop {
        before: Some(tree.expr(condition)),
        body: tree.body(body),
        step: tree.body(step),
        after: None,
    });
    /// Leaves a loop or a `switch`.
    stmt patch_break() |_| Ok(Stmt::Break);
    /// Goes on with the next round.
    stmt patch_continue() |_| Ok(Stmt::Continue);
    /// Stops the thread.
    stmt patch_stop() |_| Ok(Stmt::Stop);
    /// Runs a trap for a debugger.
    stmt patch_debugger() |_| Ok(Stmt::Debugger);
    /// Goes to the case that has a value.
    stmt patch_switch(value: Piece, cases: *const SwitchCase, count: usize) |tree| {
        let value = tree.expr(value);
        let cases = if cases.is_null() {
            &[][..]
        } else {
            // SAFETY: the caller's.
            unsafe { std::slice::from_raw_parts(cases, count) }
        };
        let of = |case: &SwitchCase| {
            let values = if case.values.is_null() {
                &[][..]
            } else {
                // SAFETY: the caller's.
                unsafe { std::slice::from_raw_parts(case.values, case.count) }
            };
            let bits = |number: &i64| Constant::new(value.ty(), *number as u64).quadword();
            Case { values: values.iter().map(bits).collect(), body: tree.body(case.body) }
        };
        let cases = cases.iter().map(of).collect();
        Ok(Stmt::Switch(if value.ty() == Type::Bool { value.cast(Type::U8) } else { value }, cases))
    };
}
