//! What must hold for the copy of any instruction, on random encodings: prefixes in any order and
//! number, every opcode map, every operand relative to the instruction pointer.

use std::collections::BTreeMap;

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic, Register};

use super::testing::{FAR, FROM, NEAR};
use super::{MAX_RELOCATED_LEN, RelocateError, Relocation, relocate};
use crate::Addr;
use crate::x86_64::{Flow, Insn, decode};

/// A generator of random numbers (Steele, Lea, Flood: SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    fn of(&mut self, bytes: &[u8]) -> u8 {
        bytes[self.below(bytes.len() as u64) as usize]
    }

    /// Bytes that may be an instruction; with `ip_relative`, ModRM says [rip + disp32].
    fn encoding(&mut self, ip_relative: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for _ in 0..[0, 0, 0, 1, 1, 2][self.below(6) as usize] {
            bytes.push(self.of(&[0x66, 0x67, 0xF2, 0xF3, 0xF0, 0x2E, 0x3E, 0x64, 0x65, 0x48]));
        }
        if self.below(3) == 0 {
            bytes.push(0x40 | self.byte() & 0x0F);
        }
        match self.below(8) {
            0 => bytes.extend([0xC5, self.byte()]),
            1 => bytes.extend([0xC4, self.byte() & 0xE0 | self.of(&[1, 2, 3]), self.byte()]),
            2 => bytes.extend([
                0x62,
                self.byte() & 0xF0 | self.of(&[1, 2, 3, 5, 6]),
                self.byte() | 4,
                self.byte(),
            ]),
            3 => bytes.extend([0x8F, self.byte() & 0xE0 | self.of(&[8, 9, 10]), self.byte() & 0x7B]),
            4 => bytes.push(0x0F),
            5 => bytes.extend([0x0F, self.of(&[0x38, 0x3A])]),
            _ => {}
        }
        bytes.push(self.byte());
        bytes.push(if ip_relative { self.byte() & 0x38 | 0x05 } else { self.byte() });
        bytes.extend((self.next() as u32 & 0x00FF_FFFF).to_le_bytes());
        bytes.extend(self.next().to_le_bytes());
        bytes
    }
}

/// Every instruction the decoder finds in `count` random encodings.
fn instructions(seed: u64, count: usize, ip_relative: bool) -> impl Iterator<Item = Insn> {
    let mut random = Random(seed);
    (0..count).filter_map(move |_| decode(&random.encoding(ip_relative), FROM).ok())
}

fn copy(insn: &Insn, to: Addr) -> Result<Vec<u8>, RelocateError> {
    let mut out = Vec::new();
    relocate(insn, &Relocation { to, resolve: &|target| target, shadow_stack: false, moves: false }, &mut out)
        .map(|()| out)
}

/// The instructions of a copy, up to where its literals begin.
fn code(bytes: &[u8], at: Addr) -> Vec<Insn> {
    let mut code = Vec::new();
    let mut offset = 0;
    while let Ok(insn) = decode(&bytes[offset..], at + offset as u64) {
        offset += insn.len();
        code.push(insn);
    }
    code
}

#[test]
fn any_instruction_runs_or_is_refused() {
    let (mut copied, mut refused) = (0, 0);
    for insn in instructions(1, 400_000, false).chain(instructions(2, 100_000, true)) {
        for to in [NEAR, FAR] {
            match copy(&insn, to) {
                Ok(bytes) => {
                    copied += 1;
                    assert!((1..=MAX_RELOCATED_LEN).contains(&bytes.len()), "{insn:?}");
                    assert_ne!(code(&bytes, to).len(), 0, "{insn:?}");
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.addr(), FROM);
                    assert!(
                        !matches!(error, RelocateError::NoScratch { .. } | RelocateError::Encoding { .. }),
                        "{insn:?}: {error}"
                    );
                }
            }
        }
    }
    assert!(copied > 200_000 && refused > 1_000, "{copied} copied, {refused} refused");
}

#[test]
fn in_reach_the_copy_is_the_same_instruction_on_the_same_data() {
    let mut seen = BTreeMap::new();
    for insn in instructions(3, 400_000, true) {
        let Some(target) = insn.ip_relative_target().filter(|_| insn.flow() == Flow::Next && !insn.is_nop())
        else {
            continue;
        };
        let Ok(bytes) = copy(&insn, NEAR) else {
            continue;
        };
        let moved = decode(&bytes, NEAR).expect("an instruction");
        assert_eq!(moved.len(), bytes.len(), "{insn:?}");
        match insn.iced().code() {
            Code::Lea_r32_m | Code::Lea_r16_m => {}
            _ => assert_eq!(moved.ip_relative_target(), Some(target), "{insn:?}"),
        }
        let changed = insn.bytes().iter().zip(&bytes).filter(|(old, new)| old != new).count();
        assert!(changed <= 4, "{insn:?} {moved:?}");
        *seen.entry(format!("{:?}", insn.iced().code().encoding())).or_insert(0) += 1;
    }
    assert_all_encodings(&seen);
}

