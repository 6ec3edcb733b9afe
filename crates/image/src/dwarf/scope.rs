//! Functions and the variables that are seen at a place.

use std::collections::HashSet;
use std::ops::Range;

use gimli::constants as dw;

use super::entry::flag;
use super::location::{Context, Location, NoValue};
use super::types::TypeId;
use super::value::Value;
use super::{DebugInfo, Located, View};
use crate::{Image, LinkAddr};

/// Most variables of one function that are looked at.
const VARIABLES: usize = 1 << 16;

/// Most functions inlined into one another of which optimized variables are told.
const INLINED: usize = 64;

/// How a variable is declared.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum VariableKind {
    /// A parameter of the function.
    Parameter,
    /// A variable of the function.
    Local,
    /// A variable outside functions.
    Global,
}

/// A variable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DebugVariable {
    /// Its name.
    pub name: String,
    /// How it is declared.
    pub kind: VariableKind,
    /// Its type.
    pub ty: Option<TypeId>,
    /// Of a variable of a function that was inlined, the name of that function.
    pub inlined: Option<String>,
    /// It is in the same place all over the function, as compilers do that optimize nothing; it has its value when the
    /// function's prologue has run.
    pub settled: bool,
    /// How many blocks and inlined functions are around it.
    depth: usize,
    at: u64,
}

/// A function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DebugFunction {
    /// Its name, without namespaces.
    pub name: String,
    /// Its first instruction.
    pub entry: LinkAddr,
    /// What it returns, if anything.
    pub returns: Option<TypeId>,
    /// The types of its parameters in order, `this` included.
    pub parameters: Vec<Option<TypeId>>,
    /// It is written in Rust, whose calling convention is its own.
    pub is_rust: bool,
    /// The functions that were inlined around the place, the outermost first.
    pub inlined: Vec<String>,
}

impl DebugVariable {
    /// Its place among those of a function as they are declared.
    pub fn order(&self) -> u64 {
        self.at
    }
}

impl DebugInfo {
    /// The function whose code is at `pc`.
    pub fn function_at(&self, pc: LinkAddr) -> Option<DebugFunction> {
        let view = self.view();
        let located = view.function_at(pc)?;
        let ranges = view.code(&located.unit, &located.entry);
        let low = located.entry.attr_value(dw::DW_AT_low_pc);
        let low = low.and_then(|value| view.dwarf.attr_address(&located.unit, value).ok().flatten());
        let entry = low.or_else(|| ranges.first().map(|range| range.start))?;
        let mut parameters = Vec::new();
        let mut of_parameters = Vec::new();
        view.children(&located, |_, entry| {
            if entry.tag() == dw::DW_TAG_formal_parameter {
                of_parameters.push(view.offset(located.index, entry));
            }
            of_parameters.len() < 256
        });
        for parameter in of_parameters {
            let ty = view.entry(parameter).and_then(|parameter| view.type_of(&parameter));
            parameters.push(ty.map(TypeId));
        }
        let inlined = view.inlined_at(&located, pc);
        Some(DebugFunction {
            name: view.name(&located).unwrap_or_default(),
            entry: LinkAddr(entry),
            returns: view.type_of(&located).map(TypeId),
            parameters,
            is_rust: view.is_rust(&located.unit),
            inlined,
        })
    }

    /// The parameters and variables of the function that are seen at `pc`: the innermost first, and of one block the one that is
    /// declared last. A variable may have no value there.
    pub fn variables_at(&self, pc: LinkAddr) -> Vec<DebugVariable> {
        let view = self.view();
        let Some(located) = view.function_at(pc) else { return Vec::new() };
        view.variables(&located, pc)
    }

