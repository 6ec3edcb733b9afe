//! Where `main` begins in a stripped program: its entry code tells.
//!
//! glibc's `_start` passes the address of `main` to `__libc_start_main` in `rdi`, in dynamic and static programs, fixed
//! or not; musl's `_start` calls `_start_c`, which does the same.

use incise_isa::Addr;
use incise_isa::native::{Constant, Flow, Gpr};

use super::{PatchError, View};

/// The most instructions that entry code has before it calls.
const LONGEST: usize = 64;

/// The entry point of the program.
pub(super) fn entry(view: &View) -> Result<Addr, PatchError> {
    let main = view.program().modules().first().ok_or(PatchError::NoEntry)?;
    main.image.entry().map(|at| main.to_addr(at)).ok_or(PatchError::NoEntry)
}

/// The address of `main`: by its symbol, or by the entry code.
pub(super) fn main(view: &View) -> Result<Addr, PatchError> {
    let program = view.program().modules().first().ok_or(PatchError::NoEntry)?;
    let image = &program.image;
    let named =
        image.functions().iter().find(|function| image.names(function).any(|name| name.text == "main"));
    if let Some(function) = named {
        return Ok(program.to_addr(function.addr));
    }
    let entry = entry(view)?;
    let fail = |reason| PatchError::NoMain { entry, reason };
    let mut at = entry;
    // The entry code itself, or the function that it calls with the stack pointer (musl).
    for _ in 0..2 {
        match passed(view, at) {
            Passed::Constant(main) if view.is_code(main) => return Ok(main),
            Passed::Constant(_) => return Err(fail("what it passes on is not the address of code")),
            Passed::Other { callee: Some(callee) } => at = callee,
            Passed::Other { callee: None } => break,
        }
    }
    Err(fail("it passes no address to the function it calls"))
}

/// What the first call from a piece of code is given in `rdi`.
enum Passed {
    Constant(Addr),
    Other { callee: Option<Addr> },
}

fn passed(view: &View, start: Addr) -> Passed {
    let mut at = start;
    let mut rdi = None;
    for _ in 0..LONGEST {
        let Ok(insn) = view.insn(at) else { break };
        match insn.flow() {
            Flow::Next => {}
            Flow::Call(to) | Flow::Jump(to) => {
                return rdi.map_or(Passed::Other { callee: Some(to) }, Passed::Constant);
            }
            Flow::IndirectCall | Flow::IndirectJump => {
                return rdi.map_or(Passed::Other { callee: None }, Passed::Constant);
            }
            _ => break,
        }
        if insn.loads() == Some(Gpr::Rdi) {
            rdi = match insn.constants().first() {
                Some(Constant::Immediate(value)) => Some(Addr(*value)),
                Some(Constant::Memory(address)) if insn.is_address_computation() => Some(*address),
                Some(Constant::Memory(address)) => view.quadword(*address).map(Addr).filter(|at| at.0 != 0),
                _ => None,
            };
        }
        at = insn.end();
    }
    Passed::Other { callee: None }
}
