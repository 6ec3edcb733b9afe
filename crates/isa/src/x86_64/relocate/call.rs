//! `call rel32` and `call r/m`: the original return address is pushed, then a jump goes to the target.
//! Under a shadow stack that cannot work, and the caller has refused already.
//!
//! A call over one byte comes first, whose return address is taken off again: so the processor's return predictor expects as many
//! returns as there will be. It is wrong about this one, but not about those of all callers behind it.
//!
//! A memory operand is read once before anything has changed, so that a fault finds the registers and
//! the red zone as the call would have left them:
//!
//! ```text
//! push [mem] ; lea rsp, [rsp+8] ; call over ; int3 ; over: lea rsp, [rsp+8] ; push RETURN ; jmp [mem]
//! ```

use iced_x86::{OpKind, Register};

use super::RelocateError;
use super::encoding::{IpRelative, jump_behind_push, with_extension};
use super::jump::{JMP, PUSH, RETURN_OVER_RED_ZONE, check_operand_size, push_target};
use crate::Addr;
use crate::x86_64::{Assembler, Gpr, Insn};

/// `call` over the trap behind it.
pub(crate) const CALL_OVER: [u8; 6] = [0xE8, 1, 0, 0, 0, 0xCC];

/// That call and `lea rsp, [rsp+8]`.
const BALANCE_LEN: u64 = CALL_OVER.len() as u64 + 5;

/// Has the return predictor expect one more return.
fn balance(asm: &mut Assembler) {
    asm.raw(&CALL_OVER);
    asm.lea_rsp(8);
}

/// `call rel32`. Prefixes are dropped, as in a direct jump.
pub(super) fn direct(
    insn: &Insn,
    target: Addr,
    moves: bool,
    asm: &mut Assembler,
) -> Result<(), RelocateError> {
    check_operand_size(insn)?;
    balance(asm);
    let pushed = ReturnAddress::of(insn, moves, asm)?;
    if asm.reaches(target, u64::from(pushed.push_len()) + 5) {
        pushed.push(5, asm);
        asm.jump(target);
    } else {
        pushed.push(14, asm);
        asm.jump_far(target);
    }
    pushed.literal(asm);
    Ok(())
}

/// `call r/m`.
pub(super) fn indirect(insn: &Insn, moves: bool, asm: &mut Assembler) -> Result<(), RelocateError> {
    check_operand_size(insn)?;
    let pushed = ReturnAddress::of(insn, moves, asm)?;
    if let Some(target) = insn.ip_relative_target() {
        return ip_relative(insn, target, &pushed, asm);
    }
    match Operand::of(insn) {
        Operand::Register => push_and_jump(with_extension(insn, JMP)?.as_slice(), &pushed, asm),
        Operand::Memory => {
            touch(with_extension(insn, PUSH)?.as_slice(), asm);
            push_and_jump(with_extension(insn, JMP)?.as_slice(), &pushed, asm);
        }
        Operand::Stack(displacement) => match jump_behind_push(insn, displacement) {
            Some(jump) => {
                touch(with_extension(insn, PUSH)?.as_slice(), asm);
                push_and_jump(jump.as_slice(), &pushed, asm);
            }
            None => read_then_push(insn, &pushed, asm)?,
        },
        Operand::MayBePushedOver => read_then_push(insn, &pushed, asm)?,
    }
    Ok(())
}

/// How the operand of `call r/m` is related to the stack pointer.
enum Operand {
    /// A register, and not `rsp`.
    Register,
    /// Memory that has nothing to do with it.
    Memory,
    /// `[rsp + displacement]`, and not in the slot that the call pushes.
    Stack(i32),
    /// It is `rsp`, or may lie in the slot that the call pushes.
    MayBePushedOver,
}

