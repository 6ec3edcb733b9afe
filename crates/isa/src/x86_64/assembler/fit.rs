//! Whether operands fit an encoding form, and the instruction they make with it.

use iced_x86::{Code, Instruction, OpCodeOperandKind as Kind, OpKind, Register};

use super::arrange::arrange;
use super::error::Problem;
use super::expression::{Expression, Names};
use super::kinds::{is_branch, may_address, may_be_memory, may_be_register};
use super::mnemonic::Meaning;
use super::operand::{Memory, Operand, Reach, What, Written};
use super::register;

/// Why operands do not fit a form. The later ones have come nearer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Misfit {
    /// Their number.
    Count,
    /// An operand is of another kind.
    Kind(usize),
    /// A prefix, or what is in braces, does not go with it.
    Extra(String),
    /// The encoder found something.
    Encoder(String),
    /// Memory of another width.
    Width(usize, u32),
    /// A value or distance that does not fit.
    Range(usize, String),
}

/// Either a misfit, or an error whatever the form (a name that nothing is called).
pub(super) enum Failure {
    Misfit(Misfit),
    Problem(Problem),
}

impl From<Misfit> for Failure {
    fn from(misfit: Misfit) -> Failure {
        Failure::Misfit(misfit)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Failure {
        Failure::Problem(problem)
    }
}

/// The instruction that `written` is with form `code`. Where a displacement counts from the end of the instruction,
/// `len` is its length.
pub(super) fn fit(
    code: Code,
    meaning: &Meaning,
    written: &Written,
    names: &Names<'_>,
    len: usize,
) -> Result<Instruction, Failure> {
    let kinds = code.op_code().op_kinds();
    let operands = arrange(code, kinds, &written.operands).ok_or(Misfit::Count)?;
    let mut insn = Instruction::default();
    insn.set_code(code);
    let mut fitting = Fitting { insn, meaning, written, names, len };
    for (index, (&kind, place)) in kinds.iter().zip(&operands).enumerate() {
        match place {
            Some(place) => fitting.operand(index as u32, kind, *place, &written.operands[*place])?,
            None => fitting.implied(index as u32, kind).ok_or(Misfit::Count)?,
        }
    }
    fitting.extras(&operands)?;
    Ok(fitting.insn)
}

pub(super) struct Fitting<'a> {
    pub(super) insn: Instruction,
    pub(super) meaning: &'a Meaning,
    pub(super) written: &'a Written,
    names: &'a Names<'a>,
    len: usize,
}

