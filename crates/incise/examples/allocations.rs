//! What a part of this process allocates: a callback at `malloc` sees the registers of each call.
//!
//! ```sh
//! cargo run --release -p incise --example allocations
//! ```

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use incise::callback::{Context, VectorState, callback};
use incise::isa::native::Gpr;
use incise::{Query, Session};

/// Calls by size: at index n those of less than 2^n bytes, and not less than half of that.
static SIZES: [AtomicU64; 65] = [const { AtomicU64::new(0) }; 65];

/// Runs under a lock of the allocator, so that it must not allocate.
extern "C" fn sized(context: &mut Context, _: u64) {
    let size = context.gpr(Gpr::Rdi);
    SIZES[(u64::BITS - size.leading_zeros()) as usize].fetch_add(1, Ordering::Relaxed);
}

fn main() -> Result<(), Box<dyn Error>> {
    let session = Session::own()?;
    let mut batch = session.batch();
    for point in &session.find(Query::functions("libc!malloc"))? {
        batch.push_back(point, callback(sized, 0, VectorState::Sse));
    }
    batch.commit()?;
    let texts: Vec<String> = (0..1000).map(|n| "x".repeat(n)).collect();
    session.remove_all()?;

    println!("{} texts", texts.len());
    for (bits, calls) in SIZES.iter().enumerate() {
        let calls = calls.load(Ordering::Relaxed);
        if calls > 0 {
            println!("{calls:>6} of less than {} bytes", 1u128 << bits);
        }
    }
    Ok(())
}
