//! What the tests of relocation share: one original address, one place near it, one far away.

use super::{RelocateError, Relocation, relocate};
use crate::Addr;
use crate::x86_64::testing::hex;
use crate::x86_64::{MAX_RELOCATED_LEN, decode};

/// Where the originals are.
pub const FROM: Addr = Addr(0x7f00_0000_1000);
/// A place for the copy that keeps everything around [`FROM`] in reach.
pub const NEAR: Addr = Addr(0x7f00_1000_0000);
/// A place for the copy from where nothing around [`FROM`] is in reach.
pub const FAR: Addr = Addr(0x7e00_0000_0000);

/// The copy at `to` of the instruction at [`FROM`]; targets have not moved.
pub fn copy(original: &str, to: Addr) -> Result<Vec<u8>, RelocateError> {
    copy_with(original, &Relocation { to, resolve: &|target| target, shadow_stack: false, moves: false })
}

/// The copy of the instruction at [`FROM`].
pub fn copy_with(original: &str, how: &Relocation) -> Result<Vec<u8>, RelocateError> {
    let insn = decode(&hex(original), FROM).expect("an instruction");
    assert_eq!(insn.len(), hex(original).len(), "{original} is one instruction");
    let mut out = vec![0xAA];
    let result = relocate(&insn, how, &mut out);
    assert_eq!(out[0], 0xAA);
    let copy = out.split_off(1);
    assert!(copy.len() <= MAX_RELOCATED_LEN, "{original}: {} bytes", copy.len());
    assert!(result.is_ok() || copy.is_empty(), "{original}: a refusal leaves `out` alone");
    result.map(|()| copy)
}

/// Asserts that the copy at `to` is `expected`, written as a listing.
#[track_caller]
pub fn assert_bytes(original: &str, to: Addr, expected: &str) {
    let shown = copy(original, to).map(|bytes| listing(&bytes));
    assert_eq!(shown, Ok(listing(&hex(expected))), "{original}");
}

fn listing(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// Asserts that the copy at `to` consists of the instructions in `expected`.
#[track_caller]
pub fn assert_code(original: &str, to: Addr, expected: &[&str]) {
    let bytes = copy(original, to).expect("a copy");
    let mut shown = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let insn = decode(&bytes[at..], to + at as u64).expect("an instruction");
        at += insn.len();
        shown.push(insn.text());
    }
    assert_eq!(shown, expected, "{original}");
}
