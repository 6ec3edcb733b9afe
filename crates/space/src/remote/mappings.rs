//! Memory that is mapped in the target: code only it sees, data that this process sees too.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use incise_isa::Addr;

use super::inject::Caller;
use super::local;
use super::memory::PAGE;
use super::runtime::Runtime;
use super::tracees::{MemoryId, Tracees};
use crate::{DataMapping, SpaceError};

/// `MFD_NOEXEC_SEAL` (linux/memfd.h): where vm.memfd_noexec demands it.
const MFD_NOEXEC_SEAL: u64 = 8;

const NO_FILE: u64 = u64::MAX;

impl Caller<'_> {
    /// Maps private memory without a file at exactly `at`.
    pub(super) fn map(&mut self, at: Addr, len: u64, protection: i32) -> Result<(), SpaceError> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.map_file(at, len, protection, flags, NO_FILE)
    }

    /// As [`map`](Self::map), noted for who comes after us if we are killed.
    pub(super) fn map_noted(
        &mut self,
        runtime: &Runtime,
        at: Addr,
        len: u64,
        protection: i32,
    ) -> Result<(), SpaceError> {
        self.announce(runtime, Some(&at.span(len)))?;
        self.map(at, len, protection).inspect_err(|_| drop(self.announce(runtime, None)))
    }

    fn map_file(
        &mut self,
        at: Addr,
        len: u64,
        protection: i32,
        flags: i32,
        file: u64,
    ) -> Result<(), SpaceError> {
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        let arguments = [at.0, len, protection as u64, flags as u64, file, 0];
        match self.call("mapping memory in the target", libc::SYS_mmap, arguments) {
            Ok(mapped) if mapped == at.0 => Ok(()),
            // A kernel that does not know MAP_FIXED_NOREPLACE (before 4.17) goes elsewhere.
            Ok(elsewhere) => {
                self.unmap(Addr(elsewhere), len)?;
                Err(SpaceError::Occupied { at, len })
            }
            Err(SpaceError::System { source, .. }) if source.raw_os_error() == Some(libc::EEXIST) => {
                Err(SpaceError::Occupied { at, len })
            }
            Err(error) => Err(error),
        }
    }

    /// Unmaps memory.
    pub(super) fn unmap(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        let arguments = [at.0, len, 0, 0, 0, 0];
        self.call("unmapping memory in the target", libc::SYS_munmap, arguments).map(drop)
    }

    /// Moves the mapping of `len` bytes at `from` over whatever is at `to`: in one step, also for threads
    /// outside our control.
    pub(super) fn move_over(&mut self, from: Addr, len: u64, to: Addr) -> Result<(), SpaceError> {
        let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
        let arguments = [from.0, len, len, flags, to.0, 0];
        self.call("moving new code over the old", libc::SYS_mremap, arguments).map(drop)
    }

    /// Asks for large pages.
    pub(super) fn advise_large_pages(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        let arguments = [at.0, len, libc::MADV_HUGEPAGE as u64, 0, 0, 0];
        self.call("asking for large pages", libc::SYS_madvise, arguments).map(drop)
    }

    /// A file that both processes have open: (in the target, here).
    fn shared_file(&mut self, runtime: &Runtime) -> Result<(u64, File), SpaceError> {
        let action = "making shared memory in the target";
        self.write_argument(runtime, c"incise".to_bytes_with_nul())?;
        let mut create =
            |flags| self.call(action, libc::SYS_memfd_create, [runtime.arguments().0, flags, 0, 0, 0, 0]);
        let cloexec = u64::from(libc::MFD_CLOEXEC);
        let created = create(cloexec | MFD_NOEXEC_SEAL).or_else(|_| create(cloexec));
        let Ok(fd) = created else { return self.borrowed_file(runtime) };
        let path = format!("/proc/{}/fd/{fd}", self.thread().0);
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => Ok((fd, file)),
            Err(_) => {
                self.close(fd)?;
                self.borrowed_file(runtime)
            }
        }
    }

    /// The same where the target may not make such files: it opens one of ours.
    fn borrowed_file(&mut self, runtime: &Runtime) -> Result<(u64, File), SpaceError> {
        let action = "opening shared memory in the target";
        let file = local::memory_file().map_err(|error| SpaceError::system("making shared memory", error))?;
        let path = format!("/proc/{}/fd/{}\0", std::process::id(), file.as_raw_fd());
        self.write_argument(runtime, path.as_bytes())?;
        let flags = (libc::O_RDWR | libc::O_CLOEXEC) as u64;
        let arguments = [libc::AT_FDCWD as u64, runtime.arguments().0, flags, 0, 0, 0];
        Ok((self.call(action, libc::SYS_openat, arguments)?, file))
    }

    /// Maps memory at `at` that both processes share, where the target may open no more files: shared memory without a
    /// file, which this process opens through the target's list of mapped files. (Not always: that takes a privilege, and
    /// nobody would know whose the memory is if we are killed.)
    fn share_without_descriptor(&mut self, at: Addr, len: u64) -> Result<DataMapping, SpaceError> {
        let pid = self.thread().0;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        self.map_file(at, len, libc::PROT_READ | libc::PROT_WRITE, flags, NO_FILE)?;
        let path = format!("/proc/{pid}/map_files/{:x}-{:x}", at.0, at.0 + len);
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let view = match opened {
            Ok(file) => local::view(&file, at, len)
                .map_err(|error| SpaceError::system("mapping shared memory", error)),
            Err(_) => Err(SpaceError::TooManyFiles { pid }),
        };
        match view {
            Ok(view) => Ok(view),
            Err(error) => self.unmap(at, len).and(Err(error)),
        }
    }

    /// Maps the first page of a file that the target opens.
    fn map_page_of(&mut self, runtime: &Runtime, path: &CStr) -> Result<Addr, SpaceError> {
        self.write_argument(runtime, path.to_bytes_with_nul())?;
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u64;
        let arguments = [libc::AT_FDCWD as u64, runtime.arguments().0, flags, 0, 0, 0];
        let fd = self.call("opening a file in the target", libc::SYS_openat, arguments)?;
        let protection = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let arguments = [0, PAGE, protection, libc::MAP_PRIVATE as u64, fd, 0];
        let mapped = self.call("mapping a file in the target", libc::SYS_mmap, arguments);
        self.close(fd).or_else(|_| self.close(fd))?;
        mapped.map(Addr)
    }

    fn close(&mut self, fd: u64) -> Result<(), SpaceError> {
        self.call("closing a file in the target", libc::SYS_close, [fd, 0, 0, 0, 0, 0]).map(drop)
    }
}

