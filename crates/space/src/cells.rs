//! Quadwords of which every thread of a target has its own, so that it can count in them without `lock`.
//!
//! A cell is named by an address below 2 GiB. A thread whose gs base is the distance from there to an *area* of its
//! own counts in the area with `inc qword gs:[cell]`. One whose gs base is zero counts in the *common* area, which lies
//! at the very address: nothing faults, whatever a thread's gs base is of the two. With `lock` the common area is right
//! for any number of threads.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use incise_isa::Addr;

use crate::DataMapping;

/// The cells of a target and of what it forked. Clones are the same cells.
#[derive(Clone)]
pub struct ThreadCells(Arc<Mutex<Pool>>);

struct Pool {
    common: DataMapping,
    /// Cells handed out; they lie one behind the other.
    used: u64,
    chunks: Vec<Chunk>,
    /// What areas had in them that are nobody's any more, by cell.
    folded: Vec<u64>,
}

/// Areas that were mapped together.
struct Chunk {
    mapping: DataMapping,
    /// Which areas are somebody's.
    taken: Vec<bool>,
}

/// Bytes of a cell.
const CELL: u64 = 8;

impl ThreadCells {
    /// Bytes of an area: cells for every instruction of the largest programs. Only pages that are counted in take memory.
    pub(crate) const AREA: u64 = 64 << 20;

    /// Cells whose common area is `common`.
    pub(crate) fn new(common: DataMapping) -> ThreadCells {
        ThreadCells(Arc::new(Mutex::new(Pool { common, used: 0, chunks: Vec::new(), folded: Vec::new() })))
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new cell, zero; `None` if there are no more.
    pub fn take(&self) -> Option<Addr> {
        let mut pool = self.pool();
        let offset = pool.used * CELL;
        if offset + CELL > pool.common.len() {
            return None;
        }
        pool.used += 1;
        Some(pool.common.addr() + offset)
    }

    /// The addresses of all cells.
    pub fn range(&self) -> Range<Addr> {
        let pool = self.pool();
        pool.common.addr().span(pool.common.len())
    }

    /// What all threads together, also those that ended, have counted in a cell.
    ///
    /// # Panics
    /// If `at` is no cell.
    pub fn sum(&self, at: Addr) -> u64 {
        use std::sync::atomic::Ordering::Relaxed;
        let pool = self.pool();
        let offset = at.offset_from(pool.common.addr()) as u64;
        let folded = pool.folded.get((offset / CELL) as usize).copied().unwrap_or(0);
        let common = pool.common.quadword(at).load(Relaxed);
        pool.chunks.iter().flat_map(Chunk::areas).fold(folded.wrapping_add(common), |sum, (mapping, area)| {
            sum.wrapping_add(mapping.quadword(area + offset).load(Relaxed))
        })
    }

    /// Adds a chunk of areas; returns its number.
    pub(crate) fn add_chunk(&self, mapping: DataMapping) -> usize {
        let mut pool = self.pool();
        let taken = vec![false; (mapping.len() / ThreadCells::AREA) as usize];
        pool.chunks.push(Chunk { mapping, taken });
        pool.chunks.len() - 1
    }

    /// A free area in one of `chunks`, with zeros in it.
    pub(crate) fn take_area(&self, chunks: &[usize]) -> Option<Area> {
        let mut pool = self.pool();
        let low = pool.common.addr();
        chunks.iter().find_map(|&chunk| {
            let Chunk { mapping, taken } = pool.chunks.get_mut(chunk)?;
            let index = taken.iter().position(|taken| !taken)?;
            taken[index] = true;
            let base = (mapping.addr() + index as u64 * ThreadCells::AREA).offset_from(low) as u64;
            Some(Area { cells: self.clone(), chunk, index, base })
        })
    }
}

impl Chunk {
    /// The areas that are somebody's.
    fn areas(&self) -> impl Iterator<Item = (&DataMapping, Addr)> {
        let taken = self.taken.iter().enumerate().filter(|(_, taken)| **taken);
        taken.map(|(index, _)| (&self.mapping, self.mapping.addr() + index as u64 * ThreadCells::AREA))
    }
}

/// A thread's area. What is in it when it is dropped still counts.
pub(crate) struct Area {
    cells: ThreadCells,
    chunk: usize,
    index: usize,
    base: u64,
}

impl Area {
    /// The gs base of its thread.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        let mut pool = self.cells.pool();
        let Pool { chunks, folded, used, .. } = &mut *pool;
        folded.resize(*used as usize, 0);
        let Some(chunk) = chunks.get_mut(self.chunk) else { return };
        let start = chunk.mapping.addr() + self.index as u64 * ThreadCells::AREA;
        for (cell, sum) in (0..).zip(folded) {
            let quadword = chunk.mapping.quadword(start + cell * CELL);
            // Most are zero: to look is cheaper than to swap.
            if quadword.load(Relaxed) != 0 {
                *sum = sum.wrapping_add(quadword.swap(0, Relaxed));
            }
        }
        chunk.taken[self.index] = false;
    }
}
