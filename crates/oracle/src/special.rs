//! Instructions that need more than valid addresses: counts, selectors, targets, saved images.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register, UsedMemory};

use crate::native::HARMLESS;
use crate::start::{RSP, Solver, number};

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RBP: usize = 5;
const CODE_SELECTOR: u16 = 0x33;
const DATA_SELECTOR: u16 = 0x2b;

/// Registers to decide before memory operands are.
pub fn registers(solver: &mut Solver<'_>, insn: &Instruction) {
    if insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix()) {
        let count = solver.rng.below(9);
        solver.pin(RCX, count);
    }
    if insn.is_jmp_near_indirect() || insn.is_call_near_indirect() {
        let target = solver.landing();
        if let (OpKind::Register, Some(register)) = (insn.op0_kind(), number(insn.op0_register())) {
            solver.pin(register, target);
        }
    }
    match insn.mnemonic() {
        Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc => {
            // The bit offset in a register moves the address.
            if let (OpKind::Memory, Some(register)) = (insn.op0_kind(), number(insn.op1_register())) {
                let offset = solver.rng.below(2000) as i64 - 1000;
                solver.pin(register, offset as u64);
            }
        }
        Mnemonic::Leave | Mnemonic::Enter => {
            let frame = solver.start.gpr[RSP] + 8 * solver.rng.below(32);
            solver.pin(RBP, frame);
        }
        Mnemonic::Loop | Mnemonic::Loope | Mnemonic::Loopne | Mnemonic::Jrcxz | Mnemonic::Jecxz => {
            let noise = solver.rng.next();
            let count = solver.rng.pick(&[0, 0, 1, 1, 2, 1 << 32, 1 << 32 | 1, noise]);
            solver.pin(RCX, count);
        }
        Mnemonic::Div | Mnemonic::Idiv if solver.rng.one_in(2) => {
            let high = if solver.start.gpr[RAX] >> 63 == 1 { u64::MAX } else { 0 };
            solver.pin(RDX, high);
        }
        Mnemonic::Syscall => {
            let call = solver.rng.pick(&HARMLESS);
            solver.pin(RAX, call.into());
        }
        Mnemonic::Cpuid => {
            let leaf = solver.rng.pick(&[0, 1, 7, 0xd, 0x8000_0000, 0x8000_0001, 0x8000_0008]);
            solver.pin(RAX, leaf);
            let sub = solver.rng.below(3);
            solver.pin(RCX, sub);
        }
        // Extensions in ecx are reserved.
        Mnemonic::Monitorx => {
            let extensions = solver.rng.pick(&[0, 0, 0, 1]);
            solver.pin(RCX, extensions);
        }
        Mnemonic::Xgetbv => {
            let index = solver.rng.below(3);
            solver.pin(RCX, index);
        }
        Mnemonic::Mov | Mnemonic::Pop | Mnemonic::Verr | Mnemonic::Verw | Mnemonic::Lar | Mnemonic::Lsl => {
            selector(solver, insn);
        }
        Mnemonic::Wrfsbase | Mnemonic::Wrgsbase => {
            if let Some(register) = number(insn.op0_register()) {
                let base = solver.rng.next() >> 17;
                solver.pin(register, base);
            }
        }
        _ if is_state_mask_user(insn) => {
            let mask = solver.rng.pick(&[7, 0xe7, 0xff, 0xffff_ffff, 3, 4, 0xe0]);
            solver.pin(RAX, mask);
            solver.pin(RDX, 0);
        }
        _ => {}
    }
}

/// Loads of segment registers: selectors that exist as well as noise.
fn selector(solver: &mut Solver<'_>, insn: &Instruction) {
    let moves = insn.op0_register().is_segment_register();
    let asks = !matches!(insn.mnemonic(), Mnemonic::Mov | Mnemonic::Pop);
    if let (true, OpKind::Register, Some(register)) =
        (moves || asks, insn.op_kind(insn.op_count() - 1), number(insn.op_register(insn.op_count() - 1)))
    {
        let noise = solver.rng.next() as u16;
        let selector = solver.rng.pick(&[0, DATA_SELECTOR, CODE_SELECTOR, 3, 0x23, noise]);
        let upper = solver.rng.next() & !0xffff;
        solver.pin(register, upper | u64::from(selector));
    }
}

fn is_state_mask_user(insn: &Instruction) -> bool {
    matches!(
        insn.mnemonic(),
        Mnemonic::Xsave
            | Mnemonic::Xsave64
            | Mnemonic::Xsavec
            | Mnemonic::Xsavec64
            | Mnemonic::Xsaveopt
            | Mnemonic::Xsaveopt64
            | Mnemonic::Xrstor
            | Mnemonic::Xrstor64
    )
}

