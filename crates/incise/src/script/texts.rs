//! Texts for functions of the program that snippets call, in its memory.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use incise_isa::Addr;
use incise_space::remote::RemoteSpace;
use incise_space::{AddressSpace, DataMapping, SpaceError};

use crate::trace::place;

/// Room for texts, in bytes.
const ROOM: u64 = 1 << 18;

/// Texts in one process.
pub(crate) struct Texts {
    mapping: DataMapping,
    at: Addr,
    used: u64,
    known: HashMap<Vec<u8>, Addr>,
}

impl Texts {
    /// Makes room for texts.
    pub(crate) fn new(space: &mut RemoteSpace) -> Result<Texts, SpaceError> {
        let at = place(space, ROOM)?;
        let mapping = space.map_data(at, ROOM)?;
        Ok(Texts { mapping, at, used: 0, known: HashMap::new() })
    }

    /// The address of `text` with a zero behind it, the same for the same text; `None` without room.
    pub(super) fn of(&mut self, text: &[u8]) -> Option<Addr> {
        if let Some(at) = self.known.get(text) {
            return Some(*at);
        }
        let size = (text.len() as u64 + 1).next_multiple_of(8);
        if size > ROOM - self.used {
            return None;
        }
        let words = &self.mapping.words()[(self.used / 8) as usize..];
        for (word, bytes) in words.iter().zip(text.chunks(8)) {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(all), Ordering::Relaxed);
        }
        let at = self.at + self.used;
        self.used += size;
        self.known.insert(text.to_vec(), at);
        Some(at)
    }
}
