//! The trap handler of this process: its memory, its tables, its place in the chain of signal actions.
//!
//! # Safety
//! The header's fields are shared with the handler, which runs in any thread: they are accessed atomically.
//! Image and header are never unmapped: a thread may be in the handler at any time.

#![allow(unsafe_code, reason = "installs a signal handler and shares memory with it")]

use std::collections::BTreeMap;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use incise_isa::Addr;

use super::pages::Pages;
use super::{PAGE, swap};
use crate::sys::{self, Errno};
use crate::trap::{self, FAULT_SIGNALS, KernelSigaction, Previous, TRAP_SIGNALS, TrapHeader};
use crate::{Landing, SpaceError};

/// Memory of a table.
#[derive(Clone, Copy)]
struct Table {
    at: u64,
    len: u64,
}

impl Table {
    /// For `len` bytes.
    fn new(len: usize) -> Result<Table, SpaceError> {
        let len = (len as u64).next_multiple_of(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_POPULATE;
        // SAFETY: takes unused addresses.
        let at = unsafe { sys::mmap_anonymous(0, len, libc::PROT_READ | libc::PROT_WRITE, flags) }
            .map_err(|errno| SpaceError::system("mapping memory for the table of landings", errno))?;
        sys::name_memory(at, len, c"incise landings");
        Ok(Table { at, len })
    }

    /// # Safety
    /// No thread may read the table.
    unsafe fn fill(self, bytes: &[u8]) {
        debug_assert!(bytes.len() as u64 <= self.len);
        // SAFETY: mapped, and as the caller says.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.at as *mut u8, bytes.len()) };
    }

    /// Whether the table, which is in force, begins with these bytes.
    fn holds(self, bytes: &[u8]) -> bool {
        // SAFETY: a table in force is mapped and is not written to.
        bytes.len() as u64 <= self.len
            && bytes == unsafe { std::slice::from_raw_parts(self.at as *const u8, bytes.len()) }
    }

    /// # Safety
    /// No thread may read the table any more.
    unsafe fn free(self) {
        // SAFETY: as the caller says.
        let _ = unsafe { sys::munmap(self.at, self.len) };
    }
}

/// Whether a spare table is worth using for `len` bytes.
fn fits(spare: &Table, len: usize) -> bool {
    (len as u64..=(16 * PAGE).max(4 * len as u64)).contains(&spare.len)
}

/// One copy of the handler with a header of its own.
struct Layer {
    header: u64,
    image: Addr,
    /// The actions this layer was put over, by signal.
    over: BTreeMap<i32, KernelSigaction>,
}

/// The handler of this process.
///
/// If the program puts a handler of its own over ours, ours has to go on top again. The program's may chain
/// to the one it found, so the new one must not be the same: each time it is another layer, whose
/// previous action is the program's.
pub(super) struct Handler {
    layers: Vec<Layer>,
    table: Option<Table>,
    /// Tables that were in force and may still be read.
    retired: Vec<Table>,
    /// A table that no thread reads, kept for the next one.
    spare: Option<Table>,
    /// There are fault landings.
    faults: bool,
}

impl Handler {
    /// Nothing is in memory nor in force yet.
    pub(super) fn new() -> Handler {
        Handler { layers: Vec::new(), table: None, retired: Vec::new(), spare: None, faults: false }
    }

    /// Puts a table of `landings` in force, sorted by trap, and sees to it that SIGTRAP comes to us, and with fault
    /// landings the signals of faults.
    pub(super) fn publish(&mut self, landings: &[Landing], pages: &mut Pages) -> Result<(), SpaceError> {
        self.install(libc::SIGTRAP, pages)?;
        self.faults = landings.last().is_some_and(Landing::is_fault);
        self.install_for_faults(pages)?;
        let bytes = trap::table_bytes(landings);
        // The number of landings comes first, so a table that begins with these bytes is this table.
        if self.table.is_some_and(|table| table.holds(&bytes)) {
            return Ok(());
        }
        let table = match self.spare.take_if(|spare| fits(spare, bytes.len())) {
            Some(spare) => spare,
            None => Table::new(bytes.len())?,
        };
        // SAFETY: fresh, or idle since it was retired.
        unsafe { table.fill(&bytes) };
        self.retired.extend(self.table.replace(table));
        for layer in &self.layers {
            layer.field(TrapHeader::TABLE).store(table.at, Ordering::SeqCst);
        }
        self.free_retired();
        Ok(())
    }

    /// Frees the retired tables if no thread can be reading one; keeps the last.
    pub(super) fn free_retired(&mut self) {
        // `active` is read after another table was put in force: see `crate::trap`.
        let idle = |layer: &Layer| layer.field(TrapHeader::ACTIVE).load(Ordering::SeqCst) == 0;
        if self.layers.iter().all(idle) {
            for table in self.retired.drain(..) {
                if let Some(surplus) = self.spare.replace(table) {
                    // SAFETY: idle.
                    unsafe { surplus.free() };
                }
            }
        }
    }

    /// Forgets the threads that were in the handler when this process was forked off: they are not in it.
    pub(super) fn after_fork(&mut self) {
        for layer in &self.layers {
            layer.field(TrapHeader::ACTIVE).store(0, Ordering::SeqCst);
        }
    }

