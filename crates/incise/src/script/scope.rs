//! What names mean at one point of a program.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use incise_image::dwarf::DebugInfo;
use incise_image::{LinkAddr, MemoryReader, Module, UsdtProbe, suggest};
use incise_snippet::data::{tables, walk};
use incise_snippet::debug::Debug;
use incise_snippet::language::ast::{Domain, Place, Tag};
use incise_snippet::language::{Function, PointInfo, ProgramVariable, Scope, Type};
use incise_snippet::tree::{self, Aggregate, Block, Callee, Map, Ring};

use super::debug::DebugFiles;
use super::frames::Frames;
use super::texts::Texts;
use super::usdt::{Usdt, argument};
use crate::point::{Point, Query};
use crate::program::Program;

/// What all points of a script share.
pub(crate) struct Shared {
    /// Arguments of the script.
    pub arguments: Vec<String>,
    /// Where records go; made when first asked for.
    pub ring: OnceCell<Ring>,
    /// Room for so many records on each CPU.
    pub records: usize,
    /// Room for so many keys in each map.
    pub keys: u32,
    /// Room for so many rows of unwind tables of what is loaded later.
    pub rows: usize,
    pub debug: RefCell<DebugFiles>,
    /// Names near to one that was not found, by the module of the point and the name.
    pub near: RefCell<HashMap<(String, String), Vec<String>>>,
    /// Probes of programmers.
    pub usdt: RefCell<Usdt>,
    /// CLOCK_MONOTONIC when the script began.
    pub began: u64,
}

impl Shared {
    /// Without arguments, with room for so many records on each CPU and keys in each map.
    pub(crate) fn new(records: usize, keys: u32) -> Shared {
        Shared {
            arguments: Vec::new(),
            ring: OnceCell::new(),
            records: records.clamp(16, 1 << 16),
            keys: keys.clamp(16, 1 << 20),
            rows: walk::SPARE,
            debug: RefCell::default(),
            near: RefCell::default(),
            usdt: RefCell::default(),
            began: crate::wall::nanoseconds(),
        }
    }

    fn map(&self, name: &str, keys: &[tree::Type], aggregate: &Aggregate) -> Option<Map> {
        // A histogram takes much more room than another value: 1,024 of them unless other room was asked for.
        let capacity = match aggregate {
            _ if keys.is_empty() => 32,
            Aggregate::Histogram | Aggregate::Linear { .. } => (self.keys / 4).max(16),
            _ => self.keys,
        };
        tables::map(name, keys, aggregate, capacity)
    }

    fn ring(&self) -> Option<Ring> {
        if self.ring.get().is_none() {
            let cpus = std::thread::available_parallelism().map_or(1, usize::from);
            let ring = tables::ring(cpus.min(256), self.records)?;
            let _ = self.ring.set(ring);
        }
        self.ring.get().cloned()
    }

    fn argument(&self, n: u32) -> Option<String> {
        self.arguments.get((n as usize).checked_sub(1)?).cloned()
    }
}

/// Names for clauses that run in the tool.
pub(super) struct ToolScope<'a>(pub &'a Shared);

impl Scope for ToolScope<'_> {
    fn map(&self, name: &str, keys: &[tree::Type], aggregate: &Aggregate) -> Option<Map> {
        self.0.map(name, keys, aggregate)
    }

    fn ring(&self) -> Option<Ring> {
        self.0.ring()
    }

    fn argument(&self, n: u32) -> Option<String> {
        self.0.argument(n)
    }

    fn began(&self) -> u64 {
        self.0.began
    }
}

/// Names at a point.
pub(crate) struct PointScope<'a> {
    pub shared: &'a Shared,
    pub point: &'a Point,
    pub program: &'a Program,
    pub memory: &'a dyn MemoryReader,
    pub place: Place,
    /// How stacks are walked.
    pub frames: &'a Frames,
    /// Where texts for functions of the program go, if they can.
    pub texts: Option<&'a RefCell<Option<Texts>>>,
    /// The point is where a thread happens to be: names of the program come before those of its module.
    pub anywhere: bool,
}

