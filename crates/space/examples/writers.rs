//! What changing code costs in the own process: per site and per page, by poke, by swap and by swap through
//! memory files, with idle and with busy threads.
//!
//! `cargo run --release -p incise-space --example writers`
//!
//! # Safety
//! The code that is run was written to the mapped file by this program, and every edit leaves a function that returns.

#![allow(unsafe_code, reason = "maps a file as code and runs hand-made code")]

use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use incise_isa::Addr;
use incise_space::own::{OwnSpace, Pages, Writer};
use incise_space::{AddressSpace, Bytes, Edit, Landing};

const PAGE: usize = 4096;
const RET: u8 = 0xC3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:<22}{:>8}{:>8}{:>9}{:>12}{:>12}{:>10}",
        "writer", "threads", "sites", "pages", "install us", "CPU us", "ns/site"
    );
    for (name, writer, pages) in [
        ("poke", Writer::Poke, Pages::Placed),
        ("swap, placed", Writer::Swap, Pages::Placed),
        ("swap, forced", Writer::Swap, Pages::Forced),
        ("swap, memory files", Writer::Swap, Pages::MemoryFile),
    ] {
        for threads in [0, 4] {
            for (sites, stride) in
                [(1, PAGE), (8, PAGE), (100, PAGE), (1_000, PAGE), (12_700, PAGE), (20_000, 512)]
            {
                if writer == Writer::Poke && sites > 1_000 {
                    continue;
                }
                measure(name, writer, pages, threads, sites, stride)?;
            }
        }
    }
    Ok(())
}

fn measure(
    name: &str,
    writer: Writer,
    pages: Pages,
    threads: usize,
    sites: usize,
    stride: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let len = (sites * stride).next_multiple_of(PAGE);
    let text = map_text(len)?;
    let mut space = OwnSpace::builder().writer(writer).pages(pages).build()?;
    let edits: Vec<Edit> = (0..sites)
        .map(|site| {
            let at = text + (site * stride) as u64;
            let (old, new) = (Bytes::new(&[RET; 5]), Bytes::new(&[RET, 0x90, 0x90, 0x90, 0x90]));
            Edit { at, old, new, heads: 1 }
        })
        .collect();
    // A thread that takes the transient trap goes on at the next `ret`.
    let landings: Vec<Landing> = edits.iter().map(|e| Landing { trap: e.at, landing: e.at + 5 }).collect();
    space.publish_landings(&landings)?;
    let inverse: Vec<Edit> = edits.iter().map(Edit::inverse).collect();
    let stop = AtomicBool::new(false);
    let (mut wall, mut times) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (edits, stop) = (&edits, &stop);
            scope.spawn(move || {
                let mut n = thread;
                while !stop.load(Ordering::Relaxed) {
                    n = (n * 31 + 7) % edits.len();
                    // SAFETY: there is always a `ret`, or a trap that leads to one.
                    let function: extern "C" fn() = unsafe { std::mem::transmute(edits[n].at.0) };
                    function();
                }
            });
        }
        let end = Instant::now() + Duration::from_millis(400);
        while wall.len() < 6 || Instant::now() < end {
            for edits in [&edits, &inverse] {
                let (start, cpu) = (Instant::now(), cpu_time());
                if let Err(error) = space.apply(edits, &|_| None) {
                    eprintln!("{error}");
                    std::process::exit(1);
                }
                wall.push(start.elapsed());
                times.push(cpu_time() - cpu);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (first, wall, cpu) = (wall[0], median(wall), median(times));
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    println!(
        "{name:<22}{threads:>8}{sites:>8}{:>9}{:>12.1}{:>12.1}{:>10.0}   first {:.1} us",
        len / PAGE,
        us(wall),
        us(cpu),
        us(cpu) * 1e3 / sites as f64,
        us(first),
    );
    Ok(())
}

/// Processor time of this thread: what counts on a loaded machine.
fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A private mapping of a file full of `ret`, as text is mapped.
fn map_text(len: usize) -> std::io::Result<Addr> {
    let path = std::env::temp_dir().join(format!("incise-writers-{}", std::process::id()));
    let mut file =
        std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.write_all(&vec![RET; len])?;
    let (prot, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE);
    // SAFETY: takes unused addresses.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error());
    }
    Ok(Addr(at as u64))
}