impl Operand {
    fn of(insn: &Insn) -> Operand {
        let iced = insn.iced();
        if iced.op0_kind() == OpKind::Register {
            return match iced.op0_register() {
                Register::RSP => Operand::MayBePushedOver,
                _ => Operand::Register,
            };
        }
        let displacement = iced.memory_displacement64() as i32;
        // A segment's base can bring any displacement to the slot that is pushed.
        let based = matches!(iced.segment_prefix(), Register::FS | Register::GS);
        match (iced.memory_base(), iced.memory_index()) {
            // Eight bytes are read, and eight are pushed.
            (Register::RSP | Register::ESP, Register::None)
                if !based && !(-15..0).contains(&displacement) =>
            {
                Operand::Stack(displacement)
            }
            (Register::RSP | Register::ESP, _) => Operand::MayBePushedOver,
            _ => Operand::Memory,
        }
    }
}

/// Reads the operand by `push`, and takes the push back.
fn touch(push: &[u8], asm: &mut Assembler) {
    asm.raw(push);
    asm.lea_rsp(8);
}

fn push_and_jump(jump: &[u8], pushed: &ReturnAddress, asm: &mut Assembler) {
    balance(asm);
    pushed.push(jump.len() as u8, asm);
    asm.raw(jump);
    pushed.literal(asm);
}

/// Reads the target before anything is pushed, and keeps it below the red zone until `ret` takes it:
///
/// ```text
/// push TARGET ; lea rsp, [rsp-128] ; push [rsp+128] ; push RETURN ; pop [rsp+136] ; ret 128
/// ```
fn read_then_push(insn: &Insn, pushed: &ReturnAddress, asm: &mut Assembler) -> Result<(), RelocateError> {
    asm.raw(with_extension(insn, PUSH)?.as_slice());
    asm.skip_red_zone();
    asm.push_load(Gpr::Rsp, 128);
    return_under_target(pushed, asm);
    Ok(())
}

/// `call [rip + x]`. Out of reach:
///
/// ```text
/// lea rsp, [rsp-144] ; push s ; mov s, address ; push [s] ; pop [rsp+8] ; pop s
/// push RETURN ; pop [rsp+136] ; ret 128
/// ```
fn ip_relative(
    insn: &Insn,
    target: Addr,
    pushed: &ReturnAddress,
    asm: &mut Assembler,
) -> Result<(), RelocateError> {
    let operand = IpRelative::of(insn, target)?;
    // `lea rsp, [rsp+8]` is 5 bytes.
    let jump_at = asm.here() + insn.len() as u64 + 5 + BALANCE_LEN + u64::from(pushed.push_len());
    if let (Some(mut push), Some(mut jump)) = (operand.moved(asm.here()), operand.moved(jump_at)) {
        operand.set_extension(&mut push, PUSH);
        operand.set_extension(&mut jump, JMP);
        touch(push.as_slice(), asm);
        push_and_jump(jump.as_slice(), pushed, asm);
        return Ok(());
    }
    asm.lea_rsp(-144);
    push_target(insn, &operand, asm)?;
    return_under_target(pushed, asm);
    Ok(())
}

/// With the target at `[rsp]`, puts the return address where the call would, 136 bytes above, and goes.
fn return_under_target(pushed: &ReturnAddress, asm: &mut Assembler) {
    /// `pop [rsp+136]`, which is 7 bytes, and `ret 128`.
    const BEHIND: u8 = 7 + RETURN_OVER_RED_ZONE.len() as u8;
    pushed.push(BEHIND, asm);
    asm.pop_store(Gpr::Rsp, 136);
    asm.raw(&RETURN_OVER_RED_ZONE);
    pushed.literal(asm);
}

/// The return address of the original call, and how it is pushed.
enum ReturnAddress {
    /// As an immediate.
    Immediate(i32),
    /// From a literal behind the code.
    Literal(Addr),
    /// By its distance, where nothing may hold an address: `push rax ; lea rax, [rip+x] ; xchg [rsp], rax`.
    Distance(Addr),
}

impl ReturnAddress {
    fn of(insn: &Insn, moves: bool, asm: &Assembler) -> Result<ReturnAddress, RelocateError> {
        let (at, target) = (insn.addr(), insn.end());
        if moves {
            return if super::in_reach_of_all(asm, target) {
                Ok(ReturnAddress::Distance(target))
            } else {
                Err(RelocateError::OutOfReach { at, target })
            };
        }
        let value = target.0 as i32;
        let fits = value as u64 == target.0;
        Ok(if fits { ReturnAddress::Immediate(value) } else { ReturnAddress::Literal(target) })
    }

