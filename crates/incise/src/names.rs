//! Names of addresses in programs.

use incise_image::{LinkAddr, Module};
use incise_isa::Addr;

/// A place in a program, by the names around it.
#[derive(Clone, Debug)]
pub(crate) struct Place<'a> {
    /// The module, if it is in one.
    pub module: Option<&'a Module>,
    /// The function as its programmer wrote it, or `sub_…` if only the unwind tables tell of it.
    pub function: Option<String>,
    /// Nothing but the unwind tables tells of the function.
    pub nameless: bool,
    /// How many bytes behind the function's start, or else the module's, or else the address.
    pub offset: u64,
}

impl<'a> Place<'a> {
    /// What is at `at`.
    pub(crate) fn of(modules: &'a [Module], at: Addr) -> Place<'a> {
        let module = modules.iter().find(|module| module.range.contains(&at));
        let nameless = false;
        let Some(module) = module else { return Place { module, function: None, nameless, offset: at.0 } };
        match module.function_at(at) {
            Some((function, offset)) => {
                let name = module.image.name(function);
                let name = incise_image::demangle(name).unwrap_or_else(|| name.to_owned());
                Place { module: Some(module), function: Some(name), nameless, offset }
            }
            None => {
                let link = LinkAddr(at.0.wrapping_sub(module.bias));
                let (function, offset) = match without_symbol(module, link) {
                    Some(start) => (Some(module.nameless(start)), link.0 - start.0),
                    None => (None, link.0),
                };
                Place { module: Some(module), nameless: function.is_some(), function, offset }
            }
        }
    }

    /// `function+0x1f`, `module!sub_1234+0x1f` where it has no name, `module+0x1234` where no function is known, or the address.
    pub(crate) fn text(&self) -> String {
        let Place { module, function, offset, .. } = self;
        let module_of = |function: &String| match module {
            Some(module) if self.nameless => format!("{}!{function}", module.name),
            _ => function.clone(),
        };
        let function = function.as_ref().map(module_of);
        match (function, module) {
            (Some(function), _) if *offset == 0 => function,
            (Some(function), _) => format!("{function}+{offset:#x}"),
            (None, Some(module)) => format!("{}+{offset:#x}", module.name),
            (None, None) => format!("{offset:#x}"),
        }
    }
}

/// Where a function begins that has no symbol.
fn without_symbol(module: &Module, at: LinkAddr) -> Option<LinkAddr> {
    let ranges = module.image.unwind_functions();
    let index = ranges.partition_point(|range| range.start <= at).checked_sub(1)?;
    ranges.get(index).filter(|range| range.contains(&at)).map(|range| range.start)
}
