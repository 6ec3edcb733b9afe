//! Places for the trampolines of regions. They are assembled in chunks, perhaps by several threads: what a chunk is
//! depends on the regions alone, so that the plan is the same for any number of threads.

use incise_isa::Addr;
use incise_isa::native::{Bound, SPRINGBOARD_LEN, Springboard};

use crate::code::Code;
use crate::entrances::Entrances;
use crate::parallel::each;
use crate::plan::Placer;
use crate::region::body::{Body, Failure, Known, Maker, estimate};
use crate::region::entries::Entries;
use crate::region::field::Field;
use crate::region::leads::Leads;
use crate::region::{Kind, Region};
use crate::tactic::{Obstacle, Refusal, TrapPolicy};

/// So many instructions make a chunk.
const CHUNK: usize = 4096;
/// Regions of a chunk begin within so many bytes of each other: its memory has to be in reach of all of them.
const NEAR: i64 = 64 << 20;

/// Neighbouring regions and the memory for their trampolines.
struct Chunk<'r> {
    regions: &'r mut [Region],
    at: Addr,
    len: u64,
}

/// So many regions are looked at by one thread at a time.
const TOGETHER: usize = 16;

/// A region whose springboards are chosen.
struct Settled {
    /// Of the region.
    index: usize,
    field: Field,
    /// Without its code, which is of `len` bytes and at `at`.
    body: Body,
    at: Addr,
    len: usize,
}

/// The trampolines of a chunk.
#[derive(Default)]
struct Assembled {
    /// By region; those that have none are tried alone.
    bodies: Vec<Option<(Addr, Body)>>,
    refused: Vec<(Addr, Refusal)>,
    used: u64,
}

impl Placer<'_, '_> {
    /// Finds places for `regions`, which ascend, and adds the groups to the plan, and what had to be left out to the
    /// refusals.
    pub(crate) fn place_regions(&mut self, regions: &mut [Region]) {
        if regions.is_empty() {
            return;
        }
        let leads = Leads::find(self.input.code, regions);
        let mut bodies = self.assemble(regions);
        let mut fields = self.fields(regions, &bodies, &leads).into_iter();
        // What is taken of memory for one region is not there for the next: one by one.
        let mut settled = Vec::with_capacity(regions.len());
        for (index, region) in regions.iter_mut().enumerate() {
            let body = bodies[index].take().zip(fields.next().flatten());
            let found = body.and_then(|((at, body), field)| self.settle(index, region, field, at, body));
            settled.extend(found.or_else(|| self.place_region(index, region, &leads)));
        }
        self.add_settled(regions, settled);
    }

    /// The bytes of the regions that have trampolines, and where control comes in.
    fn fields(
        &self,
        regions: &[Region],
        bodies: &[Option<(Addr, Body)>],
        leads: &Leads,
    ) -> Vec<Option<Field>> {
        let code = self.input.code;
        // What is known of other code may depend on the order in which it is asked for.
        let hidden = Region::leads_hidden(regions, code);
        let fields = |from: usize| {
            let here = from..regions.len().min(from + TOGETHER);
            let field = |index: usize| {
                bodies[index].as_ref()?;
                let leads = leads.into(index, &regions[index]).chain(hidden[index].iter().copied());
                Some(Field::of(&regions[index], code, leads))
            };
            here.map(field).collect::<Vec<_>>()
        };
        let starts = (0..regions.len()).step_by(TOGETHER).collect();
        each(starts, self.input.threads, fields).into_iter().flatten().collect()
    }

