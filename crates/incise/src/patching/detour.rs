//! Code that runs elsewhere instead of some instructions.

use incise_isa::Addr;
use incise_isa::native::{Assembler, Flow, Gpr, Relocation, Syntax, assemble, decode, relocate};

use super::PatchError;

/// Code that runs elsewhere instead of some instructions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Detour {
    pub(super) code: Code,
    /// Where it goes on.
    pub(super) end: Addr,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Code {
    /// Instructions as they would be at the place itself.
    Insns(Vec<Insn1>),
    /// Text with data in it.
    Text {
        text: String,
        syntax: Syntax,
    },
    Return(u64),
    Call(Addr),
    Jump(Addr),
}

/// One instruction of the new code, in place of the decoder's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Insn1 {
    pub(super) at: Addr,
    pub(super) bytes: Vec<u8>,
    /// It goes to another new instruction (its index; the number of them for their end), not to an address.
    inner: Option<usize>,
}

/// Whether a text has directives in it.
pub(super) fn has_data(text: &str) -> bool {
    let directives =
        [".byte", ".word", ".short", ".value", ".long", ".int", ".quad", ".ascii", ".asciz", ".string"];
    directives.iter().any(|directive| text.contains(directive))
}

/// The instructions of a text, as they are at `at`; branches among them are told from those to addresses.
pub(super) fn insns(
    source: &str,
    at: Addr,
    syntax: Syntax,
    names: &dyn Fn(&str) -> Option<Addr>,
) -> Result<Vec<Insn1>, PatchError> {
    // A target that moves with the code is one of its labels.
    const APART: u64 = 1 << 16;
    let mut insns = decoded(at, &assemble(source, at, syntax, names)?)?;
    let moved = assemble(source, at + APART, syntax, names)?;
    mark_inner(&mut insns, &decoded(at + APART, &moved)?);
    Ok(insns)
}

pub(super) fn decoded(at: Addr, bytes: &[u8]) -> Result<Vec<Insn1>, PatchError> {
    let mut insns = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let here = at + offset as u64;
        let insn = decode(&bytes[offset..], here).map_err(|_| PatchError::NoInstruction { at: here })?;
        insns.push(Insn1 { at: here, bytes: insn.bytes().to_vec(), inner: None });
        offset += insn.len();
    }
    Ok(insns)
}

/// Marks the branches among `insns` that go to others of them; `moved` are the same assembled elsewhere.
fn mark_inner(insns: &mut [Insn1], moved: &[Insn1]) {
    let target = |insn: &Insn1| decode(&insn.bytes, insn.at).ok().and_then(|insn| insn.flow().target());
    // The index of the instruction at `to`.
    let index = |insns: &[Insn1], to: Option<Addr>| {
        let end = insns.last().map(|last| last.at + last.bytes.len() as u64);
        let found = insns.iter().position(|insn| Some(insn.at) == to);
        found.or_else(|| (to.is_some() && to == end).then_some(insns.len()))
    };
    for place in 0..insns.len().min(moved.len()) {
        let here = index(insns, target(&insns[place]));
        if here.is_some() && here == index(moved, target(&moved[place])) {
            insns[place].inner = here;
        }
    }
}

impl Detour {
    /// The code at `at`, with the way back behind it where it can run off its end. `moves`: both may be loaded elsewhere,
    /// so no address may be in it.
    ///
    /// # Errors
    /// If something in it is out of reach from there.
    pub fn code_at(&self, at: Addr, moves: bool) -> Result<Vec<u8>, PatchError> {
        let code = self.inner(at, moves)?;
        let ends = match &self.code {
            Code::Return(_) | Code::Jump(_) => true,
            Code::Insns(insns) => {
                let last = insns.last().and_then(|insn| decode(&insn.bytes, insn.at).ok());
                let to_end = insns.iter().any(|insn| insn.inner == Some(insns.len()));
                !to_end && last.is_some_and(|last| !last.flow().falls_through())
            }
            Code::Text { .. } | Code::Call(_) => false,
        };
        let mut asm = Assembler::resume(code.clone(), at + code.len() as u64);
        if !ends {
            asm.jump(self.end);
        }
        Ok(asm.into_bytes())
    }

    pub(super) fn inner(&self, at: Addr, moves: bool) -> Result<Vec<u8>, PatchError> {
        let mut asm = Assembler::new(at);
        match &self.code {
            Code::Return(value) => {
                asm.mov_imm(Gpr::Rax, *value);
                asm.raw(&[0xC3]);
            }
            Code::Call(to) => asm.call(*to),
            Code::Jump(to) => asm.jump(*to),
            Code::Text { text, syntax } => return Ok(assemble(text, at, *syntax, &|_| None)?),
            Code::Insns(insns) => return moved(insns, at, moves),
        }
        Ok(asm.into_bytes())
    }
}

/// Instructions moved to `to`; branches among them stay among them.
fn moved(insns: &[Insn1], to: Addr, moves: bool) -> Result<Vec<u8>, PatchError> {
    let Some(first) = insns.first() else { return Ok(Vec::new()) };
    if first.at == to {
        return Ok(insns.iter().flat_map(|insn| insn.bytes.clone()).collect());
    }
    let mut places: Vec<Addr> = vec![to; insns.len() + 1];
    // Each round only makes code longer, by far forms.
    for _ in 0..16 {
        let mut code = Vec::new();
        let mut next = Vec::with_capacity(places.len());
        for insn in insns {
            next.push(to + code.len() as u64);
            let decoded =
                decode(&insn.bytes, insn.at).map_err(|_| PatchError::NoInstruction { at: insn.at })?;
            let resolve = |target: Addr| insn.inner.map_or(target, |index| places[index]);
            // A call among the new instructions is one of the new code: it comes back to it.
            if let Flow::Call(target) = decoded.flow() {
                let mut asm = Assembler::new(to + code.len() as u64);
                asm.call(resolve(target));
                code.extend_from_slice(asm.bytes());
                continue;
            }
            if matches!(decoded.flow(), Flow::IndirectCall) && decoded.ip_relative_target().is_none() {
                code.extend_from_slice(&insn.bytes);
                continue;
            }
            let how =
                Relocation { to: to + code.len() as u64, resolve: &resolve, shadow_stack: false, moves };
            let failed = |error: incise_isa::native::RelocateError| PatchError::Unsuitable {
                at: insn.at,
                reason: error.to_string(),
            };
            relocate(&decoded, &how, &mut code).map_err(failed)?;
        }
        next.push(to + code.len() as u64);
        if next == places {
            return Ok(code);
        }
        places = next;
    }
    Err(PatchError::Unsuitable {
        at: first.at,
        reason: "the branches of the new code do not settle".to_owned(),
    })
}
