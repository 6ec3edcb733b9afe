//! Time stamps of the processor, as times.
//!
//! # Safety
//! `rdtsc` reads a register that user code may read unless prctl(PR_SET_TSC) forbids it, which this process does not do.

#![allow(unsafe_code, reason = "reads the time stamp counter")]

use std::time::{Duration, Instant};

/// The time stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: see above.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Tells how long a number of ticks is: by the system's clock, from when it was made until now. The counter runs at one rate
/// (`constant_tsc`), whatever the processor does, and the same on all of them.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    ticks: u64,
    at: Instant,
}

/// The shortest time to compare clocks over.
const BASE: Duration = Duration::from_millis(20);

impl Clock {
    /// Begins to compare the two.
    pub fn start() -> Clock {
        let (ticks, at) = both();
        Clock { ticks, at }
    }

    /// The counter when it began.
    pub fn origin(&self) -> u64 {
        self.ticks
    }

    /// How many nanoseconds a tick takes. Waits if the clock was started just now.
    pub fn nanos_per_tick(&self) -> f64 {
        if let Some(rest) = BASE.checked_sub(self.at.elapsed()) {
            std::thread::sleep(rest);
        }
        let (ticks, at) = both();
        at.duration_since(self.at).as_nanos() as f64 / ticks.wrapping_sub(self.ticks).max(1) as f64
    }
}

/// Both clocks at one time, as nearly as can be.
fn both() -> (u64, Instant) {
    let pair = || {
        let before = ticks();
        let at = Instant::now();
        (ticks().wrapping_sub(before), before, at)
    };
    let (width, before, at) = (0..8).map(|_| pair()).min_by_key(|(width, ..)| *width).unwrap_or_else(pair);
    (before + width / 2, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_become_the_time_that_went_by() {
        let clock = Clock::start();
        let (first, began) = both();
        std::thread::sleep(Duration::from_millis(50));
        let (last, ended) = both();
        let told = (last - first) as f64 * clock.nanos_per_tick();
        let took = ended.duration_since(began).as_nanos() as f64;
        assert!((told / took - 1.0).abs() < 0.02, "{told} ns, not {took}");
    }
}
