//! A group: a run of displaced instructions that share one springboard and one trampoline.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{
    Assembler, Flow, Insn, Live, MAX_GUARD_LEN, Relocation, SPRINGBOARD_LEN, Springboard, TRAP,
    flags_live_through, live_before, relocate,
};
use incise_space::{Bytes, Displaced, Edit, Features, Landing};
use smallvec::{SmallVec, smallvec};

use crate::code::{Code, LOOKAHEAD};
use crate::generate::PointContext;
use crate::literals::{Faults, Literals, Switches};
use crate::lower::{Ready, Sequence, Snippets, in_reach, lower, with_read};
use crate::placement::Placement;
use crate::report::InstanceId;
use crate::tactic::{Obstacle, Refusal, Tactic, TrapPolicy};
use crate::ways::{Stubs, after, stub, taken, way_in};

/// An instruction head of a group and the places that stand for it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Head {
    /// The original address.
    pub at: Addr,
    /// Offset of its landing in the trampoline: snippets, then the instruction. Springboards, traps and branches lead
    /// there, unless snippets run where control enters.
    pub landing: u32,
    /// Bytes from the landing to the copy of the instruction; `u16::MAX` if there are more.
    pub copy: u16,
    /// Length of the copy in bytes.
    pub copied: u8,
    /// Length of the instruction in bytes.
    pub len: u8,
    /// Offset of the snippets that run only where control enters, which lead to the landing; 0 if there are none.
    pub entered: u32,
}

impl Head {
    /// Offset of where springboards, traps and branches lead.
    pub(crate) fn entry(&self) -> u32 {
        if self.entered == 0 { self.landing } else { self.entered }
    }
}

/// From an offset in a trampoline on, its code belongs to a head.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Mark {
    pub offset: u32,
    /// The head's index in the group.
    pub head: u32,
}

/// The marks of a trampoline, ascending.
pub(crate) type Marks = SmallVec<[Mark; 2]>;

/// The heads of a group, ascending.
pub(crate) type Heads = SmallVec<[Head; 2]>;

/// A group that is in place.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub start: Addr,
    /// The bytes that are displaced or overwritten, or that the springboard relies on.
    pub extent: Range<Addr>,
    pub heads: Heads,
    /// Instructions of the trampoline that may fault.
    pub faults: Faults,
    /// Switches of instances.
    pub switches: Switches,
    /// Where the trampoline's code begins, and its length.
    pub trampoline: Addr,
    pub len: u32,
    /// Jumps into the trampoline at places that springboards reach, ascending, each with the index of the head it is
    /// for.
    pub stubs: SmallVec<[(Addr, u32); 1]>,
    pub marks: Marks,
    /// Ascending.
    pub edits: SmallVec<[Edit; 1]>,
}

/// How the bytes at a site lead to the trampoline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Board {
    /// `jmp rel32` with trap bytes at interior heads.
    Jump(Springboard),
    /// The displacement of the direct call or jump that is there.
    Retarget,
    /// `jmp rel8` to a `jmp rel32` in the padding before the site.
    HotPatch(Springboard),
    /// `jmp rel32` over one short instruction; the bytes behind it are part of the displacement.
    Pun(Springboard),
    /// A trap byte.
    Trap,
}

/// Instructions in a row.
pub(crate) type Insns = SmallVec<[Insn; 2]>;

/// What a group at a site would be, before its trampoline has a place.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub start: Addr,
    pub insns: Insns,
    pub tactic: Tactic,
    pub board: Board,
}

/// A trampoline's code at a given place.
pub(crate) struct Built {
    pub code: Vec<u8>,
    pub heads: Heads,
    pub marks: Marks,
    pub faults: Faults,
    pub switches: Switches,
    /// Offset of the address the springboard leads to.
    pub entry: u32,
}

