//! The memory map of this process, parsed anew only when its text has changed.

use std::cell::RefCell;

use incise_image::MemoryMap;

use crate::SpaceError;
use crate::sys::{Errno, File};

/// The map as it was read last.
#[derive(Default)]
pub(super) struct KnownMap(RefCell<Known>);

#[derive(Default)]
struct Known {
    text: Vec<u8>,
    /// Where the next text is read to; the two take turns.
    spare: Vec<u8>,
    map: MemoryMap,
}

impl KnownMap {
    /// The map as it is now.
    pub(super) fn read(&self) -> Result<MemoryMap, SpaceError> {
        let known = &mut *self.0.borrow_mut();
        read_into(&mut known.spare).map_err(|errno| SpaceError::system("reading /proc/self/maps", errno))?;
        if known.spare != known.text {
            known.map = MemoryMap::parse(&String::from_utf8_lossy(&known.spare));
            std::mem::swap(&mut known.text, &mut known.spare);
        }
        Ok(known.map.clone())
    }
}

fn read_into(text: &mut Vec<u8>) -> Result<(), Errno> {
    let file = File::open(c"/proc/self/maps", libc::O_RDONLY)?;
    text.clear();
    file.read_to_end(text)
}
