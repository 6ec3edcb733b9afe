//! Names and strings for addresses.

use incise_image::SlotTarget;
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
    string_at(view, at).map(|text| quoted(&text))
}
