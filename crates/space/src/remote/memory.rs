//! The target's memory as a file: /proc/PID/mem (proc(5)).
//!
//! Opened once per program: the file stays with the memory it was opened on, so nothing meant for one
//! program is ever written into the next one that the process executes.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;

use incise_isa::Addr;

use super::ptrace::{self, Tid};
use crate::{SpaceError, faults};

/// Size of a page of x86-64.
pub(super) const PAGE: u64 = 4096;

/// The memory of one program.
pub(super) struct Memory {
    file: Option<File>,
    /// The file cannot be written to where pages are not writable.
    by_words: Cell<bool>,
}

impl Memory {
    /// The memory that `tid` uses now.
    pub(super) fn open(tid: Tid) -> Memory {
        Memory::open_by([tid])
    }

    /// The memory that these threads of one process use now. Some of them may be ending, and have given it up.
    pub(super) fn open_by(tids: impl IntoIterator<Item = Tid>) -> Memory {
        Memory { file: tids.into_iter().find_map(open), by_words: Cell::new(false) }
    }

    /// Bytes that lie inside one aligned piece of this size are written whole or not at all.
    pub(super) fn unit(&self) -> u64 {
        if self.by_words.get() { 8 } else { PAGE }
    }

    /// Reads `into.len()` bytes at `at`.
    ///
    /// # Errors
    /// [`SpaceError::Unreadable`] if part of it is not mapped.
    pub(super) fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
        let len = into.len();
        let read = self.file.as_ref().map(|file| file.read_exact_at(into, at.0));
        match (faults::trip(), read) {
            (Ok(()), Some(Ok(()))) => Ok(()),
            _ => Err(SpaceError::Unreadable { at, len }),
        }
    }

    /// Reads `len` bytes at `at`.
    pub(super) fn read_vec(&self, at: Addr, len: usize) -> Result<Vec<u8>, SpaceError> {
        let mut bytes = vec![0; len];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a quadword.
    pub(super) fn read_u64(&self, at: Addr) -> Result<u64, SpaceError> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes, whatever the protection of the pages. What lies inside one [`unit`](Self::unit) is written
    /// whole or not at all, also if this process is killed meanwhile.
    ///
    /// Where the kernel does not let /proc/PID/mem write to pages without write permission (boot
    /// parameter `proc_mem.force_override`), `stopped`, a stopped thread of the target, writes word by word.
    pub(super) fn write(&self, at: Addr, bytes: &[u8], stopped: Option<Tid>) -> Result<(), SpaceError> {
        let file = self.file.as_ref().ok_or(SpaceError::Unreadable { at, len: bytes.len() })?;
        faults::step();
        let written = faults::trip().map_err(io::Error::from).and_then(|()| file.write_all_at(bytes, at.0));
        match (written, stopped) {
            (Ok(()), _) => Ok(()),
            (Err(error), Some(tid)) if error.raw_os_error() == Some(libc::EIO) => {
                self.by_words.set(true);
                self.poke(at, bytes, tid).map_err(|e| SpaceError::system("writing the target's memory", e))
            }
            (Err(error), _) => Err(SpaceError::system("writing the target's memory", error)),
        }
    }

    fn poke(&self, at: Addr, bytes: &[u8], tid: Tid) -> io::Result<()> {
        let first = at.align_down(8);
        let last = (at + bytes.len() as u64).align_up(8);
        let mut words = vec![0; last.offset_from(first) as usize];
        let unreadable = |_| io::Error::from_raw_os_error(libc::EIO);
        self.read(first, &mut words).map_err(unreadable)?;
        let offset = at.offset_from(first) as usize;
        words[offset..offset + bytes.len()].copy_from_slice(bytes);
        for (at, word) in (first.0..).step_by(8).zip(words.as_chunks::<8>().0) {
            ptrace::poke(tid, Addr(at), u64::from_le_bytes(*word))?;
        }
        Ok(())
    }
}

fn open(tid: Tid) -> Option<File> {
    let file = OpenOptions::new().read(true).write(true).open(format!("/proc/{}/mem", tid.0)).ok()?;
    // A thread without memory is an error, or a file without a byte; with memory nothing is mapped at zero, or a byte is.
    let has_memory = !matches!(file.read_at(&mut [0], 0), Ok(0));
    has_memory.then_some(file)
}
