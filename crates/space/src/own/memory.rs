//! Reading and writing this process's own memory by system calls, which fail where an instruction would
//! fault: the memory may be unmapped by another thread at any time.
//!
//! # Safety
//! Writing goes to code memory: [`CodeWriter::write`] is unsafe and hands its duty to the caller.

#![allow(unsafe_code, reason = "reads and writes memory by address")]

use incise_isa::Addr;

use crate::sys::{self, Errno, File};
use crate::{Edit, SpaceError};

/// How many pieces one call reads (`UIO_MAXIOV`, include/uapi/linux/uio.h).
const PIECES: usize = 1024;

/// Reads memory at `at`.
pub(super) fn read(at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
    let remote = [(at.0, into.len())];
    match read_pieces(&remote, into)? {
        n if n == into.len() => Ok(()),
        _ => Err(SpaceError::Unreadable { at, len: into.len() }),
    }
}

/// Checks that the bytes of each edit are what `expected` says.
pub(super) fn verify(edits: &[Edit], expected: impl Fn(&Edit) -> &[u8]) -> Result<(), SpaceError> {
    let mut pieces = Vec::with_capacity(PIECES.min(edits.len()));
    let mut found = Vec::new();
    for edits in edits.chunks(PIECES) {
        pieces.clear();
        pieces.extend(edits.iter().map(|edit| (edit.at.0, edit.old.len())));
        found.resize(pieces.iter().map(|piece| piece.1).sum(), 0);
        let read = read_pieces(&pieces, &mut found)?;
        let mut rest = &found[..read];
        for edit in edits {
            let Some((bytes, behind)) = rest.split_at_checked(edit.old.len()) else {
                return Err(SpaceError::Unreadable { at: edit.at, len: edit.old.len() });
            };
            if bytes != expected(edit) {
                return Err(changed(edit, expected(edit), bytes));
            }
            rest = behind;
        }
    }
    Ok(())
}

/// The error for an edit whose bytes are not what they should be.
pub(super) fn changed(edit: &Edit, expected: &[u8], found: &[u8]) -> SpaceError {
    SpaceError::Changed { at: edit.at, expected: expected.to_vec(), found: found.to_vec() }
}

/// Reads the pieces (address, length), one behind the other, into `into`, as far as they are readable.
/// Returns how many bytes were read.
fn read_pieces(pieces: &[(u64, usize)], into: &mut [u8]) -> Result<usize, SpaceError> {
    let local = (into.as_mut_ptr() as usize, into.len());
    // SAFETY: no arguments.
    let pid = unsafe { sys::raw(libc::SYS_getpid, [0; 6]) };
    // struct iovec is an address and a length; (u64, usize) and (usize, usize) are laid out by rustc, so
    // they are copied into arrays, whose layout is fixed.
    let remote: Vec<[u64; 2]> = pieces.iter().map(|&(at, len)| [at, len as u64]).collect();
    let local = [local.0, local.1];
    let arguments = [pid as usize, local.as_ptr() as usize, 1, remote.as_ptr() as usize, remote.len(), 0];
    // SAFETY: writes into `into` only.
    match unsafe { sys::call(libc::SYS_process_vm_readv, arguments) } {
        Ok(read) => Ok(read),
        Err(Errno(libc::EFAULT)) => Ok(0),
        Err(Errno(libc::ENOSYS | libc::EPERM)) => read_pieces_by_file(pieces, into),
        Err(errno) => Err(SpaceError::system("reading own memory", errno)),
    }
}

/// As [`read_pieces`], where a seccomp filter forbids process_vm_readv.
fn read_pieces_by_file(pieces: &[(u64, usize)], into: &mut [u8]) -> Result<usize, SpaceError> {
    let file = File::open(c"/proc/self/mem", libc::O_RDONLY)
        .map_err(|errno| SpaceError::system("opening /proc/self/mem to read", errno))?;
    let mut done = 0;
    for &(at, len) in pieces {
        match file.read_at(&mut into[done..done + len], at) {
            Ok(read) if read == len => done += len,
            Ok(_) | Err(Errno(libc::EIO | libc::EFAULT)) => break,
            Err(errno) => return Err(SpaceError::system("reading /proc/self/mem", errno)),
        }
    }
    Ok(done)
}

/// Writes to memory whatever its protection, through /proc/self/mem (the kernel's `FOLL_FORCE`).
///
/// Opened for each operation and never kept: a descriptor outlives fork, and would then write to the
/// *parent*; and a program that closes all descriptors would get its number for a file of its own.
pub(super) struct CodeWriter(File);

impl CodeWriter {
    /// Opens it.
    pub(super) fn open() -> Result<CodeWriter, SpaceError> {
        match File::open(c"/proc/self/mem", libc::O_RDWR) {
            Ok(file) => Ok(CodeWriter(file)),
            Err(errno) => Err(SpaceError::system("opening /proc/self/mem to write", errno)),
        }
    }

    /// The descriptor.
    pub(super) fn descriptor(&self) -> i32 {
        self.0.number()
    }

    /// Writes `bytes` at `at`.
    ///
    /// # Safety
    /// No thread may be hurt by the change of these bytes, in whatever order they change.
    pub(super) unsafe fn write(&self, at: Addr, bytes: &[u8]) -> Result<(), SpaceError> {
        let mut done = 0;
        while done < bytes.len() {
            // SAFETY: as the caller says.
            match unsafe { self.0.write_at(&bytes[done..], at.0 + done as u64) } {
                Ok(0) => {
                    return Err(SpaceError::Unreadable { at: at + done as u64, len: bytes.len() - done });
                }
                Ok(more) => done += more,
                Err(Errno(libc::EINTR)) => {}
                Err(errno) => return Err(SpaceError::system("writing /proc/self/mem", errno)),
            }
        }
        Ok(())
    }

    /// Whether the kernel lets this process write to memory that is not writable.
    pub(super) fn works() -> bool {
        let prot = libc::PROT_READ | libc::PROT_EXEC;
        // SAFETY: takes unused addresses.
        let Ok(page) = (unsafe { sys::mmap_anonymous(0, super::PAGE, prot, libc::MAP_PRIVATE) }) else {
            return false;
        };
        // SAFETY: nobody else knows of the page.
        let works = CodeWriter::open().is_ok_and(|file| unsafe { file.write(Addr(page), &[0xCC]) }.is_ok());
        // SAFETY: as above.
        let _ = unsafe { sys::munmap(page, super::PAGE) };
        works
    }
}
