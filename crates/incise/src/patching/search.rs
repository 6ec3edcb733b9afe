//! Strings and constants: where they are, and which instructions use them.

use std::collections::BTreeSet;
use std::ops::Range;

use incise_image::{LinkAddr, MemoryReader, Module};
use incise_isa::Addr;
use incise_isa::native::{Constant, Flow, Insn, decode};
use incise_patch::Facts;

use super::decides::{Decision, decisions};
use super::naming::symbol;
use super::{Region, View};

/// What is looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Text, anywhere in a string.
    Text(Vec<u8>),
    /// Bytes, as they are.
    Bytes(Vec<u8>),
    /// An immediate operand.
    Immediate(u64),
}

/// Where what is looked for lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hit {
    /// The first byte that fits.
    pub at: Addr,
    /// Where the string begins that holds it; the same for bytes.
    pub start: Addr,
    /// The string, or what of the bytes is text.
    pub text: String,
    /// The module, or else the file or kind of memory: `anonymous`, `[heap]`.
    pub region: String,
}

/// An instruction that uses a hit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Use {
    /// The instruction.
    pub at: Addr,
    /// The hit, or the value.
    pub of: Addr,
    /// The pointer through which it gets there.
    pub through: Option<Addr>,
    /// The function.
    pub function: Option<String>,
    /// The branches that decide whether it runs, the nearest first.
    pub decisions: Vec<Decision>,
}

/// What a search found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SearchResult {
    /// Where it lies; nothing for an immediate.
    pub hits: Vec<Hit>,
    /// Who uses it.
    pub uses: Vec<Use>,
}

/// Most hits that are told.
const MOST_HITS: usize = 1000;
/// Memory is searched in pieces of this size.
const PIECE: usize = 1 << 20;

/// Looks for `wanted` in the program; in a process also in memory that belongs to no file.
pub fn search(view: &View, wanted: &Wanted) -> SearchResult {
    let mut hits = match wanted {
        Wanted::Text(bytes) | Wanted::Bytes(bytes) => hits(view, bytes, matches!(wanted, Wanted::Text(_))),
        Wanted::Immediate(_) => Vec::new(),
    };
    let mut targets: Vec<Target> = hits
        .iter()
        .map(|hit| Target { range: hit.start..hit.at + 1, of: hit.start, through: None })
        .collect();
    // A string that holds the text twice is one.
    hits.dedup_by_key(|hit| hit.start);
    let modules: Vec<&Module> = match wanted {
        Wanted::Immediate(_) => view.program().modules().iter().filter(|module| module.main).collect(),
        _ => {
            let holds = |module: &&Module| hits.iter().any(|hit| module.range.contains(&hit.at));
            view.program().modules().iter().filter(holds).collect()
        }
    };
    let pointers: Vec<Target> = modules.iter().flat_map(|module| pointers(view, module, &targets)).collect();
    targets.extend(pointers);
    let mut uses = Vec::new();
    for module in modules {
        let mut entered: Vec<(Addr, Addr)> = Vec::new();
        let first = uses.len();
        sweep(view, module, &mut |insn| {
            if let Flow::Jump(to) | Flow::Branch(to) = insn.flow() {
                entered.push((insn.addr(), to));
            }
            for constant in insn.constants() {
                let found = match (wanted, constant) {
                    (Wanted::Immediate(value), Constant::Immediate(there)) => {
                        (same_value(*value, there)).then_some((Addr(there), None))
                    }
                    (Wanted::Immediate(_), _) => None,
                    (_, Constant::Immediate(there) | Constant::Table(there)) => hit_by(&targets, Addr(there)),
                    (_, Constant::Memory(there)) => hit_by(&targets, there),
                };
                if let Some((of, through)) = found {
                    let function = symbol(view, insn.addr());
                    uses.push(Use { at: insn.addr(), of, through, function, decisions: Vec::new() });
                }
            }
        });
        for found in &mut uses[first..] {
            found.decisions = decisions(view, found.at, &entered);
        }
    }
    SearchResult { hits, uses }
}

