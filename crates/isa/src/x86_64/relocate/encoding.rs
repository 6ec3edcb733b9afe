//! The bytes of one instruction, taken apart as far as relocation needs it: prefixes, ModRM, and the
//! memory operand relative to the instruction pointer. Everything else stays as it was.

use iced_x86::{
    Code, EncodingKind, InstructionInfoFactory, InstructionInfoOptions, OpCodeOperandKind, Register,
};

use super::RelocateError;
use crate::Addr;
use crate::x86_64::{Gpr, GprSet, Insn, RawBytes};

/// Prefix that makes operands 16 bits wide.
pub(super) const OPERAND_SIZE: u8 = 0x66;
const ADDRESS_SIZE: u8 = 0x67;

/// ModRM.mod and ModRM.rm of a displacement relative to the instruction pointer.
const IP_RELATIVE: u8 = 0x05;
const MODE_AND_RM: u8 = 0xC7;
const REG: u8 = 0x38;

/// The legacy and REX prefixes of an instruction.
pub(super) struct Prefixes {
    /// How many bytes they are.
    pub len: usize,
    /// Where the REX prefix in effect is: only one directly before the opcode counts (AMD APM vol. 3,
    /// 1.2.7).
    pub rex: Option<usize>,
}

impl Prefixes {
    pub fn of(insn: &Insn) -> Prefixes {
        let mut rex = None;
        for (len, byte) in insn.bytes().iter().enumerate() {
            match *byte {
                0x26 | 0x2E | 0x36 | 0x3E | 0x64 | 0x65 | OPERAND_SIZE | ADDRESS_SIZE | 0xF0 | 0xF2
                | 0xF3 => {
                    rex = None;
                }
                0x40..=0x4F => rex = Some(len),
                _ => return Prefixes { len, rex },
            }
        }
        Prefixes { len: insn.len(), rex }
    }

    pub fn contain(&self, insn: &Insn, prefix: u8) -> bool {
        insn.bytes()[..self.len].contains(&prefix)
    }
}

/// Where ModRM is in an instruction that has one.
fn modrm_index(insn: &Insn, prefixes: &Prefixes) -> Option<usize> {
    let opcode = prefixes.len;
    let byte = |index: usize| insn.bytes().get(index).copied().unwrap_or(0);
    let index = match insn.iced().code().encoding() {
        EncodingKind::VEX if byte(opcode) == 0xC5 => opcode + 3,
        EncodingKind::VEX | EncodingKind::XOP => opcode + 4,
        EncodingKind::EVEX => opcode + 5,
        EncodingKind::Legacy | EncodingKind::D3NOW => match (byte(opcode), byte(opcode + 1)) {
            (0x0F, 0x38 | 0x3A) => opcode + 3,
            (0x0F, _) => opcode + 2,
            _ => opcode + 1,
        },
        _ => return None,
    };
    (index < insn.len()).then_some(index)
}

/// The bytes of an instruction with ModRM.reg set to `extension`: another operation of the same
/// opcode group on the same operand.
pub(super) fn with_extension(insn: &Insn, extension: u8) -> Result<RawBytes, RelocateError> {
    let modrm = modrm_index(insn, &Prefixes::of(insn)).ok_or(RelocateError::Encoding { at: insn.addr() })?;
    let mut raw = insn.raw();
    let byte = &mut raw.as_mut_slice()[modrm];
    *byte = *byte & !REG | extension << 3;
    Ok(raw)
}

/// The bytes of `call [rsp + x]` turned into `jmp [rsp + x + 8]`, which reads the same pointer behind the
/// push of a return address. Nothing if that is longer than an instruction may be.
pub(super) fn jump_behind_push(insn: &Insn, displacement: i32) -> Option<RawBytes> {
    let head = &insn.bytes()[..modrm_index(insn, &Prefixes::of(insn))?];
    // [base + disp32], base in SIB, opcode extension 4: jmp.
    let tail = displacement.checked_add(8)?.to_le_bytes();
    let bytes = [head, &[0xA4, 0x24], &tail].concat();
    (bytes.len() <= crate::x86_64::MAX_INSN_LEN).then(|| RawBytes::new(&bytes))
}

/// An instruction with a memory operand relative to the instruction pointer.
pub(super) struct IpRelative<'a> {
    insn: &'a Insn,
    /// What the operand stands for.
    pub target: Addr,
    prefixes: Prefixes,
    modrm: usize,
}

