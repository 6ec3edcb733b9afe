//! What it takes at each instruction of a trampoline to be in the original code.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Flow, Gpr, Undo, decode, undo_each};

use crate::Displaced;
use crate::view::way_out;

/// From an address in a trampoline on: where the program is, and how to get there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// An instruction; the row holds up to the next.
    pub at: Addr,
    /// The original instruction; `None` if nothing is known from here on.
    pub original: Option<Addr>,
    /// What to add to `rsp`.
    pub stack: i64,
    /// Registers whose values lie on the stack, each with its distance from `rsp` as the program had it.
    pub saved: Vec<(Gpr, i64)>,
    /// The instruction before is a call.
    pub called: bool,
}

/// A part of a trampoline and all its instructions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Its bytes.
    pub range: Range<Addr>,
    /// One for each instruction, ascending.
    pub rows: Vec<Row>,
}

/// What a displaced instruction's part of a trampoline holds. `code` are its bytes, `original` gives the original
/// address for one that a jump leads to.
pub(crate) fn piece(displaced: &Displaced, code: &[u8], original: &dyn Fn(Addr) -> Addr) -> Piece {
    let start = displaced.landing;
    let mut rows = Rows { rows: Vec::new(), end: start + code.len() as u64 };
    if displaced.original_len == 0 {
        let to = |ip| way_out(displaced, code, ip).map_or(displaced.original, original);
        rows.add(code, start, &to);
    } else if displaced.copy == u16::MAX {
        rows.unknown(start);
    } else {
        let (copy, len) = (usize::from(displaced.copy), usize::from(displaced.copied));
        let behind = (copy + len).min(code.len());
        let next = displaced.original + u64::from(displaced.original_len);
        rows.add(&code[..copy.min(behind)], start, &|_| displaced.original);
        rows.add_copy(
            &code[copy.min(behind)..behind],
            start + copy as u64,
            displaced.original,
            next,
            original,
        );
        rows.add(&code[behind..], start + behind as u64, &|_| next);
    }
    Piece { range: start..rows.end, rows: rows.rows }
}

struct Rows {
    rows: Vec<Row>,
    end: Addr,
}

impl Rows {
    fn unknown(&mut self, at: Addr) {
        if at < self.end {
            self.rows.push(Row { at, original: None, stack: 0, saved: Vec::new(), called: false });
        }
    }

    fn known(&mut self, at: Addr, original: Addr, undo: &Undo) {
        let saved = undo.saved().map(|(register, offset)| (register, offset - undo.stack)).collect();
        self.rows.push(Row { at, original: Some(original), stack: undo.stack, saved, called: undo.called });
    }

    /// Rows for code that is entered and left with the program's registers.
    fn add(&mut self, code: &[u8], start: Addr, original: &dyn Fn(Addr) -> Addr) {
        let end = start + code.len() as u64;
        let known = undo_each(code, start, &mut |at, undo| {
            if at < end {
                self.known(at, original(at), &undo);
            }
        });
        if known < end {
            self.unknown(known);
        }
    }

    /// Rows for the copy of an instruction, which may be several.
    fn add_copy(&mut self, code: &[u8], start: Addr, at: Addr, next: Addr, original: &dyn Fn(Addr) -> Addr) {
        const SYSCALL: [u8; 2] = [0x0F, 0x05];
        let first = decode(code, start).ok();
        let behind = first.as_ref().map_or(start, |insn| insn.end());
        let branches = first.as_ref().is_some_and(|insn| matches!(insn.flow(), Flow::Branch(_)));
        let decided = |ip: Addr| {
            let rest = code.get(ip.offset_from(start) as usize..)?;
            match decode(rest, ip).ok()?.flow() {
                Flow::Jump(to) if branches && ip > start => Some(original(to)),
                _ => None,
            }
        };
        let place = |ip: Addr| match decided(ip) {
            Some(to) => to,
            None if ip == behind && code.starts_with(&SYSCALL) => next,
            None => at,
        };
        self.add(code, start, &place);
    }
}
