//! Executable memory that is reserved in a file: only the pages that are written get into it.

use std::collections::BTreeMap;

use incise_isa::Addr;
use incise_isa::native::TRAP;

use super::PAGE;

/// Pages of trampolines closer than this share a segment: a page in the file costs less than a mapping.
const JOIN: u64 = 4 * PAGE;

/// A reservation, and the pages of it that were written.
pub(super) struct Code {
    pub at: Addr,
    pub len: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE as usize]>>,
}

impl Code {
    pub(super) fn new(at: Addr, len: u64) -> Code {
        Code { at, len, pages: BTreeMap::new() }
    }

    /// Whether all `len` bytes at `at` are in this reservation.
    pub(super) fn holds(&self, at: Addr, len: u64) -> bool {
        at.0.checked_sub(self.at.0).and_then(|into| into.checked_add(len)).is_some_and(|end| end <= self.len)
    }

    /// Writes bytes that are in this reservation.
    pub(super) fn write(&mut self, at: Addr, bytes: &[u8]) {
        for (n, &byte) in bytes.iter().enumerate() {
            let at = at.0 + n as u64;
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Box::new([TRAP; PAGE as usize]));
            page[(at % PAGE) as usize] = byte;
        }
    }

    /// Reads bytes that are in this reservation.
    pub(super) fn read(&self, at: Addr, into: &mut [u8]) {
        for (n, byte) in into.iter_mut().enumerate() {
            let at = at.0 + n as u64;
            *byte = self.pages.get(&(at / PAGE)).map_or(TRAP, |page| page[(at % PAGE) as usize]);
        }
    }

    /// The written pages, as few runs.
    pub(super) fn runs(&self) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (number, page) in &self.pages {
            let at = number * PAGE;
            match runs.last_mut() {
                Some((start, run)) if at - (*start + run.len() as u64) < JOIN => {
                    run.resize((at - *start) as usize, TRAP);
                    run.extend_from_slice(&page[..]);
                }
                _ => runs.push((at, page.to_vec())),
            }
        }
        for (_, run) in &mut runs {
            let used = run.iter().rposition(|&byte| byte != TRAP).map_or(0, |last| last + 1);
            run.truncate(used);
        }
        runs.retain(|(_, run)| !run.is_empty());
        runs
    }
}
