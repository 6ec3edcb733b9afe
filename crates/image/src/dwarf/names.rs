//! Names that are known everywhere in a file: global variables, types, enumerators. Read when first asked, and kept as
//! hashes.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};

use gimli::constants as dw;
use rustc_hash::FxBuildHasher;

use super::entry::flag;
use super::{DebugInfo, Entry, View};

/// Most names kept of one file.
const NAMES: usize = 1 << 24;

/// How deep namespaces and classes are followed.
const DEPTH: usize = 16;

/// Hashes of names with their namespaces, and the entries they name, ascending.
pub(super) struct Names(Vec<(u64, u64)>);

fn hash(path: &str) -> u64 {
    let mut hasher = FxBuildHasher.build_hasher();
    hasher.write(path.as_bytes());
    hasher.finish()
}

impl DebugInfo {
    fn names(&self) -> &Names {
        self.names.get_or_init(|| {
            let view = self.view();
            let mut names = Vec::new();
            for index in 0..self.units.len() {
                view.each_name(index, &mut |path, at| {
                    if names.len() < NAMES {
                        names.push((hash(path), at));
                    }
                });
            }
            names.sort_unstable();
            Names(names)
        })
    }

    /// The entry called `path` that `fits`; one of unit `near` first.
    pub(super) fn named<'d>(
        &'d self,
        view: &View<'d>,
        near: Option<usize>,
        path: &str,
        fits: impl Fn(&Entry<'d>) -> bool,
    ) -> Option<u64> {
        /// Most entries of one name that are tried.
        const TRIED: usize = 4096;
        let path = path.strip_prefix("::").unwrap_or(path);
        let names = &self.names().0;
        let wanted = hash(path);
        let first = names.partition_point(|(hash, _)| *hash < wanted);
        let same = names[first..].iter().take_while(|(hash, _)| *hash == wanted).map(|(_, at)| *at);
        let last = path.rsplit("::").next().unwrap_or(path);
        let is_near = |at: u64| {
            near.and_then(|index| self.units.get(index)).is_some_and(|unit| unit.range.contains(&at))
        };
        let mut found = None;
        let mut candidates: Vec<u64> = same.take(TRIED).collect();
        candidates.sort_by_key(|at| (!is_near(*at), *at));
        for at in candidates {
            let Some(located) = view.entry(at) else { continue };
            let named = view.name(&located).is_some_and(|name| name == last || name == path);
            if named && fits(&located.entry) {
                found = Some(at);
                break;
            }
        }
        found
    }

    /// Calls `tell` with the name of each global variable, type and enumerator, with its namespaces.
    pub fn each_name(&self, tell: &mut dyn FnMut(&str)) {
        let view = self.view();
        for index in 0..self.units.len() {
            view.each_name(index, &mut |path, _| tell(path));
        }
    }
}

impl<'d> View<'d> {
    /// Names that unit `index` makes known outside functions.
    fn each_name(&self, index: usize, tell: &mut dyn FnMut(&str, u64)) {
        let Some(unit) = self.unit(index) else { return };
        let mut cursor = unit.entries();
        // The path of the namespace or class at each depth.
        let mut paths: Vec<(isize, String)> = Vec::new();
        // Variables that are declared in a class or namespace, and defined elsewhere.
        let mut declared: HashMap<u64, String> = HashMap::new();
        let mut more = matches!(cursor.next_dfs(), Ok(Some(_)));
        while more {
            let Some(entry) = cursor.current() else { break };
            while paths.last().is_some_and(|(depth, _)| *depth >= entry.depth()) {
                paths.pop();
            }
            let at = self.offset(index, entry);
            let join = |name: &str| match paths.last() {
                Some((_, outer)) if !outer.is_empty() => format!("{outer}::{name}"),
                _ => name.to_owned(),
            };
            let depth = entry.depth();
            let mut inside = false;
            match entry.tag() {
                dw::DW_TAG_compile_unit | dw::DW_TAG_partial_unit | dw::DW_TAG_type_unit => inside = true,
                dw::DW_TAG_namespace => {
                    inside = paths.len() < DEPTH;
                    let path = self.own_name(&unit, entry).map_or_else(|| join(""), |name| join(&name));
                    paths.push((depth, path.trim_end_matches("::").to_owned()));
                }
                dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type => {
                    inside = paths.len() < DEPTH;
                    let name = self.own_name(&unit, entry);
                    let path = join(name.as_deref().unwrap_or_default());
                    if name.is_some() {
                        tell(&path, at);
                    }
                    paths.push((depth, path));
                }
                dw::DW_TAG_enumeration_type => {
                    inside = true;
                    let name = self.own_name(&unit, entry);
                    if let Some(name) = &name {
                        tell(&join(name), at);
                    }
                    if flag(entry, dw::DW_AT_enum_class) {
                        paths.push((depth, join(name.as_deref().unwrap_or_default())));
                    }
                }
                dw::DW_TAG_typedef | dw::DW_TAG_base_type | dw::DW_TAG_enumerator => {
                    if let Some(name) = self.own_name(&unit, entry) {
                        tell(&join(&name), at);
                    }
                }
                dw::DW_TAG_variable | dw::DW_TAG_member => {
                    let name = self.own_name(&unit, entry).map(|name| join(&name));
                    let place = entry.has_attr(dw::DW_AT_location) || entry.has_attr(dw::DW_AT_const_value);
                    if let Some(path) = &name
                        && flag(entry, dw::DW_AT_declaration)
                        && declared.len() < NAMES
                    {
                        declared.insert(at, path.clone());
                    }
                    let origin = || self.origin(index, entry).and_then(|at| declared.get(&at)).cloned();
                    if let Some(path) = name.or_else(origin).filter(|_| place) {
                        tell(&path, at);
                    }
                }
                _ => {}
            }
            more = match inside {
                true => matches!(cursor.next_dfs(), Ok(Some(_))),
                false => self.skip(&mut cursor, depth),
            };
        }
    }

    /// Goes to the next entry that is not inside the current one, which is at `depth`.
    pub(super) fn skip(&self, cursor: &mut gimli::EntriesCursor<'_, super::Slice<'d>>, depth: isize) -> bool {
        // At the end of a list the next entry is one further out.
        match cursor.next_sibling() {
            Ok(Some(_)) => true,
            Ok(None) => loop {
                match cursor.next_dfs() {
                    Ok(Some(entry)) if entry.depth() <= depth => return true,
                    Ok(Some(_)) => {}
                    _ => return false,
                }
            },
            Err(_) => false,
        }
    }
}
