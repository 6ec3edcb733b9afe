//! What a group at a site would be, before its trampoline has a place: which instructions, and how the bytes at the site lead
//! to the trampoline.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{Flow, Insn, SPRINGBOARD_LEN, Springboard, TRAP};
use incise_space::{Bytes, Edit};
use smallvec::{SmallVec, smallvec};

use crate::code::Code;
use crate::group::Group;
use crate::group::assemble::Built;
use crate::tactic::{Obstacle, Refusal, Tactic, TrapPolicy};

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

    /// The finished group, whose springboard leads to the entry of the trampoline or to a stub, and the trampoline's code.
    pub(crate) fn finish(
        &self,
        code: &Code,
        built: Built,
        trampoline: Addr,
        stub: Option<Addr>,
    ) -> Option<(Box<Group>, Vec<u8>)> {
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
        let group = Box::new(Group {
            start: self.start,
            extent,
            heads: built.heads,
            faults: built.faults,
            switches: built.switches,
            trampoline,
            len: built.code.len() as u32,
            stubs: stub.map(|stub| (stub, 0)).into_iter().collect(),
            slots: SmallVec::new(),
            marks: built.marks,
            entrance: None,
            calls: Box::default(),
            edits: smallvec![Edit { at, old, new, heads }],
        });
        Some((group, built.code))
    }
}
