//! Texts and return addresses: values in memory on the stack, zeros behind.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, InstBuilder, StackSlot, Value, types};
use incise_isa::native::Gpr;

use super::builder::{Home, Lower, own, theirs};
use super::expr::wrong;
use super::link::Piece;
use super::{CompileError, routines};
use crate::tree::{BinaryOp, Expr, Node, PointFact, Register, Type};

impl Lower<'_> {
    /// Puts values of the types wanted one behind the other, each as whole quadwords. Gives their address.
    pub(super) fn keys(&mut self, types: &[Type], values: &[Expr]) -> Result<Value, CompileError> {
        let room = |ty: &Type| u64::from(ty.size()).next_multiple_of(8);
        let slot = self.slot(types.iter().map(room).sum::<u64>().max(8));
        let mut offset = 0;
        for (ty, value) in types.iter().zip(values) {
            if ty.is_scalar() {
                let scalar = self.scalar(value)?;
                let scalar = self.quadword_of(scalar, *ty);
                let base = self.b.ins().stack_addr(types::I64, slot, offset as i32);
                self.b.ins().store(own(), scalar, base, 0);
            } else {
                self.bytes(value, slot, offset, room(ty))?;
            }
            offset += room(ty);
        }
        Ok(self.b.ins().stack_addr(types::I64, slot, 0))
    }

    /// Puts a text or return addresses into `room` bytes of a slot, all of which are set.
    pub(super) fn bytes(
        &mut self,
        value: &Expr,
        slot: StackSlot,
        offset: u64,
        room: u64,
    ) -> Result<(), CompileError> {
        if let Node::Choose(condition, yes, no) = value.node() {
            let condition = self.scalar(condition)?;
            let (then, otherwise) = (self.b.create_block(), self.b.create_block());
            let behind = self.b.create_block();
            self.branch(condition, then, otherwise);
            for (block, value) in [(then, yes), (otherwise, no)] {
                self.b.switch_to_block(block);
                self.bytes(value, slot, offset, room)?;
                self.goto(behind, &[]);
            }
            self.b.switch_to_block(behind);
            return Ok(());
        }
        if let (Node::Local(id), Type::Text(len)) = (value.node(), value.ty()) {
            let Home::Array(from, _) = self.home(*id)? else { return Err(wrong("a scalar is no text")) };
            self.copy_slot(from, (slot, offset, room), len);
            return Ok(());
        }
        if let (Node::Command, Type::Text(len @ ..16)) = (value.node(), value.ty()) {
            let whole = self.slot(16);
            self.bytes(&Expr::command(), whole, 0, 16)?;
            self.copy_slot(whole, (slot, offset, room), len);
            return Ok(());
        }
        let read = match value.node() {
            Node::ReadText(address, most) => {
                let address = self.scalar(address)?;
                let most = most.as_ref().map(|most| self.scalar(most)).transpose()?;
                Some((address, most))
            }
            _ => None,
        };
        self.clear(slot, offset, room);
        let base = self.b.ins().stack_addr(types::I64, slot, offset as i32);
        match (value.node(), value.ty()) {
            (Node::Text(text), _) => {
                for (index, bytes) in text.chunks(8).take(room as usize / 8).enumerate() {
                    let mut all = [0; 8];
                    all[..bytes.len()].copy_from_slice(bytes);
                    let word = self.quadword(u64::from_le_bytes(all));
                    self.b.ins().store(own(), word, base, index as i32 * 8);
                }
            }
            (Node::ReadText(..), Type::Text(len)) => {
                let (from, most) = read.unwrap_or((base, None));
                let room = self.quadword(u64::from(len).min(room));
                let most = most.map_or(room, |most| self.b.ins().umin(most, room));
                self.copy_text(from, base, most);
            }
            (Node::Command, _) if room >= 16 => {
                self.call_routine::<0>(Piece::code(routines::command()?), &[base]);
            }
            (Node::Stack(table), Type::Frames(depth)) => {
                let frame = self.register(Register::General(Gpr::Rbp));
                let depth = self.quadword(u64::from(depth).min(room / 8));
                match table {
                    None => drop(self.call_routine::<0>(routines::stack()?, &[frame, base, depth])),
                    Some(table) => {
                        let stack = self.register(Register::General(Gpr::Rsp));
                        let at = self.point(PointFact::OriginalAddress, Type::U64);
                        let table = self.block(table);
                        let arguments = [frame, base, depth, stack, at, table];
                        self.call_routine::<0>(routines::walk()?, &arguments);
                    }
                }
            }
            (_, ty) => return Err(CompileError::Unsupported(format!("{ty} cannot be had this way"))),
        }
        Ok(())
    }

    /// Copies bytes up to a zero, at most so many.
    fn copy_text(&mut self, from: Value, to: Value, most: Value) {
        let [head, next, store, behind] = std::array::from_fn(|_| self.b.create_block());
        let index = self.b.append_block_param(head, types::I64);
        let zero = self.quadword(0);
        self.goto(head, &[zero]);
        self.b.switch_to_block(head);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, index, most);
        self.b.ins().brif(more, next, &[], behind, &[]);
        self.b.switch_to_block(next);
        let at = self.b.ins().iadd(from, index);
        let byte = self.b.ins().load(types::I8, theirs(), at, 0);
        self.b.ins().brif(byte, store, &[], behind, &[]);
        self.b.switch_to_block(store);
        let at = self.b.ins().iadd(to, index);
        self.b.ins().store(own(), byte, at, 0);
        let following = self.b.ins().iadd_imm_s(index, 1);
        self.goto(head, &[following]);
        self.b.switch_to_block(behind);
    }

    /// Copies the first `len` bytes of a slot into `room` bytes of another, or the same, and sets those behind to zero.
    fn copy_slot(&mut self, from: StackSlot, (to, offset, room): (StackSlot, u64, u64), len: u16) {
        let len = u64::from(len);
        for at in (0..room).step_by(8) {
            let word = match len.saturating_sub(at) {
                0 => self.quadword(0),
                bytes => {
                    let base = self.b.ins().stack_addr(types::I64, from, 0);
                    let word = self.b.ins().load(types::I64, own(), base, at as i32);
                    if bytes < 8 { self.b.ins().band_imm_u(word, (1 << (bytes * 8)) - 1) } else { word }
                }
            };
            let base = self.b.ins().stack_addr(types::I64, to, offset as i32);
            self.b.ins().store(own(), word, base, at as i32);
        }
    }

    /// Whether two texts are the same, or are not.
    pub(super) fn compare_bytes(&mut self, op: BinaryOp, a: &Expr, b: &Expr) -> Result<Value, CompileError> {
        let size = u64::from(a.ty().size().max(b.ty().size()));
        let (x, y) = (self.slot(size), self.slot(size));
        self.bytes(a, x, 0, size)?;
        self.bytes(b, y, 0, size)?;
        let (x, y) = (self.b.ins().stack_addr(types::I64, x, 0), self.b.ins().stack_addr(types::I64, y, 0));
        let [head, next, behind] = std::array::from_fn(|_| self.b.create_block());
        let offset = self.b.append_block_param(head, types::I64);
        let same = self.b.append_block_param(behind, types::I8);
        let zero = self.quadword(0);
        self.goto(head, &[zero]);
        self.b.switch_to_block(head);
        let (left, right) = (self.b.ins().iadd(x, offset), self.b.ins().iadd(y, offset));
        let left = self.b.ins().load(types::I64, own(), left, 0);
        let right = self.b.ins().load(types::I64, own(), right, 0);
        let equal = self.b.ins().icmp(IntCC::Equal, left, right);
        self.b.ins().brif(equal, next, &[], behind, &[BlockArg::Value(equal)]);
        self.b.switch_to_block(next);
        let further = self.b.ins().iadd_imm_s(offset, 8);
        let more = self.b.ins().icmp_imm_u(IntCC::NotEqual, further, size as i64);
        let yes = self.constant(Type::Bool, 1);
        self.b.ins().brif(more, head, &[BlockArg::Value(further)], behind, &[BlockArg::Value(yes)]);
        self.b.switch_to_block(behind);
        Ok(if op == BinaryOp::Equal { same } else { self.b.ins().bxor_imm_u(same, 1) })
    }
}