impl Fitting<'_> {
    /// Sets an operand that is not written.
    fn implied(&mut self, index: u32, kind: Kind) -> Option<()> {
        let named = match kind {
            Kind::st0 => Register::ST0,
            Kind::sti_opcode => Register::ST1,
            Kind::al => Register::AL,
            Kind::ax => Register::AX,
            Kind::eax => Register::EAX,
            Kind::rax => Register::RAX,
            Kind::dx => Register::DX,
            Kind::imm8_const_1 => {
                self.insn.set_immediate8(1);
                return self.insn.try_set_op_kind(index, OpKind::Immediate8).ok();
            }
            Kind::seg_rSI | Kind::es_rDI | Kind::seg_rDI => {
                let op = match (kind, self.written.prefixes.narrow_address) {
                    (Kind::seg_rSI, false) => OpKind::MemorySegRSI,
                    (Kind::seg_rSI, true) => OpKind::MemorySegESI,
                    (Kind::es_rDI, false) => OpKind::MemoryESRDI,
                    (Kind::es_rDI, true) => OpKind::MemoryESEDI,
                    (_, false) => OpKind::MemorySegRDI,
                    (_, true) => OpKind::MemorySegEDI,
                };
                return self.insn.try_set_op_kind(index, op).ok();
            }
            Kind::seg_rBX_al => {
                self.insn.set_memory_base(Register::RBX);
                self.insn.set_memory_index(Register::AL);
                self.insn.set_memory_index_scale(1);
                return self.insn.try_set_op_kind(index, OpKind::Memory).ok();
            }
            _ => return None,
        };
        self.register(index, named)
    }

    fn register(&mut self, index: u32, named: Register) -> Option<()> {
        self.insn.try_set_op_kind(index, OpKind::Register).ok()?;
        self.insn.try_set_op_register(index, named).ok()
    }

    fn operand(&mut self, index: u32, kind: Kind, place: usize, operand: &Operand) -> Result<(), Failure> {
        let misfit = || Failure::from(Misfit::Kind(place));
        match &operand.what {
            What::Register(named) => {
                if !may_be_register(kind, *named) {
                    return Err(misfit());
                }
                self.register(index, *named).ok_or_else(misfit)
            }
            What::Memory(memory) => self.memory(index, kind, place, memory),
            What::Bare(value) if is_branch(kind) => self.branch(index, kind, place, value),
            What::Bare(value) => self.memory(index, kind, place, &Memory::absolute(value.clone())),
            What::Value(value) if is_branch(kind) && !self.written.att => {
                self.branch(index, kind, place, value)
            }
            What::Value(value) => self.immediate(index, kind, place, value),
        }
    }

    fn memory(&mut self, index: u32, kind: Kind, place: usize, memory: &Memory) -> Result<(), Failure> {
        let misfit = || Failure::from(Misfit::Kind(place));
        let set = |insn: &mut Instruction, op: OpKind| insn.try_set_op_kind(index, op).map_err(|_| misfit());
        let plain = memory.index == Register::None && memory.displacement == Expression::default();
        let string = match (kind, memory.base) {
            (Kind::seg_rSI, Register::RSI) => Some(OpKind::MemorySegRSI),
            (Kind::seg_rSI, Register::ESI) => Some(OpKind::MemorySegESI),
            (Kind::es_rDI, Register::RDI) => Some(OpKind::MemoryESRDI),
            (Kind::es_rDI, Register::EDI) => Some(OpKind::MemoryESEDI),
            (Kind::seg_rDI, Register::RDI) => Some(OpKind::MemorySegRDI),
            (Kind::seg_rDI, Register::EDI) => Some(OpKind::MemorySegEDI),
            (Kind::seg_rSI | Kind::es_rDI | Kind::seg_rDI, _) => return Err(misfit()),
            _ => None,
        };
        if let Some(op) = string {
            if !plain || kind == Kind::es_rDI && memory.segment.is_some_and(|s| s != Register::ES) {
                return Err(misfit());
            }
            if kind != Kind::es_rDI {
                self.segment(memory.segment, Register::DS);
            }
            return set(&mut self.insn, op);
        }
        if kind == Kind::seg_rBX_al {
            let translated = matches!(memory.base, Register::RBX | Register::EBX)
                && memory.displacement == Expression::default()
                && matches!(memory.index, Register::AL | Register::None);
            if !translated {
                return Err(misfit());
            }
            self.segment(memory.segment, Register::DS);
            self.insn.set_memory_base(memory.base);
            self.insn.set_memory_index(Register::AL);
            self.insn.set_memory_index_scale(1);
            return set(&mut self.insn, OpKind::Memory);
        }
        if !may_be_memory(kind) {
            return Err(misfit());
        }
        let value = memory.displacement.value(self.names)?;
        let alone = memory.base == Register::None && memory.index == Register::None;
        let signed = value as u64 as i64;
        let near = i32::try_from(signed).is_ok();
        let narrow_address = self.written.prefixes.narrow_address;
        self.segment(memory.segment, Register::None);
        set(&mut self.insn, OpKind::Memory)?;
        if kind == Kind::mem_offs {
            if !alone || memory.relative || near && !self.meaning.absolute && !narrow_address {
                return Err(misfit());
            }
            self.insn.set_memory_displacement64(value as u64);
            self.insn.set_memory_displ_size(if narrow_address { 4 } else { 8 });
            return Ok(());
        }
        if self.meaning.absolute {
            return Err(misfit());
        }
        let to_ip = matches!(memory.base, Register::RIP | Register::EIP);
        if memory.relative || to_ip || alone && !near && memory.segment.is_none() {
            let named = memory.relative || !to_ip;
            let end = self.names.here + self.len as u64;
            let target = if named { value as u64 } else { end.0.wrapping_add(value as u64) };
            let base = if memory.base == Register::EIP { Register::EIP } else { Register::RIP };
            let target = if base == Register::EIP { u64::from(target as u32) } else { target };
            self.insn.set_memory_base(base);
            self.insn.set_memory_displacement64(target);
            self.insn.set_memory_displ_size(if base == Register::EIP { 4 } else { 8 });
            return Ok(());
        }
        if !may_address(kind, memory.base, memory.index) {
            let message = "an address is made of 64-bit registers, or of 32-bit ones; rsp is never an index";
            return Err(Misfit::Range(place, message.to_owned()).into());
        }
        let narrow = memory.base.is_gpr32() || memory.index.is_gpr32();
        let unsigned = narrow && u32::try_from(value).is_ok();
        if !near && !unsigned {
            let message = format!("the displacement {value:#x} does not fit 32 bits");
            return Err(Misfit::Range(place, message).into());
        }
        let displacement = if narrow { u64::from(value as u32) } else { signed as u64 };
        self.insn.set_memory_base(memory.base);
        self.insn.set_memory_index(memory.index);
        self.insn.set_memory_index_scale(if memory.index == Register::None { 1 } else { memory.scale });
        self.insn.set_memory_displacement64(displacement);
        let written = value != 0 || memory.displacement.name.is_some();
        let size =
            if memory.base == Register::None { if narrow { 4 } else { 8 } } else { u32::from(written) };
        self.insn.set_memory_displ_size(size);
        Ok(())
    }

    fn segment(&mut self, segment: Option<Register>, default: Register) {
        if let Some(segment) = segment.filter(|segment| *segment != default) {
            self.insn.set_segment_prefix(segment);
        }
    }

    fn branch(&mut self, index: u32, kind: Kind, place: usize, value: &Expression) -> Result<(), Failure> {
        match (kind, self.written.reach) {
            (Kind::br64_1, None | Some(Reach::Short))
            | (Kind::br64_4 | Kind::xbegin_4, None | Some(Reach::Near)) => {}
            _ => return Err(Misfit::Kind(place).into()),
        }
        self.insn.set_near_branch64(value.value(self.names)? as u64);
        self.insn.try_set_op_kind(index, OpKind::NearBranch64).map_err(|_| Misfit::Kind(place))?;
        Ok(())
    }

    fn immediate(&mut self, index: u32, kind: Kind, place: usize, value: &Expression) -> Result<(), Failure> {
        let number = value.value(self.names)?;
        let too_big = |bits: u32| {
            let message = format!("{number:#x} does not fit {bits} bits here");
            Failure::from(Misfit::Range(place, message))
        };
        // Signed or unsigned, as the writer likes.
        let fits = |bits: u32| number < 1 << bits && number >= -(1 << (bits - 1));
        let signed = |bits: u32| {
            let wrapped = if number >= 1 << (bits - 1) { number - (1 << bits) } else { number };
            if fits(bits) { Ok(wrapped as i64) } else { Err(too_big(bits)) }
        };
        let second =
            (0..index).any(|op| matches!(self.insn.op_kind(op), OpKind::Immediate8 | OpKind::Immediate16));
        let insn = &mut self.insn;
        let byte = |wide: i64| i8::try_from(wide).map_err(|_| too_big(8));
        let op = match kind {
            Kind::imm8_const_1 if number == 1 => {
                insn.set_immediate8(1);
                OpKind::Immediate8
            }
            Kind::imm4_m2z => {
                insn.set_immediate8(u8::try_from(number).ok().filter(|n| *n < 16).ok_or_else(|| too_big(4))?);
                OpKind::Immediate8
            }
            Kind::imm8 if second => {
                insn.set_immediate8_2nd(signed(8)? as u8);
                OpKind::Immediate8_2nd
            }
            Kind::imm8 => {
                insn.set_immediate8(signed(8)? as u8);
                OpKind::Immediate8
            }
            Kind::imm8sex16 => {
                insn.set_immediate8to16(byte(signed(16)?)?.into());
                OpKind::Immediate8to16
            }
            Kind::imm8sex32 => {
                insn.set_immediate8to32(byte(signed(32)?)?.into());
                OpKind::Immediate8to32
            }
            Kind::imm8sex64 => {
                insn.set_immediate8to64(byte(signed(64)?)?.into());
                OpKind::Immediate8to64
            }
            Kind::imm16 => {
                insn.set_immediate16(signed(16)? as u16);
                OpKind::Immediate16
            }
            Kind::imm32 => {
                insn.set_immediate32(signed(32)? as u32);
                OpKind::Immediate32
            }
            Kind::imm32sex64 => {
                let wide = signed(64)?;
                insn.set_immediate32to64(i32::try_from(wide).map_err(|_| too_big(32))?.into());
                OpKind::Immediate32to64
            }
            Kind::imm64 => {
                insn.set_immediate64(signed(64)? as u64);
                OpKind::Immediate64
            }
            _ => return Err(Misfit::Kind(place).into()),
        };
        insn.try_set_op_kind(index, op).map_err(|_| Misfit::Kind(place))?;
        Ok(())
    }
}

/// The name of the register operand at `index`, for messages.
pub(super) fn register_text(operand: &Operand) -> Option<String> {
    match operand.what {
        What::Register(named) => Some(register::name(named)),
        _ => None,
    }
}
