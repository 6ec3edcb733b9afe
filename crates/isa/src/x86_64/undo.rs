//! Getting the program's registers back in the middle of code that keeps them: snippets that save what they
//! change, copies of instructions that borrow a register.
//!
//! Nothing is noted when such code is made: it is short, and says itself what it has pushed and not yet popped. Code this
//! is asked about gives back what it has borrowed by the end of each of its paths, and moves `rsp` by `lea`, `push`, `pop`,
//! `add` and `sub` only.

use iced_x86::{Code, Mnemonic, OpKind, Register};

use super::relocate::CALL_OVER;
use super::{Flow, Gpr, GprSet, Insn, decode};
use crate::Addr;

/// How to get the program's registers from those of a thread in the middle of code that keeps them. Registers that are not
/// mentioned are as the program left them, or dead.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Undo {
    /// What to add to `rsp`.
    pub stack: i64,
    saved: Saved,
    /// Where the status flags are.
    pub flags: KeptFlags,
    /// The instruction before is a call: what was called may have changed the registers that functions may change.
    pub called: bool,
}

impl Undo {
    /// Registers whose values lie on the stack, each with its distance from `rsp` as it is.
    pub fn saved(&self) -> impl Iterator<Item = (Gpr, i64)> + '_ {
        self.saved.registers.iter().map(|register| (register, self.stack + self.saved.slot(register)))
    }
}

/// Registers on the stack, with distances from the program's `rsp`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Saved {
    registers: GprSet,
    slots: [i32; 16],
}

impl Saved {
    fn slot(&self, register: Gpr) -> i64 {
        i64::from(self.slots[usize::from(register.number())])
    }

    fn is_at(&self, register: Gpr, slot: i64) -> bool {
        self.registers.contains(register) && self.slot(register) == slot
    }
}

/// Where the program's status flags are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum KeptFlags {
    /// In the flags.
    #[default]
    InPlace,
    /// CF, PF, AF, ZF and SF in `ah`, OF in `al`: see [`Assembler::save_flags`](super::Assembler::save_flags).
    InAx,
    /// The same, but OF in the flags.
    InAh,
    /// As in `ax`, in the quadword at this distance from `rsp`.
    AsAx(i64),
    /// As RFLAGS, in the quadword at this distance from `rsp`.
    Pushed(i64),
}

impl KeptFlags {
    /// CF, PF, AF, ZF, SF (AMD APM vol. 1, 3.1.4).
    const IN_AH: u64 = 0xD5;
    const OF: u64 = 0x800;

    /// The program's flags: `flags` and `rax` are those of the thread, `load` reads a quadword at a distance from `rsp`.
    pub fn restored(self, flags: u64, rax: u64, load: impl FnOnce(i64) -> Option<u64>) -> Option<u64> {
        let of_ax = |ax: u64| {
            let of = if ax & 1 != 0 { KeptFlags::OF } else { 0 };
            flags & !(KeptFlags::IN_AH | KeptFlags::OF) | ax >> 8 & KeptFlags::IN_AH | of
        };
        Some(match self {
            KeptFlags::InPlace => flags,
            KeptFlags::InAx => of_ax(rax),
            KeptFlags::InAh => flags & !KeptFlags::IN_AH | rax >> 8 & KeptFlags::IN_AH,
            KeptFlags::AsAx(at) => of_ax(load(at)?),
            KeptFlags::Pushed(at) => load(at)?,
        })
    }
}

/// What the code has done so far. Offsets are from the program's `rsp`.
#[derive(Clone, Copy, Default)]
struct State {
    stack: i64,
    saved: Saved,
    /// Registers with other values than the program's.
    changed: GprSet,
    flags: KeptFlags,
    /// The last instruction was `lahf`.
    half: bool,
    /// The last instruction was a call.
    called: bool,
}

/// So many branches may be on their way at once. (Signal handlers ask: nothing is allocated, little stack is used.)
const AHEAD: usize = 6;

/// What a thread at `ip` has to undo that entered `code`, which lies at `at`, with the program's registers. `None` if
/// that cannot be told, because it is none of the code this is made for or `ip` is inside an instruction.
///
/// Async-signal-safe.
pub fn undo(code: &[u8], at: Addr, ip: Addr) -> Option<Undo> {
    let mut found = None;
    walk(code, at, &mut |here, state| {
        if here == ip {
            found = Some(state.undo());
        }
        here < ip
    });
    found
}

