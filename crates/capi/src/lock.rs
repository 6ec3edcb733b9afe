//! The one lock of the library.
//!
//! # Safety
//! pthread_self() has no conditions; the handlers given to pthread_atfork() are functions of this file that live as
//! long as the process.

#![allow(unsafe_code, reason = "asks for the calling thread, registers handlers of fork")]

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, Once, PoisonError};

use crate::error::Error;
use crate::library::Library;

static LIBRARY: LazyLock<Mutex<Library>> = LazyLock::new(Mutex::default);

/// The thread that holds the lock; 0 is none. A static and not a thread-local, because probes ask for it: access
/// to a thread-local may itself run into one.
static OWNER: AtomicUsize = AtomicUsize::new(0);

/// The library, locked.
pub struct Locked {
    library: MutexGuard<'static, Library>,
}

/// Locks the library.
///
/// # Errors
/// [`Error::Reentrant`] if the calling thread holds the lock: it was interrupted inside of the library.
pub fn lock() -> Result<Locked, Error> {
    if held() {
        return Err(Error::Reentrant);
    }
    // A panic under the lock was reported as an error of the library; what is in it is whole.
    let library = LIBRARY.lock().unwrap_or_else(PoisonError::into_inner);
    OWNER.store(this_thread(), Ordering::Relaxed);
    Ok(Locked { library })
}

/// Whether the calling thread is inside the library.
pub fn held() -> bool {
    // Only the thread itself stores its own name.
    OWNER.load(Ordering::Relaxed) == this_thread()
}

fn this_thread() -> usize {
    // SAFETY: no conditions.
    unsafe { libc::pthread_self() as usize }
}

impl std::ops::Deref for Locked {
    type Target = Library;
    fn deref(&self) -> &Library {
        &self.library
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut Library {
        &mut self.library
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        OWNER.store(0, Ordering::Relaxed);
    }
}

thread_local! {
    /// Held by a thread that forks.
    static FORKING: RefCell<Option<Locked>> = const { RefCell::new(None) };
}

/// Sees to it that the lock is free in forked children.
pub fn keep_across_forks() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: see the head of the file. It fails only without memory: then a child may find the lock held.
        unsafe { libc::pthread_atfork(Some(before_fork), Some(after_fork), Some(after_fork)) };
    });
}

extern "C" fn before_fork() {
    // A thread that forks inside of the library keeps the lock by itself.
    if let Ok(locked) = lock() {
        let _ = FORKING.try_with(|slot| slot.replace(Some(locked)));
    }
}

extern "C" fn after_fork() {
    let _ = FORKING.try_with(|slot| slot.take());
}
