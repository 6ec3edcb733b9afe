//! Probes that programmers have put into programs with `<sys/sdt.h>`: notes of the type `stapsdt`
//! (<https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation>).

use object::LittleEndian;

use crate::LinkAddr;
use crate::elf::bytes::{Bytes, LE};
use crate::elf::layout::{header, sections};

/// A probe of a programmer: a `nop`, and where its arguments are there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsdtProbe {
    /// Who provides it.
    pub provider: String,
    /// Its name.
    pub name: String,
    /// The `nop`.
    pub at: LinkAddr,
    /// A counter of 16 bits: the program prepares the probe while it is not 0.
    pub semaphore: Option<LinkAddr>,
    /// Its arguments, as an assembler would be told: `-4@%edi 8@16(%rbp)`.
    pub arguments: String,
}

/// Most probes read of one file.
const PROBES: usize = 1 << 16;

/// The type of these notes.
const STAPSDT: u32 = 3;

/// The probes of programmers in a file, by rising address; none in what is no ELF file.
pub fn usdt_probes(file: &[u8]) -> Vec<UsdtProbe> {
    let file = Bytes::file(file);
    let Ok(header) = header(file) else { return Vec::new() };
    let sections = sections(file, header);
    let of = |name: &[u8]| sections.iter().find(|section| section.name == name);
    // What prelink(8) moved is told by this section.
    let base = of(b".stapsdt.base").map(|section| section.addr);
    let Some(notes) = of(b".note.stapsdt").map(|section| section.bytes) else { return Vec::new() };
    let mut found = Vec::new();
    let mut at = 0;
    while found.len() < PROBES {
        let Some((note, next)) = note(notes, at, base) else { break };
        found.extend(note);
        at = next;
    }
    found.sort_by_key(|probe| probe.at);
    found
}

/// The note at an offset, if it is a probe, and where the next one is.
fn note(notes: Bytes<'_>, at: u64, base: Option<u64>) -> Option<(Option<UsdtProbe>, u64)> {
    let word = |at: u64| notes.read::<object::U32<LittleEndian>>(at).map(|word| word.get(LE));
    let (name_len, len, kind) = (word(at)?, word(at + 4)?, word(at + 8)?);
    let name = notes.get(at + 12, name_len.into())?;
    let body = at + 12 + u64::from(name_len).next_multiple_of(4);
    let description = notes.get(body, len.into())?;
    let next = body + u64::from(len).next_multiple_of(4);
    let probe = (kind == STAPSDT && name.data() == b"stapsdt\0").then(|| probe(description, base)).flatten();
    Some((probe, next))
}

fn probe(description: Bytes<'_>, base: Option<u64>) -> Option<UsdtProbe> {
    let quadword = |at: u64| description.read::<object::U64<LittleEndian>>(at).map(|word| word.get(LE));
    let (at, linked, semaphore) = (quadword(0)?, quadword(8)?, quadword(16)?);
    let moved = base.map_or(0, |base| base.wrapping_sub(linked));
    let mut offset = 24;
    let mut text = || {
        let text = description.text(offset)?;
        offset += description.string(offset, usize::MAX)?.len() as u64 + 1;
        Some(text)
    };
    Some(UsdtProbe {
        provider: text()?,
        name: text()?,
        at: LinkAddr(at.wrapping_add(moved)),
        semaphore: (semaphore != 0).then(|| LinkAddr(semaphore.wrapping_add(moved))),
        arguments: text()?,
    })
}
