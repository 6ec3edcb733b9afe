//! Requests at link addresses, as files and patch files have them, and at those of a process.

use incise_image::Module;
use incise_isa::Addr;

use super::change::{Change, Request};
use super::naming::located;
use super::place::literal;
use super::{PatchError, View, place};

/// A request made for a process, at the link addresses of the module that it changes.
///
/// # Errors
/// [`PatchError::Export`] if it changes no module, or names an address that another process does not have.
pub fn linked(view: &View, request: &Request) -> Result<Request, PatchError> {
    let module = view.program().modules().iter().find(|module| module.range.contains(&request.at));
    let refused = |reason: String| Err(PatchError::Export(reason));
    let Some(module) = module else {
        return refused(format!("{} belongs to no file: the change is of this process only", request.at));
    };
    let change = match &request.change {
        Change::Call(to) => Change::Call(elsewhere(view, module, to)?),
        Change::Jump(to) => Change::Jump(elsewhere(view, module, to)?),
        Change::Assembly(text) => match addresses(text).find(|at| view.region(*at).is_some()) {
            Some(at) if module.bias != 0 => {
                return refused(format!(
                    "{at} is an address of this process only: write it as a name, such as main+0x10"
                ));
            }
            _ => request.change.clone(),
        },
        other => other.clone(),
    };
    Ok(Request { at: Addr(request.at.0.wrapping_sub(module.bias)), change, ..request.clone() })
}

/// A request at link addresses, for a process in which its module is `module`.
pub fn loaded(module: &Module, request: &Request) -> Request {
    let shifted = |at: Addr| Addr(at.0.wrapping_add(module.bias));
    let moved = |to: &String| literal(to).map_or_else(|| to.clone(), |at| format!("*{}", shifted(at)));
    let change = match &request.change {
        Change::Call(to) => Change::Call(moved(to)),
        Change::Jump(to) => Change::Jump(moved(to)),
        other => other.clone(),
    };
    Request { at: shifted(request.at), change, ..request.clone() }
}

/// A place to go to as it is told to others: a plain name as it is, an address in the same module as a link address, one
/// in another module by name.
fn elsewhere(view: &View, module: &Module, to: &str) -> Result<String, PatchError> {
    if literal(to).is_none() && !to.starts_with("rip") && !to.contains('!') {
        return Ok(to.to_owned());
    }
    let at = place(view, to)?.addr;
    if module.range.contains(&at) {
        return Ok(format!("*{:#x}", at.0.wrapping_sub(module.bias)));
    }
    let inside = view.program().modules().iter().any(|module| module.range.contains(&at));
    match (literal(to), inside) {
        (None, true) if !to.starts_with("rip") => Ok(to.to_owned()),
        (_, true) => Ok(located(view, at)),
        _ => Err(PatchError::Export(format!("{at} is an address of this process only"))),
    }
}

/// The numbers in assembly text that may be addresses.
fn addresses(text: &str) -> impl Iterator<Item = Addr> {
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_hexdigit).collect::<String>();
    text.split("0x")
        .skip(1)
        .filter_map(move |rest| u64::from_str_radix(&digits(rest), 16).ok())
        .map(Addr)
        .filter(|at| at.0 > 0xFFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_may_be_addresses_are_found() {
        let found: Vec<Addr> = addresses("mov rax, 0x10; jmp 0x401234; lea rcx, [0x555500001000]").collect();
        assert_eq!(found, [Addr(0x40_1234), Addr(0x5555_0000_1000)]);
    }
}