/// An address, or some, that stand for a hit.
struct Target {
    range: Range<Addr>,
    of: Addr,
    through: Option<Addr>,
}

fn hit_by(targets: &[Target], at: Addr) -> Option<(Addr, Option<Addr>)> {
    let target = targets.iter().find(|target| target.range.contains(&at))?;
    Some((target.of, target.through))
}

/// Whether an operand stands for a value, whatever width it is extended from.
fn same_value(wanted: u64, there: u64) -> bool {
    wanted == there
        || (wanted as i64) < 0 && (wanted as i32 as i64 == wanted as i64) && there == u64::from(wanted as u32)
}

/// Every place of `bytes` in memory.
fn hits(view: &View, bytes: &[u8], text: bool) -> Vec<Hit> {
    let mut hits = Vec::new();
    if bytes.is_empty() {
        return hits;
    }
    let in_file =
        |region: &&Region| view.pid().is_none() || !region.name.starts_with('[') || region.name == "[heap]";
    for region in view.regions().iter().filter(in_file) {
        let mut at = region.range.start;
        while at < region.range.end && hits.len() < MOST_HITS {
            let left = region.range.end.offset_from(at) as usize;
            let piece = view.bytes(at, left.min(PIECE + bytes.len() - 1));
            if piece.is_empty() {
                break;
            }
            let first = bytes[0];
            let starts = piece
                .iter()
                .enumerate()
                .filter(|(offset, byte)| **byte == first && piece[*offset..].starts_with(bytes));
            for (offset, _) in starts.take(MOST_HITS - hits.len()) {
                if offset < PIECE {
                    hits.push(hit(view, region, at + offset as u64, bytes.len(), text));
                }
            }
            at = at + left.min(PIECE) as u64;
        }
    }
    hits
}

fn hit(view: &View, region: &Region, at: Addr, len: usize, text: bool) -> Hit {
    const FAR: u64 = 256;
    let mut start = at;
    if text {
        let from = Addr(at.0.saturating_sub(FAR)).max(region.range.start);
        let before = view.bytes(from, at.offset_from(from) as usize);
        start = at - text_at_end(&before) as u64;
    }
    let bytes = view.bytes(start, if text { 256 } else { len });
    let end =
        if text { bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()) } else { bytes.len() };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    Hit { at, start, text, region: name_of(view, region).to_owned() }
}

fn name_of<'v>(view: &'v View, region: &'v Region) -> &'v str {
    let module = view.program().modules().iter().find(|module| module.range.contains(&region.range.start));
    match (module, region.name.rsplit('/').next()) {
        (Some(module), _) => &module.name,
        (None, None | Some("")) => "anonymous",
        (None, Some(name)) => name,
    }
}

/// How many bytes at the end of `bytes` are text: UTF-8 without control characters.
fn text_at_end(bytes: &[u8]) -> usize {
    let is_text = |byte: &&u8| **byte >= 0x20 && **byte != 0x7f || matches!(**byte, b'\n' | b'\t' | b'\r');
    let mut text = &bytes[bytes.len() - bytes.iter().rev().take_while(is_text).count()..];
    while let Err(error) = str::from_utf8(text) {
        let bad = error.valid_up_to() + error.error_len().unwrap_or(text.len() - error.valid_up_to());
        text = &text[bad..];
    }
    text.len()
}

/// Pointers of `module` to what is looked for: quadwords in its memory, and those that the loader will write.
fn pointers(view: &View, module: &Module, targets: &[Target]) -> Vec<Target> {
    let mut found = Vec::new();
    let mut pointer = |at: Addr, to: u64| {
        if let Some((of, _)) = hit_by(targets, Addr(to)) {
            found.push(Target { range: at..at + 8, of, through: Some(at) });
        }
    };
    for section in module.image.sections().iter().filter(|section| section.name.starts_with(".rela")) {
        // r_offset, r_info, r_addend; R_X86_64_RELATIVE is 8 (psABI, relocation).
        let table = view.bytes(module.to_addr(section.link), section.size.min(1 << 26) as usize);
        for entry in table.chunks_exact(24) {
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap_or_default());
            if word(8) as u32 == 8 {
                pointer(module.to_addr(LinkAddr(word(0))), word(16).wrapping_add(module.bias));
            }
        }
    }
    for segment in module.image.segments().iter().filter(|segment| !segment.permissions.execute) {
        let start = module.to_addr(segment.link).align_up(8);
        let bytes = view.bytes(start, segment.mem_size.min(1 << 28) as usize);
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            pointer(start + 8 * index as u64, u64::from_le_bytes(word.try_into().unwrap_or_default()));
        }
    }
    found.sort_by_key(|target| target.range.start);
    found.dedup_by_key(|target| target.range.start);
    found
}