/// Tells for each instruction boundary of `code`, which lies at `at`, what a thread there has to undo, up to the first
/// where that cannot be told. Returns that one, or the end.
pub fn undo_each(code: &[u8], at: Addr, tell: &mut dyn FnMut(Addr, Undo)) -> Addr {
    walk(code, at, &mut |here, state| {
        tell(here, state.undo());
        true
    })
}

/// `jmp [rip+0]`: the address it leads to follows.
const FAR_JUMP: [u8; 6] = [0xFF, 0x25, 0, 0, 0, 0];

/// Calls `step` at each instruction boundary and at the end, until it says no. Returns the first boundary of which
/// nothing is known, or where it said no.
fn walk(code: &[u8], at: Addr, step: &mut dyn FnMut(Addr, &State) -> bool) -> Addr {
    let mut here = at;
    let mut state = Some(State::default());
    let mut ahead: [Option<(Addr, State)>; AHEAD] = [None; AHEAD];
    loop {
        let mut now = state.unwrap_or_else(|| {
            let joins = ahead.iter().flatten().find(|(to, _)| *to == here);
            // Behind a way out, and no branch leads here: entered from elsewhere.
            joins.map_or_else(State::default, |(_, state)| *state)
        });
        if !step(here, &now) {
            return here;
        }
        let Some(insn) = code.get(here.offset_from(at) as usize..).and_then(|rest| decode(rest, here).ok())
        else {
            return here;
        };
        if code[here.offset_from(at) as usize..].starts_with(&CALL_OVER) {
            // It is there for its own sake, and goes on behind the trap with what it has pushed.
            now.stack -= 8;
            now.called = false;
            (state, here) = (Some(now), here + CALL_OVER.len() as u64);
            continue;
        }
        if now.run(&insn).is_none() {
            return insn.end();
        }
        if let Flow::Branch(to) | Flow::Jump(to) = insn.flow()
            && to > here
        {
            let free = ahead.iter_mut().find(|place| place.as_ref().is_none_or(|(to, _)| *to <= here));
            let Some(free) = free else { return insn.end() };
            *free = Some((to, now));
        }
        state = insn.flow().falls_through().then_some(now);
        here = insn.end();
        if insn.bytes() == FAR_JUMP {
            here = here + 8;
        }
    }
}

impl State {
    fn undo(&self) -> Undo {
        let from_now = |slot: i64| slot - self.stack;
        let flags = match self.flags {
            KeptFlags::AsAx(slot) => KeptFlags::AsAx(from_now(slot)),
            KeptFlags::Pushed(slot) => KeptFlags::Pushed(from_now(slot)),
            other => other,
        };
        Undo { stack: -self.stack, saved: self.saved, flags, called: self.called }
    }

    fn restored(&mut self, register: Gpr) {
        self.changed.remove(register);
        self.saved.registers.remove(register);
        self.saved.slots[usize::from(register.number())] = 0;
    }

