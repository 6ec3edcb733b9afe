//! What this process asks its environment for: `getenv` of libc is wrapped while a part of the program runs.
//!
//! ```sh
//! cargo run --release -p incise --example environment
//! ```

use std::error::Error;
use std::ffi::{CStr, c_char};
use std::sync::atomic::{AtomicU64, Ordering};

use incise::{Addr, Position, Query, Session, changing};

/// Where the original can be called.
static ORIGINAL: AtomicU64 = AtomicU64::new(0);

type GetEnv = unsafe extern "C" fn(*const c_char) -> *mut c_char;

unsafe extern "C" {
    fn getenv(name: *const c_char) -> *mut c_char;
}

/// Runs in place of `getenv`.
///
/// # Safety
/// As for `getenv`: `name` is a C string.
unsafe extern "C" fn told(name: *const c_char) -> *mut c_char {
    // SAFETY: `ORIGINAL` is the address of a function of this type before anybody can come here.
    let original: GetEnv = unsafe { std::mem::transmute(ORIGINAL.load(Ordering::Acquire) as usize) };
    // SAFETY: the caller gave a C string.
    let (value, name) = unsafe { (original(name), CStr::from_ptr(name)) };
    println!("{name:?} is {}", if value.is_null() { "not set" } else { "set" });
    value
}

fn ask() {
    for name in [c"HOME", c"NO_SUCH_VARIABLE"] {
        // SAFETY: a C string; no other thread changes the environment.
        unsafe { getenv(name.as_ptr()) };
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let session = Session::own()?;
    let points = session.find(Query::functions("libc!getenv"))?;
    let mut batch = session.batch();
    for point in &points {
        let wrapped = changing::wrap(point.addr, Addr(told as *const () as u64));
        batch.insert(point.addr, wrapped.told(&ORIGINAL), Position::Last);
    }
    batch.commit()?;
    ask();
    session.remove_all()?;
    // Nothing is told any more.
    ask();
    Ok(())
}
