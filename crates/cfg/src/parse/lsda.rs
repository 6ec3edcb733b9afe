//! Tables of exception handling (`.gcc_except_table`): which calls lead to which landing pads.
//!
//! The layout is that of the Itanium C++ ABI, "Exception Handling Tables", with the pointer encodings
//! of the LSB (Core, 10.5).

use std::ops::Range;

use crate::parse::code::{Code, Off};

/// Instructions whose exceptions go to one landing pad.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CallSite {
    pub range: Range<Off>,
    pub landing_pad: Off,
}

/// Most bytes of one table that are looked at.
const LIMIT: u64 = 1 << 24;

/// The call sites of the table at `lsda` that have a landing pad. `start` is that of the code described.
/// A malformed table ends where it stops making sense.
pub(crate) fn call_sites(code: &Code<'_>, lsda: u64, start: Off) -> Vec<CallSite> {
    let mut found = Vec::new();
    let mut cursor = Cursor { bytes: code.data_from(lsda, LIMIT), at: lsda };
    read(code, &mut cursor, start, &mut found);
    found
}

fn read(code: &Code<'_>, cursor: &mut Cursor<'_>, start: Off, found: &mut Vec<CallSite>) -> Option<()> {
    let function = code.link(start).0;
    let pads = match cursor.byte()? {
        OMITTED => function,
        encoding => cursor.pointer(encoding)?,
    };
    if cursor.byte()? != OMITTED {
        cursor.uleb()?;
    }
    let encoding = cursor.byte()?;
    let len = cursor.uleb()?;
    let end = cursor.at.checked_add(len)?;
    while cursor.at < end {
        let from = function.wrapping_add(cursor.value(encoding)?);
        let to = from.wrapping_add(cursor.value(encoding)?);
        let pad = cursor.value(encoding)?;
        cursor.uleb()?;
        if pad == 0 {
            continue;
        }
        let pad = code.offset(pads.wrapping_add(pad));
        let range = code.offset(from).zip(code.offset(to.wrapping_sub(1)));
        if let (Some(landing_pad), Some((from, last))) = (pad, range) {
            found.push(CallSite { range: from..last.saturating_add(1), landing_pad });
        }
    }
    Some(())
}

/// `DW_EH_PE_omit`.
const OMITTED: u8 = 0xff;

struct Cursor<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        self.at += N as u64;
        Some(*first)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn uleb(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.byte()?;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
    }

    fn sleb(&mut self) -> Option<u64> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.byte()?;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            shift += 7;
            if byte & 0x80 == 0 {
                let sign = byte & 0x40 != 0 && shift < 64;
                return Some(if sign { value | u64::MAX << shift } else { value });
            }
        }
    }

    /// A number in the format of the low four bits of `encoding`.
    fn value(&mut self, encoding: u8) -> Option<u64> {
        match encoding & 0x0f {
            0x00 | 0x04 | 0x0c => self.take::<8>().map(u64::from_le_bytes),
            0x01 => self.uleb(),
            0x09 => self.sleb(),
            0x02 => self.take::<2>().map(|b| u64::from(u16::from_le_bytes(b))),
            0x03 => self.take::<4>().map(|b| u64::from(u32::from_le_bytes(b))),
            0x0a => self.take::<2>().map(|b| i16::from_le_bytes(b) as u64),
            0x0b => self.take::<4>().map(|b| i32::from_le_bytes(b) as u64),
            _ => None,
        }
    }

    /// A pointer, absolute or relative to where it lies.
    fn pointer(&mut self, encoding: u8) -> Option<u64> {
        let at = self.at;
        let value = self.value(encoding)?;
        match encoding & 0xf0 {
            0x00 => Some(value),
            0x10 => Some(at.wrapping_add(value)),
            _ => None,
        }
    }
}
