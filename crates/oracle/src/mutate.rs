//! Bytes that an assembler would not write but a program may hold: redundant prefixes, odd bits.

use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind};
use incise_isa::native::MAX_INSN_LEN;

use crate::rng::Rng;

const LEGACY: [u8; 10] = [0x66, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x67];

/// Decodes the first instruction of `code` at `at`; `None` if it is not one.
pub fn decode(code: &[u8], at: u64) -> Option<Instruction> {
    let insn = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
    (!insn.is_invalid()).then_some(insn)
}

/// The code with one bit turned, with noise behind it in case the instruction has grown. `None` if
/// what comes out is no instruction, branches into itself or just behind, or reads itself.
pub fn flip(code: &[u8], at: u64, rng: &mut Rng) -> Option<Vec<u8>> {
    let mut bytes = code.to_vec();
    let bit = rng.below(8 * code.len() as u64) as usize;
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes.extend_from_slice(&rng.next().to_le_bytes());
    bytes.truncate(MAX_INSN_LEN);
    let insn = decode(&bytes, at)?;
    bytes.truncate(insn.len());
    let near = (0..insn.op_count()).any(|op| insn.op_kind(op) == OpKind::NearBranch64);
    let branches = near && (at..=insn.next_ip()).contains(&insn.near_branch64());
    // It would read the original's own code; XSAVE images are the longest operands.
    let reads = insn.is_ip_rel_memory_operand()
        && (at - 0x1000..insn.next_ip()).contains(&insn.ip_rel_memory_address());
    (!branches && !reads).then_some(bytes)
}

/// Puts one more prefix into an instruction; displacements relative to its end keep their target.
/// The result may be another instruction, or none.
pub fn add_prefix(code: &[u8], at: u64, rng: &mut Rng) -> Option<Vec<u8>> {
    let mut bytes = code.to_vec();
    let opcode = code.iter().position(|byte| !LEGACY.contains(byte) && *byte != 0xf0)?;
    if rng.one_in(3) {
        let taken = matches!(code[opcode], 0x40..=0x4f | 0x62 | 0x8f | 0xc4 | 0xc5);
        if taken {
            return None;
        }
        bytes.insert(opcode, 0x40 | rng.below(16) as u8);
    } else {
        bytes.insert(rng.below(opcode as u64 + 1) as usize, rng.pick(&LEGACY));
    }
    if bytes.len() > MAX_INSN_LEN {
        return None;
    }
    let mut decoder = Decoder::with_ip(64, &bytes, at, DecoderOptions::NONE);
    let insn = decoder.decode();
    if insn.is_invalid() || insn.len() != bytes.len() {
        return None;
    }
    let offsets = decoder.get_constant_offsets(&insn);
    let near = (0..insn.op_count()).any(|op| insn.op_kind(op) == OpKind::NearBranch64);
    let (field, size) = if insn.is_ip_rel_memory_operand() {
        (offsets.displacement_offset(), offsets.displacement_size())
    } else if near {
        (offsets.immediate_offset(), offsets.immediate_size())
    } else {
        return Some(bytes);
    };
    // The instruction is one byte longer: what counts from its end counts one less.
    match size {
        1 => bytes[field] = bytes[field].wrapping_sub(1),
        4 => {
            let old = u32::from_le_bytes(bytes[field..field + 4].try_into().ok()?);
            bytes[field..field + 4].copy_from_slice(&old.wrapping_sub(1).to_le_bytes());
        }
        _ => {}
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_does_not_move_a_rip_relative_target() {
        let code = [0x8b, 0x05, 0x10, 0, 0, 0];
        let mut rng = Rng::new(1, 1);
        let mut seen = 0;
        for _ in 0..100 {
            let Some(bytes) = add_prefix(&code, 0x1000, &mut rng) else { continue };
            let insn = decode(&bytes, 0x1000).expect("only instructions are returned instructions");
            if insn.is_ip_rel_memory_operand() {
                assert_eq!(insn.ip_rel_memory_address(), 0x1016, "{bytes:x?}");
                seen += 1;
            }
        }
        assert!(seen > 50);
    }
}