    /// Adds the groups of regions that are settled to the plan.
    fn add_settled(&mut self, regions: &[Region], settled: Vec<Settled>) {
        let code: &Code = self.input.code;
        let mut entrances = Entrances::default();
        for Settled { body, at, .. } in &settled {
            body.entrance.into_iter().for_each(|entrance| entrances.add(entrance, *at));
        }
        let mut settled = settled.into_iter();
        let mut part = || settled.by_ref().take(TOGETHER).collect::<Vec<_>>();
        let parts = std::iter::from_fn(|| Some(part()).filter(|part| !part.is_empty())).collect();
        let finished = each(parts, self.input.threads, |part| {
            let (mut groups, mut carried) = (Vec::with_capacity(part.len()), Vec::new());
            for Settled { index, mut field, body, at, len } in part {
                let region = &regions[index];
                field.call_copies(region, code, &entrances);
                let probed = region.members.iter().enumerate().filter(|(_, member)| member.probed);
                carried.extend(probed.map(|(index, member)| (member.insn.addr(), field.tactic(index))));
                groups.push(Box::new(field.finish(region, (body, at, len))));
            }
            (groups, carried)
        });
        for (groups, carried) in finished {
            self.plan.added.extend(groups);
            self.plan.carried.extend(carried);
        }
    }

    /// The trampolines of `regions`.
    fn assemble(&mut self, regions: &mut [Region]) -> Vec<Option<(Addr, Body)>> {
        let wanted = self.wanted;
        let snippets = |at: Addr| wanted.get(at);
        let maker = Maker { code: self.input.code, snippets: &snippets, features: self.input.features };
        let mut chunks: Vec<Option<Chunk>> = Vec::new();
        let mut places: Vec<Option<(Addr, u64)>> = Vec::new();
        let mut counts: Vec<usize> = Vec::new();
        let mut rest = regions;
        while !rest.is_empty() {
            let mut insns = 0;
            let first = rest[0].extent.start;
            let whole = rest.iter().take_while(|region| {
                let fits = insns < CHUNK && region.extent.start.offset_from(first) < NEAR;
                insns += region.members.len();
                fits
            });
            let (regions, others) = rest.split_at_mut(whole.count());
            rest = others;
            let len = regions.iter().map(|region| region.room).sum();
            let first = regions[0].extent.start;
            // Jumps from there may cover the beginning of an instruction with their last byte.
            let trapping = Springboard::bound(first, [Bound::Free, Bound::Free, Bound::Free, Bound::Trap]);
            let apart = if self.input.features.packed { None } else { self.take(&trapping, len) };
            let at = apart.or_else(|| self.take(&Springboard::new(first, 0), len));
            counts.push(regions.len());
            places.push(at.map(|at| (at, len)));
            chunks.push(at.map(|at| Chunk { regions, at, len }));
        }
        let done = each(chunks, self.input.threads, |chunk| chunk.map(|chunk| maker.chunk(chunk)));
        let mut bodies = Vec::new();
        for ((done, place), count) in done.into_iter().zip(places).zip(counts) {
            match (done, place) {
                (Some(chunk), Some((at, len))) => {
                    self.memory.shrink(at, len, chunk.used);
                    self.plan.refused.extend(chunk.refused);
                    bodies.extend(chunk.bodies);
                }
                _ => bodies.extend((0..count).map(|_| None)),
            }
        }
        bodies
    }

    /// Finds a place for the trampoline of one region.
    fn place_region(&mut self, index: usize, region: &mut Region, leads: &Leads) -> Option<Settled> {
        let wanted = self.wanted;
        let snippets = |at: Addr| wanted.get(at);
        let maker = Maker { code: self.input.code, snippets: &snippets, features: self.input.features };
        let mut len = estimate(region, &snippets);
        while region.is_probed() {
            let Some(at) = self.take(&Springboard::new(region.extent.start, 0), len) else {
                // A trap may lead farther.
                let probed = region.members.iter().filter(|member| member.probed);
                probed.for_each(|member| self.place_trap(member.insn.addr()));
                return None;
            };
            let buffer = self.plan.code.take_buffer();
            let known = &mut Known::default();
            let Some(body) = maker.movable(region, at, (buffer, known), &mut self.plan.refused) else {
                self.memory.free(at.span(len));
                return None;
            };
            let needed = body.built.code.len() as u64;
            if needed > len {
                self.memory.free(at.span(len));
                len = needed;
                continue;
            }
            self.memory.shrink(at, len, needed);
            let hidden = Region::leads_hidden(std::slice::from_ref(region), self.input.code);
            let hidden = hidden.into_iter().flatten();
            let field = Field::of(region, self.input.code, leads.into(index, region).chain(hidden));
            if let Some(settled) = self.settle(index, region, field, at, body) {
                return Some(settled);
            }
        }
        None
    }

