//! What lies where in a trampoline.

use incise_isa::Addr;

/// A part of a trampoline: what belongs to one displaced instruction. From its landing on come the snippets before it, its
/// copy, the snippets behind it and the way back.
///
/// If `original_len` is 0 it is a detour instead: snippets and a jump to where the program goes on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Displaced {
    /// Where it begins.
    pub landing: Addr,
    /// Its length in bytes.
    pub len: u32,
    /// The original instruction.
    pub original: Addr,
    /// The length of the original instruction.
    pub original_len: u8,
    /// Bytes from the landing to the copy; `u16::MAX` if that is not known.
    pub copy: u16,
    /// Length of the copy.
    pub copied: u8,
}
