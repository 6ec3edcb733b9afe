//! What single instructions and blocks read and overwrite, without what they call.

use iced_x86::{Code as Opcode, Mnemonic, OpKind, Register};
use incise_image::Image;
use incise_isa::native::{Flow, GprSet, Insn, RegisterUses, abi, flag_use};

use super::set::Set;
use crate::graph::handles::Block;

/// What an instruction reads, and what it overwrites.
pub(super) fn of_insn(insn: &Insn, uses: &mut RegisterUses) -> (Set, Set) {
    // The kernel sees all, and may make a child that goes on with it, or change it.
    let opaque = matches!(insn.flow(), Flow::Syscall | Flow::Trap | Flow::Far | Flow::Begin(_) | Flow::Stop);
    match uses.of(insn).filter(|_| !opaque) {
        None => (Set::ALL, Set::EMPTY),
        Some(used) => {
            let flags = flag_use(insn);
            (
                Set::of(used.read, flags.read, used.vectors_read),
                Set::of(used.overwritten, flags.overwritten, used.vectors_overwritten),
            )
        }
    }
}

/// What the instructions of a block do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// What they read before they write it.
    pub reads: Set,
    /// What they overwrite.
    pub kills: Set,
    /// Registers that a call may change and whose first value they put on the stack.
    pub saved: GprSet,
    /// Such registers whose last value they take from the stack.
    pub restored: GprSet,
    /// What stands behind the block's end in the way of the convention.
    pub end: End,
}

/// How the end of a block departs from the convention.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Plain,
    /// The `ret` goes to an address that was written just before.
    Trampoline,
    /// The call asks for the address of a thread's variable: it keeps all registers but `rax` (psABI TLS
    /// descriptors).
    Descriptor,
}

impl Facts {
    pub(super) fn of(block: Block<'_>, image: &Image, file: &[u8], uses: &mut RegisterUses) -> Facts {
        let (mut reads, mut kills) = (Set::EMPTY, Set::EMPTY);
        let (mut saved, mut restored) = (GprSet::EMPTY, GprSet::EMPTY);
        let (mut end, mut writes_return, mut rax_is_address) = (End::Plain, false, false);
        for insn in block.instructions(image, file) {
            let (read, kill) = of_insn(&insn, uses);
            let i = insn.iced();
            if let Some(register) = stored(i) {
                let whole = GprSet::from_bits(1 << register);
                saved = saved.union(whole.intersection(kills.gprs().complement()));
            }
            restored = match loaded(i) {
                Some(register) => restored.union(GprSet::from_bits(1 << register)),
                None => restored.intersection(kill.gprs().complement()),
            };
            end = match insn.flow() {
                Flow::Return if writes_return => End::Trampoline,
                Flow::IndirectCall if rax_is_address && is_through_rax(i) => End::Descriptor,
                _ => End::Plain,
            };
            writes_return = writes_top(i);
            if kill.gprs().contains(incise_isa::native::Gpr::Rax) {
                rax_is_address = i.code() == Opcode::Lea_r64_m && i.is_ip_rel_memory_operand();
            }
            reads = reads.union(read.minus(kills));
            kills = kills.union(kill);
        }
        let (saved, restored) =
            (saved.intersection(abi::CALLER_SAVED), restored.intersection(abi::CALLER_SAVED));
        Facts { reads, kills, saved, restored, end }
    }
}

fn on_stack(i: &iced_x86::Instruction) -> bool {
    matches!(i.memory_base(), Register::RSP | Register::RBP) && i.memory_index() == Register::None
}

/// The 64-bit register an instruction puts on the stack.
fn stored(i: &iced_x86::Instruction) -> Option<usize> {
    let register = match i.code() {
        Opcode::Push_r64 => i.op0_register(),
        Opcode::Mov_rm64_r64 if i.op0_kind() == OpKind::Memory && on_stack(i) => i.op1_register(),
        _ => return None,
    };
    Some(register.number() & 15)
}

/// The 64-bit register an instruction takes from the stack.
fn loaded(i: &iced_x86::Instruction) -> Option<usize> {
    let takes = match i.code() {
        Opcode::Pop_r64 => true,
        Opcode::Mov_r64_rm64 => i.op1_kind() == OpKind::Memory && on_stack(i),
        _ => false,
    };
    takes.then(|| i.op0_register().number() & 15)
}

/// Whether it writes what a `ret` behind it would return to.
fn writes_top(i: &iced_x86::Instruction) -> bool {
    match i.mnemonic() {
        Mnemonic::Push => true,
        Mnemonic::Mov | Mnemonic::Xchg | Mnemonic::Add | Mnemonic::Sub | Mnemonic::Lea => {
            i.op0_kind() == OpKind::Memory && i.memory_base() == Register::RSP
        }
        _ => false,
    }
}

fn is_through_rax(i: &iced_x86::Instruction) -> bool {
    i.op0_kind() == OpKind::Memory
        && i.memory_base() == Register::RAX
        && i.memory_index() == Register::None
        && i.memory_displacement64() == 0
}
