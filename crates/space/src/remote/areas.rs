//! Gives each thread of a target an area of its own for its [`ThreadCells`].
//!
//! x86-64 programs on Linux keep their thread-local storage behind fs; gs is theirs to use, and hardly any does. So:
//!
//! 1. Cells are made only if no thread has a gs base or a gs selector, with all threads stopped; that no code of the
//!    program sets one is for the caller to know.
//! 2. The common area and a chunk of areas are mapped, then each thread gets an area; only then can there be code
//!    that counts in cells.
//! 3. Every thread that comes later stops before its first instruction and gets an area before it goes on. So does the
//!    first thread of a forked child: the areas are shared memory, and it has its parent's gs base. Where there is no
//!    memory for one, all threads are held, and who counts is told, so that code counts with `lock` before that thread runs.
//! 4. What a thread counted is added up when its end is reported, and its area is free.
//! 5. Before a process is left, and when its memory is given back, its threads get gs base zero again. Where areas are given up
//!    because the program is going to use gs, a thread that is still in code that counts in its area keeps it until a stop
//!    outside: in the common area it would count without `lock` beside those that count with it, and its store would undo theirs.
//!
//! If the tracer is killed, areas and gs bases stay: the counts are nobody's, and new threads share the areas of those
//! that made them, which harms nothing.

use std::ops::Range;

use incise_isa::Addr;

use super::event::Event;
use super::ptrace::{self, Tid};
use super::runtime::far_hole;
use super::tracees::{MemoryId, State, Tracees};
use crate::cells::{Area, ThreadCells};
use crate::sys;
use crate::{DataMapping, SpaceError};

/// The cells of a memory.
#[derive(Clone)]
pub(super) struct Cells {
    cells: ThreadCells,
    /// The chunks of areas that are mapped in it.
    chunks: Vec<usize>,
    /// No more areas could be mapped: the threads that found none share the common area.
    full: bool,
}

/// Areas that are mapped at first; then each time as many as there are.
const FIRST_AREAS: u64 = 32;

/// Sets the gs base of a stopped thread to zero, unless the program has set it since the thread was given `area`.
pub(super) fn leave_gs(tid: Tid, area: &Area) {
    if ptrace::gs(tid).is_ok_and(|(base, _)| base == area.base()) {
        drop(ptrace::set_gs_base(tid, 0)); // ESRCH: it was killed.
    }
}

impl Tracees {
    /// The cells of `memory`, made if need be; `None` where a thread uses gs itself, or there is no room.
    pub(super) fn thread_cells(&mut self, memory: MemoryId) -> Result<Option<ThreadCells>, SpaceError> {
        if let Some(cells) = &self.target(memory)?.cells {
            return Ok(Some(cells.cells.clone()));
        }
        self.hold(memory)?;
        let made = self.make_cells(memory);
        self.release(memory);
        match made {
            Err(SpaceError::Occupied { .. } | SpaceError::System { .. }) => Ok(None),
            made => made,
        }
    }

    fn make_cells(&mut self, memory: MemoryId) -> Result<Option<ThreadCells>, SpaceError> {
        let threads = self.threads_on(memory);
        // Where memory is short the areas are better left to the program.
        if threads.iter().any(|tid| sys::is_bounded(tid.0)) {
            return Ok(None);
        }
        let lives = |tid: &&Tid| !matches!(self.state(**tid), Some(State::Dead | State::Buried));
        let unused = |tid: &Tid| ptrace::gs(*tid).is_ok_and(|gs| gs == (0, 0));
        if !threads.iter().filter(lives).all(unused) {
            return Ok(None);
        }
        // The highest place: what the program itself has below 2 GiB grows upwards.
        const LOW: Addr = Addr(1 << 20);
        const HIGH: Addr = Addr((1 << 31) - (1 << 20));
        let map = self.memory_map(memory)?;
        let place = |hole: Range<Addr>| {
            let start = Addr(hole.end.0.checked_sub(ThreadCells::AREA)?).align_down(ThreadCells::AREA);
            (start >= hole.start).then_some(start)
        };
        let Some(common) = map.holes(LOW, HIGH).filter_map(place).last() else { return Ok(None) };
        let mapping = self.map_data(memory, common, ThreadCells::AREA)?;
        let made = Cells { cells: ThreadCells::new(mapping), chunks: Vec::new(), full: false };
        let chunk = match self.map_areas(memory, FIRST_AREAS) {
            Ok(chunk) => made.cells.add_chunk(chunk),
            Err(error) => {
                self.unmap(memory, common, ThreadCells::AREA)?;
                return Err(error);
            }
        };
        let cells = made.cells.clone();
        self.target_mut(memory)?.cells = Some(Cells { chunks: vec![chunk], ..made });
        for tid in threads {
            self.fit_area(tid, memory);
        }
        Ok(Some(cells))
    }

