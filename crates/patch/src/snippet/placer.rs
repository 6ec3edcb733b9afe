//! Code and data that generated snippets share, placed before their trampolines are planned.

use std::sync::atomic::{AtomicU64, Ordering};

use incise_isa::Addr;
use incise_isa::native::Springboard;
use incise_space::{AddressSpace, Features, Landing, SpaceError};

use crate::memory::Memory;
use crate::memory::data::Data;

/// Tells the memory that an engine holds now from what it held before it gave everything back, and from that of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Generation(pub u64);

impl Default for Generation {
    fn default() -> Generation {
        static GENERATIONS: AtomicU64 = AtomicU64::new(0);
        Generation(GENERATIONS.fetch_add(1, Ordering::Relaxed))
    }
}

/// What an engine has placed for snippets, in its present generation.
#[derive(Default)]
pub(crate) struct Shared {
    pub generation: Generation,
    pub data: Vec<Data>,
    /// Those of code that trampolines call.
    pub faults: Vec<Landing>,
    /// The program may keep addresses of what was placed.
    pub lasting: bool,
}

/// Code for an address, with the instructions that may fault and where to go on then, as offsets.
pub type PlacedCode = (Vec<u8>, Vec<(u32, u32)>);

/// Places what a snippet needs beside its code at each point: see [`Generate::place`](crate::Generate::place).
pub struct Placer<'a> {
    pub(crate) space: &'a mut dyn AddressSpace,
    pub(crate) memory: &'a mut Memory,
    pub(crate) shared: &'a mut Shared,
    pub(crate) near: Addr,
}

/// Code begins at multiples of this.
const CODE_ALIGN: u64 = 16;

impl Placer<'_> {
    /// What is placed in one generation stays where it is until another one begins.
    pub fn generation(&self) -> u64 {
        self.shared.generation.0
    }

    /// What is placed stays for good: the program may keep its address.
    pub fn keep(&mut self) {
        self.shared.lasting = true;
    }

    /// What code has to take into account.
    pub fn features(&self) -> Features {
        self.space.features()
    }

    /// Where `data` is in the target; it is placed, in reach of the point if that is possible, if it is not there.
    ///
    /// # Errors
    /// [`SpaceError`] if memory cannot be reserved.
    pub fn data(&mut self, data: &Data) -> Result<Addr, SpaceError> {
        let generation = self.generation();
        if let Some(at) = data.placed_in(generation) {
            return Ok(at);
        }
        let at = match self.memory.data.room(self.near, data.len(), data.align()) {
            Some(at) => at,
            None => {
                let map = self.space.mappings()?;
                self.memory.reserve_data(self.space, &map, self.near, data.len())?;
                let none = SpaceError::Occupied { at: self.near, len: data.len() };
                self.memory.data.room(self.near, data.len(), data.align()).ok_or(none)?
            }
        };
        let none = SpaceError::Occupied { at, len: data.len() };
        data.put(self.memory.data.mapping_of(at).ok_or(none)?, at, generation);
        self.shared.data.push(data.clone());
        Ok(at)
    }

    /// Places code of `len` bytes that trampolines call, at a multiple of 16, in reach of the point. `assemble` makes it
    /// for the address it gets.
    ///
    /// # Errors
    /// [`SpaceError`] if there is no room or it cannot be written.
    pub fn code(
        &mut self,
        len: usize,
        assemble: impl FnOnce(Addr) -> PlacedCode,
    ) -> Result<Addr, SpaceError> {
        let size = len as u64 + CODE_ALIGN - 1;
        let none = SpaceError::Occupied { at: self.near, len: size };
        let taken = self.memory.allocate(Springboard::new(self.near, 0).placements(), size).ok_or(none)?;
        let at = taken.align_up(CODE_ALIGN);
        let (bytes, faults) = assemble(at);
        let written = self.space.write_code(&[(at, &bytes)]);
        if bytes.len() > len || written.is_err() {
            self.memory.free(taken.span(size));
            return Err(written.err().unwrap_or(SpaceError::NotReserved { at, len: bytes.len() as u64 }));
        }
        let place = |offset: u32| at + u64::from(offset);
        let landings = faults.into_iter().map(|(load, fixup)| Landing::fault(place(load), place(fixup)));
        self.shared.faults.extend(landings);
        Ok(at)
    }
}
