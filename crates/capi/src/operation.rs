//! Operations: what `patch_queue` takes, checked and copied.
//!
//! # Safety
//! The strings of an operation are NULL or end with a NUL (the caller's promise).

#![allow(unsafe_code, reason = "reads strings of C")]

use std::ffi::{CStr, c_char};

use incise::Position;
use incise::snippet::Program;

use crate::abi::{Address, Op, Probe, flag, op};
use crate::error::Error;

/// An operation that is queued.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Something new at a place.
    Insert { what: What, place: Place, position: Position },
    /// A change of what is installed.
    Change(Change),
}

/// What is inserted.
#[derive(Clone, Debug)]
pub enum What {
    Probe {
        probe: Probe,
        user_data: usize,
    },
    Counter,
    /// A text.
    Snippet(String),
    /// A tree.
    Tree(Program),
}

/// A change of what is installed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Remove,
    Disable,
    Enable,
}

/// Where something is inserted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// What a pattern names in some modules.
    Named { pattern: String, module: Option<String>, entries_only: bool },
    /// An address.
    At(usize),
}

impl Operation {
    /// Checks and copies an operation.
    ///
    /// # Errors
    /// Says what is wrong with it.
    ///
    /// # Safety
    /// See the head of the file.
    pub unsafe fn read(flags: u64, from: &Op) -> Result<Operation, Error> {
        // SAFETY: the caller's.
        unsafe { Operation::read_with(flags, from, None) }
    }

    /// The same of an operation that puts a tree somewhere.
    ///
    /// # Errors
    /// Says what is wrong with it.
    ///
    /// # Safety
    /// See the head of the file.
    pub unsafe fn read_tree(flags: u64, from: &Op, tree: What) -> Result<Operation, Error> {
        if from.kind != op::SNIPPET || !from.snippet.is_null() {
            return Err(Error::Op("a tree is a PATCH_OP_SNIPPET whose `snippet` is NULL".to_owned()));
        }
        // SAFETY: the caller's.
        unsafe { Operation::read_with(flags, from, Some(tree)) }
    }

    /// # Safety
    /// See the head of the file.
    unsafe fn read_with(flags: u64, from: &Op, tree: Option<What>) -> Result<Operation, Error> {
        if from.reserved != [0; 2] {
            return Err(Error::Op("the member `reserved` of an operation has to be 0".to_owned()));
        }
        let change = match from.kind {
            op::INSTALL | op::COUNT | op::SNIPPET => None,
            op::REMOVE => Some(Change::Remove),
            op::DISABLE => Some(Change::Disable),
            op::ENABLE => Some(Change::Enable),
            other => return Err(Error::Op(format!("there is no operation {other}: see PATCH_OP_*"))),
        };
        let known = flag::FENTRY | flag::INSN | flag::FIRST;
        let bad = |why| Err(Error::Flags { given: flags, why });
        if flags & !known != 0 {
            return bad("there are PATCH_FENTRY, PATCH_INSN and PATCH_FIRST only");
        }
        if let Some(change) = change {
            return match flags {
                0 => Ok(Operation::Change(change)),
                _ => bad("an operation on a cookie has none"),
            };
        }
        let entry = match flags & (flag::FENTRY | flag::INSN) {
            flag::FENTRY => true,
            flag::INSN => false,
            0 => return bad("one of PATCH_FENTRY and PATCH_INSN has to be set"),
            _ => return bad("PATCH_FENTRY and PATCH_INSN exclude each other"),
        };
        // SAFETY: the caller's.
        let snippet = unsafe { text(from.snippet, "snippet") }?;
        if snippet.is_some() && from.kind != op::SNIPPET {
            return Err(Error::Op("`snippet` goes with PATCH_OP_SNIPPET only".to_owned()));
        }
        let what = match (from.kind, from.probe) {
            (op::SNIPPET, None) => match tree {
                Some(tree) => tree,
                None => {
                    let text = snippet.ok_or(Error::Null("the member `snippet` of the operation"))?;
                    What::Snippet(text.to_owned())
                }
            },
            (op::SNIPPET, Some(_)) => {
                return Err(Error::Op("PATCH_OP_SNIPPET calls no probe: leave `probe` NULL".to_owned()));
            }
            (op::COUNT, None) => What::Counter,
            (op::COUNT, Some(_)) => {
                return Err(Error::Op("PATCH_OP_COUNT calls no probe: leave `probe` NULL".to_owned()));
            }
            (_, Some(probe)) => What::Probe { probe, user_data: from.user_data as usize },
            (_, None) => return Err(Error::Null("the member `probe` of the operation")),
        };
        // SAFETY: the caller's.
        let place = unsafe { Place::read(&from.addr, entry) }?;
        let position = if flags & flag::FIRST != 0 { Position::First } else { Position::Last };
        Ok(Operation::Insert { what, place, position })
    }
}

impl Place {
    /// # Safety
    /// See the head of the file.
    unsafe fn read(from: &Address, entry: bool) -> Result<Place, Error> {
        let malformed = |text: &str| Err(Error::Op(text.to_owned()));
        if entry && from.offset != 0 {
            return malformed("`addr.offset` leads away from the entry: use PATCH_INSN");
        }
        // SAFETY: the caller's.
        let (function, pattern, module) = unsafe {
            (
                text(from.func_sym, "addr.func_sym")?,
                text(from.pattern, "addr.pattern")?,
                text(from.module, "addr.module")?,
            )
        };
        match (function, pattern, from.addr) {
            (Some(function), None, 0) => {
                let mut pattern = literal(function);
                if from.offset != 0 {
                    pattern += &format!("+{:#x}", from.offset);
                }
                Ok(Place::named(pattern, module, entry))
            }
            (None, Some(_), 0) if from.offset != 0 => {
                malformed("`addr.offset` does not go with `addr.pattern`: write NAME+OFFSET")
            }
            (None, Some(pattern), 0) => Ok(Place::named(pattern.to_owned(), module, entry)),
            (None, None, 0) => {
                malformed("one of `addr.func_sym`, `addr.pattern` and `addr.addr` has to be set")
            }
            (None, None, addr) => {
                let Some(at) = usize::try_from(from.offset).ok().and_then(|offset| addr.checked_add(offset))
                else {
                    return Err(Error::Beyond { addr, offset: from.offset });
                };
                Ok(match module {
                    // An address as in the file; that it is the entry is the caller's knowledge.
                    Some(module) => Place::named(format!("{module}!*{at:#x}"), None, false),
                    None => Place::At(at),
                })
            }
            _ => malformed("only one of `addr.func_sym`, `addr.pattern` and `addr.addr` may be set"),
        }
    }

    fn named(pattern: String, module: Option<&str>, entries_only: bool) -> Place {
        Place::Named { pattern, module: module.map(str::to_owned), entries_only }
    }
}

/// The pattern that means `name` itself: its wildcards stand for themselves.
fn literal(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for c in name.chars() {
        if matches!(c, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// A string of C; `None` for NULL.
///
/// # Safety
/// See the head of the file.
unsafe fn text<'a>(from: *const c_char, member: &str) -> Result<Option<&'a str>, Error> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's.
    match unsafe { CStr::from_ptr(from) }.to_str() {
        Ok("") => Err(Error::Op(format!("`{member}` is empty: it has to be NULL or a name"))),
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(Error::Op(format!("`{member}` is not UTF-8"))),
    }
}
