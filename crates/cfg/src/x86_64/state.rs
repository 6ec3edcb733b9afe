//! Symbolic execution of straight code: what registers hold in terms of the path's start.

use iced_x86::{ConditionCode, Instruction, Mnemonic, OpAccess, OpKind, Register};
use iced_x86::{InstructionInfoFactory, InstructionInfoOptions};

use super::expr::{Arena, Node, V};
use crate::graph::edge::EdgeKind;

/// What the flags were set by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Flags {
    Unknown,
    /// Comparison of a value with a constant, both of that many bits.
    Compare {
        left: V,
        right: u64,
        bits: u8,
    },
}

/// Registers, flags and memory after a path.
pub(super) struct State {
    pub arena: Arena,
    registers: [V; 16],
    flags: Flags,
    era: u32,
    info: InstructionInfoFactory,
}

/// Registers that a call keeps: rbx, rsp, rbp, r12 to r15 (psABI 3.2.1).
const KEPT: u16 = 1 << 3 | 1 << 4 | 1 << 5 | 0xf << 12;

impl State {
    pub(super) fn new() -> State {
        State {
            arena: Arena::default(),
            registers: [0; 16],
            flags: Flags::Unknown,
            era: 0,
            info: InstructionInfoFactory::new(),
        }
    }

    /// Starts a path with nothing known.
    pub(super) fn begin(&mut self) {
        self.arena.clear();
        for number in 0..16 {
            self.registers[number] = self.arena.initial(number as u8);
        }
        (self.flags, self.era) = (Flags::Unknown, 0);
    }

    fn whole(&self, register: Register) -> Option<usize> {
        register.is_gpr().then(|| register.full_register().number() & 15)
    }

    /// What a register holds, its unused bits zero.
    fn read(&mut self, register: Register) -> V {
        let Some(number) = self.whole(register) else { return self.arena.fresh() };
        let value = self.registers[number];
        match register.size() {
            8 => value,
            1 if matches!(register, Register::AH | Register::BH | Register::CH | Register::DH) => {
                let shifted = self.arena.shr(value, 8);
                self.arena.zext(shifted, 8)
            }
            size => self.arena.zext(value, size as u8 * 8),
        }
    }

    fn write(&mut self, register: Register, value: V) {
        let Some(number) = self.whole(register) else { return };
        self.registers[number] = match register.size() {
            8 => value,
            4 => self.arena.zext(value, 32),
            // A part of a register: the rest stays, which no expression says.
            _ => self.arena.fresh(),
        };
    }

    /// The address of the memory operand.
    pub(super) fn address(&mut self, insn: &Instruction) -> V {
        if insn.segment_prefix() != Register::None {
            return self.arena.fresh();
        }
        let displacement = insn.memory_displacement64();
        if insn.is_ip_rel_memory_operand() {
            return self.arena.constant(displacement);
        }
        let mut sum = self.arena.constant(displacement);
        if insn.memory_base() != Register::None {
            let base = self.read(insn.memory_base());
            sum = self.arena.add(base, sum);
        }
        if insn.memory_index() != Register::None {
            let index = self.read(insn.memory_index());
            let scaled = self.arena.mul(index, u64::from(insn.memory_index_scale()));
            sum = self.arena.add(sum, scaled);
        }
        sum
    }

    /// An operand's value, its unused bits zero.
    pub(super) fn operand(&mut self, insn: &Instruction, index: u32) -> V {
        match insn.op_kind(index) {
            OpKind::Register => self.read(insn.op_register(index)),
            OpKind::Memory => {
                let at = self.address(insn);
                let size = insn.memory_size().size();
                if size > 8 {
                    return self.arena.fresh();
                }
                self.arena.load(at, size as u8, self.era)
            }
            kind if is_immediate(kind) => self.arena.constant(insn.immediate(index)),
            _ => self.arena.fresh(),
        }
    }

    fn width(insn: &Instruction) -> u8 {
        let bytes = match insn.op0_kind() {
            OpKind::Register => insn.op0_register().size(),
            _ => insn.memory_size().size(),
        };
        (bytes * 8).min(64) as u8
    }