    /// Finds springboards for a region whose trampoline is at `at`. If it has to be changed first, `region` is, the memory is given
    /// back, and nothing else is done.
    fn settle(
        &mut self,
        index: usize,
        region: &mut Region,
        mut field: Field,
        at: Addr,
        mut body: Body,
    ) -> Option<Settled> {
        let runs = self.plan.code.len();
        let features = self.input.features;
        let parts = (&mut *self.memory, &mut self.plan.code);
        Entries::new(region, (&body, at), &mut field, parts, features).choose();
        let trapped: Vec<usize> = field.trapped().collect();
        let in_the_way = match features.shadow_stack {
            true => Vec::new(),
            false => calls_in_the_way(region, &trapped),
        };
        if in_the_way.is_empty() && (trapped.is_empty() || self.input.policy != TrapPolicy::Forbid) {
            let code = std::mem::take(&mut body.built.code);
            let len = code.len();
            self.plan.code.push(at, &code);
            self.plan.code.put_buffer(code);
            return Some(Settled { index, field, body, at, len });
        }
        for stub in self.plan.code.truncate(runs) {
            self.memory.free(stub);
        }
        self.memory.free(at.span(body.built.code.len() as u64));
        for &call in &in_the_way {
            region.members[call].kind = Kind::Displaced;
        }
        if !in_the_way.is_empty() {
            return None;
        }
        for member in trapped.into_iter().rev() {
            let at = region.members[member].insn.addr();
            self.plan.refused.push((at, Refusal::TrapForbidden { at, why: Obstacle::NoPlace }));
            match region.members[member].kind {
                Kind::Displaced => region.members[member].probed = false,
                Kind::Call => drop(region.members.remove(member)),
            }
        }
        None
    }
}

impl Maker<'_, '_> {
    /// The trampolines of a chunk, one behind the other.
    fn chunk(&self, chunk: Chunk<'_>) -> Assembled {
        let mut assembled = Assembled::default();
        let mut known = Known::default();
        for region in chunk.regions {
            let at = chunk.at + assembled.used;
            let buffer = Vec::with_capacity(region.room as usize);
            let body = self.movable(region, at, (buffer, &mut known), &mut assembled.refused);
            let len = |body: &Body| body.built.code.len() as u64;
            let body = body.filter(|body| assembled.used + len(body) <= chunk.len);
            assembled.used += body.as_ref().map_or(0, len);
            assembled.bodies.push(body.map(|body| (at, body)));
        }
        assembled
    }

    /// The trampoline of `region` at `at`. Members that cannot be displaced are left out; nothing if no probe is left.
    fn movable(
        &self,
        region: &mut Region,
        at: Addr,
        (mut buffer, known): (Vec<u8>, &mut Known),
        refused: &mut Vec<(Addr, Refusal)>,
    ) -> Option<Body> {
        while region.is_probed() {
            match self.body(region, at, buffer, known) {
                Ok(body) => return Some(body),
                Err(Failure::Member(member, refusal)) => {
                    let member = region.members.remove(member);
                    if member.probed {
                        refused.push((member.insn.addr(), refusal));
                    }
                    buffer = Vec::new();
                }
            }
        }
        None
    }
}

/// The calls that keep a springboard from fitting at one of `trapped`. Displaced, they cost the processor's return
/// predictor its balance, but that is less than a trap.
fn calls_in_the_way(region: &Region, trapped: &[usize]) -> Vec<usize> {
    let mut calls = Vec::new();
    for &entry in trapped.iter().filter(|&&entry| region.members[entry].kind == Kind::Displaced) {
        let end = region.members[entry].insn.addr() + SPRINGBOARD_LEN as u64;
        let behind = (entry + 1..region.members.len()).take_while(|&m| region.members[m].insn.addr() < end);
        calls.extend(behind.filter(|&member| region.members[member].kind == Kind::Call));
    }
    calls.dedup();
    calls
}
