//! Probes of programmers (`<sys/sdt.h>`) in a program, and their arguments.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use incise_image::{Glob, LinkAddr, Module, UsdtProbe, usdt_probes};
use incise_isa::Addr;
use incise_isa::native::Gpr;
use incise_snippet::language::ast::UsdtSyntax;
use incise_snippet::tree::{self, Constant, Expr, Register, Type};
use incise_space::AddressSpace;
use incise_space::remote::{ProcessId, RemoteSpace};

use crate::count::Search;
use crate::flow::contents;
use crate::point::PointKind;
use crate::program::Program;

/// What is known of the files of programs, and which counters were raised.
#[derive(Default)]
pub(crate) struct Usdt {
    /// The probes of each file that was looked into.
    files: HashMap<String, Vec<UsdtProbe>>,
    /// Counters that are one higher because of us.
    raised: Vec<(ProcessId, Addr)>,
}

/// Whether a probe is meant.
fn fits(probe: &UsdtProbe, wanted: &UsdtSyntax) -> bool {
    let provider = wanted.provider.as_deref().is_none_or(|text| Glob::new(text).matches(&probe.provider));
    provider && Glob::new(&wanted.name).matches(&probe.name)
}

impl Usdt {
    fn of(&mut self, module: &Module, pid: Option<&str>) -> &[UsdtProbe] {
        self.files
            .entry(module.path.clone())
            .or_insert_with(|| contents(module, pid).map_or(Vec::new(), |file| usdt_probes(&file)))
    }

    /// The searches for probes that `wanted` means in a program, each with its group.
    pub(super) fn searches(&mut self, wanted: &[(UsdtSyntax, usize)], program: &Program) -> Vec<Search> {
        let mut searches = Vec::new();
        for (wanted, group) in wanted {
            for module in meant(wanted, program) {
                for probe in self.of(module, program.pid()).iter().filter(|probe| fits(probe, wanted)) {
                    searches.push(Search {
                        pattern: format!("{}!*{:#x}", module.path, probe.at.0),
                        module: None,
                        kind: PointKind::BeforeInstruction,
                        group: *group,
                        places: true,
                        otherwise: None,
                    });
                }
            }
        }
        searches
    }

    /// Whether the program has a module that is meant.
    pub(super) fn is_there(&self, wanted: &UsdtSyntax, program: &Program) -> bool {
        meant(wanted, program).next().is_some()
    }

    /// Names of probes in the modules that are meant, as `PROVIDER:NAME`.
    pub(super) fn names(&mut self, wanted: &UsdtSyntax, program: &Program) -> Vec<String> {
        let mut names = Vec::new();
        for module in meant(wanted, program) {
            let all = self.of(module, program.pid());
            names.extend(all.iter().map(|probe| format!("{}:{}", probe.provider, probe.name)));
        }
        names.sort();
        names.dedup();
        names
    }

    /// Has the program prepare the probes that are meant: raises their counters.
    pub(super) fn raise(
        &mut self,
        wanted: &[(UsdtSyntax, usize)],
        program: &Program,
        pid: ProcessId,
        space: &mut RemoteSpace,
    ) {
        for (wanted, _) in wanted {
            for module in meant(wanted, program) {
                let of = |probe: &UsdtProbe| probe.semaphore.filter(|_| fits(probe, wanted));
                let counters: Vec<LinkAddr> = self.of(module, program.pid()).iter().filter_map(of).collect();
                for at in counters.into_iter().map(|counter| module.to_addr(counter)) {
                    if self.raised.contains(&(pid, at)) {
                        continue;
                    }
                    let mut old = [0; 2];
                    if space.read(at, &mut old).is_err() {
                        continue;
                    }
                    let new = u16::from_le_bytes(old).wrapping_add(1).to_le_bytes();
                    if space.write_data(at, &old, &new).is_ok() {
                        self.raised.push((pid, at));
                    }
                }
            }
        }
    }

