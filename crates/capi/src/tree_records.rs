//! Records of trees, and texts and stacks that they hold, for C.
//!
//! # Safety
//! As for [`tree`](crate::tree).

#![allow(unsafe_code, reason = "the boundary to C")]

use std::collections::HashMap;
use std::ffi::{c_uint, c_void};

use incise::data::tables::{self, HEADER, RECORD_WORDS};
use incise::snippet::{Expr, Field, Record, Ring, TreeError, Type};

use crate::error::Error;
use crate::exports::status;
use crate::lock::lock;
use crate::rings::Take;
use crate::tree::{Piece, Tree, array, expr, given, of_type, pieces, stmt, unknown};

/// Bytes that a text has at most, and frames a stack: a record has room for either.
const BYTES: c_uint = 8 * RECORD_WORDS as c_uint;
const FRAMES: c_uint = RECORD_WORDS as c_uint;

/// `patch_rings`: where records go, and the kinds there are.
pub struct Rings {
    ring: Ring,
    kinds: HashMap<u16, Record>,
}

impl Rings {
    /// The record of a kind with fields of these types.
    fn record(&mut self, kind: c_uint, types: Vec<Type>) -> Result<Record, TreeError> {
        let id = u16::try_from(kind).map_err(|_| unknown("kinds", kind.into(), usize::from(u16::MAX)))?;
        let field = |(index, ty)| Field { name: format!("field {index}"), ty };
        let fields = types.into_iter().enumerate().map(field).collect();
        let record = Record::new(id, &format!("a record of kind {kind}"), fields, None);
        if !tables::fits(&record) {
            let words = u64::from(record.size()) / 8;
            return Err(unknown("quadwords of a record", words, RECORD_WORDS));
        }
        match self.kinds.get(&id) {
            Some(known) if *known != record => {
                let what = record.name().to_owned();
                Err(TreeError::Storage(what, "of other fields than another one of that kind"))
            }
            _ => {
                self.kinds.insert(id, record.clone());
                Ok(record)
            }
        }
    }

    /// Quadwords of a record, by the first of it.
    fn words(&self, kind: u64) -> usize {
        let fields = self.kinds.get(&(kind as u16)).map_or(0, |record| record.size() as usize / 8);
        HEADER + fields
    }
}

/// Makes rings.
///
/// # Safety
/// See the head of the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_rings_new(tree: *mut Tree, records: c_uint) -> Piece {
    // SAFETY: the caller's.
    let Some(tree) = (unsafe { tree.as_mut() }) else { return Piece::NONE };
    if !(16..=65536).contains(&records) {
        return Piece::NONE;
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let made = tables::ring(cpus.min(256), records as usize);
    made.map_or(Piece::NONE, |ring| tree.keep_rings(Rings { ring, kinds: HashMap::new() }))
}

/// Leaves a record.
///
/// # Safety
/// See the head of the file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_emit(
    tree: *mut Tree,
    rings: Piece,
    kind: c_uint,
    fields: *const Piece,
    count: usize,
) -> Piece {
    // SAFETY: the caller's.
    let Some(all) = (unsafe { tree.as_mut() }) else { return Piece::NONE };
    // SAFETY: the caller's.
    let fields: Vec<Expr> = unsafe { array(fields, count) }.iter().map(|piece| all.expr(*piece)).collect();
    let types = fields.iter().map(Expr::ty).collect();
    let made = fields.iter().try_for_each(Expr::check).and_then(|()| {
        let rings = all.rings_mut(rings)?;
        let record = rings.record(kind, types)?;
        Ok(rings.ring.emit(&record, fields))
    });
    // SAFETY: the caller's.
    unsafe { stmt(tree, |_| made) }
}

/// The type of a key of a map, by its number: `PATCH_TEXT` and `PATCH_FRAMES` say how many there are of them.
pub fn of_key(number: c_uint) -> Result<Type, TreeError> {
    match (number >> 16, number & 0xffff) {
        (1, bytes @ 1..=BYTES) => Ok(Type::Text(bytes as u16)),
        (2, depth @ 1..=FRAMES) => Ok(Type::Frames(depth as u8)),
        _ => of_type(number),
    }
}

pieces! {
    /// A text in memory.
    expr patch_text(address: Piece, most: c_uint) |tree| {
        if !(1..=BYTES).contains(&most) {
            return Err(unknown("bytes of text", most.into(), BYTES as usize));
        }
        Ok(tree.expr(address).text(most as u16))
    };
    /// The name of the thread.
    expr patch_command() |_| Ok(Expr::command());
    /// Return addresses.
    expr patch_stack(depth: c_uint) |_| {
        if !(1..=FRAMES).contains(&depth) {
            return Err(unknown("frames of a stack", depth.into(), FRAMES as usize));
        }
        let table = lock().and_then(|mut library| Ok(library.active()?.snippets().language.stack_table()?));
        match table {
            Ok(table) => Ok(Expr::stack_by(depth as u8, &table)),
            Err(_) => Err(TreeError::Storage("a stack".to_owned(), "walked before patch_init()")),
        }
    };
}

/// Takes what is in rings.
///
/// # Safety
/// See the head of the file; `dropped` is NULL or points to a variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_read_rings(
    tree: *const Tree,
    rings: Piece,
    take: Option<Take>,
    data: *mut c_void,
    dropped: *mut u64,
) -> u32 {
    status(|| {
        // SAFETY: the caller's.
        let tree = unsafe { given(tree) }?;
        let take = take.ok_or(Error::Null("`take`"))?;
        let rings = tree.rings(rings).map_err(|error| Error::Snippet(error.to_string()))?;
        let (records, lost) = lock()?.active()?.session.records(&rings.ring);
        if !dropped.is_null() {
            // SAFETY: the caller's.
            unsafe { dropped.write(lost) };
        }
        for record in &records {
            let count = rings.words(record[0]).min(record.len());
            // SAFETY: the caller's function; so many words are there.
            unsafe { take(record.as_ptr(), count, data) };
        }
        Ok(())
    })
}
