//! What patterns name in a set of modules.

use std::borrow::Cow;

use incise_isa::Addr;
use rustc_hash::FxHashMap;

use crate::names::module_glob::ModuleGlob;
use crate::names::pattern::{NamePattern, Until, What, squeeze};
use crate::names::{
    demangle::{forms, outside_namespaces},
    suggest,
};
use crate::{Function, FunctionKind, LinkAddr, Module, Name, Pattern, PatternError, demangle};

/// An address that patterns name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Index of its module in the list given to [`find`].
    pub module: usize,
    /// The address.
    pub addr: Addr,
    /// Where the range ends that begins at the address, if a range was asked for.
    pub end: Option<Addr>,
    /// The symbol that was asked for, or the best known one: with `@VERSION` if that is not the default
    /// version, with `+0x…` if the address is behind the start. `sub_…` where there is no symbol.
    pub name: String,
    /// All symbols of the function, that of [`name`](Self::name) first. Empty where there is no symbol.
    pub names: Vec<String>,
    /// Where the function begins that holds the address.
    pub start: Addr,
    /// Size of the function in bytes, 0 if unknown.
    pub size: u64,
    /// Plain, or the resolver of an indirect function.
    pub kind: FunctionKind,
}

impl Target {
    /// What is at an address of a module: in a function with a symbol, in one without, or in neither. `index` is that
    /// of the module.
    pub fn at(module: &Module, index: usize, addr: Addr) -> Target {
        target_at(module, index, addr)
    }

    /// The name as the programmer wrote it.
    pub fn display_name(&self) -> Cow<'_, str> {
        let (symbol, rest) = match self.name.find(['@', '+']) {
            Some(at) if self.name.starts_with("_Z") || self.name.starts_with("_R") => self.name.split_at(at),
            _ => (self.name.as_str(), ""),
        };
        demangle(symbol).map_or(Cow::Borrowed(self.name.as_str()), |name| Cow::Owned(name + rest))
    }
}

/// The function that every program in C begins with, also a stripped one.
pub const MAIN: &str = "main";

/// The name given to a function without a symbol.
pub fn nameless(at: LinkAddr) -> String {
    format!("sub_{:x}", at.0)
}

/// Finds what `patterns` name: one target per address and range, in the order of the modules and ascending in each.
/// `module` is a pattern on modules that limits the search to those, as `MODULE!` does for one pattern.
///
/// Wildcards match functions only; a label in hand-written assembly has to be named. Names that begin
/// with `sub_` also mean functions that only the unwind tables tell of; `main` also means that of a stripped program,
/// where its module knows it.
///
/// # Errors
/// A pattern that names nothing.
pub fn find(
    modules: &[Module],
    patterns: &[Pattern],
    module: Option<&str>,
) -> Result<Vec<Target>, PatternError> {
    let filter = module.map(ModuleGlob::new);
    let mut search = Search { modules, targets: Vec::new(), index_of: FxHashMap::default() };
    for pattern in patterns {
        search.run(pattern, filter.as_ref())?;
    }
    search.targets.sort_by_key(|t| (t.module, t.addr, t.end));
    Ok(search.targets)
}

struct Search<'m> {
    modules: &'m [Module],
    targets: Vec<Target>,
    index_of: FxHashMap<(Addr, Option<Addr>), usize>,
}

impl<'m> Search<'m> {
    fn run(&mut self, pattern: &Pattern, filter: Option<&ModuleGlob>) -> Result<(), PatternError> {
        let globs = || [filter, pattern.module.as_ref()].into_iter().flatten();
        let fits = |m: &Module| globs().all(|glob| glob.matches(m));
        let chosen: Vec<usize> = (0..self.modules.len()).filter(|&i| fits(&self.modules[i])).collect();
        if chosen.is_empty() && globs().next().is_some() {
            let missing = globs().find(|glob| !self.modules.iter().any(|m| glob.matches(m)));
            let missing = missing.or(globs().next());
            return Err(PatternError::NoModule {
                pattern: pattern.text.clone(),
                module: missing.map(|glob| glob.text.clone()).unwrap_or_default(),
                near: missing.map(|glob| glob.near(self.modules)).unwrap_or_default(),
                loaded: self.modules.iter().map(|m| m.name.clone()).collect(),
            });
        }
        match &pattern.what {
            What::Name(name) => self.find_names(pattern, name, &chosen),
            What::Address(addr) => self.find_address(pattern, &chosen, addr.0, |_| *addr),
            What::Link(link) => self.find_address(pattern, &chosen, link.0, |m| m.to_addr(*link)),
        }
    }

