//! Relocation: the bytes that have an instruction's effect at another address.
//!
//! Executing what [`relocate`] appends, at [`Relocation::to`], changes registers, flags, memory, vector
//! state and stack as the original does at its own address. Where the original goes on behind itself,
//! the copy falls out behind the appended bytes; where it branches, the copy goes to what
//! [`Relocation::resolve`] makes of the target. A displaced call pushes the *original* return address
//! and so never comes back to the copy.
//!
//! The red zone is kept, and nothing is relied upon that lies further below `rsp`, because a signal
//! handler may overwrite that.
//!
//! What can be told apart:
//! - If the instruction faults, the handler sees the address in the copy. Where a memory operand is out
//!   of reach it also sees a scratch register and a lowered `rsp`; where a call goes to an address that
//!   is not canonical, `rsp` behind the push.
//! - The x87 instruction pointer (`fnstenv`, `fxsave`) is that of the copy.
//! - `call [mem]` reads its target behind the push of the return address, unless `mem` is based on
//!   `rsp` or out of reach. It matters only if the pointer lies in the very slot that is pushed.

mod branch;
mod call;
mod encoding;
mod jump;
mod memory;
#[cfg(test)]
mod properties;
mod special;
mod stack;
#[cfg(test)]
mod testing;

use iced_x86::Code;

use super::{Assembler, Flow, Insn};
use crate::Addr;

pub(crate) use call::CALL_OVER;

/// No instruction takes more bytes than this when displaced.
pub const MAX_RELOCATED_LEN: usize = 64;

/// Where a copy will run, and what it has to know about its surroundings.
#[derive(Clone, Copy)]
pub struct Relocation<'a> {
    /// The address of the first appended byte.
    pub to: Addr,
    /// Where a branch, call, jump or abort target is now; the identity for what has not moved. Data
    /// addresses and the targets of indirect branches do not go through it.
    pub resolve: &'a dyn Fn(Addr) -> Addr,
    /// Whether the program may run with a shadow stack, so that a return has to match a call.
    pub shadow_stack: bool,
    /// Whether the copy may be loaded elsewhere, as far from the program as planned: it must hold no address then.
    pub moves: bool,
}

/// Why an instruction cannot be run at another address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RelocateError {
    /// The copy would return where nothing called, or call without returning.
    #[error("{at}: the copy of this instruction would not match the shadow stack")]
    ShadowStack {
        /// The instruction.
        at: Addr,
    },
    /// A near branch with prefix 66: AMD processors truncate its target to 16 bits, Intel processors
    /// ignore the prefix.
    #[error("{at}: processors disagree about a near branch with an operand size prefix")]
    OperandSize {
        /// The instruction.
        at: Addr,
    },
    /// `int n`, `int1`, `int3`: who receives it acts upon its address.
    #[error("{at}: an interrupt reports its own address")]
    Interrupt {
        /// The instruction.
        at: Addr,
    },
    /// `sysenter`: the kernel, not the instruction, decides where it returns to.
    #[error("{at}: the return address of sysenter is the kernel's choice")]
    Sysenter {
        /// The instruction.
        at: Addr,
    },
    /// `call far`: the return address and the code segment are pushed as one.
    #[error("{at}: a far call pushes its own address")]
    FarCall {
        /// The instruction.
        at: Addr,
    },
    /// `jmp far [rip + x]`, out of reach.
    #[error("{at}: the far pointer at {target} is out of reach")]
    FarPointer {
        /// The instruction.
        at: Addr,
        /// The address of the pointer.
        target: Addr,
    },
    /// `enclu`: an enclave is told the address behind the instruction.
    #[error("{at}: an enclave is told the address of this instruction")]
    Enclave {
        /// The instruction.
        at: Addr,
    },
    /// The instruction leaves no register to hold an address.
    #[error("{at}: no register is free to hold an address")]
    NoScratch {
        /// The instruction.
        at: Addr,
    },
    /// The program may be loaded anywhere, so that only what is in reach can be told by its distance.
    #[error("{at}: {target} is out of reach of a copy that may be loaded anywhere")]
    OutOfReach {
        /// The instruction.
        at: Addr,
        /// What it refers to.
        target: Addr,
    },
    /// The operand is encoded in a way that is not known here.
    #[error("{at}: the encoding of the operand is not known")]
    Encoding {
        /// The instruction.
        at: Addr,
    },
}

