//! What the spaces of files have in common: reading piece by piece, mappings that no kernel made.

use std::ops::Range;
use std::sync::Arc;

use incise_image::{Mapping, Permissions};
use incise_isa::Addr;

use crate::SpaceError;

/// Fills `into` by `read_some`, which fills as much as lies in one piece and tells how much that was.
pub(super) fn read_pieces(
    at: Addr,
    into: &mut [u8],
    read_some: impl Fn(Addr, &mut [u8]) -> Option<usize>,
) -> Result<(), SpaceError> {
    let mut done = 0;
    while done < into.len() {
        let next = Addr(at.0.wrapping_add(done as u64));
        match read_some(next, &mut into[done..]) {
            Some(read) if read > 0 => done += read,
            _ => return Err(SpaceError::Unreadable { at, len: into.len() }),
        }
    }
    Ok(())
}

/// A mapping without a name.
pub(super) fn mapping(range: Range<u64>, permissions: Permissions, file_offset: u64) -> Mapping {
    Mapping {
        range: Addr(range.start)..Addr(range.end),
        permissions,
        file_offset,
        device: (0, 0),
        inode: 0,
        name: Arc::from(""),
        deleted: false,
    }
}
