//! From a form to trials: encode, choose a state, displace.

use std::panic::{self, AssertUnwindSafe};

use iced_x86::{Code, Encoder, FlowControl, Instruction, InstructionInfoFactory, OpKind, Register};

use crate::case::{Body, Case, Displaced, Reach};
use crate::forms;
use crate::layout::{self, Place};
use crate::mutate::{add_prefix, decode, flip};
use crate::operands::{self, Choice};
use crate::relocator::{Refusal, Relocator};
use crate::report::{Finding, Tally};
use crate::rng::Rng;
use crate::shapes::Site;
use crate::start;

/// Tries to find operands that the encoder takes.
const TRIES: u32 = 8;

/// Makes trials, and tallies what never becomes one.
pub struct Generator<'a> {
    relocator: &'a dyn Relocator,
    seed: u64,
    facts: InstructionInfoFactory,
    encoder: Encoder,
    /// Trials made.
    pub cases: Vec<Case>,
    /// Refusals and breaches of contract met on the way.
    pub tally: Tally,
}

impl<'a> Generator<'a> {
    /// A generator of trials for one relocator.
    pub fn new(relocator: &'a dyn Relocator, seed: u64) -> Generator<'a> {
        Generator {
            relocator,
            seed,
            facts: InstructionInfoFactory::new(),
            encoder: Encoder::new(64),
            cases: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// All trials of a form for one round of states.
    pub fn form(&mut self, code: Code, round: u64) {
        self.tally.list(code);
        let reason = forms::decode_only(code);
        if let Some(reason) = reason {
            self.tally.decode_only(code, reason);
        }
        for (index, (shape, count)) in forms::plan(code).into_iter().enumerate() {
            for variant in 0..count {
                for place in Place::ALL {
                    let stream =
                        (code as u64) << 40 | (index as u64) << 32 | u64::from(variant) << 24 | round << 2;
                    let mut rng = Rng::new(self.seed, stream | place.index() as u64);
                    let choice = Choice { shape, variant: variant.wrapping_add(round as u32) };
                    self.variant(code, choice, place, reason.is_some(), &mut rng);
                }
            }
        }
    }

    fn variant(&mut self, code: Code, choice: Choice, place: Place, decode_only: bool, rng: &mut Rng) {
        let site = site(place, rng);
        let mut bytes = None;
        for _ in 0..TRIES {
            let Some(insn) = operands::build(code, choice, &site, rng) else { continue };
            if self.encoder.encode(&insn, site.at).is_ok() {
                bytes = Some(self.encoder.take_buffer());
                break;
            }
            drop(self.encoder.take_buffer());
        }
        let Some(bytes) = bytes else {
            self.tally.form(code).unencodable += 1;
            return;
        };
        let Some(insn) = decode(&bytes, site.at).filter(|insn| insn.code() == code) else {
            // Another form owns these bytes in the decoder's default set-up.
            self.tally.form(code).decoded_otherwise += 1;
            return;
        };
        if decode_only {
            self.relocate_only(&insn, &bytes, &site);
            return;
        }
        self.single(&insn, &bytes, &site, rng);
        if rng.one_in(2)
            && let Some(bytes) = if rng.one_in(2) { add_prefix } else { flip }(&bytes, site.at, rng)
            && let Some(insn) = decode(&bytes, site.at)
            && forms::decode_only(insn.code()).is_none()
        {
            self.tally.list(insn.code());
            self.single(&insn, &bytes, &site, rng);
        }
        if refers(&insn) && rng.one_in(3) {
            self.in_red_zone_code(code, choice, place, rng);
        }
    }

    fn single(&mut self, insn: &Instruction, bytes: &[u8], site: &Site, rng: &mut Rng) {
        let start = start::solve(insn, site, &mut self.facts, rng);
        let original = Body { at: site.at, bytes: bytes.to_vec(), starts: vec![0] };
        self.case(insn, original, site.place, start, rng);
    }

    /// The instruction between stores to and loads from the red zone, all displaced as a group.
    fn in_red_zone_code(&mut self, code: Code, choice: Choice, place: Place, rng: &mut Rng) {
        const MOVE_LEN: usize = 5;
        let first = site(place, rng);
        let site = Site { at: first.at + 2 * MOVE_LEN as u64, ..first };
        let Some(insn) = operands::build(code, choice, &site, rng) else { return };
        let encoded = self.encoder.encode(&insn, site.at).is_ok();
        let middle = self.encoder.take_buffer();
        let Some(insn) = decode(&middle, site.at).filter(|insn| encoded && insn.code() == code) else {
            return;
        };
        // With another stack pointer the loads would read what belongs to nobody.
        let stack = |op| {
            insn.op_kind(op) == OpKind::Register && insn.op_register(op).full_register() == Register::RSP
        };
        if (0..insn.op_count()).any(stack) {
            return;
        }
        let mut original = Body { at: first.at, ..Body::default() };
        let mut append = |bytes: &[u8]| {
            original.starts.push(original.bytes.len() as u16);
            original.bytes.extend_from_slice(bytes);
        };
        let slots = [-8_i8, -8 * (2 + rng.below(15) as i8)];
        let mut register = || rng.pick(&[0_u8, 1, 2, 3, 5, 6, 7]);
        for slot in slots {
            append(&[0x48, 0x89, 0x44 | register() << 3, 0x24, slot as u8]);
        }
        append(&middle);
        for slot in slots {
            append(&[0x48, 0x8b, 0x44 | register() << 3, 0x24, slot as u8]);
        }
        let start = start::solve(&insn, &site, &mut self.facts, rng);
        self.case(&insn, original, place, start, rng);
    }

    fn case(
        &mut self,
        insn: &Instruction,
        original: Body,
        place: Place,
        start: crate::case::Start,
        rng: &mut Rng,
    ) {
        let form = insn.code();
        let target = target(insn);
        let branch = near_branch(insn);
        let moved = branch
            .filter(|from| place.pads().contains(from) || place.code().contains(from))
            .filter(|_| rng.one_in(3))
            .map(|from| (from, new_home(from, place, rng)));
        let mut copies = Vec::new();
        for (reach, to) in destinations(insn, place, target, moved, rng) {
            match self.displace(&original, to, moved) {
                Ok(body) => {
                    let one_to_one = one_to_one(&body);
                    self.check_shape(insn, &original, &body, reach, moved);
                    copies.push(Displaced { reach, body, moved, one_to_one });
                }
                Err(Failure::Refused(reason)) => {
                    *self.tally.form(form).refused.entry(reason).or_default() += 1;
                }
                Err(Failure::Broken(what)) => {
                    self.tally.findings.push(Finding::contract(form, &original, reach, what));
                }
            }
        }
        if !copies.is_empty() {
            self.cases.push(Case { form, place, original, copies, start });
        }
    }

    /// Moves each instruction of a body; what comes out lies at `to` without gaps.
    fn displace(&self, original: &Body, to: u64, moved: Option<(u64, u64)>) -> Result<Body, Failure> {
        let mut body = Body { at: to, ..Body::default() };
        let resolve = |target| match moved {
            Some((from, new)) if from == target => new,
            _ => target,
        };
        for &start in &original.starts {
            let (code, at) = (&original.bytes[usize::from(start)..], original.at + u64::from(start));
            body.starts.push(body.bytes.len() as u16);
            let before = body.bytes.clone();
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                self.relocator.relocate(code, at, body.end(), &resolve, &mut body.bytes)
            }));
            match result {
                Err(_) => return Err(Failure::Broken("panicked".to_owned())),
                Ok(Ok(())) => {}
                Ok(Err(_)) if body.bytes != before => {
                    return Err(Failure::Broken("refused, but left bytes behind".to_owned()));
                }
                Ok(Err(Refusal::Undecodable(name))) => {
                    return Err(Failure::Broken(format!("does not decode: {name}")));
                }
                Ok(Err(Refusal::Refused(name))) => return Err(Failure::Refused(name)),
            }
        }
        Ok(body)
    }

