//! For changes that outlive their tracer: taking over what an earlier one left, and changing data.
//!
//! An earlier tracer leaves two pages of its own (`runtime.rs`) and, where traps are in place, the handler in them and a
//! table of landings. Whoever takes the pages over answers for these landings: they are *kept*, which means that they are
//! part of every table that is published, until they are dropped.

use std::ops::Range;
use std::rc::Rc;

use incise_image::Mapping;
use incise_isa::Addr;
use incise_isa::native::TRAP_LEN;

use super::landings::{previous_at, read_action};
use super::memory::{Memory, PAGE};
use super::runtime::Runtime;
use super::tracees::{MemoryId, Tracees};
use super::x86_64;
use crate::trap::{self, KernelSigaction, TABLE_HEAD, TrapHeader};
use crate::{Landing, SpaceError};

/// The most landings that are taken over.
const LANDINGS_MAX: u64 = 1 << 20;

impl Tracees {
    /// Counts `range` as mapped by this tracer. It has to be executable memory without a file, and not writable.
    pub(super) fn adopt_code(&mut self, memory: MemoryId, range: Range<Addr>) -> Result<(), SpaceError> {
        let map = self.memory_map(memory)?;
        let len = range.end.offset_from(range.start).max(0) as u64;
        let covered: u64 = map
            .overlapping(&range)
            .filter(|mapping| {
                let permissions = mapping.permissions;
                permissions.execute && !permissions.write && !permissions.shared && mapping.inode == 0
            })
            .map(|mapping| {
                mapping.range.end.min(range.end).offset_from(mapping.range.start.max(range.start)) as u64
            })
            .sum();
        if covered != len {
            return Err(SpaceError::NotReserved { at: range.start, len });
        }
        let code = &mut self.target_mut(memory)?.code;
        if !code.iter().any(|other| other.start < range.end && range.start < other.end) {
            let index = code.partition_point(|other| other.start < range.start);
            code.insert(index, range);
        }
        Ok(())
    }

    /// Takes over the pages at `base` that an earlier tracer left, its handler and its landings. Returns whether that
    /// could be: not if pages are in use already, others are there now, or other handlers are in force than the one
    /// in them.
    pub(super) fn adopt_runtime(&mut self, memory: MemoryId, base: Addr) -> Result<bool, SpaceError> {
        if self.target(memory)?.runtime.is_some() {
            return Ok(false);
        }
        self.hold(memory)?;
        let adopted = self.adopt_stopped(memory, base);
        self.release(memory);
        adopted
    }

    fn adopt_stopped(&mut self, memory: MemoryId, base: Addr) -> Result<bool, SpaceError> {
        let map = self.memory_map(memory)?;
        let anonymous = |at: Addr, fits: &dyn Fn(&Mapping) -> bool| {
            map.find(at).is_some_and(|m| m.inode == 0 && !m.permissions.shared && fits(m))
        };
        if !anonymous(base, &|m| m.permissions.execute && !m.permissions.write)
            || !anonymous(base + PAGE, &|m| m.permissions.write && !m.permissions.execute)
        {
            return Ok(false);
        }
        let target = Rc::clone(&self.target(memory)?.memory);
        let mut code = [0; x86_64::BLOB_LEN];
        target.read(base, &mut code)?;
        if !x86_64::is_blob(&code) {
            return Ok(false);
        }
        // A thread may be about to make a call for a tracer that was killed a moment ago.
        let blob = base.span(x86_64::BLOB_LEN as u64);
        if !self.quiescent(memory, std::slice::from_ref(&blob))?.iter().all(|quiescent| *quiescent) {
            return Err(SpaceError::Busy { at: base });
        }
        let mut runtime = Runtime::at(base);
        let mut landings = Vec::new();
        if runtime.has_handler(&target) {
            let Some((table, found)) = table_at(&target, &runtime)? else { return Ok(false) };
            (runtime.table, landings) = (table, found);
            runtime.handling = true;
        }
        let target = self.target_mut(memory)?;
        target.runtime = Some(runtime.clone());
        target.faults = landings.last().is_some_and(Landing::is_fault);
        if runtime.handling {
            match self.in_force(memory) {
                Ok(Some(true)) => {}
                Ok(Some(false)) => runtime.handling = false,
                other => {
                    self.target_mut(memory)?.runtime = None;
                    return other.map(|_| false);
                }
            }
        }
        runtime.retired = self.left_tables(memory, &runtime)?;
        let (incomplete, table) = (!runtime.handling, runtime.table.is_some());
        self.target_mut(memory)?.runtime = Some(runtime);
        if incomplete && table {
            self.install_handlers(memory)?;
        }
        let target = self.target_mut(memory)?;
        target.landings = Rc::new(landings.clone());
        target.kept = Rc::new(landings);
        Ok(true)
    }

