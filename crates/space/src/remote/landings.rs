//! The table of landings and the trap handler in the target.
//!
//! The table holds each landing twice: for its trap, and for the byte before the landing itself. The
//! second is for a tracer that is killed after it moved a thread to a landing and before it took the SIGTRAP
//! back: the handler then sees an instruction pointer that is the landing (see `traps.rs`).

use std::rc::Rc;

use incise_isa::Addr;
use incise_isa::native::TRAP_LEN;

use super::inject::Caller;
use super::memory::{Memory, PAGE};
use super::runtime::{Runtime, far_hole};
use super::tracees::{MemoryId, Tracees};
use crate::trap::{self, KernelSigaction, Previous, TrapHeader};
use crate::{Landing, SpaceError};

/// A table of at most this many bytes is published in one stop; filling a larger one would prolong it.
const SMALL: usize = 1 << 14;

/// Offset in the header's page where an injected call stores an action.
const SCRATCH: u64 = 3072;

/// Size of the kernel's signal set in bytes.
const SIGNAL_SET: u64 = 8;

impl Tracees {
    /// Replaces the landings, but for those that are kept.
    pub(super) fn publish(&mut self, memory: MemoryId, landings: &[Landing]) -> Result<(), SpaceError> {
        let kept = Rc::clone(&self.target(memory)?.kept);
        let with_kept = (!kept.is_empty()).then(|| united(landings, &kept));
        let landings = with_kept.as_deref().unwrap_or(landings);
        let table = if landings.is_empty() { Vec::new() } else { trap::table_bytes(&doubled(landings)) };
        let at_once = table.len() <= SMALL;
        if at_once {
            self.hold(memory)?;
        }
        let published = self.publish_table(memory, &table, landings);
        if at_once {
            self.release(memory);
        }
        published
    }

    fn publish_table(
        &mut self,
        memory: MemoryId,
        table: &[u8],
        landings: &[Landing],
    ) -> Result<(), SpaceError> {
        let mut place = None;
        if !table.is_empty() {
            if landings.last().is_some_and(Landing::is_fault)
                && let Ok(target) = self.target_mut(memory)
            {
                target.faults = true;
            }
            self.install_handlers(memory)?;
            let at = self.map_table(memory, table.len() as u64)?;
            let range = at.span((table.len() as u64).next_multiple_of(PAGE));
            let stopped = self.live_thread(memory)?;
            let target = Rc::clone(&self.target(memory)?.memory);
            if let Err(error) = target.write(at, table, Some(stopped)) {
                self.with_caller(memory, |caller, _| {
                    caller.unmap(range.start, range.end.offset_from(range.start) as u64)
                })?;
                return Err(error);
            }
            place = Some(range);
        }
        let landings = Rc::new(landings.to_vec());
        self.hold(memory)?;
        let pointed = self
            .announce_retired(memory)
            .and_then(|()| self.point_to(memory, place.as_ref().map_or(Addr(0), |range| range.start)));
        if pointed.is_ok()
            && let Ok(target) = self.target_mut(memory)
        {
            target.landings = landings;
            if let Some(runtime) = &mut target.runtime {
                let old = std::mem::replace(&mut runtime.table, place);
                runtime.retired.extend(old);
            }
        }
        let freed = pointed.and_then(|()| self.free_tables(memory));
        self.release(memory);
        freed
    }

    fn map_table(&mut self, memory: MemoryId, len: u64) -> Result<Addr, SpaceError> {
        let len = len.next_multiple_of(PAGE);
        self.hold(memory)?;
        let mapped = self.memory_map(memory).and_then(|map| {
            let at = far_hole(&map, len, PAGE)?;
            self.with_caller(memory, |caller, runtime| caller.map_noted(runtime, at, len, libc::PROT_READ))?;
            Ok(at)
        });
        self.release(memory);
        mapped
    }

    /// Stores the address of the table; the threads stand still, so that none sees half of it.
    fn point_to(&mut self, memory: MemoryId, table: Addr) -> Result<(), SpaceError> {
        let stopped = self.live_thread(memory)?;
        let target = self.target(memory)?;
        let Some(runtime) = &target.runtime else { return Ok(()) };
        let at = runtime.header() + TrapHeader::TABLE as u64;
        target.memory.write(at, &table.0.to_le_bytes(), Some(stopped))
    }

    /// Unmaps the tables that were in force before, unless a thread is reading one.
    fn free_tables(&mut self, memory: MemoryId) -> Result<(), SpaceError> {
        let target = self.target_mut(memory)?;
        let Some(runtime) = &mut target.runtime else { return Ok(()) };
        if runtime.retired.is_empty()
            || target.memory.read_u64(runtime.header() + TrapHeader::ACTIVE as u64)? != 0
        {
            return Ok(());
        }
        let retired = std::mem::take(&mut runtime.retired);
        self.with_caller(memory, |caller, _| {
            retired
                .iter()
                .try_for_each(|range| caller.unmap(range.start, range.end.offset_from(range.start) as u64))
        })
    }

    /// Sees to it that our handler is in force, over what the program has installed meanwhile.
    pub(super) fn install_handlers(&mut self, memory: MemoryId) -> Result<(), SpaceError> {
        let signals = self.target(memory)?.signals();
        self.with_caller(memory, |caller, runtime| {
            if !runtime.handling {
                let image = trap::handler_image(runtime.header());
                caller.memory().write(runtime.handler(), &image, Some(caller.thread()))?;
            }
            signals.clone().try_for_each(|signal| caller.install_handler(runtime, signal))
        })?;
        if let Some(runtime) = &mut self.target_mut(memory)?.runtime {
            runtime.handling = true;
        }
        Ok(())
    }

