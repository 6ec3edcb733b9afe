//! A graph as bytes, to be kept and used again.
//!
//! Layout, all numbers little-endian: magic (8 bytes), version (u32), length of the build-id (u32), the
//! build-id, length of the program's file (u64), checksum of its code (u64), length of the payload (u64),
//! checksum of the payload (u64), the payload. The payload is a sequence of LEB128 numbers, with addresses
//! and indices as differences.
//!
//! Whatever the bytes are, reading them ends in a graph that keeps all its rules or in a [`StoreError`];
//! then a fresh parse is due.

use incise_image::Image;

use crate::graph::edge::{EdgeKind, Reason};
use crate::graph::{BlockData, Cfg, EdgeData, FunctionData, TO_IMPORT};
use crate::parse::code::NONE;

const MAGIC: &[u8; 8] = b"INCISECF";

/// Version of the format, and of what the parser finds. Others are not read.
pub const VERSION: u32 = 2;

/// Why stored bytes are of no use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// They do not begin as a stored graph does.
    #[error("not a stored graph")]
    NotAStore,
    /// They are of another version.
    #[error("stored graph of version {found}, not {VERSION}")]
    OtherVersion {
        /// The version.
        found: u32,
    },
    /// They belong to another program, or to another build of it.
    #[error("stored graph of another program")]
    OtherProgram,
    /// They end too early, do not fit their checksum, or make no sense.
    #[error("stored graph damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
}

const fn damaged(what: &'static str) -> StoreError {
    StoreError::Damaged { what }
}

/// Writes and reads stored graphs.
#[derive(Clone, Copy, Debug)]
pub struct Store;

impl Store {
    /// The bytes to keep of the graph of `image`, whose file's contents are `file`.
    pub fn write(cfg: &Cfg, image: &Image, file: &[u8]) -> Vec<u8> {
        let payload = encode(cfg);
        let build_id = image.build_id().unwrap_or(&[]);
        let mut out = Vec::with_capacity(payload.len() + 128);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(build_id.len() as u32).to_le_bytes());
        out.extend_from_slice(build_id);
        out.extend_from_slice(&(file.len() as u64).to_le_bytes());
        out.extend_from_slice(&code_checksum(image, file).to_le_bytes());
        out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        out.extend_from_slice(&checksum(&payload).to_le_bytes());
        out.extend_from_slice(&payload);
        out
    }

    /// Reads the graph in `stored`, which must have been written for `image` and `file`.
    ///
    /// # Errors
    /// All of [`StoreError`]; the caller parses afresh then.
    pub fn read(stored: &[u8], image: &Image, file: &[u8]) -> Result<Cfg, StoreError> {
        let mut header = Header(stored);
        if header.take(8) != Some(MAGIC) {
            return Err(StoreError::NotAStore);
        }
        let found = header.number(4).ok_or(damaged("header"))? as u32;
        if found != VERSION {
            return Err(StoreError::OtherVersion { found });
        }
        let len = header.number(4).ok_or(damaged("header"))?;
        let build_id = header.take(len as usize).ok_or(damaged("build-id"))?;
        let file_len = header.number(8).ok_or(damaged("header"))?;
        let code = header.number(8).ok_or(damaged("header"))?;
        let len = header.number(8).ok_or(damaged("header"))?;
        let sum = header.number(8).ok_or(damaged("header"))?;
        if build_id != image.build_id().unwrap_or(&[]) || file_len != file.len() as u64 {
            return Err(StoreError::OtherProgram);
        }
        let payload = header.0;
        if payload.len() as u64 != len || checksum(payload) != sum {
            return Err(damaged("checksum"));
        }
        if code != code_checksum(image, file) {
            return Err(StoreError::OtherProgram);
        }
        let cfg = decode(payload)?;
        let base = image.text().iter().map(|r| r.start.0).min().unwrap_or(0);
        if cfg.base != base {
            return Err(damaged("base address"));
        }
        Ok(cfg)
    }
}

struct Header<'s>(&'s [u8]);

