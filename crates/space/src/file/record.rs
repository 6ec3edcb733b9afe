//! The record of what was changed: how to get the original back, and what was put in.
//!
//! It is the last part of the file: the body, then a trailer of 32 bytes (little-endian quadwords: length of
//! the body, first eight bytes of the body's SHA-256, version, magic number). A section `.incise.record`
//! also covers it, so that it is found after tools like strip have moved it. The body is, packed (`packed.rs`), a sequence of
//! numbers and byte strings (`numbers.rs`), in the order of [`Record`]'s fields.

use std::collections::BTreeSet;
use std::path::Path;

use incise_image::FileOffset;
use incise_isa::Addr;
use sha2::{Digest, Sha256};

use super::elf::{Headers, slice};
use super::error::FileError;
use super::numbers::{Reader, Writer};
use super::packed::{packed, unpacked};

/// The last eight bytes of a file with a record.
const MAGIC: [u8; 8] = *b"incise\0R";
const VERSION: u64 = 3;
const TRAILER: usize = 32;

/// The most bytes a name may share with the one before: bounds what a small file can expand to.
const SHARED_MAX: usize = 255;

/// Name of the section that covers the record.
pub(super) const SECTION: &[u8] = b".incise.record";

/// What was changed in a file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Size of the original file, in bytes. Its bytes come first, changed only where `overwritten` tells.
    pub original_len: u64,
    /// SHA-256 of the original file.
    pub original_sha256: [u8; 32],
    /// Every stretch of the original that was overwritten, ascending, with the bytes that were there.
    pub overwritten: Vec<(FileOffset, Vec<u8>)>,
    /// Changes made by hand.
    pub patches: Vec<PatchEntry>,
    /// The counters, if there are any.
    pub counting: Option<Counting>,
}

/// A change made by hand. This crate only keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PatchEntry {
    /// Its number in this file.
    pub id: u64,
    /// What was asked for, for people.
    pub text: String,
    /// Link address of the first byte.
    pub at: Addr,
    /// The bytes that were there.
    pub old: Vec<u8>,
    /// The bytes that are there now.
    pub new: Vec<u8>,
}

/// What a rewritten program counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counting {
    /// Tells its files of counts from those of other programs.
    pub id: [u8; 16],
    /// Path of the rewritten program.
    pub program: Vec<u8>,
    /// Folder of the files of counts, unless `INCISE_COUNTS` names another one.
    pub folder: Vec<u8>,
    /// The files are named so, with the process id behind a dot.
    pub name: Vec<u8>,
    /// Size of the counters, in bytes.
    pub len: u64,
    /// The probes, in the order of their counters.
    pub probes: Vec<Probe>,
    /// The places that could not be counted.
    pub refused: Vec<Refused>,
}

/// One counter and where it counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Probe {
    /// Where the counter is, in bytes from the first one.
    pub offset: u64,
    /// Link address of the instruction.
    pub at: Addr,
    /// The function, as its programmer wrote it.
    pub function: String,
    /// The name of the tactic.
    pub tactic: String,
    /// The name of the kind of point.
    pub kind: String,
    /// For a point on an edge: link addresses of the instruction it leaves, and of the one it leads to.
    pub edge: Option<(Addr, Addr)>,
}

/// A place that is not counted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Refused {
    /// Link address.
    pub at: Addr,
    /// The function, as its programmer wrote it.
    pub function: String,
    /// Why.
    pub reason: String,
}

impl Record {
    /// The record at the end of `file`, or in its section.
    ///
    /// # Errors
    /// [`FileError::NoRecord`], [`FileError::BadRecord`]; `path` is for these.
    pub fn find(path: &Path, file: &[u8]) -> Result<Record, FileError> {
        Ok(find(path, file)?.0)
    }

    /// Puts the original bytes into `bytes`, which are those of the file from `at` on.
    pub fn restore(&self, at: FileOffset, bytes: &mut [u8]) {
        for (offset, old) in &self.overwritten {
            // Offsets of a damaged record may be anything.
            let (skip, ahead) = (at.0.saturating_sub(offset.0), offset.0.saturating_sub(at.0));
            let old = usize::try_from(skip).ok().and_then(|skip| old.get(skip..));
            let into = usize::try_from(ahead).ok().and_then(|ahead| bytes.get_mut(ahead..));
            if let (Some(old), Some(into)) = (old, into) {
                let len = old.len().min(into.len());
                into[..len].copy_from_slice(&old[..len]);
            }
        }
    }