    fn run(&mut self, insn: &Insn) -> Option<()> {
        let iced = insn.iced();
        let half = std::mem::replace(&mut self.half, iced.mnemonic() == Mnemonic::Lahf);
        self.called = false;
        match iced.code() {
            Code::Push_r64 => {
                self.stack -= 8;
                let register = gpr(iced.op0_register())?;
                if register == Gpr::Rax && self.flags == KeptFlags::InAx {
                    self.flags = KeptFlags::AsAx(self.stack);
                } else if !self.changed.contains(register) && !self.saved.registers.contains(register) {
                    self.saved.registers.insert(register);
                    self.saved.slots[usize::from(register.number())] = i32::try_from(self.stack).ok()?;
                }
            }
            Code::Pop_r64 => {
                let (register, slot) = (gpr(iced.op0_register())?, self.stack);
                self.stack += 8;
                if self.saved.is_at(register, slot) {
                    self.restored(register);
                } else {
                    self.changed.insert(register);
                    if register == Gpr::Rax && self.flags == KeptFlags::AsAx(slot) {
                        self.flags = KeptFlags::InAx;
                    }
                }
            }
            Code::Pushfq => {
                self.stack -= 8;
                if self.flags == KeptFlags::InPlace {
                    self.flags = KeptFlags::Pushed(self.stack);
                }
            }
            Code::Popfq => {
                if self.flags == KeptFlags::Pushed(self.stack) {
                    self.flags = KeptFlags::InPlace;
                }
                self.stack += 8;
            }
            Code::Lahf => self.changed.insert(Gpr::Rax),
            Code::Seto_rm8 if half && iced.op0_register() == Register::AL => self.flags = KeptFlags::InAx,
            Code::Add_AL_imm8 if self.flags == KeptFlags::InAx => self.flags = KeptFlags::InAh,
            Code::Sahf if self.flags == KeptFlags::InAh => self.flags = KeptFlags::InPlace,
            Code::Lea_r64_m if iced.op0_register() == Register::RSP => {
                if iced.memory_base() != Register::RSP || iced.memory_index() != Register::None {
                    return None;
                }
                self.stack += iced.memory_displacement64() as i64;
            }
            Code::Xchg_rm64_r64
                if iced.memory_base() == Register::RSP && iced.memory_displacement64() == 0 =>
            {
                let register = gpr(iced.op1_register())?;
                if self.saved.is_at(register, self.stack) {
                    self.restored(register);
                } else {
                    self.changed.insert(register);
                }
            }
            // What is called comes back.
            _ if matches!(insn.flow(), Flow::Call(_) | Flow::IndirectCall) => self.called = true,
            _ => {
                let moved = iced.stack_pointer_increment();
                self.stack += i64::from(moved);
                // What an instruction changes without naming it first is saved before, as is everything.
                match written(insn) {
                    Some(Gpr::Rsp) if moved != 0 => {}
                    Some(Gpr::Rsp) => self.stack += immediate(insn)?,
                    Some(register) => self.changed.insert(register),
                    None => {}
                }
            }
        }
        Some(())
    }
}

/// What `add rsp, n` or `sub rsp, n` adds to it.
fn immediate(insn: &Insn) -> Option<i64> {
    let iced = insn.iced();
    let is_immediate =
        matches!(iced.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64) && iced.op_count() == 2;
    match iced.mnemonic() {
        Mnemonic::Add if is_immediate => Some(iced.immediate(1) as i64),
        Mnemonic::Sub if is_immediate => Some(-(iced.immediate(1) as i64)),
        _ => None,
    }
}

/// The general register that is the first operand, unless it is only read.
fn written(insn: &Insn) -> Option<Gpr> {
    let iced = insn.iced();
    let only_read = matches!(iced.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt | Mnemonic::Push);
    let is_register = iced.op_count() > 0 && iced.op0_kind() == OpKind::Register && !only_read;
    (is_register && iced.op0_register().is_gpr()).then(|| gpr(iced.op0_register().full_register())).flatten()
}