impl PointScope<'_> {
    /// The module of the point and the program, each with its number, in the order in which names are looked up.
    fn modules(&self) -> impl Iterator<Item = (u16, &Module)> {
        let modules = self.program.modules();
        let own = modules.iter().position(|module| module.range.contains(&self.point.addr));
        let main = modules.iter().position(|module| module.main);
        let [first, second] = if self.anywhere { [main, own] } else { [own, main] };
        let order = first.into_iter().chain(second.filter(|_| second != first));
        order.filter_map(|index| Some((u16::try_from(index).ok()?, modules.get(index)?)))
    }

    fn info(&self, module: &Module) -> Option<Arc<DebugInfo>> {
        self.shared.debug.borrow_mut().of(module, self.program.pid())
    }

    /// What `ask` finds in the debugging information of a module, the nearest first.
    fn ask<T>(&self, mut ask: impl FnMut(&Debug<'_>) -> Option<T>) -> Option<T> {
        self.modules().find_map(|(number, module)| {
            let info = self.info(module)?;
            ask(&self.debug(&info, number, module))
        })
    }

    fn debug<'d>(&self, info: &'d DebugInfo, number: u16, module: &'d Module) -> Debug<'d> {
        let place = module.to_link(self.point.addr);
        Debug { info, image: &module.image, bias: module.bias, module: number, place }
    }

    /// The best of several functions that `name` means. An old version of a symbol (`name@VERSION`) comes last.
    fn best(&self, name: &str, points: Vec<Point>) -> Option<Point> {
        let order: Vec<&Module> = self.modules().map(|(_, module)| module).collect();
        let rank = |point: &Point| order.iter().position(|module| module.range.contains(&point.addr));
        let is_old = |point: &Point| point.names.iter().all(|known| known.starts_with(&format!("{name}@")));
        points.into_iter().min_by_key(|point| (is_old(point), rank(point).unwrap_or(order.len())))
    }
}

impl PointScope<'_> {
    /// What `make` makes of the probe of a programmer at the point, if that is meant.
    fn with_usdt<T>(&self, make: impl FnOnce(&UsdtProbe, &Module) -> T) -> Option<T> {
        if self.place != Place::Instruction {
            return None;
        }
        let module = self.program.modules().iter().find(|module| module.range.contains(&self.point.addr))?;
        let usdt = self.shared.usdt.borrow();
        let probe = usdt.at(&module.path, module.to_link(self.point.addr)?)?;
        Some(make(probe, module))
    }

    /// Names that are nearest to `name` among those that all points see: variables, types, enumerators, functions. Kept, as each of many
    /// points may ask.
    fn everywhere(&self, name: &str) -> Vec<String> {
        let key = (self.point.module.clone(), name.to_owned());
        if let Some(known) = self.shared.near.borrow().get(&key) {
            return known.clone();
        }
        let mut near = Vec::new();
        for (number, module) in self.modules() {
            let mut names: Vec<String> = Vec::new();
            let close = name.len().div_ceil(3);
            if let Some(info) = self.info(module) {
                self.debug(&info, number, module).each_global_name(&mut |known| {
                    if known.len().abs_diff(name.len()) <= close {
                        names.push(known.to_owned());
                    }
                });
            }
            near.extend(suggest::nearest(name, names.iter().map(String::as_str)));
            let image = &module.image;
            let functions = image.functions().iter().map(|function| image.name(function));
            near.extend(suggest::nearest(name, functions));
        }
        near.dedup();
        self.shared.near.borrow_mut().insert(key, near.clone());
        near
    }
}

