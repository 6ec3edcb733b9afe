//! Memory in the target that generated code and this process share.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use incise_isa::Addr;
use incise_space::DataMapping;

/// Memory that snippets use, in quadwords. It gets its place when a snippet that uses it is first inserted
/// ([`Placer::data`](crate::Placer::data)), and keeps what is in it when the snippets are removed and it is given back. Clones
/// are the same memory. It belongs to the session that first uses it.
#[derive(Clone)]
pub struct Data(Arc<Inner>);

struct Inner {
    len: u64,
    align: u64,
    state: Mutex<State>,
}

enum State {
    /// What it holds next time.
    Away(Box<[AtomicU64]>),
    Placed(Placed),
}

struct Placed {
    mapping: Arc<DataMapping>,
    at: Addr,
    generation: u64,
}

impl Data {
    /// `len` bytes that begin with `initial` and are zero behind, at a multiple of `align`, a power of two of at most 4096.
    pub fn new(len: u64, align: u64, initial: &[u8]) -> Data {
        let len = len.max(initial.len() as u64).max(8).next_multiple_of(8);
        let align = align.clamp(8, 4096).next_power_of_two();
        let words: Box<[AtomicU64]> = (0..len / 8).map(|_| AtomicU64::new(0)).collect();
        for (word, bytes) in words.iter().zip(initial.chunks(8)) {
            let mut all = [0; 8];
            all[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(all), Ordering::Relaxed);
        }
        Data(Arc::new(Inner { len, align, state: Mutex::new(State::Away(words)) }))
    }

    /// Its size in bytes.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether it has no bytes; it always has.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Works on what it holds. The program may change it meanwhile.
    pub fn with<R>(&self, work: impl FnOnce(&[AtomicU64]) -> R) -> R {
        match &*self.state() {
            State::Away(words) => work(words),
            State::Placed(placed) => work(placed.mapping.quadwords(placed.at, self.0.len / 8)),
        }
    }

    /// Where it is, if it is in the target.
    pub fn address(&self) -> Option<Addr> {
        match &*self.state() {
            State::Away(_) => None,
            State::Placed(placed) => Some(placed.at),
        }
    }

    pub(crate) fn align(&self) -> u64 {
        self.0.align
    }

    /// Where it is in the memory of this generation.
    pub(crate) fn placed_in(&self, generation: u64) -> Option<Addr> {
        match &*self.state() {
            State::Placed(placed) if placed.generation == generation => Some(placed.at),
            _ => None,
        }
    }

    /// It is at `at` from now on; what it held goes with it.
    pub(crate) fn put(&self, mapping: &Arc<DataMapping>, at: Addr, generation: u64) {
        let mut state = self.state();
        let words = mapping.quadwords(at, self.0.len / 8);
        let copy = |from: &[AtomicU64]| {
            for (to, from) in words.iter().zip(from) {
                let value = from.load(Ordering::Relaxed);
                // Pages that stay zero are not touched.
                if value != 0 {
                    to.store(value, Ordering::Relaxed);
                }
            }
        };
        match &*state {
            State::Away(words) => copy(words),
            State::Placed(before) => copy(before.mapping.quadwords(before.at, self.0.len / 8)),
        }
        *state = State::Placed(Placed { mapping: Arc::clone(mapping), at, generation });
    }

    /// Its memory is about to go: keeps what is in it.
    pub(crate) fn take_back(&self, generation: u64) {
        let mut state = self.state();
        let State::Placed(placed) = &*state else { return };
        if placed.generation != generation {
            return;
        }
        let words = placed.mapping.quadwords(placed.at, self.0.len / 8);
        *state = State::Away(words.iter().map(|word| word.load(Ordering::Relaxed).into()).collect());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Data({} bytes)", self.0.len)
    }
}