    /// The record with its trailer, as it is written.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut body = Writer(Vec::new());
        body.number(self.original_len);
        body.bytes(&self.original_sha256);
        body.number(self.overwritten.len() as u64);
        let mut end = 0;
        for (offset, bytes) in &self.overwritten {
            body.signed(offset.0.wrapping_sub(end) as i64);
            end = offset.0.wrapping_add(bytes.len() as u64);
            body.bytes(bytes);
        }
        body.number(self.patches.len() as u64);
        for patch in &self.patches {
            body.number(patch.id);
            body.bytes(patch.text.as_bytes());
            body.number(patch.at.0);
            body.bytes(&patch.old);
            body.bytes(&patch.new);
        }
        body.number(u64::from(self.counting.is_some()));
        if let Some(counting) = &self.counting {
            counting.write(&mut body);
        }
        let mut bytes = packed(&body.0);
        let (len, sum) = (bytes.len() as u64, checksum(&bytes));
        for word in [len, sum, VERSION] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(MAGIC);
        bytes
    }

    fn parse(body: &[u8]) -> Option<Record> {
        let body = unpacked(body)?;
        let mut body = Reader(&body);
        let original_len = body.number()?;
        let original_sha256 = body.bytes()?.try_into().ok()?;
        let mut overwritten = Vec::new();
        let mut end = 0u64;
        for _ in 0..body.number()? {
            let offset = end.wrapping_add(body.signed()? as u64);
            let bytes = body.bytes()?.to_vec();
            end = offset.wrapping_add(bytes.len() as u64);
            overwritten.push((FileOffset(offset), bytes));
        }
        let mut patches = Vec::new();
        for _ in 0..body.number()? {
            patches.push(PatchEntry {
                id: body.number()?,
                text: body.text()?,
                at: Addr(body.number()?),
                old: body.bytes()?.to_vec(),
                new: body.bytes()?.to_vec(),
            });
        }
        let counting = if body.number()? == 0 { None } else { Some(Counting::read(&mut body)?) };
        Some(Record { original_len, original_sha256, overwritten, patches, counting })
    }
}

impl Counting {
    /// The id that depends on the program and on what is counted, and on nothing else.
    pub(super) fn identify(&mut self, original: &[u8]) {
        let mut digest = Sha256::new();
        digest.update(Sha256::digest(original));
        for probe in &self.probes {
            digest.update(probe.offset.to_le_bytes());
            digest.update(probe.at.0.to_le_bytes());
        }
        let digest: [u8; 32] = digest.finalize().into();
        self.id.copy_from_slice(&digest[..16]);
    }

    /// Names repeat each other's beginnings: each is written as what it shares with the one before, and the rest.
    fn write(&self, body: &mut Writer) {
        body.bytes(&self.id);
        body.bytes(&self.program);
        body.bytes(&self.folder);
        body.bytes(&self.name);
        body.number(self.len);
        let words = self.probes.iter().flat_map(|probe| [&*probe.tactic, &*probe.kind]);
        let words: Vec<&str> = words.collect::<BTreeSet<&str>>().into_iter().collect();
        body.number(words.len() as u64);
        words.iter().for_each(|word| body.bytes(word.as_bytes()));
        body.number(self.probes.len() as u64);
        let (mut offset, mut at, mut name) = (0u64, 0u64, &b""[..]);
        for probe in &self.probes {
            body.signed(probe.offset.wrapping_sub(offset) as i64);
            body.signed(probe.at.0.wrapping_sub(at) as i64);
            let function = probe.function.as_bytes();
            let shared = name.iter().zip(function).take_while(|(a, b)| a == b).count().min(SHARED_MAX);
            body.number(shared as u64);
            body.bytes(&function[shared..]);
            for word in [&probe.tactic, &probe.kind] {
                body.number(words.binary_search(&&**word).unwrap_or(0) as u64);
            }
            body.number(u64::from(probe.edge.is_some()));
            for end in probe.edge.into_iter().flat_map(|(from, to)| [from, to]) {
                body.signed(end.0.wrapping_sub(probe.at.0) as i64);
            }
            (offset, at, name) = (probe.offset, probe.at.0, function);
        }
        body.number(self.refused.len() as u64);
        for refused in &self.refused {
            body.number(refused.at.0);
            body.bytes(refused.function.as_bytes());
            body.bytes(refused.reason.as_bytes());
        }
    }

    fn read(body: &mut Reader<'_>) -> Option<Counting> {
        let id = body.bytes()?.try_into().ok()?;
        let mut text = || Some(body.bytes()?.to_vec());
        let (program, folder, name) = (text()?, text()?, text()?);
        let len = body.number()?;
        let mut words = Vec::new();
        for _ in 0..body.number()? {
            words.push(body.text()?);
        }
        let (mut offset, mut at, mut last) = (0u64, 0u64, Vec::new());
        let mut probes = Vec::new();
        for _ in 0..body.number()? {
            offset = offset.wrapping_add(body.signed()? as u64);
            at = at.wrapping_add(body.signed()? as u64);
            let shared = usize::try_from(body.number()?).ok().filter(|&shared| shared <= SHARED_MAX)?;
            last.get(shared..)?;
            last.truncate(shared);
            last.extend_from_slice(body.bytes()?);
            let function = String::from_utf8(last.clone()).ok()?;
            let mut word = || words.get(usize::try_from(body.number()?).ok()?).cloned();
            let (tactic, kind) = (word()?, word()?);
            let has_edge = body.number()? != 0;
            let mut end = || Some(Addr(at.wrapping_add(body.signed()? as u64)));
            let edge = if has_edge { Some((end()?, end()?)) } else { None };
            probes.push(Probe { offset, at: Addr(at), function, tactic, kind, edge });
        }
        let mut refused = Vec::new();
        for _ in 0..body.number()? {
            refused.push(Refused { at: Addr(body.number()?), function: body.text()?, reason: body.text()? });
        }
        Some(Counting { id, program, folder, name, len, probes, refused })
    }
}

