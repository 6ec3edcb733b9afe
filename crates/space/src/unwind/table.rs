//! `.eh_frame` for trampolines.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::Gpr;

use super::paged::search;
use super::{Piece, Row};

/// How addresses are expressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expressed {
    /// As they are: for code that stays where it is.
    Absolute,
    /// By their distances, for a program that may be loaded anywhere: the table will lie at this link address.
    Relative(Addr),
    /// As link addresses, in the form of `.debug_frame` (DWARF 5, 6.4.1), which debuggers read beside `.eh_frame`.
    Debug,
}

/// Unwind information.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Table {
    /// `.eh_frame`, with the zero that ends it.
    pub bytes: Vec<u8>,
    /// The code each description is for, ascending, and where in `bytes` the description is: what `.eh_frame_hdr` holds.
    pub entries: Vec<(Range<Addr>, u32)>,
}

/// Pointer encodings: an address as it is, a signed 32-bit distance from where it is stored (LSB 5.0, Core, 10.5).
const ABSOLUTE: u8 = 0x00;
const RELATIVE: u8 = 0x1B;

// DW_CFA and DW_OP (DWARF 5, 7.24 and 7.7.1).
const ADVANCE: u8 = 0x40;
const ADVANCE_1: u8 = 0x02;
const ADVANCE_2: u8 = 0x03;
const ADVANCE_4: u8 = 0x04;
const OFFSET: u8 = 0x80;
const OFFSET_SIGNED: u8 = 0x11;
const RESTORE: u8 = 0xC0;
const UNDEFINED: u8 = 0x07;
const DEF_CFA: u8 = 0x0C;
const DEF_CFA_OFFSET: u8 = 0x0E;
const DEF_CFA_OFFSET_SIGNED: u8 = 0x13;
pub(super) const VAL_EXPRESSION: u8 = 0x16;
const OP_CONST_4: u8 = 0x0C;
pub(super) const OP_CONST_8: u8 = 0x0E;
pub(super) const OP_BREG: u8 = 0x70;

/// The return address's column, which is rip (psABI x86-64, figure 3.36).
pub(super) const RIP: u8 = 16;

/// Describes pieces of trampolines, which are sorted and do not overlap. Those that follow upon each other share a
/// description.
pub fn table(pieces: &[Piece], expressed: Expressed) -> Table {
    let mut table = Table::default();
    table.common(expressed);
    let together = |left: &Piece, right: &Piece| left.range.end == right.range.start;
    for run in pieces.chunk_by(together) {
        table.describe(run, expressed);
    }
    table.bytes.extend([0; 4]);
    table
}

impl Table {
    /// The common entry: CFA is rsp, the frame is a signal handler's, so that unwinders do not look for the caller's
    /// instruction before its address. Offsets are in bytes, downwards.
    pub(super) fn common(&mut self, expressed: Expressed) {
        let (word, augmentation, encoding): (u32, &[u8], &[u8]) = match expressed {
            Expressed::Absolute => (0, b"zRS\0", &[1, ABSOLUTE]),
            Expressed::Relative(_) => (0, b"zRS\0", &[1, RELATIVE]),
            Expressed::Debug => (u32::MAX, b"S\0", &[]),
        };
        self.entry(word, |bytes| {
            bytes.push(1);
            bytes.extend(augmentation);
            bytes.extend([1, 0x7F, RIP]);
            bytes.extend(encoding);
            bytes.extend([DEF_CFA, dwarf(Gpr::Rsp), 0]);
        });
    }

    fn describe(&mut self, run: &[Piece], expressed: Expressed) {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return };
        let range = first.range.start..last.range.end;
        self.description(range.clone(), expressed, |bytes| {
            let mut program = Program::new(bytes, range.start);
            for row in run.iter().flat_map(|piece| &piece.rows) {
                let rip = match (row.original, expressed) {
                    (None, _) => Rip::Unknown,
                    (Some(original), Expressed::Absolute) => Rip::Address(original),
                    (Some(original), _) => Rip::Distance(original.offset_from(row.at)),
                };
                program.row(row, rip);
            }
        });
    }

    /// Adds a description of `range`, whose rows `fill` adds.
    pub(super) fn description(
        &mut self,
        range: Range<Addr>,
        expressed: Expressed,
        fill: impl FnOnce(&mut Vec<u8>),
    ) {
        let len = range.end.offset_from(range.start) as u64;
        let offset = self.bytes.len() as u32;
        // The common entry is at the start: its distance from here, or its offset.
        let word = if expressed == Expressed::Debug { 0 } else { offset + 4 };
        self.entry(word, |bytes| {
            match expressed {
                Expressed::Absolute | Expressed::Debug => {
                    bytes.extend(range.start.0.to_le_bytes());
                    bytes.extend(len.to_le_bytes());
                }
                Expressed::Relative(at) => {
                    let here = at + bytes.len() as u64;
                    bytes.extend((range.start.offset_from(here) as i32).to_le_bytes());
                    bytes.extend((len as u32).to_le_bytes());
                }
            }
            if expressed != Expressed::Debug {
                bytes.push(0);
            }
            fill(bytes);
        });
        self.entries.push((range, offset));
    }

    /// Adds an entry: its length, its second word, what `fill` adds, padding.
    fn entry(&mut self, word: u32, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(word.to_le_bytes());
        fill(&mut self.bytes);
        let end = start + (self.bytes.len() - start).next_multiple_of(8);
        self.bytes.resize(end, 0);
        let len = (end - start - 4) as u32;
        self.bytes[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }
}