    /// What the contract promises about the bytes themselves.
    fn check_shape(
        &mut self,
        insn: &Instruction,
        original: &Body,
        copy: &Body,
        reach: Reach,
        moved: Option<(u64, u64)>,
    ) {
        let form = insn.code();
        if !refers(insn) && original.starts.len() == 1 && copy.bytes != original.bytes {
            let what = format!("position-independent bytes became {:02x?}", copy.bytes);
            self.tally.findings.push(Finding::contract(form, original, reach, what));
        }
        // At the edges a step changes what is in reach, and so may change the length.
        if matches!(reach, Reach::Near | Reach::Far)
            && let Ok(shifted) = self.displace(original, copy.at + 16, moved)
            && shifted.bytes.len() != copy.bytes.len()
        {
            let what =
                format!("length {} at {:#x}, {} 16 bytes on", copy.bytes.len(), copy.at, shifted.bytes.len());
            self.tally.findings.push(Finding::contract(form, original, reach, what));
        }
    }

    fn relocate_only(&mut self, insn: &Instruction, bytes: &[u8], site: &Site) {
        let code = insn.code();
        let original = Body { at: site.at, bytes: bytes.to_vec(), starts: vec![0] };
        for (reach, to) in [(Reach::Near, site.place.near().start), (Reach::Far, layout::FAR)] {
            match self.displace(&original, to, None) {
                Ok(copy) => {
                    self.check_shape(insn, &original, &copy, reach, None);
                    self.tally.form(code).relocated_only += 1;
                }
                Err(Failure::Refused(name)) => *self.tally.form(code).refused.entry(name).or_default() += 1,
                Err(Failure::Broken(what)) => {
                    self.tally.findings.push(Finding::contract(code, &original, reach, what));
                }
            }
        }
    }
}

