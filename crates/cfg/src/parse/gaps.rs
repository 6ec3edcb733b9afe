//! Functions in code that neither symbols nor unwind tables nor known code lead to.
//!
//! Two things point to them: their address, in an instruction or in data; and their place, behind other
//! code and padding, with instructions that make sense. The first is tried to the end before the second.

use std::ops::Range;

use iced_x86::{Code as Opcode, Mnemonic};
use incise_image::{Kind, LinkAddr};
use incise_isa::native::{Flow, Insn};
use rustc_hash::FxHashSet;

use crate::parse::code::Off;
use crate::parse::context::{Context, source};
use crate::x86_64::{begins_function, skip_padding, takes_over};

/// A stretch of code that no block covers, and whether the function before it is complete.
pub(crate) struct Gap {
    pub range: Range<Off>,
    pub after_complete: bool,
}

/// Gaps in which no place begins a function, as their code tells: where they begin and end, whether the function before them is
/// complete, and whether only what is certain was wanted. Each round asks again for most of them.
#[derive(Default)]
pub(crate) struct Barren(FxHashSet<(Off, Off, bool, bool)>);

/// What speaks for an entry, besides how it looks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// A variable of a program at a fixed address holds its address. Tables of jumps are constants, so that it is a function's.
    Variable,
    /// An instruction takes its address.
    Code,
    /// Data holds its address.
    Data,
    /// It lies behind other code.
    Place,
}

