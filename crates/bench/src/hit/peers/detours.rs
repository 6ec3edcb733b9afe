//! Crates that replace a function by another one, which can call the original: `detour` and `retour`.
//!
//! # Safety
//! The replacement has the subject's type. It is installed before any other thread knows of the subject.

#![allow(unsafe_code, reason = "these crates ask for it")]

use std::mem::transmute;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::Error;
use crate::hit::contender::{Line, Local};
use crate::hit::own::LOCK;
use crate::subjects::{Function, subject};

pub(super) fn lines() -> Vec<Line> {
    vec![
        Line::new("detour: replacement that counts", detour).against(LOCK),
        Line::new("retour: replacement that counts", retour).against(LOCK),
    ]
}

/// A replacement for one subject, which counts and calls the original through `$original`.
macro_rules! replacement {
    ($name:ident, $hits:ident, $original:ident) => {
        static $hits: AtomicU64 = AtomicU64::new(0);
        static $original: AtomicUsize = AtomicUsize::new(0);

        unsafe extern "C" fn $name(a: u32, b: u32) -> u32 {
            $hits.fetch_add(1, Ordering::Relaxed);
            // SAFETY: set to the way to the original before the replacement is in force.
            unsafe { transmute::<usize, Function>($original.load(Ordering::Relaxed))(a, b) }
        }
    };
}

replacement!(by_detour, DETOUR_HITS, DETOUR_ORIGINAL);
replacement!(by_retour, RETOUR_HITS, RETOUR_ORIGINAL);

fn detour() -> Result<Local<detour::RawDetour>, Error> {
    let (shape, function) = subject("frame_detour").ok_or("no such subject")?;
    // SAFETY: see the head of the file.
    let undo = unsafe {
        let detour = detour::RawDetour::new(function as *const (), by_detour as *const ())?;
        DETOUR_ORIGINAL.store(detour.trampoline() as usize, Ordering::Relaxed);
        detour.enable()?;
        detour
    };
    Ok(Local { shape, function, counted: |_| Some(DETOUR_HITS.load(Ordering::Relaxed)), undo })
}

fn retour() -> Result<Local<retour::RawDetour>, Error> {
    let (shape, function) = subject("frame_retour").ok_or("no such subject")?;
    // SAFETY: see the head of the file.
    let undo = unsafe {
        let detour = retour::RawDetour::new(function as *const (), by_retour as *const ())?;
        RETOUR_ORIGINAL.store(std::ptr::from_ref(detour.trampoline()) as usize, Ordering::Relaxed);
        detour.enable()?;
        detour
    };
    Ok(Local { shape, function, counted: |_| Some(RETOUR_HITS.load(Ordering::Relaxed)), undo })
}