impl Scope for PointScope<'_> {
    fn point(&self) -> Option<PointInfo> {
        let point = self.point;
        let word = Place::WORDS.iter().find(|(_, place)| *place == self.place).map(|(word, _)| *word);
        let ending = word.filter(|_| self.place != Place::Entry).map(|word| format!(":{word}"));
        let function = point.display_name.split('+').next().unwrap_or_default();
        let usdt =
            self.with_usdt(|probe, module| format!("usdt:{}:{}:{}", module.name, probe.provider, probe.name));
        Some(PointInfo {
            function: function.to_owned(),
            module: point.module.clone(),
            probe: usdt.unwrap_or_else(|| {
                format!("function:{}:{}{}", point.module, function, ending.unwrap_or_default())
            }),
            place: self.place,
        })
    }

    fn returns(&self) -> Option<Type> {
        if self.place != Place::Exit {
            return None;
        }
        let at = self.point.function;
        let modules = self.program.modules();
        let index = modules.iter().position(|module| module.range.contains(&at))?;
        let module = &modules[index];
        let info = self.info(module)?;
        self.debug(&info, u16::try_from(index).ok()?, module).returns(module.to_link(at)?)
    }

    fn probe_argument(&self, number: u8) -> Option<Option<tree::Expr>> {
        self.with_usdt(|probe, module| argument(probe, number, module))
    }

    fn function(&self, name: &str) -> Option<Function> {
        if name.contains(['*', '?', '[', '!', '+']) {
            return None;
        }
        let points = Query::functions(name).run(self.program, self.memory).ok()?.points;
        let found = self.best(name, points)?;
        let mut callee = Callee::new(name, found.addr);
        // Harmless for others.
        callee.variadic = true;
        let modules = self.program.modules();
        let module = modules.iter().position(|module| module.range.contains(&found.addr));
        let returns = module.and_then(|index| {
            let module = &modules[index];
            let info = self.info(module)?;
            let entry: LinkAddr = module.to_link(found.addr)?;
            self.debug(&info, u16::try_from(index).ok()?, module).returns(entry)
        });
        let returns = returns.unwrap_or(Type::UNSIGNED_LONG);
        callee.returns = returns.lowered().filter(|ty| ty.is_scalar()).unwrap_or(tree::Type::U64);
        Some(Function { callee, returns })
    }

    fn variable(&self, domain: Domain, name: &str) -> Result<Option<ProgramVariable>, String> {
        self.ask(|debug| debug.variable(domain, name).transpose()).transpose()
    }

    fn named_type(&self, tag: Option<Tag>, name: &str) -> Option<Type> {
        self.ask(|debug| debug.named_type(tag, name))
    }

    fn program_type(&self, number: u64) -> Option<Type> {
        let index = Debug::module_of(number);
        let module = self.program.modules().get(usize::from(index))?;
        let info = self.info(module)?;
        self.debug(&info, index, module).program_type(number)
    }

    fn enumerator(&self, name: &str) -> Option<i64> {
        self.ask(|debug| debug.enumerator(name))
    }

    fn suggest(&self, name: &str) -> Vec<String> {
        let locals = self.ask(|debug| Some(debug.local_names())).unwrap_or_default();
        let mut near = suggest::nearest(name, locals.iter().map(String::as_str));
        near.extend(self.everywhere(name));
        near.truncate(3);
        near
    }

    fn text(&self, text: &[u8]) -> Option<tree::Expr> {
        let at = self.texts?.borrow_mut().as_mut()?.of(text)?;
        Some(tree::Constant::new(tree::Type::Pointer, at.0).into())
    }

    fn map(&self, name: &str, keys: &[tree::Type], aggregate: &Aggregate) -> Option<Map> {
        self.shared.map(name, keys, aggregate)
    }

    fn ring(&self) -> Option<Ring> {
        self.shared.ring()
    }

    fn frames(&self) -> Option<Block> {
        Some(self.frames.table(self.program))
    }

    fn argument(&self, n: u32) -> Option<String> {
        self.shared.argument(n)
    }

    fn began(&self) -> u64 {
        self.shared.began
    }
}