    /// Executes one instruction that goes on behind itself.
    pub(super) fn step(&mut self, insn: &Instruction) {
        let to_register = insn.op0_kind() == OpKind::Register;
        match insn.mnemonic() {
            Mnemonic::Nop | Mnemonic::Endbr64 => {}
            Mnemonic::Mov | Mnemonic::Movzx if to_register && insn.op0_register().is_gpr() => {
                let value = self.operand(insn, 1);
                self.write(insn.op0_register(), value);
            }
            Mnemonic::Movsx | Mnemonic::Movsxd if to_register => {
                let bits = match insn.op1_kind() {
                    OpKind::Register => insn.op1_register().size(),
                    _ => insn.memory_size().size(),
                } as u8
                    * 8;
                let value = self.operand(insn, 1);
                let value = self.arena.sext(value, bits);
                self.write(insn.op0_register(), value);
            }
            Mnemonic::Cdqe => {
                let value = self.arena.sext(self.registers[0], 32);
                self.registers[0] = value;
            }
            Mnemonic::Lea => {
                let value = self.address(insn);
                self.write(insn.op0_register(), value);
            }
            Mnemonic::Add | Mnemonic::Sub | Mnemonic::Inc | Mnemonic::Dec if to_register => self.sum(insn),
            Mnemonic::Xor
                if to_register
                    && insn.op1_kind() == OpKind::Register
                    && insn.op0_register() == insn.op1_register() =>
            {
                let zero = self.arena.constant(0);
                self.write(insn.op0_register(), zero);
                self.flags = Flags::Unknown;
            }
            Mnemonic::And | Mnemonic::Shl | Mnemonic::Shr | Mnemonic::Imul if to_register => {
                self.product(insn)
            }
            Mnemonic::Cmp => {
                let (left, right) = (self.operand(insn, 0), self.operand(insn, 1));
                self.compare(left, right, Self::width(insn));
            }
            Mnemonic::Test => {
                let same = to_register
                    && insn.op1_kind() == OpKind::Register
                    && insn.op0_register() == insn.op1_register();
                let zero = self.arena.constant(0);
                let left = self.operand(insn, 0);
                self.flags = Flags::Unknown;
                if same {
                    self.compare(left, zero, Self::width(insn));
                }
            }
            _ => self.forget(insn),
        }
    }

    fn compare(&mut self, left: V, right: V, bits: u8) {
        self.flags = match self.arena.as_const(right) {
            Some(right) => Flags::Compare { left, right: right & low_mask(bits), bits },
            None => Flags::Unknown,
        };
    }

    fn sum(&mut self, insn: &Instruction) {
        let (register, bits) = (insn.op0_register(), Self::width(insn));
        let left = self.read(register);
        let (right, subtracts) = match insn.mnemonic() {
            Mnemonic::Inc => (self.arena.constant(1), false),
            Mnemonic::Dec => (self.arena.constant(1), true),
            mnemonic => (self.operand(insn, 1), mnemonic == Mnemonic::Sub),
        };
        let value = match (subtracts, self.arena.as_const(right)) {
            (false, _) => self.arena.add(left, right),
            (true, Some(constant)) => {
                let negative = self.arena.constant(constant.wrapping_neg());
                self.arena.add(left, negative)
            }
            (true, None) => self.arena.fresh(),
        };
        self.write(register, value);
        self.flags = Flags::Unknown;
        if insn.mnemonic() == Mnemonic::Sub {
            self.compare(left, right, bits);
        }
    }

