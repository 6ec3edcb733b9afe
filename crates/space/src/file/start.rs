//! The code that runs before a rewritten program does: it maps the file of counts over the counters, and
//! installs the trap handler if there are traps.
//!
//! A program's entry point leads here, or the `DT_INIT` of a library. Every register, the flags and
//! the stack are as before when it goes on to where the file led ([`Config::next`]). It is position-independent,
//! makes system calls only, and holds no state: what fails leaves the program running uncounted in memory of
//! its own.
//!
//! 1. If there are landings: the actions in force for the signals of traps, and with fault landings those of faults, are
//!    kept in the trap header, then the handler is installed.
//! 2. If there are counters, and real and effective ids are the same (a set-user-id program must not write
//!    files for its caller): the folder is `INCISE_COUNTS` of the environment as it was at the exec, else
//!    the one in the file. An empty one means that nothing is to be counted.
//! 3. `FOLDER/NAME.PID` is created, or `FOLDER/NAME.PID.N` if that is there: a process that executes itself
//!    again has the same number. Nothing that exists is ever opened.
//! 4. What was counted so far is written to the file, which also takes the space on the disk for good, and the
//!    file is mapped over the counters, shared: what is counted from now on is in the file even
//!    if the process is killed. A forked child goes on counting into the file of its parent.
//! 5. The header of the file is written last, and the process id in it last of all: a file without one is not
//!    complete.

use super::start_code::code;
use crate::trap;

/// What the code finds before itself: link addresses, 0 for what is not there.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Config {
    /// Address of this structure.
    pub itself: u64,
    /// The [`TrapHeader`].
    pub trap_header: u64,
    /// The table of landings, in link addresses.
    pub table: u64,
    /// The image of the trap handler.
    pub handler: u64,
    /// The counters.
    pub counters: u64,
    /// Bytes of counters, a multiple of the page size.
    pub counters_len: u64,
    /// The folder for files of counts, ended by a zero byte.
    pub folder: u64,
    /// Their name, ended by a zero byte.
    pub name: u64,
    /// The header of such a file but for the process id; see [`super::counts`].
    pub header: u64,
    /// Its size in bytes.
    pub header_len: u64,
    /// 1 if there are fault landings.
    pub faults: u64,
}

/// Offset of the entry in the code.
pub(super) const ENTRY: usize = 96;
/// Size of the configuration, which the code begins with.
pub(super) const CONFIG: usize = size_of::<Config>();

impl Config {
    /// The code with this configuration, to lie at [`itself`](Config::itself). `next` is where it goes on, or
    /// `None` for returning to the caller.
    pub(super) fn image(&self, next: Option<u64>) -> Option<Vec<u8>> {
        let mut image = code().to_vec();
        let words = [
            self.itself,
            self.trap_header,
            self.table,
            self.handler,
            self.counters,
            self.counters_len,
            self.folder,
            self.name,
            self.header,
            self.header_len,
            self.faults,
        ];
        for (slot, word) in image.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        let end = image.len();
        match next {
            Some(next) => {
                let from = self.itself + end as u64;
                let displacement = i32::try_from(next.wrapping_sub(from) as i64).ok()?;
                image[end - 5] = 0xE9;
                image[end - 4..].copy_from_slice(&displacement.to_le_bytes());
            }
            None => image[end - 5] = 0xC3,
        }
        Some(image)
    }
}

/// The image of the trap handler for `at`, whose header is at `header`: both link addresses, and at the same
/// distance at run time.
pub(super) fn handler_image(at: u64, header: u64) -> Option<Vec<u8>> {
    let mut image = trap::handler_code().to_vec();
    // Behind endbr64: `mov r8, [rip + literal]` becomes `lea r8, [rip + header]`, of the same form and length.
    let load = trap::HANDLER + 4;
    let next = at + load as u64 + 7;
    let displacement = i32::try_from(header.wrapping_sub(next) as i64).ok()?;
    let insn = image.get_mut(load..load + 7).filter(|insn| insn.starts_with(&[0x4C, 0x8B, 0x05]))?;
    insn[1] = 0x8D;
    insn[3..].copy_from_slice(&displacement.to_le_bytes());
    Some(image)
}