#[test]
fn out_of_reach_the_copy_is_the_same_operation_through_a_register() {
    let mut seen = BTreeMap::new();
    let mut with_rsp = 0;
    for insn in instructions(4, 400_000, true) {
        let original = insn.iced();
        let wraps = original.memory_base() == Register::EIP;
        if insn.ip_relative_target().is_none() || wraps || insn.flow() != Flow::Next || insn.is_nop() {
            continue;
        }
        if matches!(original.code(), Code::Lea_r16_m | Code::Lea_r32_m | Code::Lea_r64_m) {
            continue;
        }
        let bytes = copy(&insn, FAR).expect("a copy");
        let code = code(&bytes, FAR);
        let through: Vec<_> = code.iter().filter(|part| is_through(part, original)).collect();
        let [through] = through[..] else { panic!("{insn:?}: {code:?}") };
        let address = through.iced().memory_base();
        assert_eq!(through.iced().memory_displ_size(), 0);
        assert_eq!(code.iter().map(Insn::len).sum::<usize>(), bytes.len(), "{code:?}");
        let stand_in = assert_same_operands(&insn, through);
        with_rsp += usize::from(stand_in.is_some());
        for register in explicit_registers(original) {
            assert_ne!(register.full_register(), address, "{insn:?} {through:?}");
            assert_ne!(Some(register.full_register()), stand_in, "{insn:?} {through:?}");
        }
        *seen.entry(format!("{:?}", original.code().encoding())).or_insert(0) += 1;
    }
    assert_all_encodings(&seen);
    assert!(with_rsp > 500, "{with_rsp}");
}

/// Whether `part` does the operation of `original` on `[register]`.
fn is_through(part: &Insn, original: &Instruction) -> bool {
    let part = part.iced();
    part.code() == original.code() && part.memory_base().is_gpr64() && part.memory_base() != Register::RSP
}

/// The registers it names; a hint of the reserved space names none.
fn explicit_registers(insn: &Instruction) -> impl Iterator<Item = Register> {
    let operands = if insn.mnemonic() == Mnemonic::Reservednop { 0 } else { insn.op_count() };
    (0..operands).map(|operand| insn.op_register(operand)).filter(|register| register.is_gpr())
}

/// Asserts that all but the address of memory is equal, and returns what stands for `rsp`.
fn assert_same_operands(original: &Insn, through: &Insn) -> Option<Register> {
    let (old, new) = (original.iced(), through.iced());
    let context = format!("{original:?} {through:?}");
    let mut stand_in = None;
    for operand in 0..old.op_count() {
        assert_eq!(old.op_kind(operand), new.op_kind(operand), "{context}");
        assert_eq!(old.try_immediate(operand).ok(), new.try_immediate(operand).ok(), "{context}");
        let (was, is) = (old.op_register(operand), new.op_register(operand));
        if was.full_register() == Register::RSP && old.mnemonic() != Mnemonic::Reservednop {
            assert_eq!(was.size(), is.size(), "{context}");
            assert!(stand_in.is_none_or(|register| register == is.full_register()), "{context}");
            stand_in = Some(is.full_register());
        } else {
            assert_eq!(was, is, "{context}");
        }
    }
    assert_eq!(old.segment_prefix(), new.segment_prefix(), "{context}");
    assert_eq!(old.has_lock_prefix(), new.has_lock_prefix(), "{context}");
    assert_eq!(old.has_rep_prefix(), new.has_rep_prefix(), "{context}");
    assert_eq!(old.has_repne_prefix(), new.has_repne_prefix(), "{context}");
    assert_eq!(old.op_mask(), new.op_mask(), "{context}");
    assert_eq!(old.zeroing_masking(), new.zeroing_masking(), "{context}");
    assert_eq!(old.is_broadcast(), new.is_broadcast(), "{context}");
    assert_eq!(old.rounding_control(), new.rounding_control(), "{context}");
    stand_in
}

fn assert_all_encodings(seen: &BTreeMap<String, usize>) {
    for encoding in [EncodingKind::Legacy, EncodingKind::VEX, EncodingKind::EVEX, EncodingKind::XOP] {
        let count = seen.get(&format!("{encoding:?}")).copied().unwrap_or(0);
        assert!(count > 200, "{encoding:?}: {seen:?}");
    }
}
