//! Which branches inside a trampoline are near enough to be short: two bytes, as they mostly were. Where branches take six, a copy has
//! half as many bytes again as its function, and its loops no longer fit where the processor keeps them.
//!
//! It is decided before the code in between is there, from what its instructions can take at most, so that the trampoline is
//! assembled once.

use incise_isa::native::{Assembler, Flow, Insn, MAX_RELOCATED_LEN, SPRINGBOARD_LEN};

use crate::region::{Kind, Region};
use crate::trampoline::lower::{Ready, in_reach};
use crate::trampoline::sequences::Snippets;

/// Bytes from the landing of each member on that the code before it cannot exceed.
pub(crate) struct Spans(Vec<u32>);

/// Code that may take any number of bytes.
const LONG: usize = 1 << 12;
/// `jmp [rip]` with its literal.
const JUMP: usize = 14;
/// As far as a short branch leads.
const REACH: i64 = 127;

impl Spans {
    /// Those of `region` assembled by `asm`; `flags` tells where flags have to be kept.
    pub(crate) fn of(
        region: &Region,
        snippets: &[Option<&Snippets>],
        flags: &[bool],
        asm: &Assembler,
    ) -> Spans {
        let mut sum = 0;
        let mut spans = Vec::with_capacity(region.members.len() + 1);
        for (index, member) in region.members.iter().enumerate() {
            spans.push(sum);
            if member.kind == Kind::Call {
                continue;
            }
            let follows = region
                .members
                .get(index + 1)
                .is_some_and(|next| next.insn.addr() == member.insn.end() && next.kind == Kind::Displaced);
            let here = snippets[index].map_or(0, |here| around(here, flags[index], asm));
            let jump = if follows { 0 } else { JUMP };
            sum += (insn(&member.insn, asm) + here + jump) as u32;
        }
        spans.push(sum);
        Spans(spans)
    }

    /// Whether a short branch that ends member `from` certainly reaches the landing of member `to` behind it.
    pub(crate) fn reach(&self, from: usize, to: usize) -> bool {
        let between = i64::from(self.0[to]) - i64::from(self.0[from + 1]);
        from < to && between + JUMP as i64 <= REACH
    }
}

/// The opcode of a short branch that does what `insn` does; nothing if it has prefixes, or no short form.
pub(crate) fn opcode(insn: &Insn) -> Option<u8> {
    match *insn.bytes() {
        [first @ 0x70..=0x7F, _] => Some(first),
        [0x0F, second @ 0x80..=0x8F, _, _, _, _] => Some(second - 0x10),
        [0xEB, _] | [0xE9, _, _, _, _] => Some(0xEB),
        _ => None,
    }
}

/// The displacement of a short branch that ends at `end` and leads to `to`, if it is one.
pub(crate) fn displacement(end: u32, to: u32) -> Option<i8> {
    i8::try_from(i64::from(to) - i64::from(end)).ok()
}

fn insn(insn: &Insn, asm: &Assembler) -> usize {
    let near = insn.ip_relative_target().is_none_or(|target| in_reach(asm, target));
    match insn.flow() {
        Flow::Next | Flow::Return | Flow::IndirectJump if near => insn.len().max(1),
        Flow::Jump(to) | Flow::Branch(to) if in_reach(asm, to) && opcode(insn).is_some() => {
            SPRINGBOARD_LEN + 1
        }
        _ => MAX_RELOCATED_LEN,
    }
}

/// The most that snippets take; `flags` are to be kept.
fn around(snippets: &Snippets, flags: bool, asm: &Assembler) -> usize {
    /// `inc qword gs:[...]`, and as much again where its address needs a register.
    const COUNT: usize = 9;
    /// Flags and two registers kept, below the red zone.
    const KEEP: usize = 32;
    if !snippets.iter().all(Ready::is_counter) || snippets.ways().next().is_some() {
        return LONG;
    }
    if !flags && snippets.iter().all(|ready| ready.changes_only_flags(asm)) {
        return COUNT * snippets.count();
    }
    2 * COUNT * snippets.count() + KEEP
}

#[cfg(test)]
mod tests {
    use incise_isa::Addr;
    use incise_isa::native::decode;

    use super::*;

    #[test]
    fn short_forms_keep_the_condition() {
        let opcode = |bytes: &[u8]| opcode(&decode(bytes, Addr(0x1000)).expect("an instruction"));
        assert_eq!(opcode(&[0x74, 5]), Some(0x74));
        assert_eq!(opcode(&[0x0F, 0x8F, 0, 1, 0, 0]), Some(0x7F));
        assert_eq!((opcode(&[0xEB, 5]), opcode(&[0xE9, 0, 1, 0, 0])), (Some(0xEB), Some(0xEB)));
        // `bnd`, a branch hint, and `loop`.
        for bytes in [&[0xF2, 0x74, 5][..], &[0x3E, 0x74, 5], &[0xE2, 5]] {
            assert_eq!(opcode(bytes), None);
        }
    }

    #[test]
    fn displacements_are_counted_from_behind_the_branch() {
        assert_eq!((displacement(100, 227), displacement(100, 228)), (Some(127), None));
        assert_eq!((displacement(200, 72), displacement(200, 71)), (Some(-128), None));
    }
}