    fn find_address(
        &mut self,
        pattern: &Pattern,
        chosen: &[usize],
        address: u64,
        to_addr: impl Fn(&Module) -> Addr,
    ) -> Result<(), PatternError> {
        let mut found = false;
        for &index in chosen {
            let module = &self.modules[index];
            let addr = to_addr(module);
            if module.is_text(addr) {
                let end = match pattern.until {
                    Some(Until::Address(until)) => Some(addr + until.wrapping_sub(address)),
                    _ => None,
                };
                self.add(Target { end, ..target_at(module, index, addr) });
                found = true;
            }
        }
        if found { Ok(()) } else { Err(PatternError::NotCode { pattern: pattern.text.clone(), address }) }
    }

    fn find_names(
        &mut self,
        pattern: &Pattern,
        name: &NamePattern,
        chosen: &[usize],
    ) -> Result<(), PatternError> {
        let (mut found, mut too_small) = (false, None);
        for &index in chosen {
            let module = &self.modules[index];
            for (function, matched) in named(module, name) {
                let outside = name.offset != 0 && name.offset >= function.size;
                let (false, Some(until)) = (outside, until(pattern, name, function.size)) else {
                    too_small = Some((display(&matched), function.size));
                    continue;
                };
                let target = target_of(module, index, function, &matched, name.offset);
                self.add(Target { end: until.map(|offset| target.start + offset), ..target });
                found = true;
            }
            for start in nameless_functions(module, name) {
                let addr = module.to_addr(LinkAddr(start.0.wrapping_add(name.offset)));
                if module.is_text(addr) {
                    let target = target_at(module, index, addr);
                    let Some(until) = until(pattern, name, target.size) else {
                        too_small = Some((target.name, target.size));
                        continue;
                    };
                    self.add(Target { end: until.map(|offset| target.start + offset), ..target });
                    found = true;
                }
            }
        }
        match too_small {
            _ if found => Ok(()),
            Some((function, size)) => {
                Err(PatternError::OutsideFunction { pattern: pattern.text.clone(), function, size })
            }
            None => Err(self.no_function(pattern, name, chosen)),
        }
    }

    /// Adds a target, or its name to the one that is there.
    fn add(&mut self, target: Target) {
        match self.index_of.get(&(target.addr, target.end)) {
            Some(&index) => {
                let known = &mut self.targets[index];
                let new = target.names.into_iter().filter(|name| !known.names.contains(name));
                let new: Vec<String> = new.collect();
                known.names.extend(new);
            }
            None => {
                self.index_of.insert((target.addr, target.end), self.targets.len());
                self.targets.push(target);
            }
        }
    }

    fn no_function(&self, pattern: &Pattern, name: &NamePattern, chosen: &[usize]) -> PatternError {
        let modules = || chosen.iter().filter_map(|&index| self.modules.get(index));
        let imports = |m: &&Module| {
            name.demangled.is_none()
                && name.glob.is_literal()
                && m.image.import_indices(name.glob.prefix()).next().is_some()
        };
        let others = (0..self.modules.len()).filter(|index| !chosen.contains(index));
        let elsewhere = others.filter_map(|index| {
            let module = &self.modules[index];
            named(module, name).next().map(|(_, found)| format!("{}!{}", module.name, display(&found)))
        });
        let wanted = pattern.text.rsplit('!').next().unwrap_or("").replace(['*', '?'], "");
        let wanted = wanted.split(['@', '+']).next().unwrap_or("");
        let known = modules().flat_map(|m| m.image.functions().iter().flat_map(|f| m.image.names(f)));
        PatternError::NoFunction {
            pattern: pattern.text.clone(),
            imported_by: modules().filter(imports).map(|m| m.name.clone()).collect(),
            elsewhere: elsewhere.take(3).collect(),
            near: if name.demangled.is_some() {
                Vec::new()
            } else {
                suggest::nearest(wanted, known.map(|name| name.text))
            },
        }
    }
}

/// The offset behind the start of a function of `size` bytes at which the range of `pattern` ends, if it is one; nothing
/// if that is outside of the function.
fn until(pattern: &Pattern, name: &NamePattern, size: u64) -> Option<Option<u64>> {
    let end = match pattern.until {
        None => return Some(None),
        Some(Until::End) => size,
        Some(Until::Offset(offset) | Until::Address(offset)) => offset,
    };
    (name.offset < end && end <= size).then_some(Some(end))
}

