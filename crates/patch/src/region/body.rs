//! The trampoline of a region: its members with their snippets, thunks of its calls, detours of its branches.

use std::cell::RefCell;

use incise_isa::Addr;
use incise_isa::native::{
    Assembler, Flow, GprSet, Handed, Insn, Live, MAX_RELOCATED_LEN, RegisterUses, SPRINGBOARD_LEN,
    flags_live_along, gprs_live_along,
};
use incise_space::Features;
use rustc_hash::FxHashMap;

use crate::code::Code;
use crate::entrances::Entrance;
use crate::group::assemble::{Built, displace, distance};
use crate::group::{Head, Heads, Mark, Marks};
use crate::region::{Kind, Region};
use crate::short::{self, Spans};
use crate::snippet::generate::PointContext;
use crate::snippet::placement::Placement;
use crate::tactic::Refusal;
use crate::trampoline::literals::Literals;
use crate::trampoline::lower::{Ready, in_reach, lower, with_read};
use crate::trampoline::sequences::Snippets;
use crate::trampoline::ways::{Stubs, after, entered, stub, taken, way_in};

/// `nop`.
const NOP: u8 = 0x90;

/// What the bodies of regions are made from.
pub(crate) struct Maker<'a, 's> {
    pub code: &'a Code<'a>,
    pub snippets: &'a (dyn Fn(Addr) -> Option<&'s Snippets> + Sync),
    pub features: Features,
}

/// What is found out for one region and serves the next.
#[derive(Default)]
pub(crate) struct Known {
    uses: RegisterUses,
    /// Whether any flag is live at an address outside of regions.
    flags: FxHashMap<Addr, bool>,
}

/// Why there is no body.
pub(crate) enum Failure {
    /// The member with this index cannot be displaced.
    Member(usize, Refusal),
}

/// The trampoline of a region at a place.
pub(crate) struct Body {
    pub built: Built,
    /// For each call with snippets: its index and the offset of its thunk.
    pub thunks: Vec<(u32, u32)>,
    /// Where calls of other copies come in.
    pub entrance: Option<Entrance>,
}

/// Bytes that a trampoline of `region` hardly exceeds.
pub(crate) fn estimate<'s>(region: &Region, snippets: &dyn Fn(Addr) -> Option<&'s Snippets>) -> u64 {
    /// An increment with its flags saved.
    const SNIPPET: usize = 30;
    let of = |insn: &Insn| match insn.flow() {
        Flow::Next => insn.len() + if insn.ip_relative_target().is_some() { 4 } else { 0 },
        Flow::Jump(_) => SPRINGBOARD_LEN,
        Flow::Branch(_) => SPRINGBOARD_LEN + 1,
        _ => MAX_RELOCATED_LEN / 2,
    };
    let count = |at: Addr| snippets(at).map_or(0, Snippets::count);
    let members = region.members.iter().map(|m| of(&m.insn) + SNIPPET * count(m.insn.addr())).sum::<usize>();
    members as u64 + 16 * SPRINGBOARD_LEN as u64
}

/// A displacement that waits for the landing of a member.
struct Fixup {
    field: usize,
    target: usize,
    /// It has 8 bits, not 32.
    short: bool,
}

/// What the program still needs at each member.
struct Needs {
    flags: Vec<bool>,
    gprs: Vec<GprSet>,
}

