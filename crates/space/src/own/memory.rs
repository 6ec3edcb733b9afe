//! Reading and writing this process's own memory by system calls, which fail where an instruction would
//! fault: the memory may be unmapped by another thread at any time.
//!
//! # Safety
//! Writing goes to code memory: [`CodeWriter::write`] is unsafe and hands its duty to the caller.

#![allow(unsafe_code, reason = "reads and writes memory by address")]

use incise_isa::Addr;

use super::scratch::Scratch;
use crate::sys::{self, Errno, File};
use crate::{Bytes, Edit, SpaceError};

/// How many pieces one call reads (`UIO_MAXIOV`, include/uapi/linux/uio.h).
const PIECES: usize = 1024;

/// Reads memory at `at`.
pub(super) fn read(at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
    match read_pieces(&[[at.0, into.len() as u64]], into)? {
        n if n == into.len() => Ok(()),
        _ => Err(SpaceError::Unreadable { at, len: into.len() }),
    }
}

/// Reads memory in pieces, in the way that suits their number.
pub(super) struct Reader {
    scratch: Option<Scratch>,
    buffer: Vec<u8>,
}

impl Reader {
    /// The most bytes to read at once.
    pub(super) const MOST: usize = Scratch::MOST;

    /// For reading `bytes` in `pieces` pieces, of which no more than `at_once` bytes at once.
    pub(super) fn new(bytes: usize, pieces: usize, at_once: usize) -> Reader {
        // Setting up a scratch file costs as much as this saves.
        let pays = bytes > 256 << 10 || pieces > 48;
        Reader { scratch: if pays { Scratch::new(at_once).ok() } else { None }, buffer: Vec::new() }
    }

    /// Reads `len` bytes at `at`.
    pub(super) fn read(&mut self, at: Addr, len: usize) -> Result<&mut [u8], SpaceError> {
        let bytes = self.read_pieces(&[[at.0, len as u64]])?;
        if bytes.len() == len { Ok(bytes) } else { Err(SpaceError::Unreadable { at, len }) }
    }

    /// Reads the pieces (address, length), one behind the other, as far as they are readable.
    fn read_pieces(&mut self, pieces: &[[u64; 2]]) -> Result<&mut [u8], SpaceError> {
        match &mut self.scratch {
            Some(scratch) => {
                scratch.read(pieces).map_err(|errno| SpaceError::system("reading own memory", errno))
            }
            None => {
                self.buffer.resize(pieces.iter().map(|piece| piece[1] as usize).sum(), 0);
                let read = read_pieces(pieces, &mut self.buffer)?;
                Ok(&mut self.buffer[..read])
            }
        }
    }
}

/// Checks that the bytes of each edit are what `expected` says.
pub(super) fn verify(edits: &[Edit], expected: impl Fn(&Edit) -> &[u8]) -> Result<(), SpaceError> {
    let mut pieces = Vec::with_capacity(PIECES.min(edits.len()));
    let mut reader = Reader::new(0, edits.len(), edits.len().min(PIECES) * Bytes::MAX);
    for edits in edits.chunks(PIECES) {
        pieces.clear();
        pieces.extend(edits.iter().map(|edit| [edit.at.0, edit.old.len() as u64]));
        let mut rest = &*reader.read_pieces(&pieces)?;
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

/// Reads the pieces, one behind the other, into `into`, as far as they are readable. Returns how many
/// bytes were read.
fn read_pieces(pieces: &[[u64; 2]], into: &mut [u8]) -> Result<usize, SpaceError> {
    let local = [into.as_mut_ptr() as usize, into.len()];
    let pid = super::own_pid() as usize;
    let arguments = [pid, local.as_ptr() as usize, 1, pieces.as_ptr() as usize, pieces.len(), 0];
    // SAFETY: writes into `into` only.
    match unsafe { sys::call(libc::SYS_process_vm_readv, arguments) } {
        Ok(read) => Ok(read),
        Err(Errno(libc::EFAULT)) => Ok(0),
        Err(Errno(libc::ENOSYS | libc::EPERM)) => read_pieces_by_file(pieces, into),
        Err(errno) => Err(SpaceError::system("reading own memory", errno)),
    }
}

/// As [`read_pieces`], where a seccomp filter forbids process_vm_readv.
fn read_pieces_by_file(pieces: &[[u64; 2]], into: &mut [u8]) -> Result<usize, SpaceError> {
    let file = File::open(c"/proc/self/mem", libc::O_RDONLY)
        .map_err(|errno| SpaceError::system("opening /proc/self/mem to read", errno))?;
    let mut done = 0;
    for &[at, len] in pieces {
        let len = len as usize;
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
