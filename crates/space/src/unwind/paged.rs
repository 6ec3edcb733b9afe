//! Descriptions of trampolines that are short, for files, in which they are twice.
//!
//! In `table.rs`, each instruction that stands for another original costs a rule of nine bytes or more. Here the originals
//! are in *lists*, one for each page of trampolines, of six bytes an entry, and all that a description has is one
//! expression (DWARF 5, 2.5) that searches the list of its page. Wherever the program is loaded, an address less its
//! offset in its page has the same distance from the list and from the originals: so the same lists serve descriptions of
//! all kinds, and no address is in them.

use incise_isa::Addr;

use super::table::{OP_BREG, Program, RIP, Rip};
use super::{Expressed, Piece, Row, Table};

const PAGE: u64 = 4096;

/// Bytes of an entry: the offset in the page from which on it holds, and how far before the page the original is.
const ENTRY: usize = 6;

/// The lists of all pages, and what there is to tell of each page besides.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Lists {
    /// To lie where descriptions are told that it lies.
    pub bytes: Vec<u8>,
    pages: Vec<Page>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Page {
    at: Addr,
    /// Where its list begins in the bytes.
    list: usize,
    entries: u16,
    rows: Vec<Row>,
    /// Behind the last byte of trampolines in it.
    end: Addr,
}

/// Lists for pieces of trampolines, which are sorted and do not overlap. `None` if an original does not lie before its
/// trampoline, within 4 GiB.
pub fn lists(pieces: &[Piece]) -> Option<Lists> {
    let mut lists = Lists::default();
    let mut last = None;
    for piece in pieces {
        for (index, row) in piece.rows.iter().enumerate() {
            let end = piece.rows.get(index + 1).map_or(piece.range.end, |next| next.at);
            let mut row = row.clone();
            while row.at < end {
                let page = row.at.align_down(PAGE);
                let stop = end.min(page + PAGE);
                lists.add(&row, stop, &mut last)?;
                row.at = stop;
            }
        }
    }
    Some(lists)
}

impl Lists {
    /// Adds a row that holds up to `end`. `last` is the original of the last entry.
    fn add(&mut self, row: &Row, end: Addr, last: &mut Option<Addr>) -> Option<()> {
        let at = row.at.align_down(PAGE);
        if self.pages.last().is_none_or(|page| page.at != at) {
            self.pages.push(Page { at, list: self.bytes.len(), entries: 0, rows: Vec::new(), end });
            *last = None;
        }
        let page = self.pages.last_mut()?;
        if let Some(original) = row.original
            && *last != row.original
        {
            let distance = u32::try_from(at.0.checked_sub(original.0)?).ok()?;
            self.bytes.extend((row.at.offset_from(at) as u16).to_le_bytes());
            self.bytes.extend(distance.to_le_bytes());
            page.entries += 1;
            *last = row.original;
        }
        page.rows.push(row.clone());
        page.end = end;
        Some(())
    }

    /// Descriptions that refer to the lists, which lie at `at`. `None` if that is out of reach.
    pub fn table(&self, at: Addr, expressed: Expressed) -> Option<Table> {
        let mut table = Table::default();
        table.common(expressed);
        for page in &self.pages {
            let list = at + page.list as u64;
            let listed = Rip::Listed(i32::try_from(list.offset_from(page.at)).ok()?, page.entries);
            let Some(start) = page.rows.first().map(|row| row.at) else { continue };
            table.description(start..page.end, expressed, |bytes| {
                let mut program = Program::new(bytes, start);
                for row in &page.rows {
                    program.row(row, if row.original.is_some() { listed } else { Rip::Unknown });
                }
            });
        }
        table.bytes.extend([0; 4]);
        Some(table)
    }
}

