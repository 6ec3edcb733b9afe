//! Maps of trees, for C.
//!
//! # Safety
//! As for [`tree`](crate::tree). A key has as many pieces as its map has types.

#![allow(unsafe_code, reason = "the boundary to C")]

use std::ffi::{c_char, c_uint, c_void};

use incise::data::tables;
use incise::snippet::{Aggregate, Expr, Map, Type, Update};

use crate::data::{Visit, read_entries};
use crate::error::Error;
use crate::exports::status;
use crate::lock::lock;
use crate::tree::{Piece, Tree, expr, given, name, of_type, pieces, stmt};
use crate::tree_records::of_key;

/// Keys that a map has room for.
const CAPACITY: u32 = 4096;

/// What a map gathers, by its number; values are signed as `ty` is.
fn gathers(how: c_uint, ty: Type) -> Option<Aggregate> {
    let signed = ty.is_signed();
    Some(match how {
        0 => Aggregate::Plain(ty),
        1 => Aggregate::Count,
        2 => Aggregate::Sum { signed },
        3 => Aggregate::Min { signed },
        4 => Aggregate::Max { signed },
        5 => Aggregate::Average { signed },
        6 => Aggregate::Stats { signed },
        7 => Aggregate::Histogram,
        _ => return None,
    })
}

/// Makes a map.
///
/// # Safety
/// See the head of the file; `text` is NULL or ends with a NUL; `keys` are `count` types.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_map(
    tree: *mut Tree,
    how: c_uint,
    ty: c_uint,
    keys: *const c_uint,
    count: usize,
    text: *const c_char,
) -> Piece {
    // SAFETY: the caller's.
    let (Some(tree), Ok(ty)) = (unsafe { tree.as_mut() }, of_type(ty)) else { return Piece::NONE };
    let keys = if keys.is_null() {
        &[][..]
    } else {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(keys, count) }
    };
    let types: Result<Vec<Type>, _> = keys.iter().map(|key| of_key(*key)).collect();
    let (Ok(types), Some(aggregate)) = (types, gathers(how, ty)) else { return Piece::NONE };
    let capacity = if types.is_empty() { 32 } else { CAPACITY };
    // SAFETY: the caller's.
    let made = tables::map(&unsafe { name(text) }, &types, &aggregate, capacity);
    made.map_or(Piece::NONE, |map| tree.keep_map(map))
}

/// The key of a map.
///
/// # Safety
/// See the head of the file.
unsafe fn key(tree: &Tree, map: &Map, from: *const Piece) -> Vec<Expr> {
    let count = if from.is_null() { 0 } else { map.keys().len() };
    // SAFETY: the caller's.
    let given = unsafe { crate::tree::array(from, count) };
    given.iter().map(|piece| tree.expr(*piece)).collect()
}

pieces! {
    /// The value at a key.
    expr patch_map_value(map: Piece, from: *const Piece) |tree| {
        let map = tree.map(map)?;
        // SAFETY: the caller's.
        Ok(map.get(unsafe { key(tree, map, from) }))
    };
    /// Whether there is one.
    expr patch_map_has(map: Piece, from: *const Piece) |tree| {
        let map = tree.map(map)?;
        // SAFETY: the caller's.
        Ok(map.has(unsafe { key(tree, map, from) }))
    };

    /// Counts, sets or gathers a value.
    stmt patch_map_update(map: Piece, from: *const Piece, value: Piece) |tree| {
        let map = tree.map(map)?;
        let update = if value.is_none() { Update::One } else { Update::Value(tree.expr(value)) };
        // SAFETY: the caller's.
        Ok(map.update(unsafe { key(tree, map, from) }, update))
    };
    /// Takes a key out.
    stmt patch_map_delete(map: Piece, from: *const Piece) |tree| {
        let map = tree.map(map)?;
        // SAFETY: the caller's.
        Ok(map.delete(unsafe { key(tree, map, from) }))
    };
}

/// Reads a map.
///
/// # Safety
/// See the head of the file; `dropped` is NULL or points to a variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_read_tree_map(
    tree: *const Tree,
    map: Piece,
    visit: Option<Visit>,
    data: *mut c_void,
    dropped: *mut u64,
) -> u32 {
    status(|| {
        let contents = {
            let mut library = lock()?;
            library.check_active()?;
            // SAFETY: the caller's.
            let map = unsafe { given(tree) }?.map(map).map_err(|error| Error::Snippet(error.to_string()))?;
            library.active()?.session.map(map)
        };
        // SAFETY: the caller's.
        unsafe { read_entries(&contents, visit, data, dropped) }
    })
}
