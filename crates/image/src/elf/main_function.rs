//! Where `main` begins in a stripped program: its entry code tells.
//!
//! glibc's `_start` passes the address of `main` to `__libc_start_main` in `rdi`, in dynamic and static programs, fixed
//! or not; musl's `_start` calls `_start_c`, which does the same.

use incise_isa::Addr;
use incise_isa::native::{Constant, Flow, Gpr, Insn, MAX_INSN_LEN, decode};

use crate::addr::find_range;
use crate::{Image, LinkAddr, MemoryReader};

/// The most instructions that entry code has before it calls.
const LONGEST: usize = 64;

/// Where `main` begins, as the entry code of a program passes it on. `memory`: that of the process where the program is
/// mapped `bias` behind its link addresses, or the file's with a bias of 0.
///
/// # Errors
/// Says what the entry code does instead.
pub fn main_of_entry(image: &Image, bias: u64, memory: &dyn MemoryReader) -> Result<LinkAddr, &'static str> {
    let entry = image.entry().ok_or("it has none")?;
    let mut at = Addr(entry.0.wrapping_add(bias));
    // The entry code itself, or the function that it calls with the stack pointer (musl).
    for _ in 0..2 {
        match passed(memory, at) {
            Passed::Constant(main) => {
                let main = LinkAddr(main.0.wrapping_sub(bias));
                let code = find_range(image.text(), main).map(|_| main);
                return code.ok_or("what it passes on is not the address of code");
            }
            Passed::Other { callee: Some(callee) } => at = callee,
            Passed::Other { callee: None } => break,
        }
    }
    Err("it passes no address to the function it calls")
}

/// What the first call from a piece of code is given in `rdi`.
enum Passed {
    Constant(Addr),
    Other { callee: Option<Addr> },
}

fn passed(memory: &dyn MemoryReader, start: Addr) -> Passed {
    let mut at = start;
    let mut rdi = None;
    for _ in 0..LONGEST {
        let Some(insn) = insn(memory, at) else { break };
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
                Some(Constant::Memory(address)) => pointer(memory, *address),
                _ => None,
            };
        }
        at = insn.end();
    }
    Passed::Other { callee: None }
}

fn insn(memory: &dyn MemoryReader, at: Addr) -> Option<Insn> {
    let mut bytes = [0; MAX_INSN_LEN];
    // Near the end of what is mapped there is less to read.
    let len = (1..=MAX_INSN_LEN).rev().find(|&len| memory.read(at, &mut bytes[..len]))?;
    decode(&bytes[..len], at).ok()
}

fn pointer(memory: &dyn MemoryReader, at: Addr) -> Option<Addr> {
    let mut bytes = [0; 8];
    memory.read(at, &mut bytes).then(|| Addr(u64::from_le_bytes(bytes))).filter(|at| at.0 != 0)
}
