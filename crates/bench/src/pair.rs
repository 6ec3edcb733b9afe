//! Two threads that do the same at once.
//!
//! # Safety
//! sched_setaffinity(2) reads a set of CPUs that lives for the call.

#![allow(unsafe_code, reason = "binds threads to CPUs")]

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use crate::Error;
use crate::subjects::{Function, time_between};

/// Nanoseconds of a call, in the middle of two threads on two CPUs that begin together: a thread that wakes up would come when the
/// other has done its calls, so they wait for each other awake.
pub(crate) fn both(function: Function, between: u32, calls: u32) -> Result<f64, Error> {
    let ready = AtomicU32::new(0);
    let run = |cpu| {
        pin(cpu);
        ready.fetch_add(1, Ordering::AcqRel);
        let since = Instant::now();
        while ready.load(Ordering::Acquire) < 2 && since.elapsed() < PATIENCE {
            spin_loop();
        }
        time_between(function, between, calls)
    };
    // Both threads are new, so that this one is not bound to a CPU.
    scope(|scope| {
        let threads = [0, 1].map(|cpu| {
            scope.spawn({
                let run = &run;
                move || run(cpu)
            })
        });
        let mut sum = 0.0;
        for thread in threads {
            sum += thread.join().map_err(|_| "a thread has panicked")?;
        }
        Ok(sum / 2.0)
    })
}

/// How long a thread waits for the other one.
const PATIENCE: Duration = Duration::from_millis(20);

/// Binds this thread to a CPU, if it may run there.
fn pin(cpu: usize) {
    // SAFETY: a set of CPUs is plain bits; the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