    /// Sees to it that faults come to our handler, if there are fault landings.
    pub(super) fn install_for_faults(&mut self, pages: &mut Pages) -> Result<(), SpaceError> {
        if self.faults {
            FAULT_SIGNALS.iter().try_for_each(|&signal| self.install(signal, pages))
        } else {
            Ok(())
        }
    }

    /// Sees to it that `signal` comes to our handler, also if the program has put its own over it since.
    pub(super) fn install(&mut self, signal: i32, pages: &mut Pages) -> Result<(), SpaceError> {
        let failed = |errno| SpaceError::system("installing the trap handler", errno);
        let mut over = exchange_action(signal, None).map_err(failed)?;
        while !self.layers.iter().any(|layer| layer.handler() == over.handler) {
            let usable = |layer: &Layer| layer.over.get(&signal).is_none_or(|before| *before == over);
            let layer = match self.layers.iter().position(usable) {
                Some(found) => &mut self.layers[found],
                None => {
                    let layer = Layer::new(pages)?;
                    let table = self.table.map_or(0, |table| table.at);
                    layer.field(TrapHeader::TABLE).store(table, Ordering::SeqCst);
                    self.layers.push(layer);
                    self.layers.last_mut().expect("just pushed")
                }
            };
            layer.set_previous(signal, Previous::new(signal, over));
            let ours = trap::handler_action(layer.image, &over);
            let replaced = exchange_action(signal, Some(&ours)).map_err(failed)?;
            layer.over.insert(signal, over);
            if replaced == over {
                break;
            }
            // Another thread changed the action between the two calls: chain to what it set.
            layer.set_previous(signal, Previous::new(signal, replaced));
            layer.over.insert(signal, replaced);
            over = ours;
        }
        Ok(())
    }

    /// Whether a handler is one of ours.
    pub(super) fn is_ours(&self, handler: u64) -> bool {
        self.layers.iter().any(|layer| layer.handler() == handler)
    }

    /// Puts the actions that were in force before back, where ours are on top. Tables stay.
    pub(super) fn uninstall(&mut self) {
        for signal in TRAP_SIGNALS.into_iter().chain(FAULT_SIGNALS) {
            while let Ok(action) = exchange_action(signal, None)
                && let Some(layer) = self.layers.iter_mut().find(|layer| layer.handler() == action.handler)
                && layer.over.contains_key(&signal)
                && exchange_action(signal, Some(&layer.previous(signal))).is_ok()
            {
                layer.over.remove(&signal);
            }
        }
    }
}

impl Layer {
    fn new(pages: &mut Pages) -> Result<Layer, SpaceError> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: takes unused addresses.
        let header = unsafe { sys::mmap_anonymous(0, PAGE, prot, libc::MAP_PRIVATE) }
            .map_err(|errno| SpaceError::system("mapping memory for the trap handler", errno))?;
        sys::name_memory(header, PAGE, c"incise trap header");
        match map_image(&trap::handler_image(Addr(header)), pages) {
            Ok(image) => Ok(Layer { header, image, over: BTreeMap::new() }),
            Err(error) => {
                // SAFETY: nobody knows of it.
                let _ = unsafe { sys::munmap(header, PAGE) };
                Err(error)
            }
        }
    }

    fn handler(&self) -> u64 {
        self.image.0 + trap::HANDLER as u64
    }

    fn set_previous(&self, signal: i32, previous: Previous) {
        let offset = TrapHeader::previous_offset(signal);
        let KernelSigaction { handler, flags, restorer, mask } = previous.action;
        for (word, value) in [flags, restorer, mask, previous.blocked].into_iter().enumerate() {
            self.field(offset + 8 * (word + 1)).store(value, Ordering::Release);
        }
        self.field(offset).store(handler, Ordering::Release);
    }

    fn previous(&self, signal: i32) -> KernelSigaction {
        let word = |n: usize| self.field(TrapHeader::previous_offset(signal) + 8 * n).load(Ordering::Acquire);
        KernelSigaction { handler: word(0), flags: word(1), restorer: word(2), mask: word(3) }
    }

    fn field(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the header is mapped for good, and `offset` is that of one of its quadwords.
        unsafe { AtomicU64::from_ptr((self.header as usize + offset) as *mut u64) }
    }
}

fn map_image(image: &[u8], pages: &mut Pages) -> Result<Addr, SpaceError> {
    let failed = |errno| SpaceError::system("mapping memory for the trap handler", errno);
    let prot = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: takes unused addresses.
    let at = unsafe { sys::mmap_anonymous(0, PAGE, prot, libc::MAP_PRIVATE) }.map_err(failed)?;
    sys::name_memory(at, PAGE, c"incise trap handler");
    let written = swap::fill(&[(Addr(at), image)], pages);
    if let Err(error) = written {
        // SAFETY: as above.
        let _ = unsafe { sys::munmap(at, PAGE) };
        return Err(error);
    }
    Ok(Addr(at))
}

/// The action in force; it is replaced by `action`, if one is given.
pub(super) fn exchange_action(
    signal: i32,
    action: Option<&KernelSigaction>,
) -> Result<KernelSigaction, Errno> {
    let mut before = KernelSigaction::default();
    let new = action.map_or(0, |action| ptr::from_ref(action) as usize);
    let arguments = [signal as usize, new, &raw mut before as usize, size_of::<u64>(), 0, 0];
    // SAFETY: reads one structure, writes another; the handler is good for any thread at any time, or was in
    // force before.
    unsafe { sys::call(libc::SYS_rt_sigaction, arguments) }?;
    Ok(before)
}
