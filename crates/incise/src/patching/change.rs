//! What is to be changed, and what that means as bytes.

use incise_image::MemoryReader;
use incise_isa::Addr;
use incise_isa::native::{Assembler, Flow, Gpr, Insn, Relocation, Syntax, assemble, decode, relocate};

use super::set::Setting;
use super::{PatchError, View, place};
use crate::boundary::around;

/// A change of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Other instructions.
    Assembly(String),
    /// Other bytes.
    Bytes(Vec<u8>),
    /// Nothing.
    Nop,
    /// A conditional branch is taken when it was not, and the other way round.
    Invert,
    /// A conditional branch is always taken.
    Always,
    /// A conditional branch is never taken.
    Never,
    /// A function returns this at once.
    Return(u64),
    /// A call of a place.
    Call(String),
    /// A jump to a place.
    Jump(String),
    /// A string, with a zero byte behind it, not longer than what is there.
    Text(Vec<u8>),
    /// Bytes of data.
    Data(Vec<u8>),
    /// Registers and memory, before the instruction.
    Set(Setting),
}

/// A change at a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Where.
    pub at: Addr,
    /// What.
    pub change: Change,
    /// How many instructions it replaces.
    pub count: usize,
    /// The syntax of assembly text.
    pub syntax: Syntax,
}

/// What a request means for the bytes of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The first byte that is replaced.
    pub at: Addr,
    /// The instructions or data that are replaced.
    pub old: Vec<u8>,
    /// How it is done.
    pub how: How,
}

/// How a change is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum How {
    /// The bytes themselves, as many as before; `heads` are offsets at which instructions began.
    InPlace {
        /// The new bytes.
        new: Vec<u8>,
        /// Offsets of instructions.
        heads: Vec<usize>,
    },
    /// Elsewhere, by a jump.
    Detour(Detour),
    /// Data.
    Data {
        /// The new bytes.
        new: Vec<u8>,
    },
}

/// Code that runs elsewhere instead of some instructions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Detour {
    code: Code,
    /// Where it goes on.
    end: Addr,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Code {
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
struct Insn1 {
    at: Addr,
    bytes: Vec<u8>,
    /// It goes to another new instruction (its index; the number of them for their end), not to an address.
    inner: Option<usize>,
}

/// Works out what `request` means in the program seen by `view`.
///
/// # Errors
/// If the place is no instruction, the text no assembly, or the change makes no sense there.
pub fn plan(view: &View, request: &Request) -> Result<Plan, PatchError> {
    let at = behind_mark(view, request);
    match &request.change {
        Change::Text(text) => return data(view, at, text, true),
        Change::Data(bytes) => return data(view, at, bytes, false),
        Change::Bytes(bytes) if !view.is_code(at) => return data(view, at, bytes, false),
        _ => {}
    }
    if !view.is_code(at) {
        let reason = "no code lies there; data is changed with --string or --data".to_owned();
        return Err(PatchError::Unsuitable { at, reason });
    }
    if !matches!(request.change, Change::Bytes(_))
        && let Some(insn) = around(view.program(), at)
    {
        let text = insn.text_in(request.syntax);
        return Err(PatchError::InsideInstruction { at, start: insn.addr(), text });
    }
    let old = match &request.change {
        Change::Bytes(bytes) => covering(view, at, bytes.len())?,
        _ => run(view, at, request.count.max(1))?,
    };
    let first = &old[0];
    let branch = || {
        if first.is_conditional_jump() {
            return first.flow().target().ok_or(PatchError::NoInstruction { at });
        }
        let reason = format!("`{}` is no conditional branch", first.text_in(request.syntax));
        Err(PatchError::Unsuitable { at, reason })
    };
    let end = old[old.len() - 1].end();
    let names = |name: &str| place(view, name).ok().map(|place| place.addr);
    let text = |text: &str, syntax| assemble(text, at, syntax, &names).map_err(PatchError::from);
    let code = match &request.change {
        Change::Text(bytes) | Change::Data(bytes) => return data(view, at, bytes, false),
        Change::Set(setting) => Code::Insns(insns(&setting.code(view, at)?, at, Syntax::Intel, &names)?),
        Change::Assembly(source) => match text(source, request.syntax) {
            Ok(_) if has_data(source) => Code::Text { text: source.clone(), syntax: request.syntax },
            Ok(_) => Code::Insns(insns(source, at, request.syntax, &names)?),
            Err(error) => return Err(error),
        },
        Change::Bytes(bytes) => return Ok(in_place(&old, filled(&old, bytes.clone()))),
        Change::Nop => return Ok(in_place(&old, filled(&old, Vec::new()))),
        Change::Never => {
            branch()?;
            return Ok(in_place(&old, filled(&old, Vec::new())));
        }
        Change::Invert => {
            branch()?;
            return Ok(in_place(&old, inverted(first)));
        }
        Change::Always => {
            let bytes = text(&format!("jmp {}", branch()?), Syntax::Intel)?;
            Code::Insns(decoded(at, &bytes)?)
        }
        Change::Return(value) => Code::Return(*value),
        Change::Call(to) => Code::Call(place(view, to)?.addr),
        Change::Jump(to) => Code::Jump(place(view, to)?.addr),
    };
    let detour = Detour { code, end };
    let bytes = detour.inner(at, false)?;
    let room = end.offset_from(at) as usize;
    if bytes.len() <= room {
        let new = filled(&old, bytes);
        if keeps_boundaries(&old, &new) {
            return Ok(in_place(&old, new));
        }
    }
    Ok(Plan { at, old: joined(&old), how: How::Detour(detour) })
}

/// The place of new code: behind an `endbr64`, which has to stay where indirect branches lead.
pub(super) fn behind_mark(view: &View, request: &Request) -> Addr {
    let code = matches!(
        request.change,
        Change::Assembly(_) | Change::Return(_) | Change::Call(_) | Change::Jump(_) | Change::Set(_)
    );
    match view.insn(request.at) {
        Ok(insn) if code && insn.is_endbr() => insn.end(),
        _ => request.at,
    }
}

fn data(view: &View, at: Addr, bytes: &[u8], is_text: bool) -> Result<Plan, PatchError> {
    let mut new = bytes.to_vec();
    if is_text {
        let there = view.bytes(at, 1 << 16);
        let room = there.iter().position(|byte| *byte == 0).unwrap_or(0);
        if bytes.len() > room {
            let reason = format!(
                "the text has {} bytes, the string there only {room}: it would run into what is behind it",
                bytes.len()
            );
            return Err(PatchError::Unsuitable { at, reason });
        }
        new.resize(room + 1, 0);
    }
    let mut old = vec![0; new.len()];
    if !view.read(at, &mut old) {
        return Err(PatchError::Unmapped { at });
    }
    Ok(Plan { at, old, how: How::Data { new } })
}

/// `count` instructions.
fn run(view: &View, at: Addr, count: usize) -> Result<Vec<Insn>, PatchError> {
    const MOST: usize = 256;
    let mut next = at;
    (0..count.min(MOST))
        .map(|_| {
            let insn = view.insn(next)?;
            next = insn.end();
            Ok(insn)
        })
        .collect()
}

/// The instructions that `len` bytes touch.
fn covering(view: &View, at: Addr, len: usize) -> Result<Vec<Insn>, PatchError> {
    let mut insns = run(view, at, 1)?;
    while insns[insns.len() - 1].end() < at + len as u64 {
        let next = insns[insns.len() - 1].end();
        insns.push(view.insn(next)?);
    }
    Ok(insns)
}

fn joined(insns: &[Insn]) -> Vec<u8> {
    insns.iter().flat_map(|insn| insn.bytes().to_vec()).collect()
}

fn in_place(old: &[Insn], new: Vec<u8>) -> Plan {
    let at = old[0].addr();
    let heads = old.iter().map(|insn| insn.addr().offset_from(at) as usize).collect();
    Plan { at, old: joined(old), how: How::InPlace { new, heads } }
}

/// `code`, and `nop`s up to the end of `old`, so that old instructions behind the code begin where they began.
fn filled(old: &[Insn], mut code: Vec<u8>) -> Vec<u8> {
    let start = old[0].addr();
    for insn in old {
        let end = insn.end().offset_from(start) as usize;
        while code.len() < end {
            let nop = nop((end - code.len()).min(9));
            code.extend_from_slice(nop);
        }
    }
    code
}

/// The recommended `nop` of so many bytes (AMD APM vol. 3, NOP; Intel SDM vol. 2, NOP).
fn nop(len: usize) -> &'static [u8] {
    const NOPS: [&[u8]; 9] = [
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
        &[0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
        &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0, 0, 0, 0],
    ];
    NOPS[len.clamp(1, 9) - 1]
}