impl Group {
    /// The trampoline and the stubs, each with its length.
    pub(crate) fn places(&self) -> impl Iterator<Item = Range<Addr>> + '_ {
        let stubs = self.stubs.iter().map(|(stub, _)| stub.span(SPRINGBOARD_LEN as u64));
        std::iter::once(self.trampoline.span(u64::from(self.len))).chain(stubs)
    }

    /// The original address that stands behind `offset` in the trampoline or stub at `place`.
    pub(crate) fn original_of(&self, place: Addr, offset: u64) -> Option<Addr> {
        let (len, head) = if place == self.trampoline {
            let index = self.marks.partition_point(|mark| u64::from(mark.offset) <= offset);
            (u64::from(self.len), index.checked_sub(1).map_or(0, |index| self.marks[index].head))
        } else {
            let index = self.stubs.binary_search_by_key(&place, |(stub, _)| *stub).ok()?;
            (SPRINGBOARD_LEN as u64, self.stubs[index].1)
        };
        (offset < len).then(|| self.heads.get(head as usize).map_or(self.start, |head| head.at))
    }

    /// Where each head leads, and each instruction of snippets that may fault.
    pub(crate) fn landings(&self) -> impl Iterator<Item = Landing> + '_ {
        let place = |offset: u32| self.trampoline + u64::from(offset);
        let heads =
            self.heads.iter().map(move |head| Landing { trap: head.at, landing: place(head.entry()) });
        let faults = self.faults.iter().map(move |&(at, to)| Landing::fault(place(at), place(to)));
        heads.chain(faults)
    }

    /// Where the switch of an instance is.
    pub(crate) fn switch_of(&self, instance: InstanceId) -> Option<Addr> {
        let (_, offset) = self.switches.iter().find(|(of, _)| *of == instance)?;
        Some(self.trampoline + u64::from(*offset))
    }

    /// What lies where in the trampoline and the stubs.
    pub(crate) fn displaced(&self) -> impl Iterator<Item = Displaced> + '_ {
        let ends = self.marks.iter().skip(1).map(|mark| mark.offset).chain([self.len]);
        let inside = self.marks.iter().zip(ends).map(|(mark, end)| {
            let head = &self.heads[mark.head as usize];
            let whole = if head.landing == mark.offset { *head } else { Head { copied: 0, len: 0, ..*head } };
            Displaced {
                landing: self.trampoline + u64::from(mark.offset),
                len: end.saturating_sub(mark.offset),
                original: head.at,
                original_len: whole.len,
                copy: whole.copy,
                copied: whole.copied,
            }
        });
        let detour = |landing, len, original| Displaced { landing, len, original, ..Displaced::default() };
        let first = self.marks.first().map_or(0, |mark| mark.offset);
        // The snippets of a retargeted call.
        let thunk = (first > 0).then(|| detour(self.trampoline, first, self.start));
        let stubs = self
            .stubs
            .iter()
            .map(move |&(stub, head)| detour(stub, SPRINGBOARD_LEN as u32, self.heads[head as usize].at));
        stubs.chain(thunk).chain(inside)
    }

    /// The address that stands for the original instruction at `at`.
    pub(crate) fn landing_of(&self, at: Addr) -> Option<Addr> {
        let head = self.heads.binary_search_by_key(&at, |head| head.at).ok()?;
        Some(self.trampoline + u64::from(self.heads[head].entry()))
    }
}

/// The two-byte instructions that compilers put at an entry for hot patching, together with five bytes of
/// padding before it: `mov edi,edi` and `xchg ax,ax`.
const HOTPATCH_HEADS: [[u8; 2]; 2] = [[0x8B, 0xFF], [0x66, 0x90]];

/// Decides how to patch `site`. `retargetable` tells that no snippet there looks at the stack.
pub(crate) fn shape(
    code: &Code,
    site: Addr,
    policy: TrapPolicy,
    retargetable: bool,
) -> Result<Shape, Refusal> {
    let first = code.insn(site)?;
    if code.facts.is_restartable(site) {
        return Err(Refusal::RestartableSequence(site));
    }
    if code.facts.is_machinery(site) {
        return Err(Refusal::Machinery(site));
    }
    if code.facts.is_relocated(site) {
        return Err(Refusal::Relocated(site));
    }
    if code.facts.is_copied(site) {
        return Err(Refusal::Copied(site));
    }
    let alone = |tactic, board| Shape { start: site, insns: smallvec![first], tactic, board };
    if policy == TrapPolicy::Force {
        return Ok(alone(Tactic::Trap, Board::Trap));
    }
    let direct = matches!(first.bytes(), [0xE8 | 0xE9, ..]) && first.len() == SPRINGBOARD_LEN;
    if direct && (retargetable || first.bytes()[0] == 0xE9) {
        return Ok(alone(Tactic::Retarget, Board::Retarget));
    }
    if HOTPATCH_HEADS.iter().any(|head| first.bytes() == head) && is_padding(code.before(site)) {
        let padding = site - SPRINGBOARD_LEN as u64;
        return Ok(alone(Tactic::Nop, Board::HotPatch(Springboard::new(padding, 0))));
    }
    if let Some(inner) = overlapping(code, &first) {
        // A trap is the only byte that can change.
        return trap(&alone(Tactic::Trap, Board::Trap), policy, Obstacle::BranchTarget(inner));
    }
    let why = match run(code, first) {
        Ok((insns, heads, tactic)) => {
            let board = Board::Jump(Springboard::new(site, heads));
            return Ok(Shape { start: site, insns, tactic, board });
        }
        Err(why) => why,
    };
    if first.len() >= 2 && has_dead_padding(code, site) {
        let padding = site - SPRINGBOARD_LEN as u64;
        return Ok(alone(Tactic::Nop, Board::HotPatch(Springboard::new(padding, 0))));
    }
    match Springboard::punned(site, first.len(), code.original(first.end())) {
        Some(board) => Ok(alone(Tactic::Pun, Board::Pun(board))),
        None => trap(&alone(Tactic::Trap, Board::Trap), policy, why),
    }
}

