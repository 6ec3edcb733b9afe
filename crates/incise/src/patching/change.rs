//! What is to be changed, and what that means as bytes.

use incise_image::MemoryReader;
use incise_isa::Addr;
use incise_isa::native::{Insn, MAX_INSN_LEN, Syntax, assemble, decode};

use super::detour::{Code, Detour, decoded, has_data, insns};
use super::listing::patched_there;
use super::live::patches;
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

/// Works out what `request` means in the program seen by `view`.
///
/// # Errors
/// If the place is no instruction, the text no assembly, or the change makes no sense there; [`PatchError::Patched`] if an
/// earlier patch is there.
pub fn plan(view: &View, request: &Request) -> Result<Plan, PatchError> {
    let error = match suited(view, request) {
        Err(
            error @ (PatchError::Unsuitable { .. }
            | PatchError::NoInstruction { .. }
            | PatchError::InsideInstruction { .. }),
        ) => error,
        Ok(plan) => return goes_on_well(view, request, &plan).map(|()| plan),
        outcome => return outcome,
    };
    let at = behind_mark(view, request);
    let end = view.insn(at).map_or(at + 1, |insn| insn.end());
    Err(patched_there(view, &(at..end), error))
}

/// Refuses a change behind which control would go on in the middle of an instruction: over the jump of an earlier patch, which takes
/// other bytes than the instructions it replaced.
fn goes_on_well(view: &View, request: &Request, plan: &Plan) -> Result<(), PatchError> {
    let leaves = matches!(request.change, Change::Set(_) | Change::Return(_) | Change::Jump(_));
    let (at, len) = (plan.at, plan.old.len());
    let range = at..at + len as u64;
    let touching = || patches(view).into_iter().rev().filter(|patch| patch.code && patch.touches(&range));
    if leaves || matches!(plan.how, How::Data { .. }) || touching().next().is_none() {
        return Ok(());
    }
    let mut original = view.bytes(at, len + MAX_INSN_LEN);
    for patch in touching() {
        for (old, place) in patch.old.iter().zip(patch.at.0..) {
            let byte = place.checked_sub(at.0).and_then(|offset| original.get_mut(offset as usize));
            byte.into_iter().for_each(|byte| *byte = *old);
        }
    }
    let mut end = 0;
    while end < len {
        let rest = original.get(end..).unwrap_or_default();
        end += decode(rest, at + end as u64).map_err(|_| PatchError::NoInstruction { at })?.len();
    }
    if end == len {
        return Ok(());
    }
    let reason =
        "the program would go on in the middle of an instruction that an earlier jump replaced".to_owned();
    Err(patched_there(view, &range, PatchError::Unsuitable { at, reason }))
}

/// The plan, or why the change does not suit what is there.
fn suited(view: &View, request: &Request) -> Result<Plan, PatchError> {
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
