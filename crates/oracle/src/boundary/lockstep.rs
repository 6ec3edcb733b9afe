//! Two processes with the same memory, one with the original code and one with the patched: both begin at the same
//! instruction with the same state, and meet at every instruction boundary that the patched one comes by.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, Mnemonic};
use incise_cfg::LiveSet;
use smallvec::SmallVec;

use super::child::{Child, Fault, Region, Registers, View};
use super::registers::{Different, alive, different, value};
use super::repeatable::is_repeatable;
use super::report::{Difference, Finding, Tally};
use super::state::{self, DATA, STACK};
use crate::rng::Rng;

/// The most instructions the original runs until it is where the patched code came by.
const PATIENCE: usize = 512;
/// The most steps of the patched code from one boundary to the next: rounds of a repeated instruction are steps.
const LONGEST: usize = 2048;
/// The most instructions to follow until a register that a snippet changed is overwritten.
const LONGEST_DEAD: usize = 48;
/// Boundaries between comparisons of all memory.
const OFTEN: usize = 512;
const RED_ZONE: u64 = 128;
/// Below the red zone, where snippets may push.
const BELOW: u64 = 256;

/// What is known of the patched code.
pub(super) struct Patched<'p> {
    /// Original bytes of an instruction, if it is one of the program.
    pub original: &'p dyn Fn(u64) -> Option<[u8; 15]>,
    /// The landing of each displaced head, and the heads of each landing, or of each copy.
    pub landings: HashMap<u64, u64>,
    pub heads: HashMap<u64, SmallVec<[u64; 1]>>,
    /// The bytes that were changed: the byte there now, and whether an instruction begins there.
    pub changed: HashMap<u64, (u8, bool)>,
    /// What is live before an instruction of the program, by the control flow of all of it.
    pub live: &'p dyn Fn(u64) -> LiveSet,
    /// The original address that a trampoline address stands for.
    pub translate: &'p dyn Fn(u64) -> Option<u64>,
    /// The program's code, and what was reserved for the patches: memory that reads otherwise in the two processes.
    pub unlike: Vec<Range<u64>>,
}

/// One of the two processes.
pub(super) struct Side {
    pub child: Child,
    pub data: View,
    pub stack: View,
    /// The program's own writable memory.
    pub own: Vec<View>,
}

impl Side {
    pub(super) fn new(regions: &[Region]) -> io::Result<Side> {
        let all: Vec<&Region> = regions.iter().collect();
        let view = |at: u64| {
            let found = regions.iter().find(|region| region.at == at);
            found.ok_or_else(|| io::Error::other("no such region"))?.view()
        };
        let writable = |region: &&Region| {
            region.protection & libc::PROT_WRITE != 0 && region.at != DATA.start && region.at != STACK.start
        };
        let own = regions.iter().filter(writable).map(Region::view).collect::<io::Result<_>>()?;
        Ok(Side { data: view(DATA.start)?, stack: view(STACK.start)?, own, child: Child::start(&all)? })
    }
}

/// Where the patched process is.
enum Arrival {
    /// At the boundary of one of these instructions.
    Boundary(SmallVec<[u64; 1]>),
    Fault(Fault),
    TooLong,
}

pub(super) struct Lockstep<'p> {
    pub original: Side,
    pub patched: Side,
    pub code: Patched<'p>,
    /// Boundaries that values may point to.
    pub heads: &'p [u64],
    pub rng: Rng,
    /// What is in data and stack before each run.
    pub pristine: (Vec<u8>, Vec<u8>),
    /// Instructions to follow from each boundary.
    pub steps: usize,
    pub tally: Tally,
}