enum Failure {
    Refused(String),
    Broken(String),
}

/// An address for an original, with room around it for short branches, and segment bases.
pub fn site(place: Place, rng: &mut Rng) -> Site {
    let at = place.code().start + 0x200 + rng.below(0xc00);
    let base = |rng: &mut Rng| rng.pick(&[0, 0x40, 0x1230, 0x2_0001]);
    Site { place, at, fs_base: base(rng), gs_base: base(rng) }
}

/// Whether what an instruction does depends on where it is.
pub fn refers(insn: &Instruction) -> bool {
    insn.is_ip_rel_memory_operand() || near_branch(insn).is_some() || insn.flow_control() != FlowControl::Next
}

fn near_branch(insn: &Instruction) -> Option<u64> {
    (0..insn.op_count()).any(|op| insn.op_kind(op) == OpKind::NearBranch64).then(|| insn.near_branch64())
}

/// Where a branch target has gone: next to where it was, or to where copies lie, near or far.
fn new_home(from: u64, place: Place, rng: &mut Rng) -> u64 {
    let behind_code = layout::CODE_LEN as u64 - 0x100;
    match rng.below(3) {
        0 => from + 0x30,
        1 => place.near().start + behind_code + rng.below(0x80),
        _ => layout::FAR + behind_code + rng.below(0x80),
    }
}

/// What the instruction refers to by a displacement.
fn target(insn: &Instruction) -> Option<u64> {
    if insn.is_ip_rel_memory_operand() { Some(insn.ip_rel_memory_address()) } else { near_branch(insn) }
}

/// Where copies of this instruction shall lie.
fn destinations(
    insn: &Instruction,
    place: Place,
    target: Option<u64>,
    moved: Option<(u64, u64)>,
    rng: &mut Rng,
) -> Vec<(Reach, u64)> {
    let room = |rng: &mut Rng| 0x200 + rng.below(layout::CODE_LEN as u64 - 0x600);
    let near = (Reach::Near, place.near().start + room(rng));
    let far = (Reach::Far, layout::FAR + room(rng));
    if !refers(insn) {
        return vec![if rng.one_in(2) { near } else { far }];
    }
    let mut list = vec![near, far];
    if place == Place::High && rng.one_in(3) {
        list.push((Reach::FarBelow, Place::Low.near().start + room(rng)));
    }
    let target = moved.map(|(_, to)| to).or(target);
    let window = place.data().start..place.pads().end;
    if let Some(target) = target.filter(|target| window.contains(target)) {
        let slip = rng.below(128).wrapping_sub(64);
        let to = target.wrapping_add(1 << 31).wrapping_add(slip);
        list.push((Reach::EdgeAbove, to));
        if let Some(edge) = place.edge_below() {
            let to = target.wrapping_sub(1 << 31).wrapping_add(slip);
            debug_assert!(edge.contains(&to));
            list.push((Reach::EdgeBelow, to));
        }
    }
    list
}

/// Whether each original instruction became exactly one.
fn one_to_one(body: &Body) -> bool {
    let ends = body.starts.iter().skip(1).map(|&start| usize::from(start)).chain([body.bytes.len()]);
    body.starts.iter().zip(ends).all(|(&start, end)| {
        let start = usize::from(start);
        decode(&body.bytes[start..end], body.at + start as u64).is_some_and(|insn| insn.len() == end - start)
    })
}
