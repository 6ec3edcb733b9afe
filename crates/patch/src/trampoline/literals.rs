//! Data put behind the code of a trampoline, where the code refers to it, and where it may fault.

use incise_isa::Addr;
use incise_isa::native::Assembler;
use smallvec::SmallVec;

use crate::engine::report::InstanceId;
use crate::snippet::CallRecord;
use crate::trampoline::lower::in_reach;

/// What lies behind the code: quadword-aligned pieces, each with the places that refer to it.
#[derive(Default)]
pub(crate) struct Literals {
    pieces: Vec<Piece>,
    /// Instructions that may fault, each with where to go on then.
    pub faults: Faults,
    /// Switches of instances.
    pub switches: Switches,
}

/// Instructions of a trampoline that may fault, each with where to go on then: offsets in the code.
pub(crate) type Faults = Vec<(u32, u32)>;

/// Offsets in the code of the bytes that switch instances on and off.
pub(crate) type Switches = SmallVec<[(InstanceId, u32); 1]>;

struct Piece {
    /// Offset of the 32-bit displacement in the code.
    field: usize,
    /// What the displacement is counted from, as an offset in the code.
    from: usize,
    bytes: SmallVec<[u8; 24]>,
}

impl Literals {
    /// Appends `opcode` and a displacement to `bytes`, as in `mov rax, [rip+...]`.
    pub(crate) fn refer(&mut self, asm: &mut Assembler, opcode: &[u8], bytes: &[u8]) {
        asm.raw(opcode);
        asm.raw(&[0; 4]);
        let end = asm.bytes().len();
        self.pieces.push(Piece { field: end - 4, from: end, bytes: SmallVec::from_slice(bytes) });
    }

    /// Has the displacement at `field`, which ends its instruction, lead to `bytes`.
    pub(crate) fn point(&mut self, field: usize, bytes: &[u8]) {
        self.pieces.push(Piece { field, from: field + 4, bytes: SmallVec::from_slice(bytes) });
    }

    /// Calls `to` so that the next instruction is the one returned to, near or far.
    pub(crate) fn call(&mut self, asm: &mut Assembler, to: Addr) {
        if in_reach(asm, to) {
            asm.call(to);
        } else {
            self.refer(asm, &[0xFF, 0x15], &to.0.to_le_bytes());
        }
    }

    /// Appends the seven-byte `nop` by which a callback's entry finds its record.
    pub(crate) fn record(&mut self, asm: &mut Assembler, record: &CallRecord) {
        let from = asm.bytes().len();
        asm.raw(&[0x0f, 0x1f, 0x80, 0, 0, 0, 0]);
        let words = [record.payload[0], record.payload[1], record.site.0];
        let bytes = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.pieces.push(Piece { field: from + CallRecord::DISPLACEMENT, from, bytes });
    }

    /// Appends the data and fills in the displacements. Nothing may be appended to `code` behind it.
    pub(crate) fn place(self, origin: Addr, code: &mut Vec<u8>) {
        for piece in self.pieces {
            while !(origin.0 as usize + code.len()).is_multiple_of(8) {
                code.push(incise_isa::native::TRAP);
            }
            let displacement = (code.len() - piece.from) as i32;
            code[piece.field..piece.field + 4].copy_from_slice(&displacement.to_le_bytes());
            code.extend_from_slice(&piece.bytes);
        }
    }
}