impl Lockstep<'_> {
    /// Enters at each of `boundaries`.
    pub(super) fn run(&mut self, boundaries: &[u64], progress: &dyn Fn(usize)) -> io::Result<()> {
        for (number, &at) in boundaries.iter().enumerate() {
            if number % OFTEN == 0 {
                self.refresh()?;
                progress(number);
            }
            self.enter(at)?;
            if (number + 1) % OFTEN == 0 || number + 1 == boundaries.len() {
                self.compare_own(&boundaries[number / OFTEN * OFTEN..=number]);
            }
        }
        progress(boundaries.len());
        Ok(())
    }

    /// New contents of all memory but the program's own, and new vectors.
    fn refresh(&mut self) -> io::Result<()> {
        self.pristine.0.resize((DATA.end - DATA.start) as usize, 0);
        self.pristine.1.resize((STACK.end - STACK.start) as usize, 0);
        state::fill(&mut self.rng, self.heads, &mut self.pristine.0);
        state::fill(&mut self.rng, self.heads, &mut self.pristine.1);
        let mut vectors = self.original.child.xstate()?;
        // The registers xmm0 to xmm15 of the legacy area (SDM vol. 1, 13.4.1).
        state::fill(&mut self.rng, &[], &mut vectors[160..416]);
        // XSTATE_BV: x87, SSE are there.
        vectors[512] |= 3;
        self.original.child.set_xstate(&vectors)?;
        self.patched.child.set_xstate(&vectors)
    }

    /// Enters both at `at`, and follows them. A difference counts if the original keeps to its own memory and stack.
    fn enter(&mut self, at: u64) -> io::Result<()> {
        let blank = self.original.child.blank();
        let regs = state::registers(&mut self.rng, self.heads, &blank, at);
        if !self.is_repeatable(at) {
            self.tally.unsteady += 1;
            return Ok(());
        }
        for side in [&mut self.original, &mut self.patched] {
            side.data.bytes_mut().copy_from_slice(&self.pristine.0);
            side.stack.bytes_mut().copy_from_slice(&self.pristine.1);
            side.child.set_registers(&regs)?;
        }
        let difference = self.follow(&regs)?;
        match difference {
            Some(_) if self.strays(&regs)? => self.tally.strayed += 1,
            None => self.tally.entered += 1,
            Some(difference) => {
                self.tally.entered += 1;
                self.tally.findings.push(Finding { boundary: at, difference });
            }
        }
        if difference.is_some() {
            let vectors = self.original.child.xstate()?;
            self.patched.child.set_xstate(&vectors)?;
        }
        Ok(())
    }

    /// Follows both from where they have `regs`.
    fn follow(&mut self, regs: &Registers) -> io::Result<Option<Difference>> {
        let (mut here, mut last) = (*regs, regs.rip);
        let mut stacks: SmallVec<[u64; 8]> = SmallVec::from_slice(&[regs.rsp]);
        // Snippets may change what the program overwrites before it reads it. Then nothing else may differ until
        // it did.
        let mut differing: Different = Different::default();
        let mut pushed = None;
        for step in 0..self.steps + LONGEST_DEAD {
            if step >= self.steps && differing.is_empty() {
                break;
            }
            match self.advance(here.rip)? {
                Arrival::Boundary(heads) => {
                    let Some(met) = self.meet(&heads)? else {
                        return Ok(Some(Difference::Where { original: here.rip, patched: heads[0] }));
                    };
                    differing = different(&met, &self.patched.child.registers()?);
                    self.tally.compared += 1;
                    stacks.push(met.rsp);
                    last = here.rip;
                    here = met;
                    if !self.is_repeatable(met.rip) {
                        break;
                    }
                }
                Arrival::Fault(fault) => {
                    self.tally.faults += 1;
                    match self.same_fault(fault)? {
                        Ok(registers) => (differing, pushed) = registers,
                        Err(difference) => return Ok(Some(difference)),
                    }
                    break;
                }
                Arrival::TooLong => {
                    // Both stand somewhere in a long instruction: nothing to compare.
                    self.tally.unfinished += 1;
                    let vectors = self.original.child.xstate()?;
                    self.patched.child.set_xstate(&vectors)?;
                    return Ok(None);
                }
            }
        }
        if !differing.is_empty() {
            // Behind the program's code is nothing to tell what it reads: what was dead before still is.
            let met = self.original.child.registers()?.rip;
            let at = if (self.code.original)(met).is_some() { met } else { last };
            if let Some(name) = alive(&differing, at, &self.code) {
                return Ok(Some(Difference::Register { name, at }));
            }
            self.tally.dead += 1;
        }
        self.compare(&stacks, pushed)
    }

    /// Whether the instruction at `at` is one of the program, and has the same effect in any process.
    fn is_repeatable(&self, at: u64) -> bool {
        (self.code.original)(at).is_some_and(|bytes| is_repeatable(&bytes))
    }

    /// Runs the patched process from the boundary `from` to the next.
    fn advance(&mut self, from: u64) -> io::Result<Arrival> {
        let child = &self.patched.child;
        // A springboard at the boundary leads to its landing, which stands for the same.
        let mut leaving =
            (self.code.changed.contains_key(&from) && child.registers()?.rip == from).then_some(from);
        for _ in 0..LONGEST {
            let mut regs = child.registers()?;
            let trap = self.code.changed.get(&regs.rip).is_some_and(|&(byte, head)| head && is_trap(byte));
            if trap && let Some(&landing) = self.code.landings.get(&regs.rip) {
                self.tally.traps += 1;
                regs.rip = landing;
                child.set_registers(&regs)?;
                let Some(heads) = self.code.heads.get(&landing) else { continue };
                // The landing of a boundary where control comes anew.
                if heads.iter().all(|head| Some(*head) != leaving) {
                    return Ok(Arrival::Boundary(heads.clone()));
                }
                leaving = None;
                continue;
            }
            if let Some(fault) = child.step()? {
                return Ok(Arrival::Fault(fault));
            }
            let ip = child.registers()?.rip;
            if let Some(heads) = self.code.heads.get(&ip) {
                if heads.iter().any(|head| Some(*head) == leaving) {
                    leaving = None;
                    continue;
                }
                return Ok(Arrival::Boundary(heads.clone()));
            }
            let inside = self.code.changed.get(&ip).is_some_and(|(_, head)| !head);
            if !inside && (self.code.translate)(ip).is_none() {
                return Ok(Arrival::Boundary(SmallVec::from_slice(&[ip])));
            }
        }
        Ok(Arrival::TooLong)
    }

    /// Runs the original until it is at one of `heads`.
    fn meet(&mut self, heads: &[u64]) -> io::Result<Option<Registers>> {
        for _ in 0..PATIENCE {
            if self.original.child.step()?.is_some() {
                return Ok(None);
            }
            let regs = self.original.child.registers()?;
            if heads.contains(&regs.rip) {
                return Ok(Some(regs));
            }
        }
        Ok(None)
    }

    /// Runs the original to its fault, which is to be that of the patched process. Returns which registers differ, and where the
    /// patched process has pushed the return address of a call that led nowhere.
    fn same_fault(&mut self, patched: Fault) -> io::Result<Result<(Different, Option<u64>), Difference>> {
        for _ in 0..8 * PATIENCE {
            let Some(original) = self.original.child.step()? else { continue };
            let (expected, got) = (self.original.child.registers()?, self.patched.child.registers()?);
            let at = (self.code.translate)(got.rip).unwrap_or(got.rip);
            let original = Fault { address: at_ip(original.address, expected.rip), ..original };
            let patched = Fault { address: at_ip(patched.address, got.rip), ..patched };
            if original != patched || at != expected.rip {
                return Ok(Err(Difference::Fault { at: expected.rip }));
            }
            let mut differing = different(&expected, &got);
            let insn =
                (self.code.original)(at).map(|bytes| Decoder::new(64, &bytes, DecoderOptions::NONE).decode());
            let call = insn.filter(|insn| insn.mnemonic() == Mnemonic::Call);
            let pushed = call.map(|call| (got.rsp, at + call.len() as u64)).filter(|&(slot, returns)| {
                slot == expected.rsp.wrapping_sub(8) && self.patched.stack.word(slot) == Some(returns)
            });
            if pushed.is_some() {
                // A displaced call pushes its return address before it looks where to go.
                self.tally.pushed_early += 1;
                differing.retain(|name| *name != "rsp");
            }
            return Ok(Ok((differing, pushed.map(|(slot, _)| slot))));
        }
        Ok(Err(Difference::NoFault))
    }

    /// Compares vectors, data and stack; below the red zone of any of `stacks` snippets may have pushed, and a call that led
    /// nowhere at `pushed`.
    fn compare(&self, stacks: &[u64], pushed: Option<u64>) -> io::Result<Option<Difference>> {
        if self.original.child.xstate()? != self.patched.child.xstate()? {
            return Ok(Some(Difference::Vectors));
        }
        let scratch = |address: u64| {
            stacks.iter().any(|rsp| (rsp - RED_ZONE - BELOW..rsp - RED_ZONE).contains(&address))
                || pushed.is_some_and(|slot| (slot..slot + 8).contains(&address))
        };
        let first = |original: &View, patched: &View| {
            let (expected, got) = (original.bytes(), patched.bytes());
            if expected == got {
                return None;
            }
            let differing = (0..expected.len()).filter(|&offset| expected[offset] != got[offset]);
            differing.map(|offset| original.at + offset as u64).find(|at| !scratch(*at))
        };
        let (original, patched) = (&self.original, &self.patched);
        let data = first(&original.data, &patched.data);
        let address = data.or_else(|| first(&original.stack, &patched.stack));
        Ok(address.map(|address| Difference::Memory { address }))
    }

    /// Whether the original, from `regs` on, reads or writes where the two processes differ by nature (code, patches,
    /// below the red zone), or has no stack: snippets need one.
    fn strays(&mut self, regs: &Registers) -> io::Result<bool> {
        let side = &mut self.original;
        side.data.bytes_mut().copy_from_slice(&self.pristine.0);
        side.stack.bytes_mut().copy_from_slice(&self.pristine.1);
        side.child.set_registers(regs)?;
        let unlike = |at: u64| self.code.unlike.iter().any(|range| range.contains(&at));
        let mut factory = InstructionInfoFactory::new();
        for _ in 0..PATIENCE {
            let regs = side.child.registers()?;
            if !(STACK.start + RED_ZONE + BELOW..STACK.end).contains(&regs.rsp) {
                return Ok(true);
            }
            let Some(bytes) = (self.code.original)(regs.rip).filter(|bytes| is_repeatable(bytes)) else {
                return Ok(false);
            };
            let insn = Decoder::with_ip(64, &bytes, regs.rip, DecoderOptions::NONE).decode();
            for used in factory.info(&insn).used_memory() {
                let at = used.virtual_address(0, |register, _, _| Some(value(&regs, register)));
                let below = at.is_some_and(|at| at < regs.rsp - RED_ZONE && at >= STACK.start);
                if below
                    || at.is_some_and(|at| {
                        unlike(at) || unlike(at.wrapping_add(used.memory_size().size() as u64))
                    })
                {
                    return Ok(true);
                }
            }
            if let Some(fault) = side.child.step()? {
                return Ok(unlike(fault.address));
            }
        }
        Ok(false)
    }

    /// Compares the program's own memory, which was written from any of `boundaries`.
    fn compare_own(&mut self, boundaries: &[u64]) {
        for (original, patched) in self.original.own.iter().zip(&mut self.patched.own) {
            let found = original.bytes().iter().zip(patched.bytes()).position(|(a, b)| a != b);
            if let Some(offset) = found {
                let difference = Difference::Own {
                    address: original.at + offset as u64,
                    last: boundaries[boundaries.len() - 1],
                };
                self.tally.findings.push(Finding { boundary: boundaries[0], difference });
                patched.bytes_mut().copy_from_slice(original.bytes());
            }
        }
    }
}

/// A fault that reports the address of its instruction.
fn at_ip(address: u64, ip: u64) -> u64 {
    if address == ip { 0 } else { address }
}

fn is_trap(byte: u8) -> bool {
    byte == incise_isa::native::TRAP || incise_isa::native::is_illegal(byte)
}
