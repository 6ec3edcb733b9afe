//! One description for all trampolines that an arena will ever hold, for processes in which they come and go.
//!
//! To tell an unwinder of each trampoline makes it slow: libgcc before 13 goes through a list of all it was told of for each
//! frame of each exception. So it is told of an arena once, by expressions (DWARF 5, 2.5) that read *slots*, of which each
//! byte of code has one: what is known of a thread there, and the original address. A slot is written by one store, and
//! concerns nobody before a thread is there; so trampolines come and go while others unwind.
//!
//! A slot has the original address in its lower 48 bits and the number of a [`Shape`] in the upper 16. Slots lie in *blocks*,
//! one for each page of code; an index has the address of each.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::Gpr;

use super::table::{OP_BREG, OP_CONST_8, RIP, VAL_EXPRESSION, dwarf, uleb};
use super::{Expressed, Row, Table};

/// Bytes of code that a block is for.
pub const PAGE: u64 = 4096;
/// Slots of a block.
pub const BLOCK: usize = PAGE as usize;
/// So many shapes can be told apart.
pub const SHAPES: usize = 4096;

/// The bits of a slot from here on tell the shape.
const SHAPE_SHIFT: u8 = 48;
/// Registers but rip.
const REGISTERS: usize = 16;

/// What a thread that is somewhere has on its stack: what to add to `rsp`; and for each register, in the order of DWARF,
/// where its value lies from the `rsp` that results, [`IN_PLACE`] or [`UNKNOWN`].
pub type Shape = [i64; 1 + REGISTERS];

/// The register has its value.
const IN_PLACE: i64 = 0;
/// Nobody can tell the value. Reading the register could be an error: libgcc crashes if no frame below has kept it.
const UNKNOWN: i64 = 1;

/// Of where nothing is known: it ends a backtrace. Its slot is zero.
pub const NOWHERE: Shape = {
    let mut shape = [UNKNOWN; 1 + REGISTERS];
    shape[0] = 0;
    shape
};

/// The shape at a row. Behind a call an unwinder may come from what was called, where registers that functions change have lost
/// their values.
pub fn shape(row: &Row) -> Shape {
    let mut shape = [IN_PLACE; 1 + REGISTERS];
    shape[0] = row.stack;
    if row.called {
        for register in Gpr::ALL.into_iter().filter(|register| !kept_by_calls(*register)) {
            shape[1 + usize::from(dwarf(register))] = UNKNOWN;
        }
    }
    for (register, at) in &row.saved {
        shape[1 + usize::from(dwarf(*register))] = *at;
    }
    shape
}

/// The slot for an original address, which is one of the lower half, in the shape of a number.
pub fn slot(original: Addr, shape: usize) -> u64 {
    original.0 | (shape as u64) << SHAPE_SHIFT
}

/// Whether [`slot`] can hold it.
pub fn fits(original: Addr) -> bool {
    original.0 >> SHAPE_SHIFT == 0
}

/// Whether functions leave the register as it was (psABI x86-64, figure 3.4).
fn kept_by_calls(register: Gpr) -> bool {
    matches!(dwarf(register), 3 | 6 | 7 | 12..)
}

// DW_CFA and DW_OP (DWARF 5, 7.24 and 7.7.1).
const DEF_CFA_EXPRESSION: u8 = 0x0F;
const OP_DEREF: u8 = 0x06;
const OP_CONST_1: u8 = 0x08;
const OP_CONST_2: u8 = 0x0A;
const OP_DUP: u8 = 0x12;
const OP_DROP: u8 = 0x13;
const OP_OVER: u8 = 0x14;
const OP_SWAP: u8 = 0x16;
const OP_AND: u8 = 0x1A;
const OP_MINUS: u8 = 0x1C;
const OP_MUL: u8 = 0x1E;
const OP_PLUS: u8 = 0x22;
const OP_SHL: u8 = 0x24;
const OP_SHR: u8 = 0x25;
const OP_BRA: u8 = 0x28;
const OP_EQ: u8 = 0x29;
const OP_SKIP: u8 = 0x2F;
const OP_LIT: u8 = 0x30;

/// Where the expressions find things.
struct Places {
    code: Addr,
    index: Addr,
    shapes: Addr,
}

/// `.eh_frame` for the arena `code`, of whole pages, with the index of its blocks and an array of [`SHAPES`] shapes at these
/// addresses.
pub fn arena_table(code: &Range<Addr>, index: Addr, shapes: Addr) -> Table {
    let places = Places { code: code.start, index, shapes };
    let mut table = Table::default();
    table.common(Expressed::Absolute);
    table.description(code.clone(), Expressed::Absolute, |bytes| {
        bytes.push(DEF_CFA_EXPRESSION);
        sized(bytes, &places.stack());
        bytes.extend([VAL_EXPRESSION, RIP]);
        sized(bytes, &places.original());
        for register in Gpr::ALL.into_iter().filter(|register| *register != Gpr::Rsp) {
            bytes.extend([VAL_EXPRESSION, dwarf(register)]);
            sized(bytes, &places.value(dwarf(register)));
        }
    });
    table.bytes.extend([0; 4]);
    table
}

