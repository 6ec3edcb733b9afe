//! Segment selectors and bases.
//!
//! # Safety
//!
//! Code under test may leave any base in fs, which the Rust runtime uses for thread-local data.
//! [`Segments::take`] must be the first thing the handler does, and [`set_bases`] the last; between
//! them the harness's own fs base is in place.

#![allow(unsafe_code, reason = "reads and writes segment registers")]

use std::arch::asm;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether rdfsbase and its kin may be used (AT_HWCAP2 bit 1); else arch_prctl does it.
static FSGSBASE: AtomicBool = AtomicBool::new(false);

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

/// Looks up what this kernel allows. To be called before the first fork.
pub fn detect() {
    // SAFETY: getauxval only reads.
    let hwcap2 = unsafe { libc::getauxval(libc::AT_HWCAP2) };
    FSGSBASE.store(hwcap2 & 2 != 0, Ordering::Relaxed);
}

/// What code under test left in the segment registers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Segments {
    /// ds es fs gs.
    pub selectors: [u16; 4],
    /// Bases of fs and gs.
    pub bases: [u64; 2],
}

impl Segments {
    /// Reads the segment registers, then brings the harness's own back: null selectors and `own`.
    #[inline(always)]
    pub fn take(own: [u64; 2]) -> Segments {
        let mut selectors = [0_u16; 4];
        let bases = bases();
        // SAFETY: reading selectors has no effect; null selectors are valid for data segments in
        // 64-bit mode (SDM vol. 3A, 5.4.1.1); the bases are put back right behind.
        unsafe {
            asm!("mov {0:x}, ds", "mov {1:x}, es", "mov {2:x}, fs", "mov {3:x}, gs",
                out(reg) selectors[0], out(reg) selectors[1], out(reg) selectors[2], out(reg) selectors[3],
                options(nomem, nostack, preserves_flags));
            if selectors != [0; 4] {
                asm!("mov ds, {0:e}", "mov es, {0:e}", "mov fs, {0:e}", "mov gs, {0:e}", in(reg) 0_u32,
                    options(nomem, nostack, preserves_flags));
            }
        }
        set_bases(own);
        Segments { selectors, bases }
    }
}

/// The bases of fs and gs.
#[inline(always)]
pub fn bases() -> [u64; 2] {
    if !FSGSBASE.load(Ordering::Relaxed) {
        let (mut fs, mut gs) = (0_u64, 0_u64);
        arch_prctl(ARCH_GET_FS, &raw mut fs as u64);
        arch_prctl(ARCH_GET_GS, &raw mut gs as u64);
        return [fs, gs];
    }
    let (fs, gs): (u64, u64);
    // SAFETY: the kernel has said that these instructions may be used.
    unsafe {
        asm!("rdfsbase {0}", "rdgsbase {1}", out(reg) fs, out(reg) gs,
            options(nomem, nostack, preserves_flags));
    }
    [fs, gs]
}

/// Sets the bases of fs and gs. Values must be canonical.
#[inline(always)]
pub fn set_bases([fs, gs]: [u64; 2]) {
    if !FSGSBASE.load(Ordering::Relaxed) {
        arch_prctl(ARCH_SET_FS, fs);
        arch_prctl(ARCH_SET_GS, gs);
        return;
    }
    // SAFETY: as above; the caller gives back the harness's base before Rust code needs it.
    unsafe {
        asm!("wrfsbase {0}", "wrgsbase {1}", in(reg) fs, in(reg) gs,
            options(nomem, nostack, preserves_flags));
    }
}

/// The system call without the C library, whose errno lives behind fs.
#[inline(always)]
fn arch_prctl(operation: u64, argument: u64) {
    // SAFETY: the operations used read or write the two bases only.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_arch_prctl => _, in("rdi") operation,
            in("rsi") argument, out("rcx") _, out("r11") _, options(nostack));
    }
}