/// The trap at a site where no jump fits, or the refusal, as the policy says.
pub(crate) fn trap(site: &Shape, policy: TrapPolicy, why: Obstacle) -> Result<Shape, Refusal> {
    if policy == TrapPolicy::Forbid {
        return Err(Refusal::TrapForbidden { at: site.start, why });
    }
    Ok(Shape::trap(site.insns[0]))
}

/// Five bytes of `nop` or `int3` at the end of `bytes`.
fn is_padding(bytes: &[u8]) -> bool {
    bytes.len() >= SPRINGBOARD_LEN
        && (bytes[bytes.len() - SPRINGBOARD_LEN..].iter().all(|&b| b == 0x90)
            || bytes[bytes.len() - SPRINGBOARD_LEN..].iter().all(|&b| b == TRAP))
}

/// The instructions from `first` on that a springboard covers, and which of its bytes are heads.
fn run(code: &Code, first: Insn) -> Result<(Insns, u8, Tactic), Obstacle> {
    let site = first.addr();
    let mut insns: Insns = smallvec![first];
    let mut heads = 0u8;
    let mut tactic = if first.is_nop() { Tactic::Nop } else { Tactic::Jump };
    let mut next = first.end();
    let mut ended = false;
    while next < site + SPRINGBOARD_LEN as u64 {
        ended |= !insns[insns.len() - 1].flow().falls_through();
        if ended && code.original(next).first() == Some(&TRAP) {
            // A trap behind the end of a path is padding; what it does when run stays the same.
            tactic = Tactic::Tail;
            heads |= 1 << next.offset_from(site);
            next = next + 1;
            continue;
        }
        if matches!(insns[insns.len() - 1].flow(), Flow::Call(_) | Flow::IndirectCall) {
            // Every return of the call comes by.
            return Err(Obstacle::BranchTarget(next));
        }
        let insn = code.insn(next).map_err(|_| Obstacle::Immovable(next))?;
        if let Some(entry) = code.entry_in(next..insn.end()) {
            return Err(Obstacle::FunctionEntry(entry));
        }
        // Behind the end of a path may lie data, or a function that nothing tells of. (If a direct branch leads
        // there it is code, but then a trap would be in its way.)
        // What is behind a trap is not reached from what is before it.
        let behind_trap = insns[insns.len() - 1].end() < next;
        if ended && (behind_trap || !insn.is_nop()) {
            return Err(Obstacle::PathEnd(next));
        }
        if code.facts.is_restartable(next) || code.facts.is_relocated(next) {
            return Err(Obstacle::Immovable(next));
        }
        if insn.is_endbr() {
            return Err(Obstacle::BranchTarget(next));
        }
        if let Some(inner) = overlapping(code, &insn) {
            return Err(Obstacle::BranchTarget(inner));
        }
        tactic = match tactic {
            Tactic::Nop if insn.is_nop() => Tactic::Nop,
            _ if ended => Tactic::Tail,
            _ => Tactic::Group,
        };
        heads |= 1 << next.offset_from(site);
        next = insn.end();
        insns.push(insn);
    }
    let is_head = |at: Addr| heads & (1 << at.offset_from(site)) != 0;
    if heads != 0
        && let Some(at) = code.branch_into(site + 1..site + SPRINGBOARD_LEN as u64, is_head)
    {
        return Err(Obstacle::BranchTarget(at));
    }
    Ok((insns, heads, tactic))
}