// DW_OP (DWARF 5, 7.7.1). Comparisons and differences are of the second value on the stack and the first.
const OP_CONST_2: u8 = 0x0A;
const OP_CONST_4_SIGNED: u8 = 0x0D;
const OP_DUP: u8 = 0x12;
const OP_DROP: u8 = 0x13;
const OP_OVER: u8 = 0x14;
const OP_PICK: u8 = 0x15;
const OP_SWAP: u8 = 0x16;
/// The first value becomes the third.
const OP_ROT: u8 = 0x17;
const OP_AND: u8 = 0x1A;
const OP_MINUS: u8 = 0x1C;
const OP_MUL: u8 = 0x1E;
const OP_PLUS: u8 = 0x22;
const OP_PLUS_CONST: u8 = 0x23;
const OP_SHR: u8 = 0x25;
const OP_BRA: u8 = 0x28;
const OP_GT: u8 = 0x2B;
const OP_LE: u8 = 0x2C;
const OP_LIT: u8 = 0x30;
const OP_DEREF_SIZE: u8 = 0x94;

/// An expression that finds the last of `count` entries which holds at rip, in the list at `distance` from rip's page, and
/// makes the original address of it.
pub(super) fn search(distance: i32, count: u16) -> Vec<u8> {
    const RIP_HERE: [u8; 2] = [OP_BREG + RIP, 0];
    let mut code = Vec::with_capacity(64);
    // offset: of rip in its page
    code.extend(RIP_HERE);
    code.push(OP_CONST_2);
    code.extend((PAGE as u16 - 1).to_le_bytes());
    code.push(OP_AND);
    // offset, entry: the first
    code.extend(RIP_HERE);
    code.extend([OP_OVER, OP_MINUS, OP_CONST_4_SIGNED]);
    code.extend(distance.to_le_bytes());
    code.push(OP_PLUS);
    // offset, entry, count: those from this entry on in which the one may be
    code.push(OP_CONST_2);
    code.extend(count.to_le_bytes());
    let again = code.len();
    // offset, entry, count, half
    code.extend([OP_DUP, OP_LIT + 1, OP_SHR]);
    // offset, entry, count, half, step: bytes to the entry in the middle, or 0 if that begins behind rip
    code.extend([OP_DUP, OP_LIT + ENTRY as u8, OP_MUL]);
    code.extend([OP_DUP, OP_PICK, 4, OP_PLUS, OP_DEREF_SIZE, 2, OP_PICK, 5, OP_LE, OP_MUL]);
    // offset, entry + step, count - half
    code.extend([OP_ROT, OP_MINUS, OP_ROT, OP_PLUS, OP_SWAP]);
    code.extend([OP_DUP, OP_LIT + 1, OP_GT, OP_BRA]);
    let back = again as i16 - (code.len() as i16 + 2);
    code.extend(back.to_le_bytes());
    // rip - (offset + how far before the page the original is)
    code.extend([OP_DROP, OP_PLUS_CONST, 2, OP_DEREF_SIZE, 4, OP_PLUS]);
    code.extend(RIP_HERE);
    code.extend([OP_SWAP, OP_MINUS]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Addr = Addr(0x10_0000);

    fn row(at: u64, original: u64) -> Row {
        Row { at: AT + at, original: Some(Addr(original)), stack: 0, saved: Vec::new(), called: false }
    }

    fn piece(start: u64, end: u64, rows: Vec<Row>) -> Piece {
        Piece { range: AT + start..AT + end, rows }
    }

    /// What the expression says, run as DWARF 5, 2.5 tells, with the lists at `lists`.
    fn searched(code: &[u8], rip: u64, lists: &Lists, at: Addr) -> u64 {
        let mut stack: Vec<u64> = vec![0x7fff_0000];
        let mut ip = 0;
        let read = |address: u64, len: usize| {
            let offset = address.wrapping_sub(at.0) as usize;
            let bytes = lists.bytes.get(offset..offset + len).expect("in the lists");
            bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        while let Some(&op) = code.get(ip) {
            let small = |n: usize| u64::from(u16::from_le_bytes([code[ip + n], code[ip + n + 1]]));
            let mut used = 1;
            let mut pop = || stack.pop().expect("a value");
            let result = match op {
                OP_CONST_2 => (used = 3, small(1)).1,
                OP_CONST_4_SIGNED => {
                    used = 5;
                    (u64::from(u32::from_le_bytes(code[ip + 1..ip + 5].try_into().expect("4 bytes"))) as i32)
                        as i64 as u64
                }
                OP_PLUS_CONST => (used = 2, pop() + u64::from(code[ip + 1])).1,
                OP_DEREF_SIZE => (used = 2, read(pop(), code[ip + 1].into())).1,
                OP_AND => pop() & pop(),
                OP_PLUS => pop().wrapping_add(pop()),
                OP_MUL => pop().wrapping_mul(pop()),
                OP_MINUS => (pop().wrapping_sub(pop())).wrapping_neg(),
                OP_SHR => {
                    let by = pop();
                    pop() >> by
                }
                OP_GT => u64::from((pop() as i64) < pop() as i64),
                OP_LE => u64::from((pop() as i64) >= pop() as i64),
                OP_BRA => {
                    used = 3;
                    if pop() != 0 {
                        used = (3 + i64::from(small(1) as u16 as i16)) as usize;
                        ip = ip.wrapping_add(used);
                        continue;
                    }
                    ip += used;
                    continue;
                }
                OP_DROP => {
                    pop();
                    ip += 1;
                    continue;
                }
                OP_SWAP => {
                    let len = stack.len();
                    stack.swap(len - 1, len - 2);
                    ip += 1;
                    continue;
                }
                OP_ROT => {
                    let len = stack.len();
                    stack[len - 3..].rotate_right(1);
                    ip += 1;
                    continue;
                }
                OP_DUP => stack[stack.len() - 1],
                OP_OVER => stack[stack.len() - 2],
                OP_PICK => (used = 2, stack[stack.len() - 1 - usize::from(code[ip + 1])]).1,
                op if op == OP_BREG + RIP => (used = 2, rip).1,
                op => u64::from(op - OP_LIT),
            };
            stack.push(result);
            ip += used;
        }
        stack.pop().expect("a result")
    }

    #[test]
    fn a_search_finds_the_row() {
        for count in 1..40_u64 {
            let rows: Vec<Row> = (0..count).map(|n| row(0xF00 + 16 * n, 0x4000 + 5 * n)).collect();
            let pieces = [piece(0xF00, 0xF00 + 16 * count, rows)];
            let lists = lists(&pieces).expect("originals before trampolines");
            let at = Addr(0x9_0000);
            for offset in 0..16 * count {
                let rip = AT + 0xF00 + offset;
                let page = lists.pages.iter().find(|page| page.at == rip.align_down(PAGE)).expect("its page");
                let distance = (at + page.list as u64).offset_from(page.at) as i32;
                let code = search(distance, page.entries);
                assert!(code.len() < 128);
                let found = searched(&code, rip.0, &lists, at);
                assert_eq!(found, 0x4000 + 5 * (offset / 16), "{offset:#x} of {count} rows");
            }
        }
    }

    #[test]
    fn pages_are_described_one_by_one() {
        let pieces = [
            piece(0xFF0, 0x1010, vec![row(0xFF0, 0x4000), row(0xFF8, 0x4000), row(0xFFC, 0x4004)]),
            piece(0x1020, 0x1030, vec![row(0x1020, 0x5000)]),
        ];
        let lists = lists(&pieces).expect("originals before trampolines");
        assert_eq!(lists.bytes.len(), 4 * ENTRY, "two in each page");
        let table = lists.table(Addr(0x9_0000), Expressed::Relative(Addr(0x9_1000))).expect("in reach");
        let ranges: Vec<_> = table.entries.iter().map(|(range, _)| range.clone()).collect();
        assert_eq!(ranges, [AT + 0xFF0..AT + 0x1000, AT + 0x1000..AT + 0x1030]);
        assert_eq!(super::lists(&[piece(0, 8, vec![row(0, AT.0 + 0x100)])]), None, "behind its trampoline");
    }
}