impl<'s> Maker<'_, 's> {
    /// The trampoline of `region` at `at`, assembled in `buffer`.
    pub(crate) fn body(
        &self,
        region: &Region,
        at: Addr,
        buffer: Vec<u8>,
        known: &mut Known,
    ) -> Result<Body, Failure> {
        let snippets: Vec<Option<&'s Snippets>> =
            region.members.iter().map(|member| (self.snippets)(member.insn.addr())).collect();
        let needs = self.needs(region, &snippets, at, known);
        let unknown: Vec<u32> = vec![0; region.members.len()];
        let spans = Spans::of(region, &snippets, &needs.flags, &Assembler::new(at));
        let needs = (&snippets[..], &needs);
        let mut spans = Some(&spans);
        let mut first = self.assemble(region, at, needs, buffer, (&unknown, &Stubs::new()), spans)?;
        if first.unfit {
            spans = None;
            first = self.assemble(region, at, needs, Vec::new(), (&unknown, &Stubs::new()), spans)?;
        }
        if !first.again {
            return Ok(first.body);
        }
        // Sizes do not depend on where targets are, only on whether they are in reach.
        let Built { code: mut buffer, heads, .. } = first.body.built;
        buffer.clear();
        let landings: Vec<u32> = heads.iter().map(Head::entry).collect();
        Ok(self.assemble(region, at, needs, buffer, (&landings, &first.stubs), spans)?.body)
    }

    fn needs(&self, region: &Region, snippets: &[Option<&Snippets>], at: Addr, known: &mut Known) -> Needs {
        let insns: Vec<&Insn> = region.members.iter().map(|member| &member.insn).collect();
        let found = RefCell::new(&mut known.flags);
        let hands_over = self.code.facts.hands_flags_over(region.extent.start);
        let outside = |at: Addr| {
            let look = || {
                if self.code.facts.is_linkage_stub(at) {
                    return false;
                }
                self.code.flags_live(at)
            };
            *found.borrow_mut().entry(at).or_insert_with(look)
        };
        let jumps = region.members.iter().any(|member| member.insn.flow() == Flow::IndirectJump);
        let tables = match jumps && !hands_over {
            true => Region::leads_hidden(std::slice::from_ref(region), self.code).pop().unwrap_or_default(),
            false => Vec::new(),
        };
        let handed = if hands_over { Handed::Anywhere } else { Handed::To(&tables) };
        let mut flags = flags_live_along(&insns, &outside, handed);
        let all = || snippets.iter().flatten().copied();
        if all().flat_map(Snippets::iter).any(|ready| !ready.is_counter()) {
            // Others may look at what the program does not need any more.
            let looks = |ready: &Ready| matches!(ready.what(), Ready::Generated(..));
            if all().flat_map(Snippets::iter).any(looks) {
                flags.fill(true);
            }
            return Needs { flags, gprs: vec![GprSet::ALL; insns.len()] };
        }
        let asm = Assembler::new(at);
        let registers = snippets.iter().zip(&flags).any(|(snippets, live)| {
            snippets
                .is_some_and(|snippets| *live || !snippets.iter().all(|ready| ready.changes_only_flags(&asm)))
        });
        let gprs = match registers {
            true => gprs_live_along(&insns, &mut known.uses),
            false => vec![GprSet::ALL; insns.len()],
        };
        Needs { flags, gprs }
    }

    fn assemble(
        &self,
        region: &Region,
        at: Addr,
        (snippets, needs): (&[Option<&Snippets>], &Needs),
        buffer: Vec<u8>,
        (landings, stubs): (&[u32], &Stubs),
        spans: Option<&Spans>,
    ) -> Result<Assembled, Failure> {
        let Features { moves, .. } = self.features;
        let count = region.members.len();
        let mut asm = Assembler::resume(buffer, at);
        let mut literals = Literals::default();
        let mut heads = Heads::with_capacity(count);
        let mut marks = Marks::with_capacity(count);
        let mut fixups: Vec<Fixup> = Vec::new();
        let (mut again, mut calls, mut detours, mut aside) = (false, Vec::new(), Vec::new(), Vec::new());
        let first = region.members.first().filter(|first| first.probed && first.kind == Kind::Displaced);
        let entrance = first
            .filter(|_| region.whole && self.features.bytes && !needs.flags[0])
            .and_then(|first| Entrance::make(self.code, first.insn.addr(), &mut asm));
        for (index, member) in region.members.iter().enumerate() {
            let insn = &member.insn;
            let landing = asm.bytes().len() as u32;
            if member.kind == Kind::Call {
                calls.push(index);
                heads.push(Head { at: insn.addr(), len: insn.len() as u8, ..Head::default() });
                continue;
            }
            marks.push(Mark { offset: landing, head: index as u32 });
            let fail = |refusal| Failure::Member(index, refusal);
            let here = snippets[index].filter(|_| member.probed);
            if let Some(here) = here {
                self.check_reach(&asm, insn, here).map_err(fail)?;
                let at = |placement: Placement, sequence: &[Ready], asm: &Assembler| PointContext {
                    insn,
                    placement,
                    live: needs.at(index, sequence),
                    features: self.features,
                    here: asm.here(),
                    counters: &[],
                };
                if !here.before().is_empty() {
                    let mut point = at(Placement::Before, here.before(), &asm);
                    for (way, sequence) in here.ways() {
                        point.live = with_read(point.live, sequence, &at(way, sequence, &asm));
                    }
                    lower(&mut asm, here.before(), point, &mut literals).map_err(fail)?;
                }
                let apart = region.runs_into(index) && entered(here).is_some();
                aside.extend(apart.then_some(index));
                for (way, sequence) in here.ways() {
                    if apart && way == Placement::Entered {
                        continue;
                    }
                    let point = at(way, sequence, &asm);
                    way_in(&mut asm, sequence, point, &mut literals).map_err(fail)?;
                }
            }
            let copy = distance(landing, &asm);
            let target = insn.flow().target().and_then(|target| region.displaced_at(target));
            if here.is_some_and(|here| taken(insn, here).is_some()) {
                detours.push(index);
                let stub = stubs.iter().find(|stub| stub.of == insn.addr()).map_or(0, |stub| stub.offset);
                asm = displace(asm, insn, &|_| at + u64::from(stub), self.features).map_err(fail)?;
            } else if let Some(target) = target
                && let Some(opcode) = short::opcode(insn)
                && spans.is_some_and(|spans| {
                    let plain = |here: &Snippets| here.ways().next().is_none();
                    let end = asm.bytes().len() as u32 + 2;
                    let reaches = match heads.get(target) {
                        Some(head) => short::displacement(end, head.landing).is_some(),
                        None => spans.reach(index, target),
                    };
                    reaches && here.is_none_or(plain) && snippets[target].is_none_or(plain)
                })
            {
                asm.raw(&[opcode, 0]);
                fixups.push(Fixup { field: asm.bytes().len() - 1, target, short: true });
            } else if let Some(target) = target {
                let before = asm.bytes().len();
                let guess = at + u64::from(landings[target]);
                asm = displace(asm, insn, &|_| guess, self.features).map_err(fail)?;
                match asm.bytes()[before..] {
                    [0xE9, _, _, _, _] | [0x0F, 0x80..=0x8F, _, _, _, _] => {
                        fixups.push(Fixup { field: asm.bytes().len() - 4, target, short: false });
                    }
                    // `loop` and its like become several instructions.
                    _ => again = true,
                }
            } else if !insn.is_nop() {
                asm = displace(asm, insn, &|target| target, self.features).map_err(fail)?;
            }
            if asm.bytes().len() == landing as usize {
                // Landings tell heads apart.
                asm.raw(&[NOP]);
            }
            let copied = (distance(landing, &asm) - copy) as u8;
            heads.push(Head { at: insn.addr(), landing, copy, copied, len: insn.len() as u8, entered: 0 });
            if let Some(here) = here {
                after(&mut asm, insn, here, self.code, self.features, &mut literals).map_err(fail)?;
            }
            let call = matches!(insn.flow(), Flow::Call(_) | Flow::IndirectCall);
            let follows = region
                .members
                .get(index + 1)
                .is_some_and(|next| next.insn.addr() == insn.end() && next.kind == Kind::Displaced);
            if insn.flow().falls_through() && !call && !follows {
                if moves && !in_reach(&asm, insn.end()) {
                    return Err(fail(Refusal::NoRoom(insn.addr())));
                }
                asm.jump(insn.end());
            }
        }
        let mut thunks = Vec::with_capacity(calls.len());
        for index in calls {
            let insn = &region.members[index].insn;
            let fail = |refusal| Failure::Member(index, refusal);
            let mut target = insn.flow().target().unwrap_or(insn.end());
            if let Some(here) = snippets[index].filter(|_| region.members[index].probed) {
                let thunk = asm.bytes().len() as u32;
                marks.push(Mark { offset: thunk, head: index as u32 });
                thunks.push((index as u32, thunk));
                self.check_reach(&asm, insn, here).map_err(fail)?;
                let ways = here.ways().map(|(_, sequence)| sequence);
                for sequence in std::iter::once(here.before()).chain(ways) {
                    let point = PointContext {
                        insn,
                        placement: Placement::Before,
                        live: needs.at(index, sequence),
                        features: self.features,
                        here: asm.here(),
                        counters: &[],
                    };
                    lower(&mut asm, sequence, point, &mut literals).map_err(fail)?;
                }
                asm.jump(target);
                target = at + u64::from(thunk);
            }
            // A thread that meets a trap at the call while it is changed still has to make it.
            let landing = asm.bytes().len() as u32;
            marks.push(Mark { offset: landing, head: index as u32 });
            let features = Features { shadow_stack: false, ..self.features };
            asm = displace(asm, insn, &|_| target, features).map_err(fail)?;
            heads[index] = Head { landing, copied: distance(landing, &asm) as u8, ..heads[index] };
        }
        let mut found = Stubs::new();
        for index in detours {
            let insn = &region.members[index].insn;
            let Some(sequence) = snippets[index].and_then(|here| taken(insn, here)) else {
                continue;
            };
            let target = insn.flow().target().unwrap_or(insn.end());
            let target = region.displaced_at(target).map_or(target, |index| at + u64::from(landings[index]));
            marks.push(Mark { offset: asm.bytes().len() as u32, head: index as u32 });
            let made = stub(&mut asm, insn, sequence, target, self.code, self.features, &mut literals);
            found.push(made.map_err(|refusal| Failure::Member(index, refusal))?);
            again = true;
        }
        for index in aside {
            let insn = &region.members[index].insn;
            let Some(sequence) = snippets[index].and_then(entered) else { continue };
            let offset = asm.bytes().len() as u32;
            marks.push(Mark { offset, head: index as u32 });
            let point = PointContext {
                insn,
                placement: Placement::Entered,
                live: needs.at(index, sequence),
                features: self.features,
                here: asm.here(),
                counters: &[],
            };
            lower(&mut asm, sequence, point, &mut literals)
                .map_err(|refusal| Failure::Member(index, refusal))?;
            asm.jump(at + u64::from(heads[index].landing));
            heads[index].entered = offset;
        }
        let mut code = asm.into_bytes();
        let mut unfit = false;
        for Fixup { field, target, short } in fixups {
            let to = heads[target].entry();
            if short {
                match short::displacement(field as u32 + 1, to) {
                    Some(displacement) => code[field] = displacement as u8,
                    None => unfit = true,
                }
            } else {
                let displacement = to as i32 - (field as i32 + 4);
                code[field..field + 4].copy_from_slice(&displacement.to_le_bytes());
            }
        }
        let (faults, switches) =
            (std::mem::take(&mut literals.faults), std::mem::take(&mut literals.switches));
        literals.place(at, &mut code);
        let built = Built { code, heads, marks, faults, switches, entry: 0 };
        Ok(Assembled { body: Body { built, thunks, entrance }, stubs: found, again, unfit })
    }

    /// Code that may be loaded anywhere tells counters by their distance.
    fn check_reach(&self, asm: &Assembler, insn: &Insn, snippets: &Snippets) -> Result<(), Refusal> {
        let far = |ready: &Ready| match ready {
            Ready::Counter(counter) => !in_reach(asm, *counter),
            ready => ready.counters().iter().any(|counter| !counter.by_thread && !in_reach(asm, counter.at)),
        };
        if self.features.moves && snippets.iter().any(far) {
            return Err(Refusal::NoRoom(insn.addr()));
        }
        Ok(())
    }
}

struct Assembled {
    body: Body,
    stubs: Stubs,
    /// Some code depends on where members are, which is known now.
    again: bool,
    /// A short branch does not reach.
    unfit: bool,
}

impl Needs {
    /// What the program still needs at a member, as far as `snippets` could change it.
    fn at(&self, index: usize, snippets: &[Ready]) -> Live {
        if snippets.iter().any(Ready::saves) {
            Live { flags: self.flags[index], gprs: self.gprs[index], ..Live::ALL }
        } else {
            Live::ALL
        }
    }
}