impl Tracees {
    /// Maps executable memory.
    pub(super) fn map_code(&mut self, memory: MemoryId, at: Addr, len: u64) -> Result<(), SpaceError> {
        check_range(at, len)?;
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        self.with_caller(memory, |caller, runtime| caller.map_noted(runtime, at, len, protection))?;
        insert(&mut self.target_mut(memory)?.code, at.span(len));
        Ok(())
    }

    /// Maps shared memory.
    pub(super) fn map_data(
        &mut self,
        memory: MemoryId,
        at: Addr,
        len: u64,
    ) -> Result<DataMapping, SpaceError> {
        check_range(at, len)?;
        let view = self.with_caller(memory, |caller, runtime| {
            let (fd, file) = match caller.shared_file(runtime) {
                Err(error) if is_full(&error) => return caller.share_without_descriptor(at, len),
                shared => shared?,
            };
            let system = |error| SpaceError::system("mapping shared memory", error);
            let mapped = file.set_len(len).map_err(system).and_then(|()| {
                let view = local::view(&file, at, len).map_err(system)?;
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                caller.map_file(at, len, protection, libc::MAP_SHARED, fd)?;
                Ok(view)
            });
            let closed = caller.close(fd).or_else(|_| caller.close(fd));
            match (mapped, closed) {
                (Ok(view), Ok(())) => Ok(view),
                (Ok(_), Err(error)) => caller.unmap(at, len).and(Err(error)),
                (Err(error), _) => Err(error),
            }
        })?;
        insert(&mut self.target_mut(memory)?.data, at.span(len));
        Ok(view)
    }

    /// Maps private memory.
    pub(super) fn map_private(&mut self, memory: MemoryId, at: Addr, len: u64) -> Result<(), SpaceError> {
        check_range(at, len)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        self.with_caller(memory, |caller, _| caller.map(at, len, protection))?;
        insert(&mut self.target_mut(memory)?.data, at.span(len));
        Ok(())
    }

    /// Maps the first page of a file, as it is seen in the target.
    pub(super) fn show_file(&mut self, memory: MemoryId, path: &CStr) -> Result<(), SpaceError> {
        let at = self.with_caller(memory, |caller, runtime| caller.map_page_of(runtime, path))?;
        insert(&mut self.target_mut(memory)?.data, at.span(PAGE));
        Ok(())
    }

    /// Unmaps what one of these mapped.
    pub(super) fn unmap(&mut self, memory: MemoryId, at: Addr, len: u64) -> Result<(), SpaceError> {
        check_range(at, len)?;
        self.with_caller(memory, |caller, _| caller.unmap(at, len))?;
        let target = self.target_mut(memory)?;
        cut(&mut target.code, &at.span(len));
        cut(&mut target.data, &at.span(len));
        Ok(())
    }

    /// Writes into memory of [`map_code`](Self::map_code), while the target runs.
    pub(super) fn write_code(&mut self, memory: MemoryId, runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
        let target = self.target(memory)?;
        for &(at, bytes) in runs {
            let end = at + bytes.len() as u64;
            let index = target.code.partition_point(|range| range.end < end);
            if target.code.get(index).is_none_or(|range| range.start > at) {
                return Err(SpaceError::NotReserved { at, len: bytes.len() as u64 });
            }
        }
        let target = Rc::clone(&target.memory);
        let write = |stopped| runs.iter().try_for_each(|&(at, bytes)| target.write(at, bytes, stopped));
        if target.unit() == PAGE {
            return write(None);
        }
        self.hold(memory)?;
        let written = self.live_thread(memory).and_then(|tid| write(Some(tid)));
        self.release(memory);
        written
    }
}

/// Whether the target may not open more files.
fn is_full(error: &SpaceError) -> bool {
    matches!(error, SpaceError::System { source, .. } if source.raw_os_error() == Some(libc::EMFILE))
}

fn insert(ranges: &mut Vec<Range<Addr>>, range: Range<Addr>) {
    let index = ranges.partition_point(|other| other.start < range.start);
    ranges.insert(index, range);
}

fn cut(ranges: &mut Vec<Range<Addr>>, gone: &Range<Addr>) {
    for range in std::mem::take(ranges) {
        let before = range.start..range.end.min(gone.start);
        let behind = range.start.max(gone.end)..range.end;
        ranges.extend([before, behind].into_iter().filter(|rest| rest.start < rest.end));
    }
}

fn check_range(at: Addr, len: u64) -> Result<(), SpaceError> {
    if len > 0 && at.0.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && at.0.checked_add(len).is_some() {
        return Ok(());
    }
    let invalid = io::Error::from_raw_os_error(libc::EINVAL);
    Err(SpaceError::system("mapping memory that is not made of whole pages", invalid))
}