    /// A variable outside functions, by its name with namespaces; of several, one of the unit that has code at `near`.
    pub fn global(&self, name: &str, near: Option<LinkAddr>) -> Option<DebugVariable> {
        let view = self.view();
        let unit = near.and_then(|pc| self.unit_at(pc));
        let at = self.named(&view, unit, name, |entry| {
            matches!(entry.tag(), dw::DW_TAG_variable | dw::DW_TAG_member)
        })?;
        let located = view.entry(at)?;
        Some(DebugVariable {
            name: name.to_owned(),
            kind: VariableKind::Global,
            ty: view.type_of(&located).map(TypeId),
            inlined: None,
            settled: true,
            depth: 0,
            at,
        })
    }

    /// A type by its name with namespaces, and its tag if it has one.
    pub fn named_type(&self, tag: Option<super::Tag>, name: &str, near: Option<LinkAddr>) -> Option<TypeId> {
        use super::Tag;
        let view = self.view();
        let unit = near.and_then(|pc| self.unit_at(pc));
        let fits = |wanted: Option<Tag>, found: gimli::DwTag| match found {
            dw::DW_TAG_structure_type | dw::DW_TAG_class_type => matches!(wanted, None | Some(Tag::Struct)),
            dw::DW_TAG_union_type => matches!(wanted, None | Some(Tag::Union)),
            dw::DW_TAG_enumeration_type => matches!(wanted, None | Some(Tag::Enum)),
            dw::DW_TAG_typedef | dw::DW_TAG_base_type => wanted.is_none(),
            _ => false,
        };
        let find = |declared: bool| {
            self.named(&view, unit, name, |entry| {
                fits(tag, entry.tag()) && flag(entry, dw::DW_AT_declaration) == declared
            })
        };
        find(false).or_else(|| find(true)).map(TypeId)
    }

    /// The value of an enumerator that can be named without its enumeration, or with it in front.
    pub fn enumerator(&self, name: &str, near: Option<LinkAddr>) -> Option<i64> {
        let view = self.view();
        let unit = near.and_then(|pc| self.unit_at(pc));
        let at = self.named(&view, unit, name, |entry| entry.tag() == dw::DW_TAG_enumerator)?;
        super::entry::signed(&view.entry(at)?.entry, dw::DW_AT_const_value)
    }

    /// Where `variable` is when the program is at `pc`. `image` is the program or library itself, whose unwind information tells
    /// the frame.
    ///
    /// # Errors
    /// Why it has no value there.
    pub fn location(
        &self,
        image: &Image,
        variable: &DebugVariable,
        pc: LinkAddr,
    ) -> Result<Location, NoValue> {
        let view = self.view();
        let located = view.entry(variable.at).ok_or(NoValue::Malformed)?;
        let function = match variable.kind {
            VariableKind::Global => None,
            _ => view.function_at(pc),
        };
        if let Some(constant) = view.constant(&located) {
            return Ok(constant);
        }
        let Some(value) = located.entry.attr_value(dw::DW_AT_location) else {
            return Err(NoValue::OptimizedOut);
        };
        let at_entry = function.as_ref().is_some_and(|function| {
            let low = function.entry.attr_value(dw::DW_AT_low_pc);
            low.and_then(|low| view.dwarf.attr_address(&function.unit, low).ok().flatten()) == Some(pc.0)
        });
        let cfa = || image.frame_address(pc).ok_or(NoValue::NoFrame);
        let context = Context {
            view: &view,
            index: located.index,
            unit: &located.unit,
            pc,
            function: function.as_ref(),
            at_entry,
            cfa: &cfa,
        };
        context.location(value)
    }
}

