//! How far the stack pointer is from where it was at the entry.

use iced_x86::{InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpAccess, OpKind, Register};
use incise_isa::native::Insn;

use crate::graph::edge::EdgeKind;
use crate::parse::body::Body;
use crate::parse::code::{Code, Off};

/// `rsp` and `rbp` relative to `rsp` at the entry, in bytes, where they are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Height {
    rsp: Option<i64>,
    rbp: Option<i64>,
}

/// Heights at the starts of a function's blocks.
pub(super) struct Heights {
    at_start: Vec<Option<Height>>,
}

impl Heights {
    pub(super) fn of(code: &Code<'_>, body: &Body, entry: Off) -> Heights {
        let mut at_start = vec![None; body.blocks.len()];
        let mut open: Vec<usize> = body.starting_at(entry).into_iter().collect();
        for &block in &open {
            at_start[block] = Some(Height { rsp: Some(0), rbp: None });
        }
        while let Some(index) = open.pop() {
            let (Some(block), Some(Some(height))) = (body.blocks.get(index), at_start.get(index).copied())
            else {
                continue;
            };
            let after = code.insns(block.start..block.end).fold(height, |height, insn| height.step(&insn));
            for edge in body.edges_of(index) {
                if matches!(edge.kind, EdgeKind::Call | EdgeKind::Catch) {
                    continue;
                }
                if let Some(known @ None) = at_start.get_mut(edge.to as usize) {
                    *known = Some(after);
                    open.push(edge.to as usize);
                }
            }
        }
        Heights { at_start }
    }

    /// The height of `rsp` before the last instruction of `block`.
    pub(super) fn before_last(&self, code: &Code<'_>, body: &Body, block: usize) -> Option<i64> {
        let height = self.at_start.get(block).copied().flatten()?;
        let block = body.blocks.get(block)?;
        code.insns(block.start..block.last).fold(height, |height, insn| height.step(&insn)).rsp
    }
}

impl Height {
    fn step(self, insn: &Insn) -> Height {
        let i = insn.iced();
        let moved = |by: i64| Height { rsp: self.rsp.map(|rsp| rsp + by), ..self };
        let to = |register| i.op0_kind() == OpKind::Register && i.op0_register() == register;
        let by = || match i.op1_kind() {
            OpKind::Immediate8to64 | OpKind::Immediate32to64 => Some(i.immediate(1) as i64),
            _ => None,
        };
        match i.mnemonic() {
            Mnemonic::Push | Mnemonic::Pushfq => moved(-8),
            Mnemonic::Pop if to(Register::RBP) => Height { rbp: None, ..moved(8) },
            Mnemonic::Pop if to(Register::RSP) => Height { rsp: None, ..self },
            Mnemonic::Pop | Mnemonic::Popfq => moved(8),
            Mnemonic::Sub if to(Register::RSP) => match by() {
                Some(by) => moved(by.wrapping_neg()),
                None => Height { rsp: None, ..self },
            },
            Mnemonic::Add if to(Register::RSP) => match by() {
                Some(by) => moved(by),
                None => Height { rsp: None, ..self },
            },
            Mnemonic::Lea if to(Register::RSP) || to(Register::RBP) => {
                let plain = i.memory_index() == Register::None;
                let from = match i.memory_base() {
                    Register::RSP if plain => self.rsp,
                    Register::RBP if plain => self.rbp,
                    _ => None,
                };
                let sum = from.map(|from| from.wrapping_add(i.memory_displacement64() as i64));
                if to(Register::RSP) { Height { rsp: sum, ..self } } else { Height { rbp: sum, ..self } }
            }
            Mnemonic::Mov if to(Register::RBP) && i.op1_register() == Register::RSP => {
                Height { rbp: self.rsp, ..self }
            }
            Mnemonic::Mov if to(Register::RSP) && i.op1_register() == Register::RBP => {
                Height { rsp: self.rbp, ..self }
            }
            Mnemonic::Leave => Height { rsp: self.rbp.map(|rbp| rbp + 8), rbp: None },
            // What is called takes its return address away again.
            Mnemonic::Call => self,
            _ => {
                let written = written(insn);
                Height {
                    rsp: self.rsp.filter(|_| written & 1 << 4 == 0),
                    rbp: self.rbp.filter(|_| written & 1 << 5 == 0),
                }
            }
        }
    }
}

/// The general-purpose registers an instruction may write, a bit each.
pub(super) fn written(insn: &Insn) -> u16 {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info_options(insn.iced(), InstructionInfoOptions::NO_MEMORY_USAGE);
    let written = info.used_registers().iter().filter(|used| {
        used.register().is_gpr()
            && matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
    });
    written.fold(0, |set, used| set | 1 << (used.register().full_register().number() & 15))
}

/// Whether the first operand, a 32-bit register, is written for certain, and no other register shares its
/// write: then the upper half is cleared.
pub(super) fn writes_whole(insn: &Insn) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(insn.iced());
    let register = insn.iced().op0_register();
    insn.iced().op0_kind() == OpKind::Register
        && insn.iced().mnemonic() != Mnemonic::Bsf
        && insn.iced().mnemonic() != Mnemonic::Bsr
        && info.op0_access() != OpAccess::Read
        && info.op0_access() != OpAccess::CondWrite
        && register.is_gpr32()
        && written(insn).count_ones() == 1
}