/// An expression, with its length before it.
fn sized(bytes: &mut Vec<u8>, expression: &[u8]) {
    uleb(bytes, expression.len() as u64);
    bytes.extend(expression);
}

fn address(code: &mut Vec<u8>, at: Addr) {
    code.push(OP_CONST_8);
    code.extend(at.0.to_le_bytes());
}

impl Places {
    /// Puts the slot of rip on the stack.
    fn slot(&self) -> Vec<u8> {
        let mut code = Vec::with_capacity(128);
        // offset: of rip in the arena
        code.extend([OP_BREG + RIP, 0]);
        address(&mut code, self.code);
        code.push(OP_MINUS);
        // offset, block
        code.extend([OP_DUP, OP_LIT + 12, OP_SHR, OP_LIT + 3, OP_SHL]);
        address(&mut code, self.index);
        code.extend([OP_PLUS, OP_DEREF]);
        // slot
        code.extend([OP_SWAP, OP_CONST_2]);
        code.extend((PAGE as u16 - 1).to_le_bytes());
        code.extend([OP_AND, OP_LIT + 3, OP_SHL, OP_PLUS, OP_DEREF]);
        code
    }

    fn original(&self) -> Vec<u8> {
        let mut code = self.slot();
        address(&mut code, Addr((1 << SHAPE_SHIFT) - 1));
        code.push(OP_AND);
        code
    }

    /// Puts one number of the shape at rip on the stack.
    fn of_shape(&self, number: usize) -> Vec<u8> {
        let mut code = self.slot();
        code.extend([OP_CONST_1, SHAPE_SHIFT, OP_SHR, OP_CONST_1, size_of::<Shape>() as u8, OP_MUL]);
        address(&mut code, self.shapes + (number * size_of::<i64>()) as u64);
        code.extend([OP_PLUS, OP_DEREF]);
        code
    }

    /// `rsp` of the original code.
    fn stack(&self) -> Vec<u8> {
        let mut code = self.of_shape(0);
        code.extend([OP_BREG + dwarf(Gpr::Rsp), 0, OP_PLUS]);
        code
    }

    /// What a register holds in the original code; the stack begins with `rsp` there.
    fn value(&self, register: u8) -> Vec<u8> {
        // rsp, from
        let mut code = self.of_shape(1 + usize::from(register));
        let unknown = [OP_DROP, OP_LIT];
        // (libgcc does not let the first value be picked.)
        let saved = [OP_OVER, OP_PLUS, OP_DEREF];
        let in_place = [OP_DROP, OP_BREG + register, 0];
        const JUMP: u8 = 3;
        code.extend([OP_DUP, OP_BRA, in_place.len() as u8 + JUMP, 0]);
        code.extend(in_place);
        code.extend([OP_SKIP, 3 + JUMP + saved.len() as u8 + JUMP + unknown.len() as u8, 0]);
        code.extend([OP_DUP, OP_LIT + UNKNOWN as u8, OP_EQ, OP_BRA, saved.len() as u8 + JUMP, 0]);
        code.extend(saved);
        code.extend([OP_SKIP, unknown.len() as u8, 0]);
        code.extend(unknown);
        code
    }
}

#[cfg(test)]
mod tests {
    use gimli::{
        BaseAddresses, CfaRule, EhFrame, EndianSlice, EvaluationResult, LittleEndian, Location, RegisterRule,
        UnwindContext, UnwindExpression, UnwindSection, Value,
    };

    use super::*;

    const CODE: Addr = Addr(0x7f00_0000_1000);
    const SHAPES_AT: Addr = Addr(0x60_0000);
    const INDEX: Addr = Addr(0x50_0000);
    const BLOCKS: Addr = Addr(0x40_0000);
    const STACK: Addr = Addr(0x7fff_0000_0000);

    type Bytes<'b> = EndianSlice<'b, LittleEndian>;

    /// Memory of a process with an arena of two pages, whose second one is described.
    struct Memory {
        shapes: Vec<Shape>,
        slots: Vec<u64>,
    }

    impl Memory {
        fn quadword(&self, at: u64) -> u64 {
            let index = |from: Addr| (at.wrapping_sub(from.0) / 8) as usize;
            match at {
                _ if at >= STACK.0 => at ^ 0xFF,
                _ if at >= SHAPES_AT.0 => self.shapes.as_flattened()[index(SHAPES_AT)] as u64,
                _ if at >= INDEX.0 => [BLOCKS.0 + 8 * PAGE, BLOCKS.0][index(INDEX)],
                _ => self.slots.get(index(BLOCKS)).copied().unwrap_or(0),
            }
        }

