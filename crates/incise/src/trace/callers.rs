//! The callers of a function, from a copy of the stack that its probe took.
//!
//! Programs of distributions keep no frame pointers, so the unwind tables (`.eh_frame`) say where each return address is, as they do
//! for debuggers and exceptions; the program does nothing but copy. Code without tables, such as what is compiled at run time, is
//! followed by frame pointers, where these lead to code that is mapped.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use incise_image::{CallerRule, MemoryMap, Module, Saved};
use incise_isa::Addr;
use incise_space::remote::ProcessId;

use super::value::{Registers, value};
use crate::names::Place;

/// The most callers that are told.
const DEPTH: usize = 256;

/// A function that called another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The return address: it goes on there.
    pub addr: Addr,
    /// File name of the module; empty if it is in none.
    pub module: Rc<str>,
    /// The function, as its programmer wrote it; empty if none is known.
    pub function: Rc<str>,
    /// How far the return address is behind the function, or else the module.
    pub offset: u64,
}

/// Who called a function, the nearest first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Callers {
    /// Who.
    pub frames: Rc<[Caller]>,
    /// Whether these are all: the copy of the stack holds no more, or nobody knows where the next one is.
    pub whole: bool,
}

/// What a thread had when the copy was taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    pub sp: u64,
    pub rbp: u64,
    /// Quadwords from the stack pointer on.
    pub stack: &'a [u64],
}

/// Return addresses of a thread that stands at `ip`, with this stack pointer and `rbp`, as far as a copy of its `stack` shows them;
/// the nearest first.
pub(crate) fn return_addresses(
    pid: ProcessId,
    modules: &[Module],
    ip: Addr,
    (sp, rbp): (u64, u64),
    stack: &[u64],
) -> Vec<Addr> {
    let (mut unwinder, mut found) = (Unwinder::of(pid), Vec::new());
    unwinder.set(modules);
    unwinder.walk(ip, Start { sp, rbp, stack }, &mut found);
    found
}

/// Finds callers in one program.
pub(super) struct Unwinder {
    pid: ProcessId,
    modules: Vec<Module>,
    /// Where the probes of functions are.
    pub points: HashMap<usize, Addr>,
    /// Executable memory, and when it was looked up.
    code: Vec<Range<Addr>>,
    looked: Option<Instant>,
    rules: HashMap<Addr, Option<Rc<CallerRule>>>,
    named: HashMap<Addr, Caller>,
}

/// The least time between two looks at what is mapped.
const PAUSE: Duration = Duration::from_millis(100);

impl Unwinder {
    pub(super) fn of(pid: ProcessId) -> Unwinder {
        Unwinder {
            pid,
            modules: Vec::new(),
            points: HashMap::new(),
            code: Vec::new(),
            looked: None,
            rules: HashMap::new(),
            named: HashMap::new(),
        }
    }

    /// The program has these modules now.
    pub(super) fn set(&mut self, modules: &[Module]) {
        self.modules = modules.to_vec();
        self.rules.clear();
        self.named.clear();
    }

    /// The callers of a function, at its probe.
    pub(super) fn callers(&mut self, function: usize, start: Start<'_>) -> Callers {
        let mut frames = Vec::new();
        let point = self.points.get(&function).copied();
        let whole = point.is_some_and(|point| self.walk(point, start, &mut frames));
        let frames: Vec<Caller> = frames.into_iter().map(|at| self.named(at)).collect();
        Callers { frames: frames.into(), whole }
    }

