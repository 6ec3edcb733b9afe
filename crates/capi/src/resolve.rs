//! From the place of an operation to the sites it means.

use std::ops::Range;

use incise::space::AddressSpace;
use incise::space::own::OwnSpace;
use incise::{Addr, Images, Point, PointKind, Program, Query};

use crate::error::Error;
use crate::operation::Place;

/// A place in the program, with what results say about it.
#[derive(Clone, Debug)]
pub struct Site {
    pub addr: Addr,
    pub module: String,
    pub function: String,
}

/// The program as it was when a commit began.
pub struct Lookup<'a> {
    program: Program,
    space: &'a OwnSpace,
    /// Where libpatch lies, if it is a module of its own.
    own: Option<Range<Addr>>,
}

impl<'a> Lookup<'a> {
    /// Reads which modules are loaded.
    pub fn new(space: &'a OwnSpace, images: &mut Images) -> Result<Lookup<'a>, Error> {
        let program = Program::read(space, "self", images)?;
        let here = Addr(Lookup::new as *const () as usize as u64);
        let own = program.module_at(here).filter(|module| !module.main).map(|module| module.range.clone());
        Ok(Lookup { program, space, own })
    }

    /// The sites that `place` means; at least one.
    ///
    /// # Errors
    /// There is none, or one that must not be probed.
    pub fn sites(&self, place: &Place) -> Result<Vec<Site>, Error> {
        match place {
            Place::At(addr) => self.at(Addr(*addr as u64)).map(|site| vec![site]),
            Place::Named { pattern, module, entries_only } => {
                let mut query = Query::functions(pattern);
                if let Some(module) = module {
                    query = query.module(module);
                }
                self.named(query, *entries_only)
            }
        }
    }

    fn at(&self, addr: Addr) -> Result<Site, Error> {
        if self.is_own(addr) { Err(Error::OwnCode) } else { Ok(self.describe(addr)) }
    }

    /// The names of what is at `addr`.
    pub fn describe(&self, addr: Addr) -> Site {
        // Code outside of all modules (made at run time) has none.
        let mut site = Site { addr, module: String::new(), function: String::new() };
        if let Some(module) = self.program.module_at(addr) {
            site.module.clone_from(&module.name);
            if let Some((function, offset)) = module.function_at(addr) {
                let name = module.image.name(function);
                site.function = if offset == 0 { name.to_owned() } else { format!("{name}+{offset:#x}") };
            }
        }
        site
    }

    fn named(&self, query: Query, entries_only: bool) -> Result<Vec<Site>, Error> {
        let memory = |at: Addr, into: &mut [u8]| self.space.read(at, into).is_ok();
        let found = query.run(&self.program, &memory).map_err(Error::Pattern)?;
        let points: Vec<Point> = found.points.into_iter().filter(|point| !self.is_own(point.addr)).collect();
        if points.is_empty() {
            return Err(match found.unresolved.first() {
                Some(function) => Error::Undecided(format!("{}!{}", function.module, function.name)),
                None => Error::OwnCode,
            });
        }
        if let Some(inside) = points.iter().find(|p| entries_only && p.kind != PointKind::FunctionEntry) {
            return Err(Error::Op(format!("{} is not the entry of a function: use PATCH_INSN", inside.name)));
        }
        let site = |point: Point| Site { addr: point.addr, module: point.module, function: point.name };
        Ok(points.into_iter().map(site).collect())
    }

    fn is_own(&self, addr: Addr) -> bool {
        self.own.as_ref().is_some_and(|range| range.contains(&addr))
    }
}