    /// A child has copies of the counters as they are.
    pub(super) fn forked(&mut self, parent: ProcessId, child: ProcessId) {
        let of: Vec<_> = self.raised.iter().filter(|(pid, _)| *pid == parent).map(|(_, at)| *at).collect();
        self.raised.extend(of.into_iter().map(|at| (child, at)));
    }

    /// A process has ended, or runs another program.
    pub(super) fn ended(&mut self, ended: ProcessId) {
        self.raised.retain(|(pid, _)| *pid != ended);
    }

    /// Lowers the counters again, in processes that run on.
    pub(super) fn lower(&mut self) {
        for (ProcessId(pid), at) in self.raised.drain(..) {
            let Ok(memory) = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))
            else {
                continue;
            };
            let mut old = [0; 2];
            if memory.read_exact_at(&mut old, at.0).is_ok() && old != [0; 2] {
                let new = u16::from_le_bytes(old).wrapping_sub(1).to_le_bytes();
                // Where it fails the program has ended.
                let _ = memory.write_all_at(&new, at.0);
            }
        }
    }

    /// The probe at an address of a file that was looked into.
    pub(crate) fn at(&self, path: &str, at: LinkAddr) -> Option<&UsdtProbe> {
        self.files.get(path)?.iter().find(|probe| probe.at == at)
    }
}

fn meant<'p>(wanted: &UsdtSyntax, program: &'p Program) -> impl Iterator<Item = &'p Module> {
    let file = wanted.module.as_deref().map(super::wanted::module);
    program.modules().iter().filter(move |module| file.as_deref().is_none_or(|file| module.is_called(file)))
}

/// The argument `number` of a probe, from 0; `None` if it has no such argument, or in a way that is not known.
pub(super) fn argument(probe: &UsdtProbe, number: u8, module: &Module) -> Option<Expr> {
    let text = arguments(&probe.arguments).into_iter().nth(number.into())?;
    let (size, place) = text.split_once('@')?;
    let (signed, size) = match size.strip_prefix('-') {
        Some(size) => (true, size),
        None => (false, size),
    };
    if let Some(size) = size.strip_suffix('f') {
        return float(size, place);
    }
    let ty = match (size, signed) {
        ("1", true) => Type::I8,
        ("2", true) => Type::I16,
        ("4", true) => Type::I32,
        ("8", true) => Type::I64,
        ("1", false) => Type::U8,
        ("2", false) => Type::U16,
        ("4", false) => Type::U32,
        _ => Type::U64,
    };
    let wide = if signed { Type::I64 } else { Type::U64 };
    Some(operand(place, ty, module)?.cast(ty).cast(wide))
}

/// Arguments stand between spaces; an operand may have spaces in its brackets.
fn arguments(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for word in text.split_ascii_whitespace() {
        match all.last_mut() {
            Some(last) if !word.contains('@') => last.push_str(word),
            _ => all.push(word.to_owned()),
        }
    }
    all
}

fn float(size: &str, place: &str) -> Option<Expr> {
    let number: u8 = place.strip_prefix("%xmm")?.parse().ok()?;
    let bits = tree::register(Register::Vector(number));
    match size {
        "8" => Some(bits),
        _ => None,
    }
}