/// Addresses of code that instructions in `covered` ranges take, ascending.
pub(crate) fn named_in_code(context: &Context<'_>, covered: impl Iterator<Item = Range<Off>>) -> Vec<Off> {
    let code = &context.code;
    let fixed = code.image.kind() == Kind::Executable;
    let mut found: Vec<Off> = Vec::new();
    for range in covered {
        found.extend(
            code.insns(range).filter_map(|insn| named_by(&insn, fixed)).filter_map(|at| code.offset(at)),
        );
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Addresses of code that data holds, ascending: those that variables of a program at a fixed address hold, and all.
pub(crate) fn named_in_data(context: &Context<'_>) -> (Vec<Off>, Vec<Off>) {
    let code = &context.code;
    let mut by_variables = Vec::new();
    let mut found: Vec<Off> = code.relative().iter().filter_map(|&(_, to)| code.offset(to)).collect();
    // Programs at fixed addresses, and packed relocations, keep pointers in place. Elsewhere words that look
    // like addresses are numbers.
    let packed = code.image.sections().iter().any(|s| &*s.name == ".relr.dyn");
    let in_place = packed || code.image.kind() == Kind::Executable;
    for section in
        code.image.sections().iter().filter(|s| in_place && !s.executable && s.file_offset.is_some())
    {
        if section.name.starts_with(".rela")
            || section.name.starts_with(".eh_")
            || section.name.starts_with(".dyn")
        {
            continue;
        }
        let LinkAddr(start) = section.link;
        let aligned = start.next_multiple_of(8);
        let len = (start + section.size).saturating_sub(aligned);
        let words = code.data(aligned, len).unwrap_or(&[]).as_chunks::<8>().0;
        let words = words.iter().filter_map(|word| code.offset(u64::from_le_bytes(*word)));
        match section.writable && code.image.kind() == Kind::Executable {
            true => by_variables.extend(words),
            false => found.extend(words),
        }
    }
    found.extend_from_slice(&by_variables);
    for list in [&mut by_variables, &mut found] {
        list.sort_unstable();
        list.dedup();
    }
    (by_variables, found)
}

/// The address an instruction takes of something; by a constant only in programs at `fixed` addresses.
fn named_by(insn: &Insn, fixed: bool) -> Option<u64> {
    match insn.iced().code() {
        Opcode::Lea_r64_m => insn.ip_relative_target().map(|at| at.0),
        Opcode::Mov_r32_imm32 | Opcode::Mov_rm64_imm32 | Opcode::Mov_r64_imm64 | Opcode::Pushq_imm32
            if fixed =>
        {
            let last = insn.iced().op_count() - 1;
            Some(insn.iced().immediate(last))
        }
        _ => None,
    }
}

/// Entries in `gaps` that one of the addresses `named` (ascending) leads to.
///
/// Labels that are stored for computed jumps come with a name as well, and lie inside of functions. So
/// what does not begin like a function is only taken if it comes first in its gap: the next round sees
/// what of the gap is left.
pub(crate) fn by_name(
    context: &Context<'_>,
    gaps: &[Gap],
    named: &[Off],
    evidence: Evidence,
    certain: bool,
) -> Vec<(Off, u8)> {
    let mut found = Vec::new();
    for gap in gaps {
        let first = named.partition_point(|&n| n < gap.range.start);
        let inside = named[first..].iter().take_while(|&&n| n < gap.range.end);
        let sensible = inside.copied().filter(|&at| may_begin(context, at, gap.range.end));
        take(context, gap, sensible, (evidence, certain), &mut found);
    }
    found
}

/// Entries in `gaps` behind padding.
pub(crate) fn by_place(
    context: &Context<'_>,
    gaps: &[Gap],
    certain: bool,
    barren: &mut Barren,
) -> Vec<(Off, u8)> {
    let mut found = Vec::new();
    for gap in gaps {
        let key = (gap.range.start, gap.range.end, gap.after_complete, certain);
        if barren.0.contains(&key) {
            continue;
        }
        let before = found.len();
        let mut at = gap.range.start;
        let places = std::iter::from_fn(|| {
            while at < gap.range.end {
                let start = skip_padding(&context.code, at..gap.range.end)?;
                if !context.is_go() && takes_over(context, start, gap.range.end) {
                    // Nor does what follows it without padding begin a function.
                    at = padding_behind(context, start..gap.range.end);
                    continue;
                }
                // Go on at the next place where linkers put functions.
                let next = (context.code.link(start).0 + 1).next_multiple_of(16);
                at = context.code.offset(next).filter(|&next| next > start).unwrap_or(gap.range.end);
                let aligned = context.code.link(start).0.is_multiple_of(16);
                if (aligned || start == gap.range.start || begins_function(context, start))
                    && makes_sense(context, start, gap.range.end)
                {
                    return Some(start);
                }
            }
            None
        });
        take(context, gap, places, (Evidence::Place, certain), &mut found);
        if found.len() == before {
            barren.0.insert(key);
        }
    }
    found
}

/// Where padding begins behind the instructions of `range`; its end if none does.
fn padding_behind(context: &Context<'_>, range: Range<Off>) -> Off {
    let end = range.end;
    let mut at = range.start;
    for insn in context.code.insns(range) {
        if insn.is_nop() || insn.bytes() == [0xcc] {
            return at;
        }
        at += insn.len() as Off;
    }
    // What is no instruction is passed.
    if at < end { at + 1 } else { end }
}

/// Takes from ascending `places` in `gap` those that are certain, and, unless only these are wanted, the
/// first if it is likely.
fn take(
    context: &Context<'_>,
    gap: &Gap,
    places: impl Iterator<Item = Off>,
    (evidence, only_certain): (Evidence, bool),
    found: &mut Vec<(Off, u8)>,
) {
    for (index, at) in places.enumerate() {
        let begins = begins_function(context, at);
        let aligned = context.code.link(at).0.is_multiple_of(16);
        let before = at.checked_sub(1).and_then(|before| context.code.bytes(before).first());
        // What is padding, or ends code: nop, int3, ret; the end of a longer nop.
        let behind = at == gap.range.start || before.is_some_and(|b| matches!(b, 0x90 | 0xcc | 0xc3));
        let behind = behind || (aligned && before == Some(&0));
        let named = evidence != Evidence::Place;
        let certain = evidence == Evidence::Variable
            || behind && (begins && aligned || named && (begins || aligned || before == Some(&0xc3)));
        let likely = !only_certain
            && index == 0
            && (begins || gap.after_complete && (aligned || evidence == Evidence::Code));
        if certain || likely {
            found.push((at, source::GAP));
        }
    }
}

/// Whether the code at `at` makes sense, and need not have been come to from code around it. Go's functions are passed
/// values in nearly all registers.
fn may_begin(context: &Context<'_>, at: Off, end: Off) -> bool {
    makes_sense(context, at, end) && (context.is_go() || !takes_over(context, at, end))
}

/// Whether straight decoding from `at` comes to an end of control before it comes to nonsense.
fn makes_sense(context: &Context<'_>, at: Off, end: Off) -> bool {
    /// Instructions looked at.
    const LIMIT: usize = 48;
    let mut zeros = 0;
    for insn in context.code.insns(at..end).take(LIMIT) {
        let i = insn.iced();
        zeros = if insn.bytes() == [0, 0] { zeros + 1 } else { 0 };
        let odd = i.is_privileged() && i.code() != Opcode::Hlt
            || matches!(insn.flow(), Flow::Far)
            || zeros > 1
            || matches!(
                i.mnemonic(),
                Mnemonic::In
                    | Mnemonic::Out
                    | Mnemonic::Insb
                    | Mnemonic::Insd
                    | Mnemonic::Outsb
                    | Mnemonic::Outsd
                    | Mnemonic::Enter
                    | Mnemonic::Int1
                    | Mnemonic::Loopne
                    | Mnemonic::Loope
            )
            || insn.flow().target().is_some_and(|to| context.code.offset(to.0).is_none());
        if odd {
            return false;
        }
        if !insn.flow().falls_through() {
            return true;
        }
    }
    // Either much code that makes sense, or bytes that are no instruction.
    context.code.insns(at..end).take(LIMIT).count() == LIMIT
        || context.code.insns(at..end).last().is_some_and(|last| last.end().0 == context.code.link(end).0)
}
