//! The unwind tables as plain rows, for code that walks stacks with little: where the canonical frame address is, and where `rbp` lies.

use gimli::{CfaRule, RegisterRule, UnwindContext, UnwindTableRow, X86_64};

use crate::LinkAddr;
use crate::elf::unwind::Unwind;

/// What holds from an address on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRow {
    /// The first address.
    pub at: LinkAddr,
    /// How the caller is found there.
    pub rule: FrameRule,
}

/// How a caller is found: the return address lies below the canonical frame address, which is what the stack pointer is in the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameRule {
    /// The tables do not tell, or more than is told here.
    Unknown,
    /// There is none: the outermost function of a thread.
    Outermost,
    /// The frame address is so many bytes from a register.
    Caller {
        /// From `rbp`, not `rsp`.
        by_rbp: bool,
        /// Bytes.
        frame: i32,
        /// So many bytes from the frame address lies the caller's `rbp`, which is unchanged if it is 0.
        rbp: i16,
    },
}

/// All rows, ascending, one for each address. What comes behind a function that no other follows is [`FrameRule::Unknown`].
pub(crate) fn rows(unwind: &Unwind) -> Vec<FrameRow> {
    let mut context = UnwindContext::new();
    let mut found = Vec::new();
    unwind.each(|table, bases, entry| {
        let Ok(mut rows) = entry.rows(table, bases, &mut context) else { return };
        while let Ok(Some(row)) = rows.next_row() {
            found.push(FrameRow { at: LinkAddr(row.start_address()), rule: rule(row) });
        }
        found.push(FrameRow { at: LinkAddr(entry.end_address()), rule: FrameRule::Unknown });
    });
    // Of several for one address the one that tells something.
    found.sort_by_key(|row| (row.at, row.rule == FrameRule::Unknown));
    found.dedup_by_key(|row| row.at);
    found.dedup_by_key(|row| row.rule);
    found
}

fn rule(row: &UnwindTableRow<usize>) -> FrameRule {
    let rbp = match row.register(X86_64::RBP) {
        // Callees keep it (psABI x86-64, 3.2.1).
        None | Some(RegisterRule::SameValue) => Some(0),
        Some(RegisterRule::Offset(offset)) => i16::try_from(offset).ok().filter(|offset| *offset != 0),
        Some(_) => None,
    };
    match (row.register(X86_64::RA), row.cfa(), rbp) {
        (Some(RegisterRule::Undefined), ..) => FrameRule::Outermost,
        (
            Some(RegisterRule::Offset(-8)),
            CfaRule::RegisterAndOffset { register: register @ (X86_64::RSP | X86_64::RBP), offset },
            Some(rbp),
        ) => match i32::try_from(*offset) {
            Ok(frame) => FrameRule::Caller { by_rbp: *register == X86_64::RBP, frame, rbp },
            Err(_) => FrameRule::Unknown,
        },
        _ => FrameRule::Unknown,
    }
}