impl<'d> View<'d> {
    /// The innermost function whose code is at `pc`; what was inlined is not one.
    pub(super) fn function_at(&self, pc: LinkAddr) -> Option<Located<'d>> {
        let index = self.info.unit_at(pc)?;
        let part = self.info.units.get(index)?;
        let functions = part.functions.get_or_init(|| self.functions(index));
        let last = functions.partition_point(|(range, _)| range.start <= pc.0);
        // Functions inside others come behind them.
        let (_, at) = functions[..last].iter().rev().take(64).find(|(range, _)| range.contains(&pc.0))?;
        self.entry(*at)
    }

    fn is_rust(&self, unit: &super::Unit<'d>) -> bool {
        let Ok(root) = unit.entry(unit.header.root_offset()) else { return false };
        let language = root.attr_value(dw::DW_AT_language);
        matches!(language, Some(gimli::AttributeValue::Language(dw::DW_LANG_Rust)))
    }

    /// The functions of a unit: where their code is, and their entries.
    fn functions(&self, index: usize) -> Vec<(Range<u64>, u64)> {
        let mut found = Vec::new();
        let Some(unit) = self.unit(index) else { return found };
        let mut cursor = unit.entries();
        while let Ok(Some(entry)) = cursor.next_dfs() {
            if entry.tag() != dw::DW_TAG_subprogram {
                continue;
            }
            let at = self.offset(index, entry);
            found.extend(self.code(&unit, entry).into_iter().map(|range| (range, at)));
            if found.len() > super::RANGES {
                break;
            }
        }
        found.sort_by_key(|(range, at)| (range.start, std::cmp::Reverse(range.end), *at));
        found
    }

    /// Calls `visit` with each entry of a function that is seen at `pc`, how many scopes are around it, and the inlined
    /// function it belongs to.
    fn seen(
        &self,
        function: &Located<'d>,
        pc: LinkAddr,
        visit: &mut dyn FnMut(&super::Entry<'d>, usize, Option<u64>),
    ) {
        let unit = &function.unit;
        let Ok(mut cursor) = unit.entries_at_offset(function.entry.offset()) else { return };
        if !matches!(cursor.next_dfs(), Ok(Some(_))) {
            return;
        }
        // Scopes around the entry: their depth, and the inlined function.
        let mut scopes: Vec<(isize, Option<u64>)> = Vec::new();
        let mut more = matches!(cursor.next_dfs(), Ok(Some(_)));
        while more {
            let Some(entry) = cursor.current().filter(|entry| entry.depth() > 0) else { return };
            let depth = entry.depth();
            while scopes.last().is_some_and(|(outer, _)| *outer >= depth) {
                scopes.pop();
            }
            let is_scope = matches!(
                entry.tag(),
                dw::DW_TAG_lexical_block
                    | dw::DW_TAG_inlined_subroutine
                    | dw::DW_TAG_try_block
                    | dw::DW_TAG_catch_block
            );
            let mut inside = false;
            if is_scope {
                let code = self.code(unit, entry);
                // A block without code of its own is that of the function.
                inside = code.iter().any(|range| range.contains(&pc.0))
                    || (code.is_empty() && entry.tag() == dw::DW_TAG_lexical_block);
                if inside {
                    let inlined = match entry.tag() {
                        dw::DW_TAG_inlined_subroutine => Some(self.offset(function.index, entry)),
                        _ => scopes.last().and_then(|(_, inlined)| *inlined),
                    };
                    scopes.push((depth, inlined));
                }
            }
            visit(entry, scopes.len(), scopes.last().and_then(|(_, inlined)| *inlined));
            more = match inside {
                true => matches!(cursor.next_dfs(), Ok(Some(_))),
                false => self.skip(&mut cursor, depth),
            };
        }
    }

    fn inlined_at(&self, function: &Located<'d>, pc: LinkAddr) -> Vec<String> {
        let mut entries = Vec::new();
        self.seen(function, pc, &mut |entry, _, inlined| {
            if entry.tag() == dw::DW_TAG_inlined_subroutine
                && inlined == Some(self.offset(function.index, entry))
            {
                entries.extend(inlined);
            }
        });
        let names = entries.into_iter().filter_map(|at| self.name(&self.entry(at)?));
        names.collect()
    }

    fn variables(&self, function: &Located<'d>, pc: LinkAddr) -> Vec<DebugVariable> {
        let mut found: Vec<(u64, VariableKind, usize, Option<u64>)> = Vec::new();
        self.seen(function, pc, &mut |entry, depth, inlined| {
            let kind = match entry.tag() {
                dw::DW_TAG_formal_parameter => VariableKind::Parameter,
                dw::DW_TAG_variable => VariableKind::Local,
                _ => return,
            };
            if found.len() < VARIABLES {
                found.push((self.offset(function.index, entry), kind, depth, inlined));
            }
        });
        let mut variables: Vec<DebugVariable> = Vec::new();
        for (at, kind, depth, inlined) in found {
            let Some(located) = self.entry(at) else { continue };
            let Some(name) = self.name(&located) else { continue };
            // `extern int x;` in a function names a variable outside.
            if flag(&located.entry, dw::DW_AT_declaration) {
                continue;
            }
            let location = located.entry.attr_value(dw::DW_AT_location);
            variables.push(DebugVariable {
                name,
                kind,
                ty: self.type_of(&located).map(TypeId),
                inlined: inlined.and_then(|at| self.name(&self.entry(at)?)),
                settled: matches!(
                    location,
                    Some(gimli::AttributeValue::Exprloc(_) | gimli::AttributeValue::Block(_))
                ),
                depth,
                at,
            });
        }
        variables.extend(self.removed(function, pc, &variables));
        variables.sort_by_key(|variable| std::cmp::Reverse((variable.depth, variable.at)));
        variables
    }

    /// Variables of which nothing is left in the code, but in the description of the function before it was optimized.
    fn removed(&self, function: &Located<'d>, pc: LinkAddr, known: &[DebugVariable]) -> Vec<DebugVariable> {
        let mut instances = vec![(self.origin(function.index, &function.entry), 0)];
        self.seen(function, pc, &mut |entry, depth, inlined| {
            if instances.len() < INLINED
                && entry.tag() == dw::DW_TAG_inlined_subroutine
                && inlined == Some(self.offset(function.index, entry))
            {
                instances.push((self.origin(function.index, entry), depth));
            }
        });
        let origins: HashSet<Option<u64>> = known
            .iter()
            .map(|variable| self.entry(variable.at).and_then(|at| self.origin(at.index, &at.entry)))
            .collect();
        let mut removed = Vec::new();
        for (origin, depth) in instances {
            let Some(abstract_one) = origin.and_then(|at| self.entry(at)) else { continue };
            let mut children = Vec::new();
            self.children(&abstract_one, |_, entry| {
                if matches!(entry.tag(), dw::DW_TAG_formal_parameter | dw::DW_TAG_variable) {
                    children.push((self.offset(abstract_one.index, entry), entry.tag()));
                }
                children.len() < VARIABLES
            });
            for (at, tag) in children {
                if removed.len() >= VARIABLES {
                    break;
                }
                let Some(located) = self.entry(at).filter(|_| !origins.contains(&Some(at))) else { continue };
                let Some(name) = self.name(&located) else { continue };
                let parameter = tag == dw::DW_TAG_formal_parameter;
                removed.push(DebugVariable {
                    name,
                    kind: if parameter { VariableKind::Parameter } else { VariableKind::Local },
                    ty: self.type_of(&located).map(TypeId),
                    inlined: if depth == 0 { None } else { self.name(&abstract_one) },
                    settled: false,
                    depth,
                    at,
                });
            }
        }
        removed
    }

    /// The value of a variable that is a constant.
    fn constant(&self, located: &Located<'d>) -> Option<Location> {
        self.inherited(located, |_, _, entry| match entry.attr_value(dw::DW_AT_const_value)? {
            gimli::AttributeValue::Block(bytes) => Some(Location::Bytes(bytes.slice().to_vec())),
            gimli::AttributeValue::Exprloc(bytes) => Some(Location::Bytes(bytes.0.slice().to_vec())),
            _ => {
                let value = super::entry::signed(entry, dw::DW_AT_const_value)?;
                Some(Location::Value(Value::Constant(value as u64)))
            }
        })
    }
}
