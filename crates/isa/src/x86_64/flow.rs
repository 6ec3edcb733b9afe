//! What an instruction does to the flow of control.

use iced_x86::{Code, FlowControl, Mnemonic};

use super::Insn;
use crate::Addr;

/// What an instruction does to the flow of control.
///
/// Targets are those of 64-bit operand size. A near branch with prefix 66 is decoded as Intel
/// processors run it; AMD processors truncate its target to 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flow {
    /// Goes on behind itself.
    Next,
    /// `jmp rel`.
    Jump(Addr),
    /// `jcc`, `loop`, `loope`, `loopne`, `jrcxz`, `jecxz`.
    Branch(Addr),
    /// `call rel`.
    Call(Addr),
    /// `jmp r/m`.
    IndirectJump,
    /// `call r/m`.
    IndirectCall,
    /// `ret`.
    Return,
    /// `xbegin`, with the address it aborts to.
    Begin(Addr),
    /// `syscall`, `sysenter`.
    Syscall,
    /// `int3`, `int1`, `int n`.
    Trap,
    /// `ud0`, `ud1`, `ud2`, `hlt`.
    Stop,
    /// Changes the code segment or the privilege level: `jmp far`, `call far`, `retf`, `iret`, `sysret`
    /// and their like.
    Far,
}

impl Flow {
    /// Whether control can come to the address behind the instruction: by going on, or by the return
    /// of what it calls. For [`Flow::Far`] this is not known, and said to be so.
    pub fn falls_through(&self) -> bool {
        match self {
            Flow::Next
            | Flow::Branch(_)
            | Flow::Call(_)
            | Flow::IndirectCall
            | Flow::Begin(_)
            | Flow::Syscall
            | Flow::Trap
            | Flow::Far => true,
            Flow::Jump(_) | Flow::IndirectJump | Flow::Return | Flow::Stop => false,
        }
    }

    /// The address in the instruction itself that control can go to.
    pub fn target(&self) -> Option<Addr> {
        match *self {
            Flow::Jump(to) | Flow::Branch(to) | Flow::Call(to) | Flow::Begin(to) => Some(to),
            _ => None,
        }
    }
}

impl Insn {
    /// What it does to the flow of control.
    #[inline]
    pub fn flow(&self) -> Flow {
        let code = self.iced().code();
        match code.flow_control() {
            FlowControl::Next => match code {
                Code::Hlt => Flow::Stop,
                _ => Flow::Next,
            },
            control => self.other_flow(control),
        }
    }

    fn other_flow(&self, control: FlowControl) -> Flow {
        let target = Addr(self.iced().near_branch_target());
        let mnemonic = self.iced().mnemonic();
        let near = !matches!(
            self.iced().code(),
            Code::Jmp_m1616
                | Code::Jmp_m1632
                | Code::Jmp_m1664
                | Code::Call_m1616
                | Code::Call_m1632
                | Code::Call_m1664
        );
        match (control, mnemonic) {
            (FlowControl::UnconditionalBranch, _) => Flow::Jump(target),
            (FlowControl::ConditionalBranch, _) => Flow::Branch(target),
            (FlowControl::Call, Mnemonic::Call) => Flow::Call(target),
            (FlowControl::Call, Mnemonic::Syscall | Mnemonic::Sysenter) => Flow::Syscall,
            // Calls of a hypervisor or a monitor: they come back behind themselves, to whoever asked.
            (FlowControl::Call, _) => Flow::Next,
            (FlowControl::IndirectBranch, _) if near => Flow::IndirectJump,
            (FlowControl::IndirectCall, _) if near => Flow::IndirectCall,
            (FlowControl::Return, Mnemonic::Ret) => Flow::Return,
            (FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return, _) => Flow::Far,
            (FlowControl::XbeginXabortXend, _) => Flow::Begin(target),
            (FlowControl::Interrupt, _) => Flow::Trap,
            (FlowControl::Exception, _) => Flow::Stop,
            (FlowControl::Next, _) => Flow::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::decode;
    use crate::x86_64::testing::hex;

    #[test]
    fn flow_of_every_kind() {
        for (bytes, flow, falls_through) in [
            ("48 89 c8", Flow::Next, true),
            ("eb 10", Flow::Jump(Addr(0x1012)), false),
            ("e9 fb ff ff ff", Flow::Jump(Addr(0x1000)), false),
            ("74 fe", Flow::Branch(Addr(0x1000)), true),
            ("0f 84 00 01 00 00", Flow::Branch(Addr(0x1106)), true),
            ("e2 00", Flow::Branch(Addr(0x1002)), true),
            ("e3 00", Flow::Branch(Addr(0x1002)), true),
            ("67 e3 00", Flow::Branch(Addr(0x1003)), true),
            ("e8 00 00 00 00", Flow::Call(Addr(0x1005)), true),
            ("ff d0", Flow::IndirectCall, true),
            ("ff 15 00 00 00 00", Flow::IndirectCall, true),
            ("ff e0", Flow::IndirectJump, false),
            ("ff 25 00 00 00 00", Flow::IndirectJump, false),
            ("c3", Flow::Return, false),
            ("c2 08 00", Flow::Return, false),
            ("f3 c3", Flow::Return, false),
            ("c7 f8 10 00 00 00", Flow::Begin(Addr(0x1016)), true),
            ("c6 f8 01", Flow::Next, true),
            ("0f 01 d5", Flow::Next, true),
            ("0f 05", Flow::Syscall, true),
            ("0f 34", Flow::Syscall, true),
            ("0f 01 c1", Flow::Next, true),
            ("cc", Flow::Trap, true),
            ("f1", Flow::Trap, true),
            ("cd 80", Flow::Trap, true),
            ("0f 0b", Flow::Stop, false),
            ("0f b9 c0", Flow::Stop, false),
            ("f4", Flow::Stop, false),
            ("ff 2c 24", Flow::Far, true),
            ("ff 1c 24", Flow::Far, true),
            ("cb", Flow::Far, true),
            ("48 cf", Flow::Far, true),
            ("48 0f 07", Flow::Far, true),
        ] {
            let insn = decode(&hex(bytes), Addr(0x1000)).expect("an instruction");
            assert_eq!(insn.flow(), flow, "{bytes}");
            assert_eq!(insn.flow().falls_through(), falls_through, "{bytes}");
        }
    }
}