fn gpr(register: Register) -> Option<Gpr> {
    Gpr::ALL.into_iter().find(|gpr| usize::from(gpr.number()) == register.number() && register.is_gpr64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::{Assembler, testing::hex};

    const AT: Addr = Addr(0x10_0000);

    /// What to undo at each instruction of the code, and behind it.
    fn all(code: &[u8]) -> Vec<Option<Undo>> {
        let mut rows = vec![undo(code, AT, AT)];
        let mut at = AT;
        while let Ok(insn) = decode(&code[at.offset_from(AT) as usize..], at) {
            at = insn.end();
            rows.push(undo(code, AT, at));
        }
        rows
    }

    fn assembled(build: impl FnOnce(&mut Assembler)) -> Vec<u8> {
        let mut asm = Assembler::new(AT);
        build(&mut asm);
        asm.into_bytes()
    }

    #[test]
    fn a_counter_that_keeps_flags_can_be_left_at_any_instruction() {
        let code = assembled(|asm| {
            asm.skip_red_zone();
            asm.push(Gpr::Rax);
            asm.save_flags();
            asm.lock_inc(Addr(0x20_0000)).expect("in reach");
            asm.restore_flags();
            asm.pop(Gpr::Rax);
            asm.unskip_red_zone();
        });
        let row = |stack, saved: &[(Gpr, i64)], flags| Some((stack, saved.to_vec(), flags));
        let rax = [(Gpr::Rax, 0)];
        use KeptFlags::*;
        let of =
            |row: Option<Undo>| row.map(|undo| (undo.stack, undo.saved().collect::<Vec<_>>(), undo.flags));
        assert_eq!(
            all(&code).into_iter().map(of).collect::<Vec<_>>(),
            [
                row(0, &[], InPlace),
                row(128, &[], InPlace),
                row(136, &rax, InPlace),
                row(136, &rax, InPlace), // lahf
                row(136, &rax, InAx),
                row(136, &rax, InAx), // inc
                row(136, &rax, InAh),
                row(136, &rax, InPlace),
                row(128, &[], InPlace),
                row(0, &[], InPlace),
            ]
        );
    }

    #[test]
    fn flags_come_back_from_where_they_wait() {
        let ax = 0xAAAA_0000 | 0xC5 << 8 | 1; // SF ZF PF CF, and OF
        assert_eq!(KeptFlags::InAx.restored(0x202 | 0x10, ax, |_| None), Some(0x202 | 0xC5 | 0x800));
        assert_eq!(KeptFlags::InAx.restored(0x202 | 0x800, ax - 1, |_| None), Some(0x202 | 0xC5));
        assert_eq!(KeptFlags::InAh.restored(0x202 | 0x810, ax - 1, |_| None), Some(0x202 | 0x8C5));
        assert_eq!(KeptFlags::AsAx(8).restored(0x202, 0, |at| (at == 8).then_some(ax)), Some(0x202 | 0x8C5));
        assert_eq!(KeptFlags::Pushed(0).restored(0x202, 0, |_| Some(0x246)), Some(0x246));
        assert_eq!(KeptFlags::Pushed(0).restored(0x202, 0, |_| None), None);
    }

    #[test]
    fn each_way_through_a_guard_has_its_own_stack() {
        // lea rsp,[rsp-128]; push rcx; jrcxz 1f; pop rcx; lea rsp,[rsp+128]; jmp 2f; 1: pop rcx; lea rsp,[rsp+128]; nop; 2:
        let code = hex("48 8d 64 24 80 51 e3 0e 59 48 8d a4 24 80 00 00 00 e9 0a 00 00 00 \
             59 48 8d a4 24 80 00 00 00 90");
        let stacks: Vec<i64> = all(&code).into_iter().map(|row| row.expect("known").stack).collect();
        assert_eq!(stacks, [0, 128, 136, 136, 128, 0, 136, 128, 0, 0]);
    }

    #[test]
    fn a_borrowed_register_comes_back_from_the_stack() {
        // lea rsp,[rsp-144]; push rdx; mov rdx, imm; push [rdx]; pop [rsp+8]; pop rdx
        let code = hex("48 8d a4 24 70 ff ff ff 52 48 ba 00 10 00 00 00 7f 00 00 ff 32 8f 44 24 08 5a");
        let rows = all(&code);
        let saved = |n: usize| rows[n].as_ref().expect("known").saved().collect::<Vec<_>>();
        assert_eq!(saved(2), [(Gpr::Rdx, 0)]);
        assert_eq!(saved(4), [(Gpr::Rdx, 8)]);
        assert_eq!((saved(6), rows[6].as_ref().expect("known").stack), (vec![], 144));
    }

    #[test]
    fn a_call_for_the_return_predictor_is_taken_back() {
        // call 1f; int3; 1: lea rsp,[rsp+8]; push [rip+2]; jmp rax
        let code = hex("e8 01 00 00 00 cc 48 8d 64 24 08 ff 35 02 00 00 00 ff e0");
        let stack = |at: u64| undo(&code, AT, AT + at).map(|undo| undo.stack);
        assert_eq!([0, 6, 11, 17].map(stack), [Some(0), Some(8), Some(0), Some(8)]);
        assert_eq!(stack(5), None, "the trap is no place to be");
    }

    #[test]
    fn behind_a_call_functions_have_run() {
        // push rax; call rcx; pop rax
        let called: Vec<_> = all(&hex("50 ff d1 58")).iter().map(|row| row.expect("known").called).collect();
        assert_eq!(called, [false, false, true, false]);
    }

    #[test]
    fn what_is_not_ours_is_not_guessed_at() {
        assert_eq!(undo(&hex("48 89 c4 90"), AT, AT + 3), None, "mov rsp, rax");
        assert_eq!(undo(&hex("48 8d 64 24 80"), AT, AT + 2), None, "inside an instruction");
        assert_eq!(undo(&hex("90"), AT, AT + 8), None, "behind the code");
    }
}
