//! Calls of functions of the program.

use cranelift_codegen::ir::{AbiParam, InstBuilder, Signature, Value, types};
use cranelift_codegen::isa::CallConv;

use super::builder::{Lower, clif, own};
use super::link::Piece;
use super::{CompileError, routines};
use crate::tree::{Callee, Expr, Type};

impl Lower<'_> {
    /// Calls a function with the system's calling convention.
    pub(super) fn call(
        &mut self,
        callee: &Callee,
        arguments: &[Expr],
        ty: Type,
    ) -> Result<Value, CompileError> {
        let mut signature = Signature::new(CallConv::SystemV);
        let mut values = Vec::new();
        for argument in arguments {
            if !argument.ty().is_scalar() {
                let (name, ty) = (&callee.name, argument.ty());
                return Err(CompileError::Unsupported(format!("{name} cannot be given a {ty}")));
            }
            let value = self.scalar(argument)?;
            let ty = argument.ty();
            // Integers with their sign to all 64 bits: more than functions may expect (psABI x86-64, 3.2.3).
            let (value, wide) = match (ty, callee.variadic) {
                // Variable arguments are promoted (C11, 6.5.2.2).
                (Type::F32, true) => (self.b.ins().fpromote(types::F64, value), types::F64),
                _ if ty.is_float() => (value, clif(ty)),
                _ => (self.quadword_of(value, ty), types::I64),
            };
            values.push(value);
            signature.params.push(AbiParam::new(wide));
        }
        let returns = if ty.is_float() { clif(ty) } else { types::I64 };
        signature.returns.push(AbiParam::new(returns));
        self.parts.uses.calls = true;
        let vectors = arguments.iter().filter(|argument| argument.ty().is_float()).count().min(8);
        let call = if callee.variadic {
            let mut bytes = routines::variadic(vectors as u8);
            let end = bytes.len() - 8;
            bytes[end..].copy_from_slice(&callee.at.0.to_le_bytes());
            let routine = self.routine(Piece::code(bytes), signature);
            self.b.ins().call(routine, &values)
        } else {
            let literal = self.piece_address(Piece::data(callee.at.0.to_le_bytes().to_vec()));
            let to = self.b.ins().load(types::I64, own(), literal, 0);
            let signature = self.b.import_signature(signature);
            self.b.ins().call_indirect(signature, to, &values)
        };
        let result = self.b.inst_results(call)[0];
        Ok(if ty.is_float() { result } else { self.fit(result, ty) })
    }
}
