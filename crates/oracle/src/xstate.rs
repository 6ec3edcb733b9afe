//! Vector, mask and x87 state, and its place in an XSAVE image.
//!
//! Layout: Intel SDM vol. 1, 13.4 and 13.5 (standard format, which Linux puts into signal frames);
//! the offsets of the extended components come from CPUID leaf 0xd.

use std::arch::x86_64::{__cpuid, __cpuid_count};

/// Offset of the XSAVE header's XSTATE_BV.
const HEADER: usize = 512;
const X87: u64 = 1 << 0;
const SSE: u64 = 1 << 1;

/// Where the extended components lie in an XSAVE image of this processor; absent ones are `None`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Components {
    /// Component 2: bits 128-255 of ymm0-15.
    pub ymm_high: Option<usize>,
    /// Component 5: k0-k7.
    pub masks: Option<usize>,
    /// Component 6: bits 256-511 of zmm0-15.
    pub zmm_high: Option<usize>,
    /// Component 7: zmm16-31.
    pub zmm_upper: Option<usize>,
}

impl Components {
    /// What this processor has.
    pub fn detect() -> Components {
        if __cpuid(0).eax < 0xd {
            return Components::default();
        }
        let supported = __cpuid_count(0xd, 0).eax;
        let offset = |component: u32| {
            (supported >> component & 1 == 1).then(|| __cpuid_count(0xd, component).ebx as usize)
        };
        Components { ymm_high: offset(2), masks: offset(5), zmm_high: offset(6), zmm_upper: offset(7) }
    }

    /// Each component's number, offset and length in bytes.
    fn list(&self) -> [(u32, Option<usize>, usize); 4] {
        [(2, self.ymm_high, 256), (5, self.masks, 64), (6, self.zmm_high, 512), (7, self.zmm_upper, 1024)]
    }
}

/// The state itself. Instruction pointer and opcode of the last x87 instruction are left out: they
/// name where an instruction ran and how it was encoded, which displacing changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xstate {
    /// zmm0-31; narrower registers are the low bytes.
    pub zmm: [[u8; 64]; 32],
    /// k0-k7.
    pub masks: [u64; 8],
    /// SSE control and status.
    pub mxcsr: u32,
    /// x87 control word.
    pub x87_control: u16,
    /// x87 status word.
    pub x87_status: u16,
    /// x87 tag word, short form.
    pub x87_tags: u8,
    /// x87 last data pointer.
    pub x87_data_pointer: u64,
    /// st0-st7, 80 bits each.
    pub st: [[u8; 10]; 8],
}

impl Default for Xstate {
    /// The processor's initial configuration (SDM vol. 1, 13.6).
    fn default() -> Xstate {
        Xstate {
            zmm: [[0; 64]; 32],
            masks: [0; 8],
            mxcsr: 0x1f80,
            x87_control: 0x37f,
            x87_status: 0,
            x87_tags: 0,
            x87_data_pointer: 0,
            st: [[0; 10]; 8],
        }
    }
}

impl Xstate {
    /// Reads an image. Components marked as initial there get their initial values.
    pub fn load(&mut self, image: &[u8], components: &Components) {
        let mut present = quad(image, HEADER);
        *self = Xstate::default();
        self.mxcsr = u32::from_le_bytes(array(image, 24));
        if present & X87 != 0 {
            self.x87_control = u16::from_le_bytes(array(image, 0));
            self.x87_status = u16::from_le_bytes(array(image, 2));
            self.x87_tags = image[4];
            self.x87_data_pointer = quad(image, 16);
            for (index, st) in self.st.iter_mut().enumerate() {
                *st = array(image, 32 + 16 * index);
            }
        }
        for (number, offset, len) in components.list() {
            if offset.is_none_or(|offset| offset + len > image.len()) {
                present &= !(1 << number);
            }
        }
        for index in 0..16 {
            if present & SSE != 0 {
                copy(&mut self.zmm[index], 0, image, 160 + 16 * index, 16);
            }
            if let (Some(offset), true) = (components.ymm_high, present & 1 << 2 != 0) {
                copy(&mut self.zmm[index], 16, image, offset + 16 * index, 16);
            }
            if let (Some(offset), true) = (components.zmm_high, present & 1 << 6 != 0) {
                copy(&mut self.zmm[index], 32, image, offset + 32 * index, 32);
            }
            if let (Some(offset), true) = (components.zmm_upper, present & 1 << 7 != 0) {
                copy(&mut self.zmm[16 + index], 0, image, offset + 64 * index, 64);
            }
        }
        if let (Some(offset), true) = (components.masks, present & 1 << 5 != 0) {
            for (index, mask) in self.masks.iter_mut().enumerate() {
                *mask = quad(image, offset + 8 * index);
            }
        }
    }

