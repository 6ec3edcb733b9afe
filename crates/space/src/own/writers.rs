//! Which of the two writers changes live code, and what is done where that one cannot.
//!
//! # Safety
//! The one call without a checked wrapper fills a local value.

#![allow(unsafe_code, reason = "makes a system call that fills memory")]

use incise_isa::Addr;

use super::{OwnSpace, PAGE, Pages, Writer, foreign, poke, swap};
use crate::sys;
use crate::{AddressSpace, Edit, SpaceError};

/// Up to this many sites a poke costs less than a swap, and writing pages less than placing them.
const FEW: usize = 16;

impl OwnSpace {
    /// Changes live code with the writer that suits the change. Returns how many mappings the process has more.
    pub(super) fn write(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        match self.choose(edits) {
            Writer::Poke => self.poke_or_swap(edits),
            Writer::Swap | Writer::Auto => self.swap_all(edits),
        }
    }

    fn poke(&mut self, edits: &[Edit]) -> Result<(), SpaceError> {
        let pages = |edit: &Edit| edit.at.0 / PAGE..=(edit.at.0 + edit.old.len() as u64 - 1) / PAGE;
        // What somebody else changed before stays theirs.
        let new = edits.iter().flat_map(pages).filter(|page| !self.poked.contains(page));
        let ours = foreign::unchanged(new.collect());
        poke::poke(edits).map_err(|error| self.blame_shared(edits, error))?;
        self.poked.extend(ours);
        Ok(())
    }

    fn swap(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        let map = self.mappings()?;
        // For little, one system call less that waits for the lock on the memory map is worth more than quick pages.
        let mut little = Pages::Forced;
        let is_little = self.pages == Pages::Placed && self.writes_code && edits.len() <= FEW;
        let pages = if is_little { &mut little } else { &mut self.pages };
        swap::swap(edits, &map, &mut self.fragments, &self.poked, pages)
    }

    /// Pokes. If the system does not let us and the user has not said how, swaps.
    fn poke_or_swap(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        match self.poke(edits) {
            Err(SpaceError::System { .. }) if self.writer == Writer::Auto => self.swap(edits),
            result => result.map(|()| 0),
        }
    }

    /// Swaps, but for the vdso: the kernel does not let it be split, and a copy would be no vdso to who
    /// looks for it in the memory map. That is poked.
    fn swap_all(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        if self.vdso.is_none() {
            let map = self.mappings()?;
            let vdso = map.iter().find(|mapping| *mapping.name == *"[vdso]");
            self.vdso = Some(vdso.map_or(Addr(0)..Addr(0), |mapping| mapping.range.clone()));
        }
        let of_kernel = |edit: &&Edit| self.vdso.as_ref().is_some_and(|vdso| vdso.contains(&edit.at));
        let poked: Vec<Edit> = edits.iter().filter(of_kernel).copied().collect();
        let Some(first) = poked.first() else { return self.swap_or_poke(edits) };
        if !self.writes_code || poke::touches_poke(&poked) {
            let reason = "the code of the kernel can only be changed through /proc/self/mem";
            return Err(SpaceError::Unsuitable { at: first.at, reason });
        }
        let swapped: Vec<Edit> = edits.iter().filter(|edit| !of_kernel(edit)).copied().collect();
        self.poke(&poked)?;
        if swapped.is_empty() {
            return Ok(0);
        }
        self.swap_or_poke(&swapped).inspect_err(|_| {
            let inverse: Vec<Edit> = poked.iter().map(Edit::inverse).collect();
            let _ = poke::poke(&inverse);
        })
    }

    /// Swaps. If a copy cannot stand for the code and the user has not said how, pokes.
    fn swap_or_poke(&mut self, edits: &[Edit]) -> Result<isize, SpaceError> {
        match self.swap(edits) {
            Err(SpaceError::Unsuitable { at, .. }) if self.can_poke(edits) && self.is_private(at) => {
                self.poke(edits).map(|()| 0)
            }
            result => result,
        }
    }

    fn can_poke(&self, edits: &[Edit]) -> bool {
        self.writer != Writer::Swap && self.writes_code && !poke::touches_poke(edits)
    }

    /// The kernel does not write to shared memory that is not writable: tells so, if that is the reason.
    fn blame_shared(&self, edits: &[Edit], error: SpaceError) -> SpaceError {
        match edits.iter().find(|edit| !self.is_private(edit.at)) {
            Some(edit) if matches!(error, SpaceError::System { .. }) => {
                SpaceError::Unsuitable { at: edit.at, reason: "the memory is shared" }
            }
            _ => error,
        }
    }

    /// Whether writing to the memory at `at` changes this process's memory only.
    fn is_private(&self, at: Addr) -> bool {
        self.mappings().is_ok_and(|map| map.find(at).is_some_and(|mapping| !mapping.permissions.shared))
    }

    fn choose(&self, edits: &[Edit]) -> Writer {
        match self.writer {
            _ if !self.can_poke(edits) => Writer::Swap,
            Writer::Auto if edits.len() <= FEW && thread_count() == Some(1) => Writer::Poke,
            Writer::Auto => Writer::Swap,
            forced => forced,
        }
    }
}

/// How many threads the process has, if that can be told: its folder of them has two links more (fs/proc/base.c,
/// `proc_task_getattr`). /proc/self/stat tells it too, but adds up the times of all threads first.
fn thread_count() -> Option<u64> {
    let path = c"/proc/self/task";
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    let arguments = [libc::AT_FDCWD as usize, path.as_ptr() as usize, stat.as_mut_ptr() as usize, 0, 0, 0];
    // SAFETY: the path ends in a zero byte; the call fills `stat`.
    unsafe { sys::call(libc::SYS_newfstatat, arguments) }.ok()?;
    // SAFETY: filled.
    unsafe { stat.assume_init() }.st_nlink.checked_sub(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted() {
        let tasks = || std::fs::read_dir("/proc/self/task").expect("threads").count() as u64;
        // Other tests may run in this process.
        let agree = || (0..1000).any(|_| thread_count() == Some(tasks()));
        assert!(agree());
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        assert!(agree() && thread_count() > Some(1));
        drop(stop);
        thread.join().expect("no panic").expect_err("nothing was sent");
    }
}
