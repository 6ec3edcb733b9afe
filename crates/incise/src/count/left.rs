//! Taking over from a run that was killed: the original code comes back before anything new is planned.
//!
//! What it left works on without it. But where its jumps cover places at which threads may stand, these are trap bytes
//! inside the jumps, and a new jump over an old one would take them away: nothing but the table in the process tells of them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use incise_isa::Addr;
use incise_space::remote::{ProcessId, RemoteSpace};
use incise_space::{AddressSpace, Bytes, Edit, Landing, SpaceError};

use crate::patching::patched;
use crate::program::Program;

/// How many bytes from a landing on a change of code may reach.
const REACH: u64 = 15;

/// Puts back what the files have wherever earlier tracers have changed code, but for changes made by hand. Threads in
/// trampolines go on there, and threads about to take a trap get to one: the handler and its table stay.
///
/// # Errors
/// If the process is gone. What cannot be told from its file stays as it is.
pub(super) fn restore(space: &mut RemoteSpace, pid: ProcessId, program: &Program) -> Result<(), SpaceError> {
    let landings: Vec<Addr> = space.left_landings()?.iter().map(Landing::address).collect();
    if landings.is_empty() {
        return Ok(());
    }
    let by_hand = patched(pid.0);
    let mut changed: BTreeMap<Addr, (u8, u8)> = BTreeMap::new();
    for module in program.modules().iter().filter(|module| !module.deleted) {
        let inside = |at: Addr| module.text.iter().find(|text| text.contains(&at));
        if !landings.iter().any(|at| inside(*at).is_some()) {
            continue;
        }
        let Ok(file) = fs::read(format!("/proc/{}/root{}", pid.0, module.path)) else { continue };
        for at in &landings {
            let Some(text) = inside(*at) else { continue };
            let window = *at..(*at + REACH).min(text.end);
            let original = module.to_link(*at).and_then(|link| {
                module.image.bytes_at(&file, link, window.end.offset_from(window.start) as u64)
            });
            let Some(original) = original else { continue };
            let mut there = vec![0; original.len()];
            space.read(*at, &mut there)?;
            for (n, (there, original)) in there.iter().zip(original).enumerate() {
                let at = *at + n as u64;
                if there != original && !by_hand.iter().any(|range| range.contains(&at)) {
                    changed.insert(at, (*there, *original));
                }
            }
        }
    }
    let edits = edits(&changed, &landings);
    space.apply(&edits, &|_| None)?;
    for edit in &edits {
        // That is how it is to be in the end.
        space.forget(&edit.at.span(edit.old.len() as u64))?;
    }
    Ok(())
}

/// The edits that make each byte the second of its pair; instructions may begin at `heads`.
fn edits(changed: &BTreeMap<Addr, (u8, u8)>, heads: &[Addr]) -> Vec<Edit> {
    let bytes: Vec<(Addr, (u8, u8))> = changed.iter().map(|(at, pair)| (*at, *pair)).collect();
    let runs = bytes.chunk_by(|(a, _), (b, _)| *a + 1 == *b).flat_map(|run| run.chunks(Bytes::MAX));
    let edit = |run: &[(Addr, (u8, u8))]| {
        let range: Range<Addr> = run[0].0.span(run.len() as u64);
        let inside = heads.iter().filter(|head| range.contains(head));
        Edit {
            at: range.start,
            old: Bytes::new(&run.iter().map(|(_, (there, _))| *there).collect::<Vec<_>>()),
            new: Bytes::new(&run.iter().map(|(_, (_, original))| *original).collect::<Vec<_>>()),
            heads: inside.fold(0, |bits, head| bits | 1 << head.offset_from(range.start)),
        }
    };
    runs.map(edit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_changed_bytes_are_edits() {
        let changed = (0..20).map(|n| (Addr(0x1000 + n), (0xCC, n as u8)));
        let changed = changed.chain([(Addr(0x2000), (0xE9, 0x55))]).collect();
        let edits = edits(&changed, &[Addr(0x1000), Addr(0x1003), Addr(0x1010), Addr(0x2000)]);
        let told: Vec<_> = edits.iter().map(|edit| (edit.at.0, edit.old.len(), edit.heads)).collect();
        assert_eq!(told, [(0x1000, 15, 0b1001), (0x100F, 5, 0b10), (0x2000, 1, 1)]);
        assert_eq!(*edits[1].new, [15, 16, 17, 18, 19]);
    }
}
