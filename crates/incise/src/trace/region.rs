//! The rings of one program, in the memory that it and its forked children share with us.

use incise_isa::Addr;
use incise_snippet::data::{Ahead, RingReader};
use incise_space::remote::{ProcessId, RemoteSpace};
use incise_space::{AddressSpace, DataMapping, SpaceError};

use super::TraceRecord;
use super::callers::{Start, Unwinder};
use super::owners::Owners;
use super::record::{FIXED, Recorder, Shape};
use super::threads::id_offset;

/// Rings in a process.
pub(crate) struct Region {
    mapping: DataMapping,
    pub reader: RingReader,
    ahead: Ahead,
    pub recorder: Recorder,
    pub owners: Owners,
    pub unwinder: Unwinder,
    shape: Shape,
    /// Where the first thread's stack ends.
    end: u64,
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
    /// Makes rings in a process.
    pub(crate) fn new(pid: ProcessId, space: &mut RemoteSpace, shape: Shape) -> Result<Region, SpaceError> {
        let layout = shape.layout;
        let at = place(space, layout.bytes())?;
        let end = space
            .mappings()?
            .iter()
            .find(|mapping| *mapping.name == *"[stack]")
            .map(|mapping| mapping.range.end.0);
        let end = end.unwrap_or(u64::MAX);
        let mapping = space.map_data(at, layout.bytes())?;
        layout.format(mapping.words(), 0);
        let (reader, ahead) = (RingReader::new(layout, mapping.words()), Ahead::new(layout));
        let recorder = Recorder::new(shape, at.0, None, end);
        let (owners, unwinder) = (Owners::of(pid), Unwinder::of(pid));
        Ok(Region { mapping, reader, ahead, recorder, owners, unwinder, shape, end, threads: false })
    }

    /// Tells the writers where the ids of threads are, once it is known.
    pub(crate) fn find_threads(&mut self, space: &mut RemoteSpace) {
        if self.threads {
            return;
        }
        if let Some(offset) = id_offset(space) {
            self.shape.layout.set_word(self.mapping.words(), offset);
            // What is put in from now on runs in threads that are set up.
            let at = self.mapping.addr().0;
            self.recorder = Recorder::new(self.shape, at, Some(offset), self.end);
            self.threads = true;
        }
    }

    /// Reads what is there, with times in ticks of the processor's counter. Returns how many records.
    pub(crate) fn drain(&mut self, now: u64, take: &mut dyn FnMut(TraceRecord)) -> u64 {
        let Region { reader, owners, unwinder, shape, .. } = self;
        for bytes in self.ahead.take(self.mapping.words()) {
            self.mapping.populate(bytes.start, bytes.end);
        }
        let before = reader.read();
        reader.drain(self.mapping.words(), now, &mut |words| {
            let (thread, point) = (words[1] as u32, (words[1] >> 32) as u32);
            let exit = point & 1 != 0;
            let values = if exit { 1 } else { shape.arguments };
            let function = (point >> 1) as usize;
            let callers = (shape.stack && !exit).then(|| {
                let count = (words[shape.count()] as usize).min(words.len() - shape.count() - 1);
                let stack = &words[shape.count() + 1..][..count];
                unwinder.callers(function, Start { sp: words[2], rbp: words[shape.rbp()], stack })
            });
            take(TraceRecord {
                time: words[0],
                process: owners.process(thread),
                thread,
                function,
                exit,
                stack: words[2],
                values: words[FIXED..FIXED + values].into(),
                callers,
            });
        });
        reader.read() - before
    }

    /// How many records were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.reader.dropped(self.mapping.words())
    }
}