/// The record, and where in the file its body begins if it is at the end.
fn find(path: &Path, file: &[u8]) -> Result<(Record, Option<u64>), FileError> {
    let bad = |what| FileError::BadRecord { path: path.to_owned(), what };
    if file.ends_with(&MAGIC) {
        let body = body_of(file).map_err(bad)?;
        let at = (file.len() - TRAILER - body.len()) as u64;
        return Ok((Record::parse(body).ok_or(bad("an entry is cut short"))?, Some(at)));
    }
    let moved = Headers::parse(file).ok().and_then(|headers| {
        let sections = headers.sections?;
        let section = sections.headers.iter().find(|section| sections.name(file, section) == SECTION)?;
        slice(file, section.offset, section.size)
    });
    match moved.filter(|bytes| bytes.ends_with(&MAGIC)) {
        None => Err(FileError::NoRecord { path: path.to_owned() }),
        Some(bytes) => {
            let body = body_of(bytes).map_err(bad)?;
            Ok((Record::parse(body).ok_or(bad("an entry is cut short"))?, None))
        }
    }
}

fn body_of(bytes: &[u8]) -> Result<&[u8], &'static str> {
    let cut = "it is cut short";
    let trailer = bytes.len().checked_sub(TRAILER).ok_or(cut)?;
    let word = |n: usize| super::elf::u64_at(bytes, trailer + 8 * n).ok_or(cut);
    if word(2)? != VERSION {
        return Err("it has another version");
    }
    let len = usize::try_from(word(0)?).map_err(|_| cut)?;
    let body = bytes.get(trailer.checked_sub(len).ok_or(cut)?..trailer).ok_or(cut)?;
    if checksum(body) == word(1)? { Ok(body) } else { Err("its checksum is wrong") }
}

fn checksum(body: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(body).into();
    digest[..8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

/// The original of a file that has a record, and the record.
///
/// # Errors
/// [`FileError::NoRecord`], [`FileError::BadRecord`]; [`FileError::Changed`] if what comes out is not the
/// original. `path` is for these.
pub fn original(path: &Path, file: &[u8]) -> Result<(Vec<u8>, Record), FileError> {
    let (record, at) = find(path, file)?;
    let changed = || FileError::Changed { path: path.to_owned() };
    let at = at.ok_or_else(changed)?;
    let whole = slice(file, 0, record.original_len).filter(|_| record.original_len <= at);
    let mut bytes = whole.ok_or_else(changed)?.to_vec();
    for (offset, old) in &record.overwritten {
        let start = usize::try_from(offset.0).map_err(|_| changed())?;
        let end = start.checked_add(old.len()).ok_or_else(changed)?;
        bytes.get_mut(start..end).ok_or_else(changed)?.copy_from_slice(old);
    }
    let digest: [u8; 32] = Sha256::digest(&bytes).into();
    if digest == record.original_sha256 { Ok((bytes, record)) } else { Err(changed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        let probe = |offset, at, function: &str| Probe {
            offset,
            at: Addr(at),
            function: function.into(),
            tactic: "group".into(),
            kind: "edge".into(),
            edge: Some((Addr(at), Addr(at - 8))),
        };
        Record {
            original_len: 4,
            original_sha256: Sha256::digest(b"abcd").into(),
            overwritten: vec![(FileOffset(1), b"bc".to_vec())],
            patches: vec![PatchEntry { id: 7, text: "nop".into(), at: Addr(5), old: vec![1], new: vec![2] }],
            counting: Some(Counting {
                probes: vec![probe(0, 0x40_1000, "main"), probe(8, 0x40_0F00, "mainly")],
                refused: vec![Refused { at: Addr(9), function: "f".into(), reason: "because".into() }],
                len: 16,
                ..Counting::default()
            }),
        }
    }

    #[test]
    fn the_original_comes_back_and_every_damage_is_noticed() {
        let path = Path::new("x");
        let mut file = b"aXYdtail".to_vec();
        file.extend(sample().to_bytes());
        let (bytes, record) = original(path, &file).expect("restored");
        assert_eq!((bytes.as_slice(), record), (&b"abcd"[..], sample()));
        for at in (0..file.len()).filter(|at| !(1..8).contains(at) || *at == 3) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(original(path, &damaged).is_err(), "byte {at}");
        }
        for len in 0..file.len() {
            assert!(original(path, &file[..len]).is_err(), "{len} bytes");
        }
    }
}