    /// The landings in the tables that earlier tracers have left with their handlers.
    pub(super) fn left_landings(&self, memory: MemoryId) -> Result<Vec<Landing>, SpaceError> {
        let own = self.target(memory)?.runtime.as_ref().map(Runtime::blob);
        let target = Rc::clone(&self.target(memory)?.memory);
        let mut landings = Vec::new();
        for base in self.left_runtimes(memory)?.into_iter().filter(|base| Some(*base) != own) {
            let runtime = Runtime::at(base);
            if runtime.has_handler(&target)
                && let Ok(Some((_, found))) = table_at(&target, &runtime)
            {
                landings.extend(found.iter().filter(|landing| !landing.is_fault()));
            }
        }
        landings.sort_unstable();
        Ok(landings)
    }

    /// Whether the handler is in force for all signals; `Some(false)` if it is yet to be put in force for some, or was
    /// taken back; `None` where others are that may lead to it: putting it over them once more would make a circle.
    fn in_force(&mut self, memory: MemoryId) -> Result<Option<bool>, SpaceError> {
        let mut signals = self.target(memory)?.signals();
        self.with_caller(memory, |caller, runtime| {
            let ours = runtime.handler() + trap::HANDLER as u64;
            signals.try_fold(Some(true), |all, signal| {
                let current = caller.action(runtime, signal)?;
                if current.handler == ours.0 {
                    return Ok(all);
                }
                let at = previous_at(runtime, signal);
                let previous = read_action(caller.memory(), at)?;
                let never = previous == KernelSigaction::default()
                    && caller.memory().read_u64(at + size_of::<KernelSigaction>() as u64)? == 0;
                Ok(all.filter(|_| never || previous == current).map(|_| false))
            })
        })
    }

    /// Makes the landings that are published now part of every later table.
    pub(super) fn keep_landings(&mut self, memory: MemoryId) -> Result<(), SpaceError> {
        let target = self.target_mut(memory)?;
        target.kept = Rc::clone(&target.landings);
        Ok(())
    }

    /// Publishes the kept landings but for those that lead into `ranges`.
    pub(super) fn drop_landings(
        &mut self,
        memory: MemoryId,
        ranges: &[Range<Addr>],
    ) -> Result<(), SpaceError> {
        let target = self.target_mut(memory)?;
        let leads = |landing: &Landing| ranges.iter().any(|range| range.contains(&landing.landing));
        if !target.kept.iter().any(leads) {
            return Ok(());
        }
        let before = Rc::clone(&target.kept);
        target.kept = Rc::new(before.iter().copied().filter(|landing| !leads(landing)).collect());
        let published = self.publish(memory, &[]);
        if published.is_err()
            && let Ok(target) = self.target_mut(memory)
        {
            target.kept = before;
        }
        published
    }

    /// Changes data at `at` from `old` to `new` while all threads stand still.
    pub(super) fn write_data(
        &mut self,
        memory: MemoryId,
        at: Addr,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), SpaceError> {
        self.hold(memory)?;
        let written = self.write_data_stopped(memory, at, old, new);
        self.release(memory);
        written
    }

    fn write_data_stopped(
        &mut self,
        memory: MemoryId,
        at: Addr,
        old: &[u8],
        new: &[u8],
    ) -> Result<(), SpaceError> {
        let stopped = self.live_thread(memory)?;
        let target = &self.target(memory)?.memory;
        let found = target.read_vec(at, old.len())?;
        if found != old {
            return Err(SpaceError::Changed { at, expected: old.to_vec(), found });
        }
        target.write(at, new, Some(stopped))
    }
}

/// The table that the header points to, and the landings in it; `None` if it makes no sense.
#[allow(clippy::type_complexity, reason = "used once")]
fn table_at(
    memory: &Memory,
    runtime: &Runtime,
) -> Result<Option<(Option<Range<Addr>>, Vec<Landing>)>, SpaceError> {
    let at = Addr(memory.read_u64(runtime.header() + TrapHeader::TABLE as u64)?);
    if at == Addr(0) {
        return Ok(Some((None, Vec::new())));
    }
    let count = memory.read_u64(at)?;
    if count > LANDINGS_MAX || !at.0.is_multiple_of(PAGE) {
        return Ok(None);
    }
    let len = TABLE_HEAD as u64 + count * size_of::<Landing>() as u64;
    let bytes = memory.read_vec(at + TABLE_HEAD as u64, len as usize - TABLE_HEAD)?;
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let all = words
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&[trap, landing]| Landing { trap: Addr(trap), landing: Addr(landing) });
    // Without the second entry each has, for the byte before the landing (`landings.rs`).
    let landings = all.filter(|entry| entry.trap + TRAP_LEN != entry.landing).collect();
    Ok(Some((Some(at.span(len.next_multiple_of(PAGE))), landings)))
}
