//! The system calls of the address spaces, made directly.
//!
//! Not through the C library: its wrappers set `errno`, which belongs to the program we are in, and its
//! code may be just what is being changed. Each call passes [`crate::faults`].
//!
//! # Safety
//! Each function is unsafe where the system call can break memory safety; its documentation is the
//! manual page of the call. Buffers are passed as slices, whose length bounds what the kernel touches.

#![allow(unsafe_code, reason = "makes system calls")]

use std::arch::asm;
use std::ffi::CStr;
use std::io;
use std::os::fd::IntoRawFd;

use crate::faults;

/// An error number (errno.h), positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub i32);

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno.0)
    }
}

/// Makes system call `number`; the result as the kernel gives it, `-errno` on failure.
///
/// # Safety
/// As the system call demands.
#[inline(always)]
pub(crate) unsafe fn raw(number: i64, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the caller vouches for the call; the instruction itself changes only rax, rcx and r11.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes system call `number`, unless a failpoint is there.
///
/// # Safety
/// As the system call demands.
pub(crate) unsafe fn call(number: i64, arguments: [usize; 6]) -> Result<usize, Errno> {
    faults::trip()?;
    // SAFETY: passed on to the caller.
    let result = unsafe { raw(number, arguments) };
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// Whether the size of the address space of process `pid` is bounded; 0 is this one.
pub(crate) fn is_bounded(pid: i32) -> bool {
    let mut limit = [u64::MAX; 2];
    let arguments = [pid as usize, libc::RLIMIT_AS as usize, 0, &raw mut limit as usize, 0, 0];
    // SAFETY: writes a `struct rlimit64`, two quadwords; it is not changed where the limit cannot be told.
    unsafe { raw(libc::SYS_prlimit64, arguments) };
    limit[0] != u64::MAX
}

/// mmap(2), without a file.
///
/// # Safety
/// With `MAP_FIXED`, nothing may rely on what was mapped there.
pub(crate) unsafe fn mmap_anonymous(at: u64, len: u64, prot: i32, flags: i32) -> Result<u64, Errno> {
    let flags = flags | libc::MAP_ANONYMOUS;
    let arguments = [at as usize, len as usize, prot as usize, flags as usize, usize::MAX, 0];
    // SAFETY: the caller vouches for a fixed place; otherwise only unused addresses are taken.
    unsafe { call(libc::SYS_mmap, arguments) }.map(|at| at as u64)
}

/// mmap(2) of a file.
///
/// # Safety
/// As for [`mmap_anonymous`].
pub(crate) unsafe fn mmap_file(
    at: u64,
    len: u64,
    prot: i32,
    flags: i32,
    file: &File,
    offset: u64,
) -> Result<u64, Errno> {
    let arguments =
        [at as usize, len as usize, prot as usize, flags as usize, file.0 as usize, offset as usize];
    // SAFETY: as above.
    unsafe { call(libc::SYS_mmap, arguments) }.map(|at| at as u64)
}

/// munmap(2).
///
/// # Safety
/// Nothing may use the range afterwards.
pub(crate) unsafe fn munmap(at: u64, len: u64) -> Result<(), Errno> {
    // SAFETY: as the caller says.
    unsafe { call(libc::SYS_munmap, [at as usize, len as usize, 0, 0, 0, 0]) }.map(drop)
}

/// mremap(2) of `len` bytes from `from` to exactly `to`, replacing what is mapped there.
///
/// # Safety
/// Nothing may use `from` afterwards; what used `to` must be content with the new contents.
pub(crate) unsafe fn mremap_over(from: u64, len: u64, to: u64) -> Result<(), Errno> {
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as usize;
    let arguments = [from as usize, len as usize, len as usize, flags, to as usize, 0];
    // SAFETY: as the caller says.
    unsafe { call(libc::SYS_mremap, arguments) }.map(drop)
}

/// Gives the anonymous memory a name in /proc/PID/maps, where the kernel can (prctl(2),
/// `PR_SET_VMA_ANON_NAME`). Only a convenience: errors are not reported.
pub(crate) fn name_memory(at: u64, len: u64, name: &'static CStr) {
    let (at, len, name) = (at as usize, len as usize, name.as_ptr() as usize);
    let arguments = [libc::PR_SET_VMA as usize, libc::PR_SET_VMA_ANON_NAME as usize, at, len, name, 0];
    // SAFETY: changes nothing but the name.
    let _ = unsafe { call(libc::SYS_prctl, arguments) };
}

/// A file descriptor, closed on drop.
#[derive(Debug)]
pub(crate) struct File(i32);

impl From<std::fs::File> for File {
    fn from(file: std::fs::File) -> File {
        File(file.into_raw_fd())
    }
}

impl File {
    /// open(2), close-on-exec.
    pub(crate) fn open(path: &CStr, flags: i32) -> Result<File, Errno> {
        let flags = flags | libc::O_CLOEXEC;
        let arguments = [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, 0, 0, 0];
        // SAFETY: the path ends in a zero byte.
        unsafe { call(libc::SYS_openat, arguments) }.map(|fd| File(fd as i32))
    }

    /// memfd_create(2), close-on-exec.
    pub(crate) fn memory(name: &CStr) -> Result<File, Errno> {
        let arguments = [name.as_ptr() as usize, libc::MFD_CLOEXEC as usize, 0, 0, 0, 0];
        // SAFETY: the name ends in a zero byte.
        unsafe { call(libc::SYS_memfd_create, arguments) }.map(|fd| File(fd as i32))
    }

    /// Takes the descriptor that system call `number` makes.
    ///
    /// # Safety
    /// As the system call demands; its result must be a new descriptor.
    pub(crate) unsafe fn made_by(number: i64, arguments: [usize; 6]) -> Result<File, Errno> {
        // SAFETY: as the caller says.
        unsafe { call(number, arguments) }.map(|fd| File(fd as i32))
    }

    /// ftruncate(2).
    pub(crate) fn set_len(&self, len: u64) -> Result<(), Errno> {
        // SAFETY: changes only the file.
        unsafe { call(libc::SYS_ftruncate, [self.0 as usize, len as usize, 0, 0, 0, 0]) }.map(drop)
    }

    /// The number.
    pub(crate) fn number(&self) -> i32 {
        self.0
    }

    /// read(2).
    pub(crate) fn read(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let arguments = [self.0 as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0];
        // SAFETY: the slice is writable.
        unsafe { call(libc::SYS_read, arguments) }
    }

    /// getdents64(2).
    pub(crate) fn read_folder(&self, into: &mut [u8]) -> Result<usize, Errno> {
        let arguments = [self.0 as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0];
        // SAFETY: the slice is writable.
        unsafe { call(libc::SYS_getdents64, arguments) }
    }

    /// pread(2).
    pub(crate) fn read_at(&self, into: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let arguments = [self.0 as usize, into.as_mut_ptr() as usize, into.len(), offset as usize, 0, 0];
        // SAFETY: the slice is writable.
        unsafe { call(libc::SYS_pread64, arguments) }
    }

    /// pwrite(2).
    ///
    /// # Safety
    /// If the file is memory of this process: nothing may rely on what is overwritten.
    pub(crate) unsafe fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize, Errno> {
        let arguments = [self.0 as usize, bytes.as_ptr() as usize, bytes.len(), offset as usize, 0, 0];
        // SAFETY: the slice is readable; the rest is up to the caller.
        unsafe { call(libc::SYS_pwrite64, arguments) }
    }

    /// Appends what is left up to the end to `bytes`.
    pub(crate) fn read_to_end(&self, bytes: &mut Vec<u8>) -> Result<(), Errno> {
        let mut len = bytes.len();
        loop {
            if bytes.len() - len < 1 << 13 {
                bytes.resize((bytes.capacity()).max(len + (1 << 14)), 0);
            }
            match self.read(&mut bytes[len..]) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(Errno(libc::EINTR)) => {}
                Err(errno) => return Err(errno),
            }
        }
        bytes.truncate(len);
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours. Not `call`: a failpoint must not leak it.
        unsafe { raw(libc::SYS_close, [self.0 as usize, 0, 0, 0, 0, 0]) };
    }
}

/// The whole contents of the file at `path`.
pub(crate) fn read_file(path: &CStr) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    File::open(path, libc::O_RDONLY)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
