//! One change of live code bytes.

use std::fmt;
use std::ops::Deref;

use incise_isa::Addr;

/// Up to [`Bytes::MAX`] bytes, kept in place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Bytes {
    len: u8,
    bytes: [u8; Bytes::MAX],
}

impl Bytes {
    /// The longest run of bytes one edit changes.
    pub const MAX: usize = 15;

    /// A copy of `bytes`.
    ///
    /// # Panics
    /// If `bytes` is longer than [`Bytes::MAX`].
    pub fn new(bytes: &[u8]) -> Bytes {
        let mut copy = [0; Bytes::MAX];
        copy[..bytes.len()].copy_from_slice(bytes);
        Bytes { len: bytes.len() as u8, bytes: copy }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", &**self)
    }
}

/// One change of live code: `old` becomes `new` (of the same length) at `at`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edit {
    /// Address of the first byte.
    pub at: Addr,
    /// The bytes that are there now.
    pub old: Bytes,
    /// The bytes that shall be there.
    pub new: Bytes,
    /// Bit `i` is set if a thread may begin an instruction at `at + i`, before or after the change. A writer that
    /// cannot replace all bytes at once puts a trap on each of these first. No bit is set for padding.
    pub heads: u16,
}

impl Edit {
    /// Offsets of the heads, ascending.
    pub fn head_offsets(&self) -> impl Iterator<Item = usize> + use<> {
        let heads = self.heads;
        (0..self.old.len()).filter(move |&i| heads & (1 << i) != 0)
    }

    /// The edit that takes this one back.
    pub fn inverse(&self) -> Edit {
        Edit { old: self.new, new: self.old, ..*self }
    }
}
