//! The rings of one program, in the memory that it and its forked children share with us.

use incise_isa::Addr;
use incise_snippet::data::{RingLayout, RingReader};
use incise_space::remote::RemoteSpace;
use incise_space::{AddressSpace, DataMapping, SpaceError};

use super::record::Recorder;
use super::threads::id_offset;

/// Rings in a process.
pub(crate) struct Region {
    mapping: DataMapping,
    layout: RingLayout,
    pub reader: RingReader,
    pub recorder: Recorder,
    arguments: usize,
    /// Whether it is known where the program keeps the ids of its threads.
    threads: bool,
}

/// Where programs and their allocators have nothing: far from the heap, the libraries and the stack (the top of memory), sanitizers'
/// shadows and Go's heap.
const PLACES: [u64; 4] = [0x2f00_0000_0000, 0x1d00_0000_0000, 0x3b00_0000_0000, 0x5100_0000_0000];

/// A free place for `len` bytes.
pub(crate) fn place(space: &RemoteSpace, len: u64) -> Result<Addr, SpaceError> {
    let map = space.mappings()?;
    let mut hints = PLACES.into_iter().flat_map(|place| (0..64).map(move |step| Addr(place + (step << 32))));
    let free = hints.find(|at| map.is_free(&at.span(len)));
    free.ok_or(SpaceError::Occupied { at: Addr(PLACES[0]), len })
}

impl Region {
    /// Makes rings in a process, for records with `arguments` arguments.
    pub(crate) fn new(
        space: &mut RemoteSpace,
        layout: RingLayout,
        arguments: usize,
    ) -> Result<Region, SpaceError> {
        let at = place(space, layout.bytes())?;
        let mapping = space.map_data(at, layout.bytes())?;
        layout.format(mapping.words(), 0);
        let reader = RingReader::new(layout, mapping.words());
        let recorder = Recorder::new(layout, at.0, arguments, None);
        Ok(Region { mapping, layout, reader, recorder, arguments, threads: false })
    }

    /// Tells the writers where the ids of threads are, once it is known.
    pub(crate) fn find_threads(&mut self, space: &mut RemoteSpace) {
        if self.threads {
            return;
        }
        if let Some(offset) = id_offset(space) {
            self.layout.set_word(self.mapping.words(), offset);
            // What is put in from now on runs in threads that are set up.
            let at = self.mapping.addr().0;
            self.recorder = Recorder::new(self.layout, at, self.arguments, Some(offset));
            self.threads = true;
        }
    }

    /// Reads what is there. Returns how many records.
    pub(crate) fn drain(&mut self, now: u64, take: &mut dyn FnMut(&[u64])) -> u64 {
        let before = self.reader.read();
        self.reader.drain(self.mapping.words(), now, take);
        self.reader.read() - before
    }

    /// How many records were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.reader.dropped(self.mapping.words())
    }
}
