//! Filling memory that is not writable, page by page, through userfaultfd(2).
//!
//! `UFFDIO_COPY` allocates a page, copies the contents into it and maps it with the protection of its mapping,
//! all at once: pages of code come to be without ever being writable, and without being zeroed first.
//!
//! # Safety
//! Only memory is registered that nobody but the caller knows of: nobody else can fault in it.

#![allow(unsafe_code, reason = "passes structures to the kernel by address")]

use crate::SpaceError;
use crate::sys::{self, Errno, File};

// include/uapi/linux/userfaultfd.h
const UFFD_USER_MODE_ONLY: usize = 1;
const UFFD_API: u64 = 0xAA;
const UFFDIO_API: usize = 0xC018_AA3F;
const UFFDIO_REGISTER: usize = 0xC020_AA00;
const UFFDIO_COPY: usize = 0xC028_AA03;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

/// A userfaultfd. Dropping it makes the registered memory ordinary memory.
pub(super) struct Userfault(File);

impl Userfault {
    pub(super) fn open() -> Result<Userfault, SpaceError> {
        let flags = libc::O_CLOEXEC as usize | UFFD_USER_MODE_ONLY;
        // SAFETY: makes a new descriptor.
        let file = unsafe { File::made_by(libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0]) }
            .map_err(|errno| SpaceError::system("opening a userfaultfd", errno))?;
        let userfault = Userfault(file);
        let mut api = [UFFD_API, 0, 0];
        userfault.control(UFFDIO_API, &mut api, "setting up a userfaultfd")?;
        Ok(userfault)
    }

    /// Makes the memory one that [`Userfault::copy`] can fill.
    pub(super) fn register(&self, at: u64, len: u64) -> Result<(), SpaceError> {
        let mut range = [at, len, UFFDIO_REGISTER_MODE_MISSING, 0];
        self.control(UFFDIO_REGISTER, &mut range, "registering memory with a userfaultfd")
    }

    /// Fills the empty pages at `to`.
    pub(super) fn copy(&self, to: u64, bytes: &[u8]) -> Result<(), SpaceError> {
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let mut piece = [to + done as u64, rest.as_ptr() as u64, rest.len() as u64, 0, 0];
            let result = self.control(UFFDIO_COPY, &mut piece, "filling memory through a userfaultfd");
            // The last word is the number of bytes copied, or an error; EAGAIN comes with either.
            match (result, piece[4] as i64) {
                (_, copied) if copied > 0 => done += copied as usize,
                (Err(SpaceError::System { source, .. }), _)
                    if source.raw_os_error() == Some(libc::EAGAIN) => {}
                (Err(error), _) => return Err(error),
                (Ok(()), _) => {
                    return Err(SpaceError::system("filling memory through a userfaultfd", Errno(libc::EIO)));
                }
            }
        }
        Ok(())
    }

    fn control<const N: usize>(
        &self,
        request: usize,
        words: &mut [u64; N],
        action: &'static str,
    ) -> Result<(), SpaceError> {
        let arguments = [self.0.number() as usize, request, words.as_mut_ptr() as usize, 0, 0, 0];
        // SAFETY: the request is for a structure of `N` quadwords (its size is part of the request's number).
        unsafe { sys::call(libc::SYS_ioctl, arguments) }
            .map(drop)
            .map_err(|errno| SpaceError::system(action, errno))
    }
}