        fn evaluate(
            &self,
            (frames, expression): (&EhFrame<Bytes<'_>>, UnwindExpression<usize>),
            encoding: gimli::Encoding,
            cfa: Option<u64>,
            register: &dyn Fn(u16) -> u64,
        ) -> u64 {
            let expression = expression.get(frames).expect("an expression");
            let mut evaluation = expression.evaluation(encoding);
            cfa.into_iter().for_each(|cfa| evaluation.set_initial_value(cfa));
            let mut result = evaluation.evaluate().expect("good");
            loop {
                result = match result {
                    EvaluationResult::Complete => break,
                    EvaluationResult::RequiresMemory { address, .. } => {
                        evaluation.resume_with_memory(Value::Generic(self.quadword(address)))
                    }
                    EvaluationResult::RequiresRegister { register: wanted, .. } => {
                        evaluation.resume_with_register(Value::Generic(register(wanted.0)))
                    }
                    other => panic!("{other:?}"),
                }
                .expect("good");
            }
            let pieces = evaluation.result();
            let Location::Address { address } = pieces[0].location else { panic!("{pieces:?}") };
            address
        }
    }

    /// What the registers of the caller are at an address: 16 and rip. A register holds a thousand and its number; those
    /// in `lost` cannot be read.
    fn caller(memory: &Memory, ip: Addr, lost: &[u16]) -> Vec<u64> {
        let table = arena_table(&(CODE..CODE + 2 * PAGE), INDEX, SHAPES_AT);
        let frames = EhFrame::new(&table.bytes, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(0);
        let entry = frames.fde_for_address(&bases, ip.0, EhFrame::cie_from_offset).expect("a description");
        assert!(entry.is_signal_trampoline());
        let mut context = UnwindContext::new();
        let row = entry.unwind_info_for_address(&frames, &bases, &mut context, ip.0).expect("a row");
        let register = |number: u16| match number {
            7 => STACK.0,
            16 => ip.0,
            number if lost.contains(&number) => panic!("register {number} is read"),
            number => 1000 + u64::from(number),
        };
        let encoding = entry.cie().encoding();
        let CfaRule::Expression(expression) = row.cfa() else { panic!("no expression") };
        let cfa = memory.evaluate((&frames, *expression), encoding, None, &register);
        let value = |number: u16| match row.register(gimli::Register(number)) {
            _ if number == 7 => cfa,
            Some(RegisterRule::ValExpression(expression)) => {
                memory.evaluate((&frames, expression), encoding, Some(cfa), &register)
            }
            other => panic!("{other:?}"),
        };
        (0..=16).map(value).collect()
    }

    #[test]
    fn the_caller_is_what_the_slot_says() {
        let saved = vec![(Gpr::Rax, -136), (Gpr::R9, -8)];
        let row = Row { at: CODE, original: None, stack: 136, saved, called: false };
        let mut memory = Memory { shapes: vec![NOWHERE, shape(&row)], slots: vec![0; BLOCK] };
        memory.slots[0x123] = slot(Addr(0x5555_0000_2000), 1);
        let found = caller(&memory, CODE + PAGE + 0x123, &[0, 9]);
        let mut expected: Vec<u64> = (1000..1016).collect();
        expected.push(0x5555_0000_2000);
        expected[7] = STACK.0 + 136;
        (expected[0], expected[9]) = (STACK.0 ^ 0xFF, (STACK.0 + 128) ^ 0xFF);
        assert_eq!(found, expected);
    }

    #[test]
    fn behind_a_call_registers_that_functions_change_are_not_read() {
        let row = Row { at: CODE, original: None, stack: 8, saved: vec![(Gpr::Rcx, -8)], called: true };
        let mut memory = Memory { shapes: vec![NOWHERE, shape(&row)], slots: vec![0; BLOCK] };
        memory.slots[5] = slot(Addr(0x1234), 1);
        let found = caller(&memory, CODE + PAGE + 5, &[0, 1, 2, 4, 5, 8, 9, 10, 11]);
        let kept = [3, 6, 12, 13, 14, 15].map(|number: usize| found[number]);
        assert_eq!(kept, [1003, 1006, 1012, 1013, 1014, 1015]);
        assert_eq!((found[2], found[0], found[16]), (STACK.0 ^ 0xFF, 0, 0x1234));
    }

    #[test]
    fn where_nothing_is_known_nothing_is_read() {
        let memory = Memory { shapes: vec![NOWHERE], slots: vec![0; BLOCK] };
        for ip in [CODE + 7, CODE + PAGE + 7] {
            let found = caller(&memory, ip, &[0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15]);
            assert_eq!(found[16], 0, "the backtrace ends");
        }
    }
}
