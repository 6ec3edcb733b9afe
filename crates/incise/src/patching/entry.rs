//! Where a program begins.

use incise_image::{MAIN, main_of_entry};
use incise_isa::Addr;

use super::{PatchError, View};

/// The entry point of the program.
pub(super) fn entry(view: &View) -> Result<Addr, PatchError> {
    let main = view.program().modules().first().ok_or(PatchError::NoEntry)?;
    main.image.entry().map(|at| main.to_addr(at)).ok_or(PatchError::NoEntry)
}

/// The address of `main`: by its symbol, or by the entry code.
pub(super) fn main(view: &View) -> Result<Addr, PatchError> {
    let program = view.program().modules().first().ok_or(PatchError::NoEntry)?;
    let image = &program.image;
    let named = image.functions().iter().find(|function| image.names(function).any(|name| name.text == MAIN));
    if let Some(function) = named {
        return Ok(program.to_addr(function.addr));
    }
    let entry = entry(view)?;
    match main_of_entry(image, program.bias, view) {
        Ok(main) => Ok(program.to_addr(main)),
        Err(reason) => Err(PatchError::NoMain { entry, reason }),
    }
}
