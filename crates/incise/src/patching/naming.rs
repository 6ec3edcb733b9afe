//! Names and strings for addresses.

use incise_image::{Module, SlotTarget, Target};
use incise_isa::Addr;
use incise_isa::native::{Constant, Flow, Insn};

use super::View;

/// The longest string shown.
const SHOWN: usize = 60;

/// The symbol at or before `at`, with `+0x…`; linkage stubs as `name@plt`.
pub(super) fn symbol(view: &View, at: Addr) -> Option<String> {
    let module = view.program().module_at(at)?;
    if let Some(name) = stub(view, at) {
        return Some(name);
    }
    let (function, offset) = module.function_at(at)?;
    let name = module.image.name(function);
    let name = incise_image::demangle(name).unwrap_or_else(|| name.to_owned());
    Some(if offset == 0 { name } else { format!("{name}+{offset:#x}") })
}

/// A place as users name it: `MODULE!NAME+OFF` in a function or variable, `MODULE+OFF` elsewhere in a module, or what
/// kind of memory it is.
pub fn located(view: &View, at: Addr) -> String {
    let modules = view.program().modules();
    let Some(index) = modules.iter().position(|module| module.range.contains(&at)) else {
        let name = view.region(at).map_or("", |region| &region.name);
        return if name.is_empty() { "anonymous".to_owned() } else { name.to_owned() };
    };
    let module = &modules[index];
    let name = match view.is_code(at) {
        true => Some(Target::at(module, index, at)).filter(|found| found.size > 0),
        false => None,
    };
    let name = name.map(|found| found.display_name().into_owned()).or_else(|| variable(module, at));
    match name {
        Some(name) => format!("{}!{name}", module.name),
        None => format!("{}+{:#x}", module.name, at.offset_from(module.base())),
    }
}

/// The variable that covers `at`, with `+0x…`.
fn variable(module: &Module, at: Addr) -> Option<String> {
    let link = module.to_link(at)?;
    let object = module.image.object_at(link)?;
    let offset = link.0 - object.addr.0;
    let name = incise_image::demangle(object.name).unwrap_or_else(|| object.name.to_owned());
    Some(if offset == 0 { name } else { format!("{name}+{offset:#x}") })
}

/// The name of the linkage stub that begins at `at`.
fn stub(view: &View, at: Addr) -> Option<String> {
    let module = view.program().module_at(at)?;
    let link = module.to_link(at)?;
    if !module.image.plt().iter().any(|range| range.contains(&link)) {
        return None;
    }
    let mut at = at;
    for _ in 0..2 {
        let insn = view.insn(at).ok()?;
        if insn.flow() == Flow::IndirectJump {
            let slot = module.to_link(insn.ip_relative_target()?)?;
            let slot = module.image.slots().iter().find(|known| known.at == slot)?;
            let SlotTarget::Import(index) = slot.target else { return None };
            return Some(format!("{}@plt", module.image.imports().nth(index as usize)?));
        }
        at = insn.end();
    }
    None
}

/// The text at `at`: at least four printable characters and a zero byte behind them, not in code.
pub fn string_at(view: &View, at: Addr) -> Option<String> {
    const LEAST: usize = 4;
    let region = view.region(at)?;
    if region.permissions.execute && view.program().module_at(at).is_some_and(|m| m.function_at(at).is_some())
    {
        return None;
    }
    let bytes = view.bytes(at, 256);
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(&bytes[..end]).ok()?;
    let printable = text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\t' | '\r'));
    (text.len() >= LEAST && printable).then(|| text.to_owned())
}

/// A string in quotes, cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    let mut cut: String = text.chars().take(SHOWN).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// What the values in an instruction are: where it goes, which string or function it names.
pub(super) fn note(view: &View, insn: &Insn) -> Option<String> {
    if let Some(target) = insn.flow().target() {
        return symbol(view, target);
    }
    insn.constants().into_iter().find_map(|constant| match constant {
        Constant::Memory(at) => Some(match described(view, at) {
            Some(what) => format!("{at} {what}"),
            // What a slot holds: a call through it goes there.
            None => match view.quadword(at).and_then(|held| described(view, Addr(held))) {
                Some(what) if !insn.is_address_computation() => format!("[{at}] = {what}"),
                _ => at.to_string(),
            },
        }),
        Constant::Immediate(value) if value >= 0x1000 => described(view, Addr(value)),
        _ => None,
    })
}

fn described(view: &View, at: Addr) -> Option<String> {
    let module = view.program().modules().iter().find(|module| module.range.contains(&at))?;
    if let Some(slot) = module.to_link(at).and_then(|link| module.image.slots().iter().find(|s| s.at == link))
        && let SlotTarget::Import(index) = slot.target
    {
        return module.image.imports().nth(index as usize).map(str::to_owned);
    }
    if view.is_code(at)
        && let Some(name) = symbol(view, at)
    {
        return Some(name);
    }
    let text = string_at(view, at).map(|text| quoted(&text));
    match (variable(module, at), text) {
        (Some(name), Some(text)) => Some(format!("{name} {text}")),
        (name, text) => name.or(text),
    }
}