impl<'s> Header<'s> {
    fn take(&mut self, len: usize) -> Option<&'s [u8]> {
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    fn number(&mut self, len: usize) -> Option<u64> {
        Some(self.take(len)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }
}

/// A checksum against accidents, eight bytes at a time.
fn checksum(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = bytes.as_chunks::<8>();
    let mix = |sum: u64, word: u64| (sum.rotate_left(29) ^ word).wrapping_mul(FACTOR);
    let sum = words.iter().fold(bytes.len() as u64, |sum, word| mix(sum, u64::from_le_bytes(*word)));
    let sum = rest.iter().fold(sum, |sum, &byte| mix(sum, u64::from(byte)));
    sum ^ sum >> 32
}

fn code_checksum(image: &Image, file: &[u8]) -> u64 {
    let sums = image.text().iter().map(|range| {
        let bytes = image.bytes_at(file, range.start, range.end.0 - range.start.0);
        checksum(bytes.unwrap_or(&[])) ^ range.start.0
    });
    sums.fold(0, |all, sum| all.rotate_left(1) ^ sum)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A difference, small ones of either sign as small numbers.
fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value << 1 ^ value >> 63) as u64);
}

/// Marks an edge that leads to a block.
const HAS_BLOCK: u8 = 0x80;

fn encode(cfg: &Cfg) -> Vec<u8> {
    let mut out = Vec::with_capacity(cfg.blocks.len() * 6 + cfg.edges.len() * 3);
    put(&mut out, cfg.base);
    out.push(u8::from(cfg.whole));
    for len in
        [cfg.functions.len(), cfg.blocks.len(), cfg.edges.len(), cfg.members.len(), cfg.unresolved.len()]
    {
        put(&mut out, len as u64);
    }
    let mut at = 0;
    for (index, block) in cfg.blocks.iter().enumerate() {
        let next = cfg.blocks.get(index + 1).map_or(cfg.edges.len() as u32, |b| b.first_edge);
        put(&mut out, u64::from(block.start - at));
        put(&mut out, u64::from(block.end - block.start));
        put(&mut out, u64::from(block.insns));
        put(&mut out, u64::from(next - block.first_edge));
        at = block.start;
    }
    for edge in &cfg.edges {
        let has_block = edge.to != NONE;
        out.push(edge.kind as u8 | edge.flags << 4 | if has_block { HAS_BLOCK } else { 0 });
        match has_block {
            true => put_signed(&mut out, i64::from(edge.to) - i64::from(edge.from)),
            false => put(&mut out, u64::from(edge.target.wrapping_add(1))),
        }
    }
    let (mut at, mut block) = (0, 0);
    for (index, function) in cfg.functions.iter().enumerate() {
        let next = cfg.functions.get(index + 1);
        let members = function.first_member..next.map_or(cfg.members.len() as u32, |f| f.first_member);
        let open =
            function.first_unresolved..next.map_or(cfg.unresolved.len() as u32, |f| f.first_unresolved);
        put(&mut out, u64::from(function.entry - at));
        out.extend([function.source, function.flags]);
        put(&mut out, members.len() as u64);
        for &member in cfg.members.get(members.start as usize..members.end as usize).unwrap_or(&[]) {
            put_signed(&mut out, i64::from(member) - i64::from(block));
            block = member;
        }
        put(&mut out, open.len() as u64);
        for &(at, reason) in cfg.unresolved.get(open.start as usize..open.end as usize).unwrap_or(&[]) {
            put(&mut out, u64::from(at));
            out.push(reason);
        }
        at = function.entry;
    }
    out
}

struct Payload<'s>(&'s [u8]);

