//! Making every processor core see changed code: membarrier(2), `PRIVATE_EXPEDITED_SYNC_CORE`.
//!
//! When it returns, every thread of this process has executed a core-serializing instruction since the
//! call began, so none can go on with bytes it fetched earlier (Intel SDM vol. 3A, 9.1.3; AMD APM vol. 2,
//! 7.6.1).
//!
//! # Safety
//! Only membarrier(2) is called, which touches no memory.

#![allow(unsafe_code, reason = "makes the system call membarrier")]

use crate::SpaceError;
use crate::sys::{self, Errno};

const REGISTER: usize = libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE as usize;
const SYNC: usize = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE as usize;

/// The arguments of the call that serializes all cores.
pub(super) const SYNC_ARGUMENTS: [usize; 6] = [SYNC, 0, 0, 0, 0, 0];

/// Declares that this process will use [`sync_cores`]. Needed once per process image; cheap to repeat.
pub(super) fn register() -> Result<(), SpaceError> {
    // SAFETY: touches no memory.
    unsafe { sys::call(libc::SYS_membarrier, [REGISTER, 0, 0, 0, 0, 0]) }
        .map(drop)
        .map_err(|errno| SpaceError::system("registering for membarrier", errno))
}

/// Serializes all cores that run threads of this process.
pub(super) fn sync_cores() -> Result<(), Errno> {
    // SAFETY: touches no memory.
    unsafe { sys::call(libc::SYS_membarrier, SYNC_ARGUMENTS) }.map(drop)
}