    /// Puts our handler in force again after the kernel has reset the action of `signal`.
    pub(super) fn put_back_handler(&mut self, memory: MemoryId, signal: i32) -> Result<(), SpaceError> {
        self.with_caller(memory, |caller, runtime| {
            if runtime.handling { caller.put_back_handler(runtime, signal) } else { Ok(()) }
        })
    }

    /// Puts the actions from before in force again. Returns whether none of ours is left: where the program
    /// has installed another one since, that may lead on to ours.
    pub(super) fn restore_handlers(&mut self, memory: MemoryId) -> Result<bool, SpaceError> {
        let signals = self.target(memory)?.signals();
        let restored = self.with_caller(memory, |caller, runtime| {
            let mut all = true;
            if runtime.handling {
                for signal in signals {
                    all &= caller.restore_handler(runtime, signal)?;
                }
            }
            Ok(all)
        })?;
        if let Some(runtime) = &mut self.target_mut(memory)?.runtime {
            runtime.handling &= !restored;
        }
        Ok(restored)
    }
}

impl Caller<'_> {
    pub(super) fn action(&mut self, runtime: &Runtime, signal: i32) -> Result<KernelSigaction, SpaceError> {
        let scratch = runtime.header() + SCRATCH;
        let arguments = [signal as u64, 0, scratch.0, SIGNAL_SET, 0, 0];
        self.call("reading a signal action", libc::SYS_rt_sigaction, arguments)?;
        read_action(self.memory(), scratch)
    }

    fn set_action(
        &mut self,
        runtime: &Runtime,
        signal: i32,
        action: &KernelSigaction,
    ) -> Result<(), SpaceError> {
        self.write_argument(runtime, &action_bytes(action))?;
        let arguments = [signal as u64, runtime.arguments().0, 0, SIGNAL_SET, 0, 0];
        self.call("setting a signal action", libc::SYS_rt_sigaction, arguments).map(drop)
    }

    fn install_handler(&mut self, runtime: &Runtime, signal: i32) -> Result<(), SpaceError> {
        let current = self.action(runtime, signal)?;
        let ours = trap::handler_action(runtime.handler(), &current);
        if current.handler == ours.handler {
            return Ok(());
        }
        // All threads stand still: nobody chains to the action before the header has it.
        let previous = Previous::new(signal, current);
        let mut bytes = action_bytes(&previous.action);
        bytes.extend(previous.blocked.to_le_bytes());
        self.memory().write(previous_at(runtime, signal), &bytes, Some(self.thread()))?;
        self.set_action(runtime, signal, &ours)
    }

    /// Puts ours in force again over the action that it was put over, after the kernel has reset it.
    fn put_back_handler(&mut self, runtime: &Runtime, signal: i32) -> Result<(), SpaceError> {
        if self.action(runtime, signal)?.has_handler() {
            return self.install_handler(runtime, signal);
        }
        let previous = read_action(self.memory(), previous_at(runtime, signal))?;
        self.set_action(runtime, signal, &trap::handler_action(runtime.handler(), &previous))
    }

    fn restore_handler(&mut self, runtime: &Runtime, signal: i32) -> Result<bool, SpaceError> {
        let current = self.action(runtime, signal)?;
        let ours = trap::handler_action(runtime.handler(), &current);
        if current.handler != ours.handler {
            // Nothing of ours, unless the action in force is a handler that remembers what was before it.
            return Ok(!current.has_handler());
        }
        let previous = read_action(self.memory(), previous_at(runtime, signal))?;
        self.set_action(runtime, signal, &previous)?;
        Ok(true)
    }
}

pub(super) fn previous_at(runtime: &Runtime, signal: i32) -> Addr {
    runtime.header() + TrapHeader::previous_offset(signal) as u64
}

fn action_bytes(action: &KernelSigaction) -> Vec<u8> {
    let KernelSigaction { handler, flags, restorer, mask } = *action;
    [handler, flags, restorer, mask].iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(super) fn read_action(memory: &Memory, at: Addr) -> Result<KernelSigaction, SpaceError> {
    Ok(KernelSigaction {
        handler: memory.read_u64(at)?,
        flags: memory.read_u64(at + 8)?,
        restorer: memory.read_u64(at + 16)?,
        mask: memory.read_u64(at + 24)?,
    })
}

/// Both, sorted by trap; the first win.
fn united(first: &[Landing], kept: &[Landing]) -> Vec<Landing> {
    let mut all = [first, kept].concat();
    all.sort_by_key(|landing| landing.trap);
    all.dedup_by_key(|landing| landing.trap);
    all
}

/// The landings with an entry more for the byte before each landing. A trap wins over such an entry.
fn doubled(landings: &[Landing]) -> Vec<Landing> {
    let before = |landing: &Landing| Landing { trap: landing.landing - TRAP_LEN, landing: landing.landing };
    let traps = landings.iter().filter(|landing| !landing.is_fault());
    let mut all: Vec<Landing> = landings.iter().copied().chain(traps.map(before)).collect();
    all.sort_by_key(|landing| landing.trap);
    all.dedup_by_key(|landing| landing.trap);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_at_a_landing_is_found_and_traps_come_first() {
        let landing = |trap, landing| Landing { trap: Addr(trap), landing: Addr(landing) };
        // The second trap is just before the first landing.
        let all = doubled(&[landing(10, 101), landing(100, 200)]);
        assert_eq!(all, [landing(10, 101), landing(100, 200), landing(199, 200)]);
    }
}