    /// Writes all of it into an image that a signal frame holds, and marks every component present.
    pub fn store(&self, image: &mut [u8], components: &Components) {
        image[0..2].copy_from_slice(&self.x87_control.to_le_bytes());
        image[2..4].copy_from_slice(&self.x87_status.to_le_bytes());
        image[4..8].copy_from_slice(&[self.x87_tags, 0, 0, 0]);
        image[8..16].fill(0);
        image[16..24].copy_from_slice(&self.x87_data_pointer.to_le_bytes());
        image[24..28].copy_from_slice(&self.mxcsr.to_le_bytes());
        for (index, st) in self.st.iter().enumerate() {
            image[32 + 16 * index..][..10].copy_from_slice(st);
        }
        let mut present = quad(image, HEADER) | X87 | SSE;
        for (number, offset, len) in components.list() {
            if offset.is_some_and(|offset| offset + len <= image.len()) {
                present |= 1 << number;
            }
        }
        for index in 0..16 {
            image[160 + 16 * index..][..16].copy_from_slice(&self.zmm[index][..16]);
            if let (Some(offset), true) = (components.ymm_high, present & 1 << 2 != 0) {
                image[offset + 16 * index..][..16].copy_from_slice(&self.zmm[index][16..32]);
            }
            if let (Some(offset), true) = (components.zmm_high, present & 1 << 6 != 0) {
                image[offset + 32 * index..][..32].copy_from_slice(&self.zmm[index][32..]);
            }
            if let (Some(offset), true) = (components.zmm_upper, present & 1 << 7 != 0) {
                image[offset + 64 * index..][..64].copy_from_slice(&self.zmm[16 + index]);
            }
        }
        if let (Some(offset), true) = (components.masks, present & 1 << 5 != 0) {
            for (index, mask) in self.masks.iter().enumerate() {
                image[offset + 8 * index..][..8].copy_from_slice(&mask.to_le_bytes());
            }
        }
        image[HEADER..HEADER + 8].copy_from_slice(&present.to_le_bytes());
    }
}

fn quad(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(image, at))
}

fn array<const N: usize>(image: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&image[at..at + N]);
    bytes
}

fn copy(to: &mut [u8; 64], at: usize, image: &[u8], from: usize, len: usize) {
    to[at..at + len].copy_from_slice(&image[from..from + len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Xstate {
        let mut state = Xstate { x87_tags: 0x5a, x87_data_pointer: 7, ..Xstate::default() };
        for (index, zmm) in state.zmm.iter_mut().enumerate() {
            *zmm = std::array::from_fn(|byte| (index * 64 + byte) as u8 | 1);
        }
        state.masks = [1, 2, 3, 4, 5, 6, 7, 8];
        state.st = [[9; 10]; 8];
        state
    }

    const ALL: Components =
        Components { ymm_high: Some(576), masks: Some(832), zmm_high: Some(896), zmm_upper: Some(1408) };

    #[test]
    fn what_is_stored_is_loaded() {
        let mut image = vec![0; 2432];
        let state = sample();
        state.store(&mut image, &ALL);
        let mut back = Xstate::default();
        back.load(&image, &ALL);
        assert_eq!(back, state);
    }

    #[test]
    fn a_component_marked_initial_reads_as_initial_whatever_its_bytes() {
        let mut image = vec![0; 2432];
        sample().store(&mut image, &ALL);
        image[512] &= !4;
        let mut back = Xstate::default();
        back.load(&image, &ALL);
        assert_eq!(back.zmm[3][16..32], [0; 16]);
        assert_eq!(back.zmm[3][..16], sample().zmm[3][..16]);
    }
}