    fn product(&mut self, insn: &Instruction) {
        let register = insn.op0_register();
        let (from, by) = match insn.op_count() {
            3 => (self.operand(insn, 1), self.operand(insn, 2)),
            _ => (self.read(register), self.operand(insn, 1)),
        };
        let value = match (insn.mnemonic(), self.arena.as_const(by)) {
            (Mnemonic::And, Some(mask)) => self.arena.and(from, mask & low_mask(Self::width(insn))),
            (Mnemonic::Shl, Some(by)) if by < 64 => self.arena.mul(from, 1 << by),
            (Mnemonic::Shr, Some(by)) if by < 64 => self.arena.shr(from, by as u8),
            (Mnemonic::Imul, Some(by)) => self.arena.mul(from, by),
            _ => self.arena.fresh(),
        };
        self.write(register, value);
        self.flags = Flags::Unknown;
        if insn.mnemonic() == Mnemonic::And {
            let (zero, left) = (self.arena.constant(0), self.read(register));
            self.compare(left, zero, Self::width(insn));
        }
    }

    /// Any other instruction: what it may write is unknown afterwards.
    fn forget(&mut self, insn: &Instruction) {
        let used = self.info.info_options(insn, InstructionInfoOptions::NONE);
        let writes = |access: OpAccess| {
            matches!(
                access,
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
        };
        let mut written = 0u16;
        for register in used.used_registers() {
            if register.register().is_gpr() && writes(register.access()) {
                written |= 1 << (register.register().full_register().number() & 15);
            }
        }
        if used.used_memory().iter().any(|memory| writes(memory.access())) {
            self.era += 1;
        }
        self.lose(written);
        if insn.rflags_modified() != 0 {
            self.flags = Flags::Unknown;
        }
    }

    fn lose(&mut self, registers: u16) {
        for number in (0..16).filter(|number| registers & 1 << number != 0) {
            self.registers[number] = self.arena.fresh();
        }
    }

    /// Executes the last instruction of a block, whose edge of that kind is taken.
    pub(super) fn leave(&mut self, insn: &Instruction, by: EdgeKind) {
        match by {
            EdgeKind::Taken | EdgeKind::NotTaken => self.branch(insn, by == EdgeKind::Taken),
            EdgeKind::CallFallThrough => {
                self.lose(!KEPT);
                self.era += 1;
                self.flags = Flags::Unknown;
            }
            EdgeKind::FallThrough => self.step(insn),
            EdgeKind::Catch => {
                self.lose(!(1 << 4 | 1 << 5));
                self.era += 1;
                self.flags = Flags::Unknown;
            }
            _ => {}
        }
    }

    fn branch(&mut self, insn: &Instruction, taken: bool) {
        let Flags::Compare { left, right, bits } = self.flags else {
            if insn.condition_code() == ConditionCode::None {
                self.forget(insn);
            }
            return;
        };
        let mut condition = insn.condition_code();
        if condition == ConditionCode::None {
            // loop, jrcxz.
            self.forget(insn);
            return;
        }
        if !taken {
            condition = negate(condition);
        }
        let most = low_mask(bits);
        let positive = self.arena.range(left).1 <= most >> 1 && right <= most >> 1;
        let (low, high) = match condition {
            ConditionCode::be => (0, right),
            ConditionCode::b if right > 0 => (0, right - 1),
            ConditionCode::a if right < most => (right + 1, most),
            ConditionCode::ae => (right, most),
            ConditionCode::e => (right, right),
            ConditionCode::ne if right == 0 => (1, most),
            ConditionCode::le if positive => (0, right),
            ConditionCode::l if positive && right > 0 => (0, right - 1),
            ConditionCode::g if positive => (right + 1, most),
            ConditionCode::ge if positive => (right, most),
            ConditionCode::ns if right == 0 => (0, most >> 1),
            ConditionCode::ge if right == 0 => (0, most >> 1),
            _ => return,
        };
        self.arena.bound(left, low, high);
    }

    /// What a value is made of.
    pub(super) fn node(&self, value: V) -> Node {
        self.arena.get(value)
    }
}

fn low_mask(bits: u8) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

fn negate(condition: ConditionCode) -> ConditionCode {
    use ConditionCode::{a, ae, b, be, e, g, ge, l, le, ne, ns, s};
    match condition {
        a => be,
        be => a,
        b => ae,
        ae => b,
        e => ne,
        ne => e,
        g => le,
        le => g,
        l => ge,
        ge => l,
        s => ns,
        ns => s,
        _ => ConditionCode::None,
    }
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}