    fn map_areas(&mut self, memory: MemoryId, count: u64) -> Result<DataMapping, SpaceError> {
        let len = count * ThreadCells::AREA;
        let at = far_hole(&self.memory_map(memory)?, len, ThreadCells::AREA)?;
        self.map_data(memory, at, len)
    }

    /// Gives a stopped thread an area, if it shall have one and has none, or takes it away.
    pub(super) fn fit_area(&mut self, tid: Tid, memory: MemoryId) {
        let Ok(target) = self.target(memory) else { return };
        let Some(thread) = self.threads.get(&tid) else { return };
        match (&target.cells, &thread.area) {
            (Some(_), None) => self.give_area(tid, memory),
            (None, Some(_)) => self.give_up_area(tid, memory),
            _ => {}
        }
    }

    fn give_area(&mut self, tid: Tid, memory: MemoryId) {
        let free = |tracees: &Tracees| {
            let cells = tracees.target(memory).ok()?.cells.as_ref()?;
            cells.cells.take_area(&cells.chunks)
        };
        let area = free(self).or_else(|| {
            self.grow(tid, memory);
            free(self)
        });
        // In the meantime it may have got one, and run on.
        let Some(thread) = self.threads.get_mut(&tid).filter(|thread| thread.area.is_none()) else { return };
        if matches!(thread.state, State::Stopped(_)) {
            drop(ptrace::set_gs_base(tid, area.as_ref().map_or(0, |area| area.base()))); // ESRCH: it was killed.
            thread.area = area;
        }
    }

    /// Maps more areas, as many as there are. If that is not possible, the process stays as it is until its owner, who is
    /// told, resumes it.
    fn grow(&mut self, tid: Tid, memory: MemoryId) {
        let Ok(Some(Cells { chunks, full: false, .. })) = self.target(memory).map(|t| &t.cells) else {
            return;
        };
        let count = FIRST_AREAS << (chunks.len() - 1).min(8);
        // Held: no thread goes on, and comes here, before it is done.
        if self.hold(memory).is_err() {
            return;
        }
        let mapped = self.map_areas(memory, count);
        let Ok(Some(cells)) = self.target_mut(memory).map(|target| target.cells.as_mut()) else {
            return self.release(memory);
        };
        match mapped {
            Ok(mapping) => cells.chunks.push(cells.cells.add_chunk(mapping)),
            Err(_) => {
                cells.full = true;
                if let Some(pid) = self.threads.get(&tid).map(|thread| thread.process) {
                    return self.events.push_back(Event::NoAreas { pid });
                }
            }
        }
        self.release(memory);
    }

    /// Takes a stopped thread's area away, as if it had never had one.
    pub(super) fn take_area(&mut self, tid: Tid) {
        let Some(thread) = self.threads.get_mut(&tid) else { return };
        if let Some(area) = thread.area.take() {
            leave_gs(tid, &area);
        }
    }

    /// The same, unless the thread is in code that still counts in its area.
    fn give_up_area(&mut self, tid: Tid, memory: MemoryId) {
        let Ok(target) = self.target(memory) else { return };
        let counts = |ip: Addr| target.counting.iter().any(|range| range.contains(&ip));
        let inside = !target.counting.is_empty()
            && ptrace::registers(tid).is_ok_and(|registers| counts(registers.ip()));
        if !inside {
            self.take_area(tid);
        }
    }

    /// Takes the areas of all threads away: no code counts in cells any more, but for that in `counting`, which nothing leads
    /// to: a thread that is in it is left its area for as long.
    pub(super) fn take_areas(&mut self, memory: MemoryId, counting: &[Range<Addr>]) {
        let Ok(target) = self.target_mut(memory) else { return };
        (target.cells, target.counting) = (None, counting.to_vec());
        for tid in self.threads_on(memory) {
            if matches!(self.state(tid), Some(State::Stopped(_))) {
                self.give_up_area(tid, memory);
            }
        }
    }
}