/// Where a direct branch leads behind a prefix of `insn`, so that another instruction begins inside it.
pub(crate) fn overlapping(code: &Code, insn: &Insn) -> Option<Addr> {
    insn.behind_prefixes().find(|&at| code.branch_into(at..at + 1, |_| true).is_some())
}

/// Five unreachable bytes that end at `site`, which a short jump at the site can lead to: padding behind a
/// function whose last instruction does not fall through.
///
/// Padding alone is no proof: hand-written functions do fall through alignment into the next one.
fn has_dead_padding(code: &Code, site: Addr) -> bool {
    let Some(before) = code.facts.function_before(site) else { return false };
    let gap = site.offset_from(before.end);
    if gap < SPRINGBOARD_LEN as i64 || code.facts.function(site - 1).is_some() {
        return false;
    }
    let mut last = None;
    let mut at = before.start;
    while at < before.end {
        let Ok(insn) = code.insn(at) else { return false };
        at = insn.end();
        last = Some(insn);
    }
    at == before.end
        && last.is_some_and(|insn| !insn.flow().falls_through())
        && is_filler(code, before.end, site)
}

/// Nothing but `nop` and `int3` from `at` to `end`.
fn is_filler(code: &Code, mut at: Addr, end: Addr) -> bool {
    while at < end {
        match code.insn(at) {
            Ok(insn) if insn.is_nop() || insn.bytes() == [TRAP] => at = insn.end(),
            _ => return false,
        }
    }
    at == end
}

/// The likely length in bytes of the trampoline of `shape`: as if flags were dead and all addresses in reach.
pub(crate) fn estimate<'s>(shape: &Shape, snippets: &dyn Fn(Addr) -> Option<&'s Snippets>) -> u64 {
    const INCREMENT: usize = 8;
    let displaced = |insn: &Insn| match insn.flow() {
        _ if insn.is_nop() => 0,
        Flow::Branch(_) => insn.len().max(SPRINGBOARD_LEN + 1),
        _ => insn.len(),
    };
    let along = |(way, snippets): &(Placement, Sequence)| {
        let detour = match way {
            Placement::Before | Placement::After | Placement::Entered => 0,
            Placement::Taken => SPRINGBOARD_LEN,
            Placement::Toward(_) | Placement::Returned => MAX_GUARD_LEN,
        };
        detour + INCREMENT * snippets.len()
    };
    let added = |snippets: &Snippets| {
        INCREMENT * snippets.before.len() + snippets.ways.iter().map(along).sum::<usize>()
    };
    let of = |insn: &Insn| displaced(insn) + snippets(insn.addr()).map_or(0, added);
    let last = &shape.insns[shape.insns.len() - 1];
    let back = if last.flow().falls_through() { SPRINGBOARD_LEN } else { 0 };
    (back + shape.insns.iter().map(of).sum::<usize>()) as u64
}

/// Assembles the trampoline of `shape` at `at`, in `buffer`. `snippets` tells what runs at a head; whether the
/// program may still read flags there is found here.
pub(crate) fn build<'s>(
    shape: &Shape,
    at: Addr,
    code: &Code,
    snippets: &dyn Fn(Addr) -> Option<&'s Snippets>,
    features: Features,
    buffer: Vec<u8>,
) -> Result<Built, Refusal> {
    // Landings and stubs are known after a first round; their distance, and so all sizes, are the same in both.
    let unknown = shape.insns.iter().map(|insn| Head { at: insn.addr(), ..Head::default() }).collect();
    let (mut built, stubs) =
        assemble(shape, at, code, snippets, features, buffer, (&unknown, &Stubs::new()))?;
    let refers_inside = shape.insns.iter().any(|insn| {
        insn.flow().target().is_some_and(|target| shape.insns.iter().any(|head| head.addr() == target))
    });
    if refers_inside || !stubs.is_empty() {
        built.code.clear();
        (built, _) = assemble(shape, at, code, snippets, features, built.code, (&built.heads, &stubs))?;
    }
    Ok(built)
}

