//! Entrances: where calls in one copy of a function come into the copy of another, without the springboard at that one's beginning.
//!
//! A call stays where it is, so that return addresses are what they were, and leads to the entrance. What it called may be patched in
//! another way later while this call is not: then one byte of the entrance changes (`engine/entrances.rs`), and it leads to the
//! original function. So the copy stays as long as there are such calls.
//!
//! ```text
//! out:      jmp function                       out:      jmp [slot]
//! entrance: cmp esp, esp                       entrance: cmp dword [slot], low half of function
//!           jne out                                      jne out
//!                                                        cmp dword [slot+4], high half
//!                                                        jne out
//! copy:     ...                                copy:     ...
//! ```
//!
//! On the right, calls came through a linkage stub, whose slot may hold the function of another module, or none yet. Closed, the
//! first `jne` is `jmp`. Flags have to be dead where the function begins.

use incise_isa::Addr;
use incise_isa::native::{Assembler, Flow, Insn};
use rustc_hash::FxHashMap;

use crate::code::Code;
use crate::trampoline::lower::in_reach;

/// `jne rel8`, with which an entrance is open.
pub(crate) const OPEN: u8 = 0x75;
/// `jmp rel8`, with which it is closed.
pub(crate) const CLOSED: u8 = 0xEB;

/// An `endbr64`, behind which probes of a function's entry are.
const ENDBR64: [u8; 4] = [0xF3, 0x0F, 0x1E, 0xFA];

/// An entrance of a trampoline; offsets are from where that begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entrance {
    /// The function that is called.
    pub function: Addr,
    /// Calls lead here.
    pub offset: u32,
    /// The byte that tells whether it is open.
    pub switch: u32,
    /// The slot of its linkage stub, if calls come through one.
    slot: Option<Addr>,
}

impl Entrance {
    /// Appends the entrance of the copy that follows, of the function whose first instruction is at `head`, an `endbr64` before it
    /// aside. Nothing if no function is known to begin there, or something is out of reach.
    pub(crate) fn make(code: &Code, head: Addr, asm: &mut Assembler) -> Option<Entrance> {
        let function = function_of(code, head)?;
        let slot = code.facts.linkage_to(function);
        let start = asm.bytes().len();
        if !in_reach(asm, slot.unwrap_or(function)) {
            return None;
        }
        let offset;
        let switch;
        match slot {
            Some(slot) => {
                asm.relative(&[0xFF, 0x25], slot);
                offset = asm.bytes().len();
                compare(asm, slot, function.0 as u32);
                switch = asm.bytes().len();
                branch(asm, start);
                compare(asm, slot + 4, (function.0 >> 32) as u32);
                branch(asm, start);
            }
            None => {
                asm.relative(&[0xE9], function);
                offset = asm.bytes().len();
                asm.raw(&[0x39, 0xE4]);
                switch = asm.bytes().len();
                branch(asm, start);
            }
        }
        Some(Entrance { function, offset: offset as u32, switch: switch as u32, slot })
    }
}

/// `cmp dword [at], value`.
fn compare(asm: &mut Assembler, at: Addr, value: u32) {
    // The displacement is counted from behind the value.
    asm.relative(&[0x81, 0x3D], at - 4);
    asm.raw(&value.to_le_bytes());
}

/// `jne` back to offset `to`.
fn branch(asm: &mut Assembler, to: usize) {
    let back = to as i64 - (asm.bytes().len() as i64 + 2);
    asm.raw(&[OPEN, back as i8 as u8]);
}

/// The function whose first instruction is at `head`.
fn function_of(code: &Code, head: Addr) -> Option<Addr> {
    let begins = |at: Addr| code.entry_in(at..at + 1).is_some();
    if begins(head) {
        return Some(head);
    }
    let before = head - ENDBR64.len() as u64;
    (code.original(before).starts_with(&ENDBR64) && begins(before)).then_some(before)
}

/// The first instruction of the function at `function` that can be probed.
pub(crate) fn head_of(code: &Code, function: Addr) -> Addr {
    match code.original(function).starts_with(&ENDBR64) {
        true => function + ENDBR64.len() as u64,
        false => function,
    }
}

/// The function that a call of `target` leads to, as far as it is in the same module.
pub(crate) fn called(code: &Code, target: Addr) -> Addr {
    code.facts.linkage(target).map_or(target, |linkage| linkage.function)
}

/// The entrances of a transaction, by function, each with the trampoline it belongs to.
#[derive(Default)]
pub(crate) struct Entrances(FxHashMap<Addr, (Entrance, Addr)>);

impl Entrances {
    /// Adds that of the trampoline at `trampoline`.
    pub(crate) fn add(&mut self, entrance: Entrance, trampoline: Addr) {
        self.0.insert(entrance.function, (entrance, trampoline));
    }

    /// Where `call` may lead instead, and the trampoline there.
    pub(crate) fn find(&self, code: &Code, call: &Insn) -> Option<(Addr, Addr)> {
        let Flow::Call(target) = call.flow() else { return None };
        let linkage = code.facts.linkage(target);
        let function = linkage.map_or(target, |linkage| linkage.function);
        let (entrance, trampoline) = self.0.get(&function)?;
        let same = entrance.slot == linkage.map(|linkage| linkage.slot);
        same.then(|| (*trampoline + u64::from(entrance.offset), *trampoline))
    }
}

#[cfg(test)]
mod tests {
    use incise_isa::native::decode;

    use super::*;

    #[test]
    fn an_entrance_looks_at_both_halves_of_the_slot() {
        let mut asm = Assembler::new(Addr(0x1000));
        compare(&mut asm, Addr(0x2000), 0x1234_5678);
        branch(&mut asm, 0);
        let code = asm.into_bytes();
        let cmp = decode(&code, Addr(0x1000)).expect("an instruction");
        assert_eq!((cmp.ip_relative_target(), cmp.len()), (Some(Addr(0x2000)), 10));
        let jne = decode(&code[10..], Addr(0x100A)).expect("an instruction");
        assert_eq!(jne.flow(), Flow::Branch(Addr(0x1000)));
        let closed = decode(&[CLOSED, code[11]], Addr(0x100A)).expect("an instruction");
        assert_eq!(closed.flow(), Flow::Jump(Addr(0x1000)));
    }
}
