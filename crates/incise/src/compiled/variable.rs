//! Variables of compiled programs, from outside.

use std::sync::atomic::Ordering;

use incise_patch::Data;
use incise_snippet::tree::{Constant, RESTARTED, Storage, Variable};

/// A variable in the target. It keeps its value when the programs that use it are removed.
#[derive(Clone, Debug)]
pub struct Value {
    variable: Variable,
    data: Data,
}

impl Value {
    pub(super) fn new(variable: &Variable, data: Data) -> Value {
        Value { variable: variable.clone(), data }
    }

    /// Its value, with its sign or the bits of a float; of one per thread or CPU, the sum of all (wrapping).
    pub fn get(&self) -> u64 {
        self.constant().quadword()
    }

    /// The same, with its type.
    pub fn constant(&self) -> Constant {
        let sum = self.all().into_iter().map(|(_, value)| value.bits).fold(0, u64::wrapping_add);
        Constant::new(self.variable.ty(), sum)
    }

    /// Its value for each thread that has one, by the number of the thread; for each CPU, by that of the CPU; the only value of a global.
    pub fn all(&self) -> Vec<(u64, Constant)> {
        let ty = self.variable.ty();
        self.data.with(|words| {
            let load = |offset: u64| words[offset as usize / 8].load(Ordering::Relaxed);
            let values = self.variable.offsets().enumerate();
            let values = values.map(|(index, offset)| match self.variable.storage() {
                Storage::PerThread => (load(offset - 8), Constant::new(ty, load(offset))),
                Storage::PerCpu => {
                    (index as u64, Constant::new(ty, load(offset).wrapping_add(load(offset + RESTARTED))))
                }
                _ => (index as u64, Constant::new(ty, load(offset))),
            });
            let per_thread = self.variable.storage() == Storage::PerThread;
            values.filter(|(thread, _)| !per_thread || *thread != 0).collect()
        })
    }

    /// Gives it a value, of which it takes the bits it has; one per thread or CPU, all of them.
    pub fn set(&self, value: u64) {
        let bits = Constant::new(self.variable.ty(), value).bits;
        self.data.with(|words| {
            for offset in self.variable.offsets() {
                words[offset as usize / 8].store(bits, Ordering::Relaxed);
                if self.variable.storage() == Storage::PerCpu {
                    words[(offset + RESTARTED) as usize / 8].store(0, Ordering::Relaxed);
                }
            }
        });
    }
}