fn assemble<'s>(
    shape: &Shape,
    at: Addr,
    code: &Code,
    snippets: &dyn Fn(Addr) -> Option<&'s Snippets>,
    features: Features,
    buffer: Vec<u8>,
    (landings, stubs): (&Heads, &Stubs),
) -> Result<(Built, Stubs), Refusal> {
    let mut asm = Assembler::resume(buffer, at);
    let mut literals = Literals::default();
    let mut heads = Heads::with_capacity(shape.insns.len());
    let mut marks = Marks::with_capacity(shape.insns.len());
    let resolve = |target: Addr| {
        landings.iter().find(|head| head.at == target).map_or(target, |head| at + u64::from(head.landing))
    };
    for (index, insn) in shape.insns.iter().enumerate() {
        let landing = asm.bytes().len() as u32;
        let here = snippets(insn.addr());
        if let Some(here) = here {
            // A counter out of reach is told by its address.
            let far = |ready: &Ready| match ready {
                Ready::Counter(counter) => !in_reach(&asm, *counter),
                ready => {
                    ready.counters().iter().any(|counter| !counter.by_thread && !in_reach(&asm, counter.at))
                }
            };
            if features.moves && here.iter().any(far) {
                return Err(Refusal::NoRoom(insn.addr()));
            }
            let at = |placement: Placement, sequence: &[Ready], asm: &Assembler| {
                let live = live(code, &shape.insns[index..], sequence, asm);
                PointContext { insn, placement, live, features, here: asm.here(), counters: &[] }
            };
            if !here.before.is_empty() {
                let mut point = at(Placement::Before, &here.before, &asm);
                for (way, sequence) in &here.ways {
                    point.live = with_read(point.live, sequence, &at(*way, sequence, &asm));
                }
                lower(&mut asm, &here.before, point, &mut literals)?;
            }
            for (way, sequence) in &here.ways {
                let point = at(*way, sequence, &asm);
                way_in(&mut asm, sequence, point, &mut literals)?;
            }
        }
        marks.push(Mark { offset: landing, head: index as u32 });
        let copy = distance(landing, &asm);
        let detour = here.filter(|here| taken(insn, here).is_some());
        if shape.board == Board::Retarget {
            asm.jump(insn.flow().target().unwrap_or(insn.end()));
        } else if detour.is_some() {
            let stub = stubs.iter().find(|stub| stub.of == insn.addr()).map_or(0, |stub| stub.offset);
            asm = displace(asm, insn, &|_| at + u64::from(stub), features)?;
        } else if !insn.is_nop() {
            asm = displace(asm, insn, &resolve, features)?;
        }
        let copied = (distance(landing, &asm) - copy) as u8;
        heads.push(Head { at: insn.addr(), landing, copy, copied, len: insn.len() as u8, entered: 0 });
        if let Some(here) = here {
            after(&mut asm, insn, here, code, features, &mut literals)?;
        }
    }
    let last = &shape.insns[shape.insns.len() - 1];
    if shape.board == Board::Retarget {
        // A thread that meets a trap at the site still has to make the call.
        if let Flow::Call(_) = last.flow() {
            let landing = asm.bytes().len() as u32;
            asm = displace(asm, last, &|_| at, Features { shadow_stack: false, ..features })?;
            heads[0] = Head { landing, copy: 0, copied: distance(landing, &asm) as u8, ..heads[0] };
            marks[0].offset = landing;
        }
    } else if last.flow().falls_through() && !matches!(last.flow(), Flow::Call(_) | Flow::IndirectCall) {
        // A displaced call comes back to the original code by itself.
        if features.moves && !in_reach(&asm, last.end()) {
            return Err(Refusal::NoRoom(last.addr()));
        }
        asm.jump(last.end());
    }
    let mut stubs = Stubs::new();
    for (index, insn) in shape.insns.iter().enumerate() {
        let Some(sequence) = snippets(insn.addr()).and_then(|here| taken(insn, here)) else { continue };
        let target = insn.flow().target().map_or(insn.end(), resolve);
        marks.push(Mark { offset: asm.bytes().len() as u32, head: index as u32 });
        stubs.push(stub(&mut asm, insn, sequence, target, code, features, &mut literals)?);
    }
    let mut code = asm.into_bytes();
    let (faults, switches) = (std::mem::take(&mut literals.faults), std::mem::take(&mut literals.switches));
    literals.place(at, &mut code);
    Ok((Built { code, heads, marks, faults, switches, entry: 0 }, stubs))
}

/// Bytes from `landing` to the end of the code so far; `u16::MAX` if there are more.
pub(crate) fn distance(landing: u32, asm: &Assembler) -> u16 {
    u16::try_from(asm.bytes().len() - landing as usize).unwrap_or(u16::MAX)
}