    /// Return addresses; whether the last one is that of the outermost function.
    fn walk(&mut self, point: Addr, start: Start<'_>, found: &mut Vec<Addr>) -> bool {
        let read = |at: u64| {
            let offset = at.checked_sub(start.sp).filter(|offset| offset % 8 == 0)?;
            start.stack.get((offset / 8) as usize).copied()
        };
        let mut registers = Registers { sp: start.sp, rbp: Some(start.rbp) };
        // Where the instruction is that has not returned: of a return address, the call before it.
        let mut at = point;
        while found.len() < DEPTH {
            let rule = self.rule(at);
            let next = match rule.as_deref() {
                Some(CallerRule { return_address: Saved::Unknown, .. }) => return true,
                Some(rule) => by_rule(rule, registers, &read),
                // What has no tables may still be entered by a call.
                None if found.is_empty() && module_at(&self.modules, at).is_some() => {
                    read(registers.sp).map(|back| (back, Registers { sp: registers.sp + 8, ..registers }))
                }
                // The outermost frame has none (psABI x86-64, 3.4.1).
                None if registers.rbp == Some(0) => return true,
                None => by_frame_pointer(registers, &read),
            };
            let Some((back, next)) = next else { return false };
            if back == 0 {
                return true;
            }
            if !self.is_code(Addr(back)) || next.sp <= registers.sp {
                return false;
            }
            found.push(Addr(back));
            (at, registers) = (Addr(back - 1), next);
        }
        false
    }

    fn rule(&mut self, at: Addr) -> Option<Rc<CallerRule>> {
        let modules = &self.modules;
        let find = || {
            let module = module_at(modules, at)?;
            module.image.caller(module.to_link(at)?).map(Rc::new)
        };
        self.rules.entry(at).or_insert_with(find).clone()
    }

    fn is_code(&mut self, at: Addr) -> bool {
        if let Some(module) = module_at(&self.modules, at) {
            return module.is_text(at);
        }
        let known = self.code.iter().any(|range| range.contains(&at));
        if known || self.looked.is_some_and(|looked| looked.elapsed() < PAUSE) {
            return known;
        }
        // It may have been made meanwhile.
        self.looked = Some(Instant::now());
        let map = fs::read_to_string(format!("/proc/{}/maps", self.pid.0)).unwrap_or_default();
        let map = MemoryMap::parse(&map);
        self.code = map
            .iter()
            .filter(|mapping| mapping.permissions.execute)
            .map(|mapping| mapping.range.clone())
            .collect();
        self.code.iter().any(|range| range.contains(&at))
    }

    fn named(&mut self, at: Addr) -> Caller {
        let modules = &self.modules;
        let name = || {
            // A call may be the last instruction of its function.
            let Place { module, function, offset, .. } = Place::of(modules, Addr(at.0 - 1));
            Caller {
                addr: at,
                module: module.map_or("", |module| &module.name).into(),
                function: function.unwrap_or_default().into(),
                offset: offset + 1,
            }
        };
        self.named.entry(at).or_insert_with(name).clone()
    }
}

fn module_at(modules: &[Module], at: Addr) -> Option<&Module> {
    modules.iter().find(|module| module.range.contains(&at))
}

/// The return address, and the registers of the caller.
fn by_rule(
    rule: &CallerRule,
    registers: Registers,
    read: &dyn Fn(u64) -> Option<u64>,
) -> Option<(u64, Registers)> {
    let frame = value(&rule.frame, registers, read)?;
    let saved = |saved: &Saved, now: Option<u64>| match saved {
        Saved::Unchanged => now,
        Saved::Beside(offset) => read(frame.wrapping_add_signed(*offset)),
        Saved::At(address) => read(value(address, registers, read)?),
        Saved::Unknown => None,
    };
    let back = saved(&rule.return_address, None)?;
    // It may lie behind the copy, and nobody need it.
    let rbp = saved(&rule.rbp, registers.rbp);
    Some((back, Registers { sp: frame, rbp }))
}

/// The same, where `rbp` points to the caller's `rbp` and the return address behind it.
fn by_frame_pointer(registers: Registers, read: &dyn Fn(u64) -> Option<u64>) -> Option<(u64, Registers)> {
    let rbp = registers.rbp.filter(|rbp| *rbp >= registers.sp)?;
    Some((read(rbp.checked_add(8)?)?, Registers { sp: rbp + 16, rbp: read(rbp) }))
}
