//! Disassembly.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Syntax, decode};

use incise_patch::Facts;

use super::change::{How, Plan};
use super::lines::hex;
use super::naming::{note, symbol};
use super::{Patch, PatchError, View, patches};

/// One instruction, or a byte that is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its address.
    pub at: Addr,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The instruction, as the assembler reads it.
    pub text: String,
    /// The function that begins here.
    pub label: Option<String>,
    /// What its operands name.
    pub note: Option<String>,
    /// Where it goes, if it is a direct branch or call.
    pub target: Option<Addr>,
}

/// The first `count` instructions from `at` on; fewer where the memory ends.
///
/// # Errors
/// If nothing is mapped at `at`.
pub fn listing(view: &View, at: Addr, count: usize, syntax: Syntax) -> Result<Vec<Line>, PatchError> {
    let bytes = view.bytes(at, count.saturating_mul(15).min(1 << 24));
    if bytes.is_empty() {
        return Err(PatchError::Unmapped { at });
    }
    Ok(lines(view, at, &bytes, syntax).take(count).collect())
}

/// The instructions that `bytes` are at `at`.
pub(super) fn lines<'a>(
    view: &'a View,
    at: Addr,
    bytes: &'a [u8],
    syntax: Syntax,
) -> impl Iterator<Item = Line> + 'a {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let rest = bytes.get(offset..).filter(|rest| !rest.is_empty())?;
        let here = at + offset as u64;
        let label = symbol(view, here).filter(|name| !name.contains("+0x"));
        let line = match decode(rest, here) {
            Ok(insn) => Line {
                at: here,
                bytes: insn.bytes().to_vec(),
                text: insn.text_in(syntax),
                label,
                note: note(view, &insn),
                target: insn.flow().target(),
            },
            Err(_) => Line {
                at: here,
                bytes: rest[..1].to_vec(),
                text: format!(".byte {:#04x}", rest[0]),
                label,
                note: None,
                target: None,
            },
        };
        offset += line.bytes.len();
        Some(line)
    })
}

/// What the bytes of a patch were, as instructions; of data, nothing.
pub fn original_listing(view: &View, patch: &Patch, syntax: Syntax) -> Vec<Line> {
    if !patch.code {
        return Vec::new();
    }
    // From the instruction that the first byte belongs to.
    let start = (0..15)
        .map(|back| patch.at - back)
        .find(|start| {
            let mut bytes = view.bytes(*start, 15 + patch.old.len());
            restore(&mut bytes, *start, patch);
            decode(&bytes, *start).is_ok_and(|insn| insn.end() > patch.at) && is_boundary(view, *start, patch)
        })
        .unwrap_or(patch.at);
    let mut bytes = view.bytes(start, 30 + patch.old.len());
    restore(&mut bytes, start, patch);
    let end = patch.at + patch.old.len() as u64;
    lines(view, start, &bytes, syntax).take_while(|line| line.at < end).collect()
}

fn restore(bytes: &mut [u8], start: Addr, patch: &Patch) {
    for (index, byte) in patch.old.iter().enumerate() {
        let offset = (patch.at + index as u64).offset_from(start);
        if let Some(slot) = usize::try_from(offset).ok().and_then(|offset| bytes.get_mut(offset)) {
            *slot = *byte;
        }
    }
}

/// Whether an instruction begins at `at`, which is at or before a patch: by decoding from the start of the function.
fn is_boundary(view: &View, at: Addr, patch: &Patch) -> bool {
    let Some(function) = view.program().function(patch.at) else { return at == patch.at };
    let mut bytes = view.bytes(function.start, function.end.offset_from(function.start) as usize);
    restore(&mut bytes, function.start, patch);
    let mut here = function.start;
    while here < at {
        let offset = here.offset_from(function.start) as usize;
        let Some(Ok(insn)) = bytes.get(offset..).map(|rest| decode(rest, here)) else { return false };
        here = insn.end();
    }
    here == at
}

/// The instructions that a plan replaces, and those in their place; of a detour, its code, where it would be.
pub fn planned_listing(view: &View, plan: &Plan, syntax: Syntax) -> (Vec<Line>, Vec<Line>) {
    let before = lines(view, plan.at, &plan.old, syntax).collect();
    let after: Vec<Line> = match &plan.how {
        How::InPlace { new, .. } | How::Data { new } => lines(view, plan.at, new, syntax).collect(),
        How::Detour(detour) => {
            let code = detour.code_at(plan.at, false).unwrap_or_default();
            lines(view, plan.at, &code, syntax).collect()
        }
    };
    (before, after)
}

/// Checks that `bytes` are at `at`.
///
/// # Errors
/// [`PatchError::Unexpected`] if not.
pub fn expect(view: &View, at: Addr, bytes: &[u8]) -> Result<(), PatchError> {
    let found = view.bytes(at, bytes.len());
    if found == bytes {
        return Ok(());
    }
    let error = PatchError::Unexpected { at, expected: hex(bytes), found: hex(&found) };
    Err(patched_there(view, &(at..at + bytes.len() as u64), error))
}

/// Names the last patch that changed a byte in `range`, if there is one, as a reason of `error`.
pub(super) fn patched_there(view: &View, range: &Range<Addr>, error: PatchError) -> PatchError {
    match patches(view).into_iter().rev().find(|patch| patch.touches(range)) {
        Some(Patch { id, text, .. }) => PatchError::Patched { id, text, reason: Box::new(error) },
        None => error,
    }
}