impl<'a> IpRelative<'a> {
    /// Takes apart an instruction whose operand stands for `target`.
    pub fn of(insn: &'a Insn, target: Addr) -> Result<IpRelative<'a>, RelocateError> {
        let prefixes = Prefixes::of(insn);
        let modrm = modrm_index(insn, &prefixes).ok_or(RelocateError::Encoding { at: insn.addr() })?;
        match insn.bytes().get(modrm..modrm + 5) {
            Some([byte, ..]) if byte & MODE_AND_RM == IP_RELATIVE => {
                Ok(IpRelative { insn, target, prefixes, modrm })
            }
            _ => Err(RelocateError::Encoding { at: insn.addr() }),
        }
    }

    /// The same instruction for address `at`, if the operand is in reach from there.
    ///
    /// An address of 32 bits wraps (prefix 67, `lea` into a narrower register), so that it always is.
    pub fn moved(&self, at: Addr) -> Option<RawBytes> {
        let iced = self.insn.iced();
        let wraps =
            iced.memory_base() == Register::EIP || matches!(iced.code(), Code::Lea_r16_m | Code::Lea_r32_m);
        let end = at + self.insn.len() as u64;
        if !wraps && !self.target.in_rel32_of(end) {
            return None;
        }
        let displacement = self.target.offset_from(end) as i32;
        let mut raw = self.insn.raw();
        raw.as_mut_slice()[self.modrm + 1..self.modrm + 5].copy_from_slice(&displacement.to_le_bytes());
        Some(raw)
    }

    /// The same instruction with `[base]` as its operand, without a displacement. `base` is one of the
    /// registers of [`scratch`].
    pub fn through(&self, base: Gpr) -> RawBytes {
        let (head, tail) = self.insn.bytes().split_at(self.modrm);
        let bytes = [head, &[tail[0] & REG | base.low()], &tail[5..]].concat();
        let mut raw = RawBytes::new(&bytes);
        let bytes = raw.as_mut_slice();
        // The base is one of the first eight registers: REX.B = 0, and VEX.B, which is stored inverted, 1.
        let first = self.prefixes.len;
        match self.insn.iced().code().encoding() {
            EncodingKind::Legacy | EncodingKind::D3NOW => {
                if let Some(rex) = self.prefixes.rex {
                    bytes[rex] &= !0x01;
                }
            }
            EncodingKind::VEX if bytes[first] == 0xC5 => {}
            _ => {
                bytes[first + 1] |= 0x20;
            }
        }
        raw
    }

    /// In bytes that [`IpRelative::moved`] or [`IpRelative::through`] made, sets ModRM.reg: another
    /// operation of the same opcode group on the same operand.
    pub fn set_extension(&self, raw: &mut RawBytes, extension: u8) {
        let modrm = &mut raw.as_mut_slice()[self.modrm];
        *modrm = *modrm & !REG | extension << 3;
    }

    /// In the bytes that [`IpRelative::through`] made, puts `stand_in` wherever `rsp` is an explicit
    /// operand.
    pub fn replace_rsp(&self, raw: &mut RawBytes, stand_in: Gpr) -> Result<(), RelocateError> {
        let iced = self.insn.iced();
        let kinds = iced.op_code();
        let (first, modrm) = (self.prefixes.len, self.modrm);
        let encoding = iced.code().encoding();
        let bytes = raw.as_mut_slice();
        let mut replaced = false;
        for operand in 0..iced.op_count() {
            if iced.op_register(operand).full_register() != Register::RSP {
                continue;
            }
            match kinds.op_kind(operand) {
                OpCodeOperandKind::r8_reg
                | OpCodeOperandKind::r16_reg
                | OpCodeOperandKind::r32_reg
                | OpCodeOperandKind::r64_reg
                | OpCodeOperandKind::r32_reg_mem
                | OpCodeOperandKind::r64_reg_mem => {
                    // REX.R and its like are 0 for rsp, and for the stand-in.
                    bytes[modrm] = bytes[modrm] & !REG | stand_in.low() << 3;
                }
                OpCodeOperandKind::r32_vvvv | OpCodeOperandKind::r64_vvvv => {
                    // vvvv is stored inverted, in the last byte of VEX, in the third of XOP and EVEX.
                    let vvvv = if encoding == EncodingKind::VEX && bytes[first] == 0xC5 { 1 } else { 2 };
                    bytes[first + vvvv] = bytes[first + vvvv] & !0x78 | (!stand_in.number() & 0x0F) << 3;
                }
                _ => return Err(RelocateError::Encoding { at: self.insn.addr() }),
            }
            replaced = true;
        }
        if replaced { Ok(()) } else { Err(RelocateError::Encoding { at: self.insn.addr() }) }
    }
}

/// All general-purpose registers that an instruction uses, explicitly or implicitly. What a hint of the
/// reserved space names is no register operand: to processors that know it, it is part of the opcode or
/// a bound register.
pub(super) fn used_registers(insn: &Insn) -> GprSet {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(insn.iced(), InstructionInfoOptions::NO_MEMORY_USAGE);
    let registers = info.used_registers().iter().map(|used| used.register());
    registers
        .filter(|register| register.is_gpr())
        .map(|register| Gpr::ALL[register.full_register().number() & 15])
        .collect()
}

/// `N` registers that are not in `used`, and can be the base of an operand without REX, SIB or
/// displacement: an instruction with `ah` to `bh` takes no REX, and there is always room for them.
pub(super) fn scratch<const N: usize>(insn: &Insn, used: GprSet) -> Result<[Gpr; N], RelocateError> {
    const CANDIDATES: [Gpr; 6] = [Gpr::Rax, Gpr::Rcx, Gpr::Rdx, Gpr::Rbx, Gpr::Rsi, Gpr::Rdi];
    let mut free = CANDIDATES.into_iter().filter(|&register| !used.contains(register));
    let mut chosen = [Gpr::Rax; N];
    for slot in &mut chosen {
        *slot = free.next().ok_or(RelocateError::NoScratch { at: insn.addr() })?;
    }
    Ok(chosen)
}
