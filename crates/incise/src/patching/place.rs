//! What users write to name a place.

use incise_image::{DataObject, Module, PatternError};
use incise_isa::Addr;
use incise_patch::Facts;

use super::{PatchError, View, entry};
use crate::Query;

/// A place in a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its address, at run time; of a file, where it is linked.
    pub addr: Addr,
}

/// Finds the one place that `text` names: `entry`, `main` (also of a stripped program), a function or a variable that a
/// symbol names, `MODULE!NAME+OFF`, `MODULE+OFF` (behind its first page), `*0xADDRESS` or `0xADDRESS`, `rip` (of the
/// first thread of a process), `rip:TID` (of another one).
///
/// # Errors
/// If it names none, or several.
pub fn place(view: &View, text: &str) -> Result<Place, PatchError> {
    Ok(Place { addr: address(view, text)? })
}

fn address(view: &View, text: &str) -> Result<Addr, PatchError> {
    let (base, offset) = match text.rsplit_once('+') {
        Some((base, offset)) => match number(offset) {
            Some(offset) => (base, offset),
            None => (text, 0),
        },
        None => (text, 0),
    };
    let special = match base {
        "entry" => Some(entry::entry(view)?),
        "main" => Some(entry::main(view)?),
        "rip" => Some(instruction_pointer(view, None)?),
        _ => match base.strip_prefix("rip:") {
            Some(thread) => Some(instruction_pointer(view, Some(thread))?),
            None => None,
        },
    };
    if let Some(at) = special {
        let function = view.program().function(at).filter(|function| function.start == at);
        let size = function.map(|function| function.end.offset_from(function.start) as u64);
        if let Some(size) = size.filter(|size| offset >= *size && offset > 0) {
            let (pattern, function) = (text.to_owned(), base.to_owned());
            return Err(PatternError::OutsideFunction { pattern, function, size }.into());
        }
        let far = || PatchError::Unmapped { at: Addr(at.0.saturating_add(offset)) };
        return at.0.checked_add(offset).map(Addr).ok_or_else(far);
    }
    if let Some(at) = literal(text) {
        return if view.region(at).is_some() { Ok(at) } else { Err(PatchError::Unmapped { at }) };
    }
    let found = match Query::anywhere(text).run(view.program(), view) {
        Ok(found) => found,
        Err(error) => return variable(view, base, offset)?.ok_or_else(|| error.into()),
    };
    match &found.points[..] {
        [point] => Ok(point.addr),
        [] => match &found.unresolved[..] {
            [only] => Ok(only.resolver),
            _ => Err(PatternError::NoFunction {
                pattern: text.to_owned(),
                imported_by: Vec::new(),
                elsewhere: Vec::new(),
                near: Vec::new(),
            }
            .into()),
        },
        // The program's own goes before those of its libraries.
        [first, ..]
            if is_own(view, first.addr) && !found.points[1..].iter().any(|p| is_own(view, p.addr)) =>
        {
            Ok(first.addr)
        }
        points => {
            let shown: Vec<String> =
                points.iter().take(4).map(|p| format!("{}!{} (*{})", p.module, p.name, p.addr)).collect();
            Err(PatchError::Ambiguous { name: text.to_owned(), count: points.len(), shown: shown.join(", ") })
        }
    }
}

/// A place in a variable, or behind the start of a module.
fn variable(view: &View, base: &str, offset: u64) -> Result<Option<Addr>, PatchError> {
    let (within, name) = base.split_once('!').map_or((None, base), |(module, name)| (Some(module), name));
    let modules = || view.program().modules().iter();
    let chosen = modules().filter(|module| within.is_none_or(|text| module.is_called(text)));
    let mut found: Vec<(&Module, DataObject<'_>)> = chosen
        .flat_map(|module| module.image.objects_named(name).map(move |object| (module, object)))
        .collect();
    if found.iter().filter(|(module, _)| module.main).count() == 1 {
        found.retain(|(module, _)| module.main);
    }
    if let [(module, object)] = &found[..] {
        if offset > 0 && offset >= object.size {
            let (name, size) = (base.to_owned(), object.size);
            return Err(PatchError::OutsideVariable { name, size, offset });
        }
        return Ok(Some(module.to_addr(object.addr) + offset));
    }
    if !found.is_empty() {
        let shown = found.iter().take(4).map(|(module, object)| {
            format!("{}!{} (*{})", module.name, object.name, module.to_addr(object.addr))
        });
        let shown = shown.collect::<Vec<_>>().join(", ");
        return Err(PatchError::Ambiguous { name: base.to_owned(), count: found.len(), shown });
    }
    let mut named = modules().filter(|module| within.is_none() && offset > 0 && module.is_called(base));
    let (Some(module), None) = (named.next(), named.next()) else { return Ok(None) };
    let at = Addr(module.base().0.saturating_add(offset));
    if module.range.contains(&at) { Ok(Some(at)) } else { Err(PatchError::Unmapped { at }) }
}

fn is_own(view: &View, at: Addr) -> bool {
    view.program().module_at(at).is_some_and(|module| module.main)
}

/// An address that is written as one.
pub(super) fn literal(text: &str) -> Option<Addr> {
    let digits = text.strip_prefix('*').unwrap_or(text).strip_prefix("0x")?;
    u64::from_str_radix(digits, 16).ok().map(Addr)
}

/// A number, decimal or `0x` hexadecimal.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Where a thread of a process is, the first unless `thread` names one: the last field of /proc/PID/task/TID/syscall
/// (proc(5)), or, while it runs, nothing.
fn instruction_pointer(view: &View, thread: Option<&str>) -> Result<Addr, PatchError> {
    let pid = view.pid().ok_or(PatchError::NoThread)?;
    let failed = |reason: String| PatchError::Process { pid, reason };
    let thread = match thread {
        Some(text) => text.parse().map_err(|_| failed(format!("`{text}` is not the number of a thread")))?,
        None => pid,
    };
    let folder = format!("/proc/{pid}/task/{thread}");
    if !std::path::Path::new(&folder).exists() {
        return Err(failed(format!("it has no thread {thread}: /proc/{pid}/task lists its threads")));
    }
    // A thread on the processor says `running`; soon it will not.
    for _ in 0..50 {
        let text = std::fs::read_to_string(format!("{folder}/syscall"))
            .map_err(|error| failed(format!("where thread {thread} is cannot be read: {error}")))?;
        let last = text.split_whitespace().last().and_then(|word| word.strip_prefix("0x"));
        if let Some(at) = last.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
            return Ok(Addr(at));
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(failed(format!(
        "thread {thread} runs all the time: stop the process (kill -STOP {pid}), then ask again"
    )))
}
