//! For changes that outlive their tracer: taking over memory that an earlier one mapped, and changing data.

use std::ops::Range;

use incise_isa::Addr;

use super::tracees::{MemoryId, Tracees};
use crate::SpaceError;

impl Tracees {
    /// Counts `range` as mapped by this tracer. It has to be executable memory without a file, and not writable.
    pub(super) fn adopt_code(&mut self, memory: MemoryId, range: Range<Addr>) -> Result<(), SpaceError> {
        let map = self.memory_map(memory)?;
        let len = range.end.offset_from(range.start).max(0) as u64;
        let covered: u64 = map
            .overlapping(&range)
            .filter(|mapping| {
                let permissions = mapping.permissions;
                permissions.execute && !permissions.write && !permissions.shared && mapping.inode == 0
            })
            .map(|mapping| {
                mapping.range.end.min(range.end).offset_from(mapping.range.start.max(range.start)) as u64
            })
            .sum();
        if covered != len {
            return Err(SpaceError::NotReserved { at: range.start, len });
        }
        let code = &mut self.target_mut(memory)?.code;
        if !code.iter().any(|other| other.start < range.end && range.start < other.end) {
            let index = code.partition_point(|other| other.start < range.start);
            code.insert(index, range);
        }
        Ok(())
    }

    /// Changes data at `at` from `old` to `new` while all threads stand still.
    pub(super) fn write_data(
        &mut self,
        memory: MemoryId,
        at: Addr,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), SpaceError> {
        self.hold(memory)?;
        let written = self.write_data_stopped(memory, at, old, new);
        self.release(memory);
        written
    }

    fn write_data_stopped(
        &mut self,
        memory: MemoryId,
        at: Addr,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), SpaceError> {
        let stopped = self.live_thread(memory)?;
        let target = &self.target(memory)?.memory;
        let found = target.read_vec(at, old.len())?;
        if found != old {
            return Err(SpaceError::Changed { at, expected: old.to_vec(), found });
        }
        target.write(at, new, Some(stopped))
    }
}
