//! The random bytes that memory and vector registers are filled from.

use crate::rng::Rng;

/// Length of a tape in bytes, a power of two.
pub const TAPE_LEN: usize = 1 << 18;

/// A long strip of bytes that any window may be read from.
///
/// Cutting a window costs nothing, so each case takes its own. The bytes mix what arithmetic finds
/// hard: noise, small numbers, all ones, and floating-point numbers of both widths (ordinary,
/// denormal, infinite, not a number).
pub struct Tape(Vec<u8>);

impl Tape {
    /// The tape of a seed.
    pub fn new(seed: u64) -> Tape {
        let mut rng = Rng::new(seed, 0x7a9e);
        let mut bytes = Vec::with_capacity(TAPE_LEN);
        while bytes.len() < TAPE_LEN {
            bytes.extend_from_slice(&quadword(&mut rng).to_le_bytes());
        }
        Tape(bytes)
    }

    /// `len` bytes from `offset`, which wraps so that the window fits.
    pub fn window(&self, offset: usize, len: usize) -> &[u8] {
        let start = (offset % TAPE_LEN).min(TAPE_LEN - len);
        &self.0[start..start + len]
    }
}

fn quadword(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0..=2 => rng.next(),
        3 => rng.below(256),
        4 => (rng.below(256) as i64).wrapping_neg() as u64,
        5 => double(rng).to_bits(),
        6 => u64::from(single(rng).to_bits()) << 32 | u64::from(single(rng).to_bits()),
        _ => rng.pick(&[0, u64::MAX, 1 << 63, i64::MAX as u64, 0x8000_0000_8000_0000]),
    }
}

fn double(rng: &mut Rng) -> f64 {
    let ordinary = (rng.next() as i64 as f64) / 1e15;
    rng.pick(&[ordinary, ordinary, ordinary, 1.5, -0.0, f64::INFINITY, f64::NAN, 5e-324, f64::MAX])
}

fn single(rng: &mut Rng) -> f32 {
    let ordinary = (rng.next() as i32 as f32) / 1e6;
    rng.pick(&[ordinary, ordinary, ordinary, 0.5, -0.0, f32::NEG_INFINITY, f32::NAN, 1e-45, f32::MIN])
}