/// Decodes all code of `module` once, beginning anew at every function that is known.
pub(super) fn sweep(view: &View, module: &Module, each: &mut dyn FnMut(&Insn)) {
    let image = &module.image;
    let mut starts: BTreeSet<LinkAddr> = image.functions().iter().map(|function| function.addr).collect();
    starts.extend(image.unwind_functions().iter().map(|range| range.start));
    for range in image.text() {
        let inner = starts.range(range.start..range.end).copied().filter(|start| *start > range.start);
        let mut ends: Vec<LinkAddr> = inner.collect();
        ends.push(range.end);
        let text = view.bytes(module.to_addr(range.start), range.end.offset_from(range.start) as usize);
        let mut offset = 0;
        for end in ends {
            let end = (end.offset_from(range.start) as usize).min(text.len());
            while offset < end {
                match decode(&text[offset..end], module.to_addr(range.start) + offset as u64) {
                    Ok(insn) => {
                        each(&insn);
                        offset += insn.len();
                    }
                    Err(_) => offset += 1,
                }
            }
        }
    }
}

/// The function that holds `at`, by symbols or unwind tables.
pub(super) fn function(view: &View, at: Addr) -> Option<Range<Addr>> {
    view.program().function(at)
}

/// The strings of a program: at least `least` printable characters and a zero byte, in memory of its files that is no
/// code.
pub fn strings(view: &View, least: usize) -> Vec<(Addr, String)> {
    let mut found = Vec::new();
    let own: Vec<&Module> = view.program().modules().iter().filter(|module| module.main).collect();
    let inside = |region: &&Region| {
        !region.permissions.execute && own.iter().any(|module| module.range.contains(&region.range.start))
    };
    for region in view.regions().iter().filter(inside) {
        let mut bytes = vec![0; region.range.end.offset_from(region.range.start) as usize];
        if !view.read(region.range.start, &mut bytes) {
            continue;
        }
        let mut start = 0;
        for (index, byte) in bytes.iter().enumerate() {
            if *byte >= 0x20 && *byte < 0x7f || matches!(byte, b'\n' | b'\t') {
                continue;
            }
            if *byte == 0 && index - start >= least {
                let text = String::from_utf8_lossy(&bytes[start..index]).into_owned();
                found.push((region.range.start + start as u64, text));
            }
            start = index + 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_that_holds_the_text_twice_is_told_once() {
        static TWICE: &[u8] = b"\0a moat around a moat\0";
        std::hint::black_box(TWICE);
        let view = View::of_file(&std::env::current_exe().expect("a path")).expect("this program");
        let found = search(&view, &Wanted::Text(b"a moat".to_vec())).hits;
        let places = found.iter().filter(|hit| hit.text.as_bytes() == &TWICE[1..TWICE.len() - 1]).count();
        assert_eq!(places, 1, "{found:?}");
    }

    #[test]
    fn a_string_begins_behind_what_is_no_text() {
        assert_eq!(text_at_end(b"one\0two "), 4);
        assert_eq!(text_at_end(b"\xd7\xef\xff\xff\xe1\xff"), 0, "a jump table");
        assert_eq!(text_at_end("\u{e4}\u{f6} \n".as_bytes()), 6);
        assert_eq!(text_at_end(b"\xffab"), 2);
        assert_eq!(text_at_end(b"ab\xc3"), 0, "cut off");
    }
}