impl Payload<'_> {
    fn byte(&mut self) -> Result<u8, StoreError> {
        let (&first, rest) = self.0.split_first().ok_or(damaged("end"))?;
        self.0 = rest;
        Ok(first)
    }

    fn number(&mut self) -> Result<u64, StoreError> {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = self.byte()?;
            if shift > 63 {
                return Err(damaged("number"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    fn short(&mut self) -> Result<u32, StoreError> {
        u32::try_from(self.number()?).map_err(|_| damaged("number"))
    }

    fn signed(&mut self) -> Result<i64, StoreError> {
        let value = self.number()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, least: usize) -> Result<usize, StoreError> {
        let count = self.short()? as usize;
        match count.checked_mul(least) {
            Some(bytes) if bytes <= self.0.len() => Ok(count),
            _ => Err(damaged("count")),
        }
    }

    fn sum(&mut self, to: u32) -> Result<u32, StoreError> {
        to.checked_add(self.short()?).ok_or(damaged("address"))
    }

    /// An index less than `limit`, as a difference to `from`.
    fn index(&mut self, from: u32, limit: usize) -> Result<u32, StoreError> {
        let index = i64::from(from).checked_add(self.signed()?).ok_or(damaged("index"))?;
        u32::try_from(index).ok().filter(|&i| (i as usize) < limit).ok_or(damaged("index"))
    }
}

fn decode(payload: &[u8]) -> Result<Cfg, StoreError> {
    let mut from = Payload(payload);
    let mut cfg = Cfg { base: from.number()?, whole: from.byte()? == 1, ..Cfg::default() };
    let functions = from.count(5)?;
    let (blocks, edges) = (from.count(4)?, from.count(2)?);
    let (members, unresolved) = (from.count(1)?, from.count(2)?);
    cfg.blocks.reserve_exact(blocks);
    let (mut at, mut edge) = (0, 0u32);
    for index in 0..blocks {
        let start = from.sum(at)?;
        let end = from.sum(start)?;
        let insns = from.short()?;
        if (index > 0 && start == at) || insns >> 4 == 0 || insns & 15 == 0 || end - start < insns & 15 {
            return Err(damaged("block"));
        }
        cfg.blocks.push(BlockData { start, end, insns, first_edge: edge });
        (at, edge) = (start, from.sum(edge)?);
    }
    if edge as usize != edges {
        return Err(damaged("number of edges"));
    }
    cfg.edges.reserve_exact(edges);
    for block in 0..blocks {
        let end = cfg.blocks.get(block + 1).map_or(edges, |b| b.first_edge as usize);
        while cfg.edges.len() < end {
            let edge = read_edge(&mut from, block as u32, &cfg)?;
            cfg.edges.push(edge);
        }
    }
    read_functions(&mut from, &mut cfg, [functions, members, unresolved])?;
    if !from.0.is_empty() {
        return Err(damaged("bytes behind the end"));
    }
    cfg.index();
    Ok(cfg)
}

fn read_edge(from: &mut Payload<'_>, source: u32, cfg: &Cfg) -> Result<EdgeData, StoreError> {
    let byte = from.byte()?;
    let kind = EdgeKind::ALL.get(usize::from(byte & 15)).copied().ok_or(damaged("kind of an edge"))?;
    let flags = (byte & !HAS_BLOCK) >> 4;
    if byte & HAS_BLOCK == 0 {
        let target = from.short()?.wrapping_sub(1);
        return Ok(EdgeData { from: source, to: NONE, target, kind, flags });
    }
    let to = from.index(source, cfg.blocks.len())?;
    let target = cfg.blocks.get(to as usize).map_or(NONE, |b| b.start);
    if flags & TO_IMPORT != 0 {
        return Err(damaged("edge"));
    }
    Ok(EdgeData { from: source, to, target, kind, flags })
}

fn read_functions(
    from: &mut Payload<'_>,
    cfg: &mut Cfg,
    [functions, members, unresolved]: [usize; 3],
) -> Result<(), StoreError> {
    cfg.functions.reserve_exact(functions);
    cfg.members.reserve_exact(members);
    let (mut at, mut block) = (0, 0);
    for index in 0..functions {
        let entry = from.sum(at)?;
        if index > 0 && entry == at {
            return Err(damaged("function"));
        }
        let (source, flags) = (from.byte()?, from.byte()?);
        let (first_member, first_unresolved) = (cfg.members.len() as u32, cfg.unresolved.len() as u32);
        for member in 0..from.count(1)? {
            let next = from.index(block, cfg.blocks.len())?;
            if member > 0 && next <= block {
                return Err(damaged("order of blocks"));
            }
            cfg.members.push(next);
            block = next;
        }
        for _ in 0..from.count(2)? {
            let (at, reason) = (from.short()?, from.byte()?);
            if usize::from(reason) >= Reason::ALL.len() {
                return Err(damaged("reason"));
            }
            cfg.unresolved.push((at, reason));
        }
        cfg.functions.push(FunctionData { entry, first_member, first_unresolved, source, flags });
        at = entry;
    }
    match (cfg.members.len(), cfg.unresolved.len()) {
        (m, u) if m == members && u == unresolved => Ok(()),
        _ => Err(damaged("number of blocks")),
    }
}