/// What has been written so far of a description, and the row it tells.
pub(super) struct Program<'b> {
    bytes: &'b mut Vec<u8>,
    at: Addr,
    stack: i64,
    saved: Vec<(Gpr, i64)>,
    /// What the last rule for rip makes of the address of an instruction; at first there is no rule.
    original: Option<Rip>,
}

/// A rule for rip.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rip {
    Unknown,
    Address(Addr),
    Distance(i64),
    /// What a search finds in the list of so many entries that lies at this distance from the page of the instruction:
    /// `paged.rs`.
    Listed(i32, u16),
}

impl Program<'_> {
    pub(super) fn new(bytes: &mut Vec<u8>, at: Addr) -> Program<'_> {
        Program { bytes, at, stack: 0, saved: Vec::new(), original: None }
    }

    /// Tells `row`, in which `rip` is the original address.
    pub(super) fn row(&mut self, row: &Row, rip: Rip) {
        if Some(rip) == self.original && row.stack == self.stack && row.saved == self.saved {
            return;
        }
        self.advance(row.at);
        if Some(rip) != self.original {
            self.rip(rip);
        }
        if row.stack != self.stack {
            self.stack(row.stack);
        }
        if row.saved != self.saved {
            self.saved(&row.saved);
        }
    }

    fn advance(&mut self, to: Addr) {
        let by = to.offset_from(self.at) as u32;
        self.at = to;
        match by {
            0 => {}
            1..64 => self.bytes.push(ADVANCE | by as u8),
            64..0x100 => self.bytes.extend([ADVANCE_1, by as u8]),
            0x100..0x1_0000 => {
                self.bytes.push(ADVANCE_2);
                self.bytes.extend((by as u16).to_le_bytes());
            }
            _ => {
                self.bytes.push(ADVANCE_4);
                self.bytes.extend(by.to_le_bytes());
            }
        }
    }

    fn rip(&mut self, rip: Rip) {
        self.original = Some(rip);
        let mut expression = Vec::with_capacity(9);
        match rip {
            Rip::Unknown => return self.bytes.extend([UNDEFINED, RIP]),
            Rip::Address(at) => match u32::try_from(at.0) {
                Ok(at) => {
                    expression.push(OP_CONST_4);
                    expression.extend(at.to_le_bytes());
                }
                Err(_) => {
                    expression.push(OP_CONST_8);
                    expression.extend(at.0.to_le_bytes());
                }
            },
            Rip::Distance(distance) => {
                expression.push(OP_BREG + RIP);
                sleb(&mut expression, distance);
            }
            Rip::Listed(distance, count) => expression = search(distance, count),
        }
        // Shorter than 128 bytes.
        self.bytes.extend([VAL_EXPRESSION, RIP, expression.len() as u8]);
        self.bytes.extend(expression);
    }

    fn stack(&mut self, stack: i64) {
        self.stack = stack;
        if stack >= 0 {
            self.bytes.push(DEF_CFA_OFFSET);
            uleb(self.bytes, stack as u64);
        } else {
            self.bytes.push(DEF_CFA_OFFSET_SIGNED);
            sleb(self.bytes, -stack);
        }
    }

    fn saved(&mut self, saved: &[(Gpr, i64)]) {
        for (register, offset) in saved.iter().filter(|slot| !self.saved.contains(slot)) {
            if *offset <= 0 {
                self.bytes.push(OFFSET | dwarf(*register));
                uleb(self.bytes, offset.unsigned_abs());
            } else {
                self.bytes.extend([OFFSET_SIGNED, dwarf(*register)]);
                sleb(self.bytes, -offset);
            }
        }
        for (register, _) in &self.saved {
            if saved.iter().all(|(other, _)| other != register) {
                self.bytes.push(RESTORE | dwarf(*register));
            }
        }
        self.saved = saved.to_vec();
    }
}

/// The register's number in DWARF (psABI x86-64, figure 3.36).
pub(super) fn dwarf(register: Gpr) -> u8 {
    match register {
        Gpr::Rax => 0,
        Gpr::Rdx => 1,
        Gpr::Rcx => 2,
        Gpr::Rbx => 3,
        Gpr::Rsi => 4,
        Gpr::Rdi => 5,
        Gpr::Rbp => 6,
        Gpr::Rsp => 7,
        extended => extended.number(),
    }
}

pub(super) fn uleb(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn sleb(bytes: &mut Vec<u8>, mut value: i64) {
    while !(-0x40..0x40).contains(&value) {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8 & 0x7F);
}