impl RelocateError {
    /// The address of the instruction.
    pub fn addr(&self) -> Addr {
        use RelocateError::*;
        match *self {
            ShadowStack { at }
            | OperandSize { at }
            | Interrupt { at }
            | Sysenter { at }
            | FarCall { at }
            | FarPointer { at, .. }
            | Enclave { at }
            | NoScratch { at }
            | OutOfReach { at, .. }
            | Encoding { at } => at,
        }
    }
}

/// Appends to `out` the bytes that do at `how.to` what `insn` does at its own address; see the module.
///
/// How many they are depends only on the instruction and on whether its (resolved) target or its data
/// is in reach of a 32-bit displacement from the copy. So a layout that is repeated with better
/// addresses settles. There are never more than [`MAX_RELOCATED_LEN`].
///
/// # Errors
///
/// The reason why the instruction cannot run elsewhere; `out` is then as before.
#[inline]
pub fn relocate(insn: &Insn, how: &Relocation, out: &mut Vec<u8>) -> Result<(), RelocateError> {
    let flow = insn.flow();
    if flow == Flow::Next && insn.ip_relative_target().is_none() && insn.iced().code() != Code::Enclu {
        out.extend_from_slice(insn.bytes());
        return Ok(());
    }
    let len = out.len();
    let mut asm = Assembler::resume(std::mem::take(out), how.to);
    let result = displace(insn, flow, how, &mut asm);
    *out = asm.into_bytes();
    if result.is_err() {
        out.truncate(len);
    }
    result
}

/// Whether all of a copy that begins here reaches `target`: at the edge of what a displacement can say, its first
/// byte may and its last may not, or the other way round.
fn in_reach_of_all(asm: &Assembler, target: Addr) -> bool {
    target.in_rel32_of(asm.here()) && target.in_rel32_of(asm.here() + MAX_RELOCATED_LEN as u64)
}