/// Memory to decide once the addresses are known.
pub fn memory(solver: &mut Solver<'_>, insn: &Instruction, used: &[UsedMemory]) {
    let explicit = (0..insn.op_count()).any(|op| insn.op_kind(op) == OpKind::Memory);
    let operand = if explicit { used.first().and_then(|memory| solver.address(memory)) } else { None };
    let stack = solver.start.gpr[RSP];
    let target = solver.landing();
    // A far pointer can only hold 32 bits of offset: both neighbourhoods use the low pads.
    let low_target = crate::layout::Place::Low.pads().start + 0x100 + solver.rng.below(0x1e00);
    let code = insn.code();
    if insn.is_jmp_near_indirect() || insn.is_call_near_indirect() {
        if let Some(at) = operand {
            solver.poke(at, &target.to_le_bytes());
        }
        return;
    }
    if code.is_jmp_far_indirect() || code.is_call_far_indirect() {
        if let Some(at) = operand {
            let wide = matches!(code, Code::Jmp_m1664 | Code::Call_m1664) && solver.rng.one_in(2);
            solver.poke(at, &low_target.to_le_bytes());
            solver.poke(at + if wide { 8 } else { 4 }, &CODE_SELECTOR.to_le_bytes());
        }
        return;
    }
    match insn.mnemonic() {
        Mnemonic::Ret => solver.poke(stack, &target.to_le_bytes()),
        Mnemonic::Retf => {
            let width = stack_width(insn.code());
            solver.poke(stack, &low_target.to_le_bytes());
            solver.poke(stack + width, &u64::from(CODE_SELECTOR).to_le_bytes()[..width as usize]);
        }
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => iret(solver, insn.code(), low_target),
        Mnemonic::Pop if insn.op0_register().is_segment_register() => {
            let selector = solver.rng.pick(&[0, DATA_SELECTOR, CODE_SELECTOR, 3]);
            solver.poke(stack, &selector.to_le_bytes());
        }
        Mnemonic::Pop if insn.op0_register().full_register() == Register::RSP => {
            solver.poke(stack, &(stack - 0x100).to_le_bytes());
        }
        Mnemonic::Mov if insn.op0_register().is_segment_register() => {
            let selector = solver.rng.pick(&[0, DATA_SELECTOR, CODE_SELECTOR, 3]);
            operand.into_iter().for_each(|at| solver.poke(at, &selector.to_le_bytes()));
        }
        Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
            let selector = solver.rng.pick(&[0, DATA_SELECTOR]);
            let offset = match insn.op0_register().size() {
                2 => 2,
                4 => 4,
                _ => solver.rng.pick(&[4, 8]),
            };
            operand.into_iter().for_each(|at| solver.poke(at + offset, &selector.to_le_bytes()));
        }
        Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => {
            let control = solver.rng.next() as u32 & 0xffbf;
            operand.into_iter().for_each(|at| solver.poke(at, &control.to_le_bytes()));
        }
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 => {
            operand.into_iter().for_each(|at| solver.poke(at + 24, &0x1f80_u32.to_le_bytes()));
        }
        Mnemonic::Xrstor | Mnemonic::Xrstor64 => {
            if let Some(at) = operand {
                let present = solver.rng.below(8) | solver.rng.pick(&[0, 0xe0]);
                solver.poke(at + 24, &0x1f80_u32.to_le_bytes());
                solver.poke(at + 512, &present.to_le_bytes());
                solver.poke(at + 520, &[0; 56]);
            }
        }
        Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b if solver.rng.one_in(2) => {
            compare_equal(solver, insn, operand);
        }
        // Numbers that fit a single push, or the pop of a stack pointer, into data that is a stack.
        Mnemonic::Mov | Mnemonic::Xchg | Mnemonic::Cmovne
            if insn.op0_register() == Register::RSP && operand.is_some() =>
        {
            let value = stack - 0x40;
            operand.into_iter().for_each(|at| solver.poke(at, &value.to_le_bytes()));
        }
        _ => {}
    }
}

fn stack_width(code: Code) -> u64 {
    match code {
        Code::Retfw | Code::Retfw_imm16 | Code::Iretw => 2,
        Code::Retfd | Code::Retfd_imm16 | Code::Iretd => 4,
        _ => 8,
    }
}

fn iret(solver: &mut Solver<'_>, code: Code, target: u64) {
    let (stack, width) = (solver.start.gpr[RSP], stack_width(code));
    let flags = solver.rng.next() & 0xcd5 | 0x202;
    let after = if width == 8 { stack + 0x80 } else { crate::layout::Place::Low.stack().start + 0x800 };
    let frame = [target, CODE_SELECTOR.into(), flags, after, DATA_SELECTOR.into()];
    for (slot, value) in (0_u64..).zip(frame) {
        solver.poke(stack + slot * width, &value.to_le_bytes()[..width as usize]);
    }
}

/// Memory equal to the accumulator, so that the exchange happens.
fn compare_equal(solver: &mut Solver<'_>, insn: &Instruction, operand: Option<u64>) {
    let Some(at) = operand else { return };
    let [rax, rdx] = [solver.start.gpr[RAX], solver.start.gpr[RDX]].map(u64::to_le_bytes);
    let size = insn.memory_size().size();
    match insn.mnemonic() {
        Mnemonic::Cmpxchg => solver.poke(at, &rax[..size.min(8)]),
        Mnemonic::Cmpxchg8b => solver.poke(at, &[&rax[..4], &rdx[..4]].concat()),
        _ => solver.poke(at, &[rax, rdx].concat()),
    }
    let noise = solver.rng.next();
    solver.pin(RBX, noise);
}