    fn push_len(&self) -> u8 {
        match self {
            ReturnAddress::Immediate(_) => 5,
            ReturnAddress::Literal(_) => 6,
            ReturnAddress::Distance(_) => 12,
        }
    }

    /// Pushes it; `behind` bytes of code come before [`ReturnAddress::literal`].
    fn push(&self, behind: u8, asm: &mut Assembler) {
        match self {
            ReturnAddress::Immediate(value) => {
                asm.raw(&[0x68]);
                asm.raw(&value.to_le_bytes());
            }
            ReturnAddress::Literal(_) => asm.raw(&[0xFF, 0x35, behind, 0, 0, 0]),
            ReturnAddress::Distance(address) => {
                asm.push(Gpr::Rax);
                asm.relative(&[0x48, 0x8D, 0x05], *address);
                asm.raw(&[0x48, 0x87, 0x04, 0x24]);
            }
        }
    }

    fn literal(&self, asm: &mut Assembler) {
        if let ReturnAddress::Literal(address) = self {
            asm.raw(&address.0.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::relocate::testing::{FAR, NEAR, assert_bytes};
    use crate::x86_64::relocate::{Relocation, relocate};
    use crate::x86_64::{decode, testing::hex};

    /// call over; int3; over: lea rsp, [rsp+8].
    const BALANCE: &str = "e8 01 00 00 00 cc 48 8d 64 24 08";

    #[test]
    fn direct_calls_push_the_original_return_address() {
        // push [rip+5]; jmp; the return address 0x7f0000001005.
        assert_bytes(
            "e8 00 01 00 00",
            NEAR,
            &format!("{BALANCE} ff 35 05 00 00 00 e9 ef 10 00 f0 05 10 00 00 00 7f 00 00"),
        );
        // push [rip+14]; jmp [rip]; the target 0x7f0000001105; the return address.
        assert_bytes(
            "e8 00 01 00 00",
            FAR,
            &format!(
                "{BALANCE} ff 35 0e 00 00 00 ff 25 00 00 00 00 05 11 00 00 00 7f 00 00 05 10 00 00 00 7f 00 00"
            ),
        );
    }

    #[test]
    fn a_return_address_that_fits_is_an_immediate() {
        let insn = decode(&hex("e8 00 01 00 00"), Addr(0x40_1000)).expect("an instruction");
        let how =
            Relocation { to: Addr(0x50_0000), resolve: &|target| target, shadow_stack: false, moves: false };
        let mut out = Vec::new();
        relocate(&insn, &how, &mut out).expect("a copy");
        assert_eq!(out, hex(&format!("{BALANCE} 68 05 10 40 00 e9 f0 10 f0 ff")));
    }

    #[test]
    fn a_copy_that_may_be_loaded_anywhere_holds_no_address() {
        let insn = |text: &str| decode(&hex(text), Addr(0x40_1000)).expect("an instruction");
        let how =
            |to| Relocation { to: Addr(to), resolve: &|target| target, shadow_stack: false, moves: true };
        let copy = |text: &str, to| {
            let mut out = Vec::new();
            relocate(&insn(text), &how(to), &mut out).map(|()| out)
        };
        // push rax; lea rax, [0x401005]; xchg [rsp], rax; jmp 0x401105.
        let expected = format!("{BALANCE} 50 48 8d 05 f2 0f f0 ff 48 87 04 24 e9 e9 10 f0 ff");
        assert_eq!(copy("e8 00 01 00 00", 0x50_0000), Ok(hex(&expected)));
        assert_eq!(copy("0f 05", 0x50_0000), Ok(hex("0f 05 48 8d 0d f9 0f f0 ff")));
        for text in ["e8 00 01 00 00", "ff d0", "ff 15 00 00 00 00", "0f 05", "48 8d 05 00 00 00 00", "74 10"]
        {
            assert!(matches!(copy(text, 0x2_0000_0000), Err(RelocateError::OutOfReach { .. })), "{text}");
        }
    }

    #[test]
    fn calls_through_a_register_or_other_memory_push_and_jump() {
        const LITERAL_2: &str = "02 10 00 00 00 7f 00 00";
        const BACK: &str = "48 8d 64 24 08";
        assert_bytes("ff d0", NEAR, &format!("{BALANCE} ff 35 02 00 00 00 ff e0 {LITERAL_2}"));
        let prefixed = format!("{BALANCE} ff 35 03 00 00 00 3e ff e0 03 10 00 00 00 7f 00 00");
        assert_bytes("3e ff d0", NEAR, &prefixed);
        assert_bytes("ff 10", NEAR, &format!("ff 30 {BACK} {BALANCE} ff 35 02 00 00 00 ff 20 {LITERAL_2}"));
        // r12 shares its encoding with rsp, not its meaning.
        assert_bytes(
            "41 ff 14 24",
            FAR,
            &format!("41 ff 34 24 {BACK} {BALANCE} ff 35 04 00 00 00 41 ff 24 24 04 10 00 00 00 7f 00 00"),
        );
    }

    #[test]
    fn the_push_is_taken_into_account_where_rsp_is_the_base() {
        // call [rsp+8]: jmp [rsp+16]; call [rsp-16], just below the slot: jmp [rsp-8].
        for (displacement, behind) in [("08", "10 00 00 00"), ("f0", "f8 ff ff ff")] {
            assert_bytes(
                &format!("ff 54 24 {displacement}"),
                NEAR,
                &format!(
                    "ff 74 24 {displacement} 48 8d 64 24 08 {BALANCE} \
                     ff 35 07 00 00 00 ff a4 24 {behind} 04 10 00 00 00 7f 00 00"
                ),
            );
        }
    }

    #[test]
    fn a_target_that_the_push_would_change_is_read_first() {
        const REST: &str =
            "48 8d 64 24 80 ff b4 24 80 00 00 00 ff 35 0a 00 00 00 8f 84 24 88 00 00 00 c2 80 00";
        // call fs:[rsp+8] takes the same way as call [rsp-8]: the base of fs is not known.
        let careful = |text: &str| {
            let insn = decode(&hex(text), Addr(0x7f00_0000_1000)).expect("an instruction");
            matches!(Operand::of(&insn), Operand::MayBePushedOver)
        };
        assert!(careful("64 ff 54 24 08") && careful("ff 54 24 f8") && !careful("ff 54 24 08"));
        // call rsp, call [rsp-8], call [rsp-1], call [rsp-15], call [rsp+rax], call [rsp+0x7fffffff].
        for (original, push) in [
            ("ff d4", "ff f4"),
            ("ff 54 24 f8", "ff 74 24 f8"),
            ("ff 54 24 ff", "ff 74 24 ff"),
            ("ff 54 24 f1", "ff 74 24 f1"),
            ("ff 14 04", "ff 34 04"),
            ("ff 94 24 ff ff ff 7f", "ff b4 24 ff ff ff 7f"),
        ] {
            let len = original.split(' ').count();
            assert_bytes(original, FAR, &format!("{push} {REST} {len:02x} 10 00 00 00 7f 00 00"));
        }
    }

    #[test]
    fn calls_through_memory_relative_to_the_instruction_pointer() {
        // In reach: push [0x7f0000001106]; lea; push [rip+6]; jmp [0x7f0000001106].
        assert_bytes(
            "ff 15 00 01 00 00",
            NEAR,
            &format!(
                "ff 35 00 11 00 f0 48 8d 64 24 08 {BALANCE} \
                 ff 35 06 00 00 00 ff 25 e4 10 00 f0 06 10 00 00 00 7f 00 00"
            ),
        );
        assert_bytes(
            "ff 15 00 01 00 00",
            FAR,
            "48 8d a4 24 70 ff ff ff 50 48 b8 06 11 00 00 00 7f 00 00 ff 30 8f 44 24 08 58 \
             ff 35 0a 00 00 00 8f 84 24 88 00 00 00 c2 80 00 06 10 00 00 00 7f 00 00",
        );
    }
}