/// An operand of the assembler: a constant, a register, or memory.
fn operand(place: &str, ty: Type, module: &Module) -> Option<Expr> {
    if let Some(number) = place.strip_prefix('$') {
        return Some(Constant::new(Type::I64, integer(number)? as u64).into());
    }
    if let Some(name) = place.strip_prefix('%') {
        let (register, high) = general(name)?;
        let all = tree::register(Register::General(register));
        return Some(if high { all.shr(8u64) } else { all });
    }
    let (before, inside) = match place.split_once('(') {
        Some((before, inside)) => (before, Some(inside.strip_suffix(')')?)),
        None => (place, None),
    };
    let (symbol, displacement) = displacement(before)?;
    let address = match (symbol, inside) {
        // `name(%rip)`, `name+8`: a variable of the module.
        (Some(name), None | Some("%rip")) => {
            let object = module.image.objects_named(name).next()?;
            Constant::new(Type::U64, module.to_addr(object.addr).0).into()
        }
        (None, Some(inside)) => {
            let mut parts = inside.split(',');
            let base = parts.next().map(str::trim).filter(|base| !base.is_empty());
            let index = parts.next().map(str::trim).filter(|index| !index.is_empty());
            let scale = parts.next().map_or(Some(1), |scale| scale.trim().parse::<u64>().ok())?;
            let read = |name: &str| {
                let (register, _) = general(name.strip_prefix('%')?)?;
                Some(tree::register(Register::General(register)))
            };
            let base = base.map_or_else(|| Some(Constant::new(Type::U64, 0).into()), read)?;
            match index {
                Some(index) => base.add(read(index)?.mul(scale)),
                None => base,
            }
        }
        (None, None) => Constant::new(Type::U64, 0).into(),
        _ => return None,
    };
    Some(address.add(displacement as u64).cast(Type::Pointer).load(ty))
}

/// What stands before a bracket: a name, and a number.
fn displacement(text: &str) -> Option<(Option<&str>, i64)> {
    if text.is_empty() {
        return Some((None, 0));
    }
    if let Some(number) = integer(text) {
        return Some((None, number));
    }
    match text.rfind(['+', '-']) {
        Some(at) if at > 0 => Some((Some(&text[..at]), integer(text[at..].trim_start_matches('+'))?)),
        _ => Some((Some(text), 0)),
    }
}

fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()?,
        None => digits.parse().ok()?,
    } as i64;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// A register by the name of any of its parts; whether it is the second byte.
fn general(name: &str) -> Option<(Gpr, bool)> {
    let of = |wide: &str| Gpr::ALL.into_iter().find(|register| register.name() == wide);
    if let Some(known) = of(name) {
        return Some((known, false));
    }
    if let Some(digits) = name.strip_prefix('r') {
        return of(&format!("r{}", digits.trim_end_matches(['d', 'w', 'b']))).map(|known| (known, false));
    }
    let (stem, high) = match name {
        "ah" | "bh" | "ch" | "dh" => return of(&format!("r{}x", &name[..1])).map(|known| (known, true)),
        "al" | "bl" | "cl" | "dl" => (format!("{}x", &name[..1]), false),
        "sil" | "dil" | "bpl" | "spl" => (name[..2].to_owned(), false),
        other => (other.trim_start_matches('e').to_owned(), false),
    };
    of(&format!("r{stem}")).map(|known| (known, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_known_by_all_their_names() {
        for (name, wanted) in [
            ("rax", Gpr::Rax),
            ("eax", Gpr::Rax),
            ("ax", Gpr::Rax),
            ("al", Gpr::Rax),
            ("edi", Gpr::Rdi),
            ("dil", Gpr::Rdi),
            ("bp", Gpr::Rbp),
            ("ebp", Gpr::Rbp),
            ("r8d", Gpr::R8),
            ("r10b", Gpr::R10),
            ("r15w", Gpr::R15),
        ] {
            assert_eq!(general(name), Some((wanted, false)), "{name}");
        }
        assert_eq!(general("bh"), Some((Gpr::Rbx, true)));
        assert_eq!(general("xmm0"), None);
        assert_eq!(general("r16"), None);
    }

    #[test]
    fn arguments_are_taken_apart() {
        assert_eq!(arguments("-4@%edi 8@16(%rbp) 8@8(%rax, %rbx, 8)").len(), 3);
        assert_eq!(displacement("-16"), Some((None, -16)));
        assert_eq!(displacement("table+8"), Some((Some("table"), 8)));
        assert_eq!(displacement("table"), Some((Some("table"), 0)));
        assert_eq!(integer("-0x10"), Some(-16));
    }
}