fn displace(insn: &Insn, flow: Flow, how: &Relocation, asm: &mut Assembler) -> Result<(), RelocateError> {
    let at = insn.addr();
    if how.moves
        && let Some(target) = flow.target().map(how.resolve).or(insn.ip_relative_target())
        && !in_reach_of_all(asm, target)
    {
        return Err(RelocateError::OutOfReach { at, target });
    }
    match flow {
        Flow::Next if insn.iced().code() == Code::Enclu => Err(RelocateError::Enclave { at }),
        Flow::Next => memory::displace(insn, asm),
        Flow::Jump(target) => jump::direct(insn, (how.resolve)(target), asm),
        Flow::IndirectJump => jump::indirect(insn, how.shadow_stack, asm),
        Flow::Branch(target) => branch::displace(insn, (how.resolve)(target), asm),
        Flow::Call(_) | Flow::IndirectCall if how.shadow_stack => Err(RelocateError::ShadowStack { at }),
        Flow::Call(target) => call::direct(insn, (how.resolve)(target), how.moves, asm),
        Flow::IndirectCall => call::indirect(insn, how.moves, asm),
        Flow::Begin(target) => special::begin(insn, (how.resolve)(target), asm),
        Flow::Syscall => special::syscall(insn, how.moves, asm),
        Flow::Trap => Err(RelocateError::Interrupt { at }),
        Flow::Far => special::far(insn, asm),
        // What stops never looks at its operand.
        Flow::Return | Flow::Stop => {
            asm.raw(insn.bytes());
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{FAR, FROM, NEAR, assert_bytes, copy, copy_with};
    use super::*;
    use crate::x86_64::testing::hex;

    #[test]
    fn what_does_not_depend_on_its_address_is_copied_verbatim() {
        for bytes in [
            "90",
            "48 89 e5",
            // A redundant REX, a REX without effect, a long form of a short instruction.
            "40 48 89 e5",
            "48 66 89 e5",
            "48 81 c0 01 00 00 00",
            "2e 2e 64 66 48 8b 84 24 80 00 00 00",
            "f0 48 0f c7 0c 24",
            "f3 a4",
            "48 a1 88 77 66 55 44 33 22 11",
            "62 f1 7c 48 58 c1",
            "c3",
            "66 c3",
            "f2 c3",
            "ff e0",
            "3e ff e0",
            "66 ff e0",
            "ff 64 24 08",
            "0f 0b",
            "f4",
            "0f 01 d5",
            "c6 f8 01",
            "48 cf",
            "cb",
            "ff 2c 24",
            "0f 01 c1",
        ] {
            assert_bytes(bytes, NEAR, bytes);
            assert_bytes(bytes, FAR, bytes);
        }
    }

    #[test]
    fn a_copy_that_moves_holds_no_address_at_the_edge_of_its_reach() {
        // lock add [rip+0x1000], al: in reach of all of the copy, of its end only, of its beginning only.
        let insn = crate::x86_64::decode(&hex("f0 00 05 00 10 00 00"), FROM).expect("valid");
        let target = insn.ip_relative_target().expect("rip-relative");
        let (below, above) = (target - (1 << 31), target + (1 << 31));
        for (to, reached) in [
            (below + 1, true),
            (below - 4, false),
            (above - 64, true),
            (above - 4, false),
            (above + 4, false),
        ] {
            let how = Relocation { to, resolve: &|target| target, shadow_stack: false, moves: true };
            let (mut out, refused) = (Vec::new(), RelocateError::OutOfReach { at: FROM, target });
            let result = relocate(&insn, &how, &mut out);
            assert_eq!(result, if reached { Ok(()) } else { Err(refused) }, "at {to}");
            assert_eq!(out.len(), if reached { insn.len() } else { 0 }, "at {to}");
        }
    }

    #[test]
    fn an_operand_that_is_never_accessed_stays() {
        assert_bytes("0f 1f 05 00 00 00 00", FAR, "0f 1f 05 00 00 00 00");
        assert_bytes("0f b9 05 00 00 00 00", FAR, "0f b9 05 00 00 00 00");
    }

    #[test]
    fn interrupts_and_enclaves_are_refused() {
        let at = FROM;
        for bytes in ["cc", "f1", "cd 80", "cd 03"] {
            assert_eq!(copy(bytes, NEAR), Err(RelocateError::Interrupt { at }), "{bytes}");
        }
        assert_eq!(copy("0f 01 d7", NEAR), Err(RelocateError::Enclave { at }));
    }

    #[test]
    fn a_shadow_stack_refuses_what_returns_without_a_call() {
        let how = |to| Relocation { to, resolve: &|target| target, shadow_stack: true, moves: false };
        let refused = Err(RelocateError::ShadowStack { at: FROM });
        for bytes in ["e8 00 00 00 00", "ff d0", "ff 15 00 00 00 00", "ff 54 24 08"] {
            assert_eq!(copy_with(bytes, &how(NEAR)), refused, "{bytes}");
        }
        assert_eq!(copy_with("ff 25 00 00 00 00", &how(FAR)), refused);
        for bytes in ["ff 25 00 00 00 00", "eb 00", "c3", "ff e0"] {
            assert!(copy_with(bytes, &how(NEAR)).is_ok(), "{bytes}");
        }
    }

    #[test]
    fn a_refusal_names_the_instruction() {
        let error = copy("cc", NEAR).expect_err("refused");
        assert_eq!(error.addr(), FROM);
        assert_eq!(error.to_string(), "0x7f0000001000: an interrupt reports its own address");
    }

    #[test]
    fn only_targets_are_resolved_and_the_length_follows_their_reach() {
        let resolve = |target: Addr| if target == FROM + 0x42 { NEAR + 0x100 } else { FAR };
        let how = Relocation { to: NEAR, resolve: &resolve, shadow_stack: false, moves: false };
        let same = Relocation { resolve: &|target| target, ..how };
        // Targets near the copy, wherever that is, give the same length.
        for bytes in ["eb 40", "74 40", "e2 40", "c7 f8 3c 00 00 00", "e8 3d 00 00 00"] {
            let moved = copy_with(bytes, &how).expect("a copy");
            let unmoved = copy_with(bytes, &same).expect("a copy");
            assert_eq!(moved.len(), unmoved.len(), "{bytes}");
            assert_ne!(moved, unmoved, "{bytes}");
        }
        let data = "48 8b 05 3b 00 00 00";
        assert_eq!(copy_with(data, &how), copy_with(data, &same));
    }
}