/// The functions of `module` that a pattern names, each with the first name that matched.
fn named<'m>(module: &'m Module, pattern: &'m NamePattern) -> impl Iterator<Item = (&'m Function, Name<'m>)> {
    let part = match &pattern.demangled {
        Some(identifier) => identifier.as_deref().unwrap_or(""),
        None => pattern.glob.prefix(),
    };
    // Where the name is not in the file, its symbols need not be read.
    let functions = if module.image.may_name(part) { module.image.functions() } else { &[] };
    let candidates = functions.iter().filter(|f| !f.label || pattern.glob.is_literal());
    candidates.filter_map(|f| {
        let matched = module.image.names(f).find(|name| name_matches(pattern, name))?;
        Some((f, matched))
    })
}

fn name_matches(pattern: &NamePattern, name: &Name<'_>) -> bool {
    if let Some(identifier) = &pattern.demangled {
        return identifier.as_ref().is_none_or(|word| name.text.contains(word.as_str()))
            && forms(name.text).iter().any(|form| pattern.glob.matches(&squeeze(form)));
    }
    let version_matches = match (&pattern.version, name.version) {
        (None, _) => true,
        (Some(wanted), Some(version)) => {
            wanted.glob.matches(version) && (name.default_version || !wanted.only_default)
        }
        (Some(_), None) => false,
    };
    version_matches
        && (pattern.glob.matches(name.text)
            || outside_namespaces(name.text).is_some_and(|plain| pattern.glob.matches(plain)))
}

/// Starts of functions without symbols that a pattern names.
fn nameless_functions<'m>(module: &'m Module, pattern: &'m NamePattern) -> impl Iterator<Item = LinkAddr> {
    let meant = pattern.demangled.is_none() && pattern.glob.prefix().starts_with("sub_");
    let ranges = if meant { module.image.unwind_functions() } else { &[] };
    let fits = |at: &LinkAddr| {
        pattern.glob.matches(&nameless(*at)) && module.image.function_at(*at).is_none_or(|f| f.addr != *at)
    };
    let main = module.unnamed_main.filter(|_| pattern.demangled.is_none() && pattern.glob.matches(MAIN));
    let others = ranges.iter().map(|r| r.start).filter(move |at| Some(*at) != main);
    others.filter(fits).chain(main)
}

/// A name as users write it: with its version only if that is not the default.
fn display(name: &Name<'_>) -> String {
    match name.version {
        Some(version) if !name.default_version => format!("{}@{version}", name.text),
        _ => name.text.to_owned(),
    }
}

fn with_offset(name: &str, offset: u64) -> String {
    if offset == 0 { name.to_owned() } else { format!("{name}+{offset:#x}") }
}

fn target_of(module: &Module, index: usize, function: &Function, matched: &Name<'_>, offset: u64) -> Target {
    let first = display(matched);
    let others = module.image.names(function).filter(|name| name != matched).map(|name| display(&name));
    let start = module.to_addr(function.addr);
    Target {
        module: index,
        addr: start + offset,
        name: with_offset(&first, offset),
        names: std::iter::once(first.clone()).chain(others).collect(),
        start,
        end: None,
        size: function.size,
        kind: if offset == 0 { function.kind } else { FunctionKind::Plain },
    }
}

/// The target for an address: in a function with a symbol, in one without, or in neither.
fn target_at(module: &Module, index: usize, addr: Addr) -> Target {
    if let Some((function, offset)) = module.function_at(addr)
        && let Some(name) = module.image.names(function).next()
    {
        // Even at the start of an indirect function the address means the code there, its resolver.
        return Target { kind: FunctionKind::Plain, ..target_of(module, index, function, &name, offset) };
    }
    let link = module.to_link(addr).unwrap_or_default();
    let ranges = module.image.unwind_functions();
    let before = ranges.partition_point(|r| r.start <= link).checked_sub(1).and_then(|i| ranges.get(i));
    let (start, size) = match before.filter(|r| r.contains(&link)) {
        Some(range) => (range.start, range.end.0 - range.start.0),
        None => (link, 0),
    };
    Target {
        module: index,
        addr,
        name: with_offset(&module.nameless(start), link.0 - start.0),
        names: Vec::new(),
        start: module.to_addr(start),
        end: None,
        size,
        kind: FunctionKind::Plain,
    }
}
