//! What `.eh_frame` says about code: ranges, whether they begin as functions do, exception tables.

use gimli::{
    BaseAddresses, CallFrameInstruction, CieOrFde, CommonInformationEntry, EhFrame, EndianSlice,
    LittleEndian, Pointer, Register, UnwindSection,
};
use rustc_hash::FxHashMap;

use crate::parse::code::{Code, Off};

/// A range of code with one unwind description.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fde {
    pub start: Off,
    pub end: Off,
    /// Link address of the table of exception handling; 0 for none.
    pub lsda: u64,
    /// It does not begin with the return address on top of the stack: a part of a function, not one.
    pub part: bool,
}

/// The descriptions, ascending by start.
#[derive(Default)]
pub(crate) struct Unwind {
    fdes: Vec<Fde>,
}

/// Number of the stack pointer in DWARF (psABI, figure 3.36).
const RSP: Register = Register(7);

impl Unwind {
    pub(crate) fn read(code: &Code<'_>) -> Unwind {
        let section = code.image.sections().iter().find(|s| &*s.name == ".eh_frame");
        let bytes = section.and_then(|s| Some((s.link.0, code.data(s.link.0, s.size)?)));
        let mut fdes = match bytes {
            Some((at, bytes)) => read(code, at, bytes),
            // Without section headers, the ranges at least are found through the program header.
            None => {
                code.image.unwind_functions().iter().filter_map(|r| bare(code, r.start.0, r.end.0)).collect()
            }
        };
        fdes.sort_unstable_by_key(|f| (f.start, f.end));
        fdes.dedup_by_key(|f| f.start);
        Unwind { fdes }
    }

    pub(crate) fn all(&self) -> &[Fde] {
        &self.fdes
    }

    /// The description of the code at `at`.
    pub(crate) fn at(&self, at: Off) -> Option<(usize, &Fde)> {
        let index = self.fdes.partition_point(|f| f.start <= at).checked_sub(1)?;
        self.fdes.get(index).filter(|f| at < f.end).map(|f| (index, f))
    }
}

fn bare(code: &Code<'_>, start: u64, end: u64) -> Option<Fde> {
    let first = code.offset(start)?;
    Some(Fde { start: first, end: first.saturating_add((end - start) as Off), lsda: 0, part: false })
}

type Section<'a> = EhFrame<EndianSlice<'a, LittleEndian>>;
type Common<'a> = CommonInformationEntry<EndianSlice<'a, LittleEndian>>;

fn read(code: &Code<'_>, at: u64, bytes: &[u8]) -> Vec<Fde> {
    let table: Section<'_> = EhFrame::new(bytes, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(at).set_text(code.base().0);
    // Each common entry is parsed once.
    let mut common: FxHashMap<usize, gimli::Result<(Common<'_>, bool)>> = FxHashMap::default();
    let mut found = Vec::new();
    let mut entries = table.entries(&bases);
    // A malformed entry ends the table; what came before it stands.
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(partial) = entry else { continue };
        let mut plain = true;
        let parsed = partial.parse(|section, bases, offset| {
            let known = common.entry(offset.0).or_insert_with(|| {
                let entry = section.cie_from_offset(bases, offset)?;
                let plain = begins_at_call(entry.instructions(section, bases));
                Ok((entry, plain))
            });
            known.clone().map(|(entry, begins)| {
                plain = begins;
                entry
            })
        });
        let Ok(fde) = parsed else { continue };
        let Some(start) = code.offset(fde.initial_address()) else { continue };
        let Ok(len) = Off::try_from(fde.len()) else { continue };
        // That of the way back from signal handlers begins a byte early: in the middle of some other instruction.
        if len == 0 || fde.is_signal_trampoline() {
            continue;
        }
        let lsda = match fde.lsda() {
            Some(Pointer::Direct(at)) => at,
            Some(Pointer::Indirect(at)) => code.pointer(at).unwrap_or(0),
            None => 0,
        };
        let part = plain && changes_at_once(fde.instructions(&table, &bases));
        found.push(Fde { start, end: start.saturating_add(len), lsda, part });
    }
    found
}

/// Whether the common rules are those right behind a call: the frame address is `rsp + 8`.
fn begins_at_call(mut rules: gimli::CallFrameInstructionIter<'_, EndianSlice<'_, LittleEndian>>) -> bool {
    let mut plain = false;
    while let Ok(Some(rule)) = rules.next() {
        if let CallFrameInstruction::DefCfa { register, offset } = rule {
            plain = register == RSP && offset == 8;
        }
    }
    plain
}

/// Whether the frame address of the first instruction is something else than the common rules say.
fn changes_at_once(mut rules: gimli::CallFrameInstructionIter<'_, EndianSlice<'_, LittleEndian>>) -> bool {
    let mut changed = false;
    while let Ok(Some(rule)) = rules.next() {
        match rule {
            CallFrameInstruction::AdvanceLoc { .. } => break,
            CallFrameInstruction::DefCfa { register, offset } => changed = register != RSP || offset != 8,
            CallFrameInstruction::DefCfaOffset { offset } => changed = offset != 8,
            CallFrameInstruction::DefCfaRegister { register } => changed |= register != RSP,
            CallFrameInstruction::DefCfaExpression { .. } => changed = true,
            // Registers saved before the first instruction: no function begins so.
            CallFrameInstruction::Offset { register, .. } => changed |= register.0 < 16,
            _ => {}
        }
    }
    changed
}