/// Appends `insn` so that it has its effect from where it stands now.
pub(crate) fn displace(
    asm: Assembler,
    insn: &Insn,
    resolve: &dyn Fn(Addr) -> Addr,
    features: Features,
) -> Result<Assembler, Refusal> {
    let origin = asm.here() - asm.bytes().len() as u64;
    let Features { shadow_stack, moves, .. } = features;
    let how = Relocation { to: asm.here(), resolve, shadow_stack, moves };
    let mut bytes = asm.into_bytes();
    relocate(insn, &how, &mut bytes)?;
    let here = origin + bytes.len() as u64;
    Ok(Assembler::resume(bytes, here))
}

/// What the program still needs at the first of `insns`, as far as the snippets could change it.
fn live(code: &Code, insns: &[Insn], snippets: &[Ready], asm: &Assembler) -> Live {
    let at = insns[0].addr();
    let bytes = code.original(at);
    let bytes = &bytes[..bytes.len().min(LOOKAHEAD as usize)];
    if snippets.iter().all(|snippet| snippet.changes_only_flags(asm)) && !flags_live_through(insns, bytes) {
        // Nothing has to be kept, so no register is needed to keep it in.
        Live { flags: false, ..Live::ALL }
    } else if snippets.iter().any(Ready::saves) {
        live_before(bytes, at)
    } else {
        Live::ALL
    }
}

impl Shape {
    /// A trap at `insn`.
    pub(crate) fn trap(insn: Insn) -> Shape {
        Shape { start: insn.addr(), insns: smallvec![insn], tactic: Tactic::Trap, board: Board::Trap }
    }

    /// The bytes that are displaced or overwritten, or that the springboard relies on.
    pub(crate) fn extent(&self) -> Range<Addr> {
        let end = self.insns[self.insns.len() - 1].end();
        match self.board {
            Board::Jump(_) | Board::Retarget | Board::Pun(_) => {
                self.start..end.max(self.start + SPRINGBOARD_LEN as u64)
            }
            Board::HotPatch(_) => self.start - SPRINGBOARD_LEN as u64..end,
            Board::Trap => self.start..end,
        }
    }

    /// The bytes the springboard replaces.
    pub(crate) fn original(&self, code: &Code) -> (Addr, Bytes) {
        let (at, len) = match self.board {
            Board::Jump(_) => (self.start, SPRINGBOARD_LEN),
            Board::Retarget => (self.start, self.insns[0].len()),
            Board::HotPatch(_) => (self.start - SPRINGBOARD_LEN as u64, SPRINGBOARD_LEN + 2),
            Board::Pun(_) => (self.start, self.insns[0].len()),
            Board::Trap => (self.start, 1),
        };
        (at, Bytes::new(&code.original(at)[..len]))
    }

    /// Adds the finished group, whose springboard leads to the entry of the trampoline or to a stub, to `groups`.
    /// Returns the trampoline's code.
    pub(crate) fn finish(
        &self,
        code: &Code,
        built: Built,
        trampoline: Addr,
        stub: Option<Addr>,
        groups: &mut Vec<Group>,
    ) -> Option<Vec<u8>> {
        let (at, old) = self.original(code);
        let target = stub.unwrap_or(trampoline + u64::from(built.entry));
        let mut heads = 0u16;
        for insn in &self.insns {
            let offset = insn.addr().offset_from(at);
            if offset < old.len() as i64 {
                heads |= 1 << offset;
            }
        }
        let new = match self.board {
            Board::Jump(board) => Bytes::new(&board.encode(target)?),
            Board::Retarget => {
                let jump = Springboard::new(self.start, 0).encode(target)?;
                let mut bytes = [0; SPRINGBOARD_LEN];
                bytes.copy_from_slice(&old);
                bytes[1..].copy_from_slice(&jump[1..]);
                Bytes::new(&bytes)
            }
            Board::HotPatch(padding) => {
                let mut bytes = [0; SPRINGBOARD_LEN + 2];
                bytes[..SPRINGBOARD_LEN].copy_from_slice(&padding.encode(target)?);
                bytes[SPRINGBOARD_LEN..].copy_from_slice(&[0xEB, 0xF9]);
                Bytes::new(&bytes)
            }
            Board::Pun(board) => Bytes::new(&board.encode(target)?[..old.len()]),
            Board::Trap => Bytes::new(&[TRAP]),
        };
        let extent = self.extent();
        groups.push(Group {
            start: self.start,
            extent,
            heads: built.heads,
            faults: built.faults,
            switches: built.switches,
            trampoline,
            len: built.code.len() as u32,
            stubs: stub.map(|stub| (stub, 0)).into_iter().collect(),
            marks: built.marks,
            edits: smallvec![Edit { at, old, new, heads }],
        });
        Some(built.code)
    }
}