/// A conditional branch with its condition turned round: the lowest bit of the opcode (AMD APM vol. 3, Jcc).
fn inverted(branch: &Insn) -> Vec<u8> {
    let mut bytes = branch.bytes().to_vec();
    let opcode = match bytes.len() {
        // Behind the opcode are 4 bytes of displacement, or 1.
        len if len >= 6 && bytes[len - 6] == 0x0f => len - 5,
        len => len - 2,
    };
    bytes[opcode] ^= 1;
    bytes
}

/// Whether instructions begin in `new` wherever they began in `old`.
fn keeps_boundaries(old: &[Insn], new: &[u8]) -> bool {
    let at = old[0].addr();
    let mut begins = vec![false; new.len()];
    let mut offset = 0;
    while let Some(rest) = new.get(offset..).filter(|rest| !rest.is_empty()) {
        begins[offset] = true;
        match decode(rest, at + offset as u64) {
            Ok(insn) => offset += insn.len(),
            Err(_) => break,
        }
    }
    old.iter().all(|insn| begins.get(insn.addr().offset_from(at) as usize) == Some(&true))
}

/// Whether a text has directives in it.
fn has_data(text: &str) -> bool {
    let directives =
        [".byte", ".word", ".short", ".value", ".long", ".int", ".quad", ".ascii", ".asciz", ".string"];
    directives.iter().any(|directive| text.contains(directive))
}

/// The instructions of a text, as they are at `at`; branches among them are told from those to addresses.
fn insns(
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

fn decoded(at: Addr, bytes: &[u8]) -> Result<Vec<Insn1>, PatchError> {
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

impl Plan {
    /// The same by way of code elsewhere; data stays as it is.
    ///
    /// # Errors
    /// If the new bytes are no instructions.
    pub fn detoured(&self) -> Result<Plan, PatchError> {
        let How::InPlace { new, .. } = &self.how else { return Ok(self.clone()) };
        let code = Code::Insns(decoded(self.at, new)?);
        let end = self.at + self.old.len() as u64;
        Ok(Plan { how: How::Detour(Detour { code, end }), ..self.clone() })
    }

    /// A plan that replaces the same instructions by `code`, if that fits and keeps every boundary.
    pub fn replaced_by(&self, code: Vec<u8>) -> Option<Plan> {
        let mut old = Vec::new();
        for insn in decoded(self.at, &self.old).ok()? {
            old.push(decode(&insn.bytes, insn.at).ok()?);
        }
        if code.len() > self.old.len() {
            return None;
        }
        let new = filled(&old, code);
        keeps_boundaries(&old, &new).then(|| in_place(&old, new))
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

    fn inner(&self, at: Addr, moves: bool) -> Result<Vec<u8>, PatchError> {
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
