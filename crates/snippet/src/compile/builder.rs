//! The function of a program: its blocks and what they share.

use std::sync::Arc;

use cranelift_codegen::Context;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, Block as ClBlock, BlockArg, ExtFuncData, ExternalName, FuncRef, Function, GlobalValueData,
    InstBuilder, MemFlagsData, Signature, StackSlot, StackSlotData, StackSlotKind, Type as ClType,
    UserExternalName, UserFuncName, Value, types,
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable as ClVariable};

use super::link::{Compiled, Piece, link_pieces};
use super::uses::Uses;
use super::{CompileError, Settings, frame, routines};
use crate::tree::{Block, Fault, Program, Type};

/// Namespaces of symbols: blocks, and what lies behind the function.
pub(super) const BLOCKS: u32 = 0;
pub(super) const PIECES: u32 = 1;

/// How a run ended, as the function returns it in `rdx`.
pub(super) mod status {
    /// Without a value.
    pub const NOTHING: i64 = 0;
    /// With the value in `rax`.
    pub const VALUE: i64 = 1;
    /// Before its time: this and the number of the fault.
    pub const FAULT: i64 = 16;
}

/// Compiles a program.
pub(super) struct Builder<'a> {
    program: &'a Program,
    settings: &'a Settings<'a>,
    isa: Arc<dyn TargetIsa>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(program: &'a Program, settings: &'a Settings<'a>) -> Result<Builder<'a>, CompileError> {
        let internal = |error: &dyn std::fmt::Display| CompileError::Internal(error.to_string());
        let mut flags = settings::builder();
        for (name, value) in [
            ("opt_level", "speed"),
            // What is near is told by its distance all the same.
            ("is_pic", "false"),
            ("preserve_frame_pointers", "true"),
            ("unwind_info", "false"),
            ("enable_probestack", "false"),
            ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
        ] {
            flags.set(name, value).map_err(|error| internal(&error))?;
        }
        let builder = cranelift_codegen::isa::lookup_by_name("x86_64-unknown-linux-gnu")
            .map_err(|error| internal(&error))?;
        let isa = builder.finish(settings::Flags::new(flags)).map_err(|error| internal(&error))?;
        Ok(Builder { program, settings, isa })
    }

    pub(super) fn finish(self) -> Result<Compiled, CompileError> {
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.push(AbiParam::new(types::I64));
        signature.returns.extend([AbiParam::new(types::I64); 2]);
        let mut function = Function::with_name_signature(UserFuncName::user(0, 0), signature);
        let mut context = FunctionBuilderContext::new();
        let parts = {
            let mut lower = Lower::new(self.program, self.settings, &mut function, &mut context);
            lower.body(self.program.body())?;
            lower.finish(&*self.isa)?
        };
        let mut context = Context::for_function(function);
        context
            .compile(&*self.isa, &mut Default::default())
            .map_err(|error| CompileError::Internal(format!("{:?}", error.inner)))?;
        let none = || CompileError::Internal("there is no code".to_owned());
        let code = context.take_compiled_code().ok_or_else(none)?;
        link_pieces(&code.buffer, &context.func, parts, self.settings.absolute)
    }
}

/// What is gathered beside the instructions.
#[derive(Default)]
pub(super) struct Parts {
    pub blocks: Vec<Block>,
    pub pieces: Vec<Piece>,
    pub uses: Uses,
}

/// A local variable.
#[derive(Clone, Copy)]
pub(super) enum Home {
    Scalar(ClVariable),
    /// The elements, eight bytes each, or those of a text.
    Array(StackSlot, u32),
}

/// The instructions of a program, as they are made.
pub(super) struct Lower<'f> {
    pub b: FunctionBuilder<'f>,
    pub settings: &'f Settings<'f>,
    pub frame: Value,
    pub locals: Vec<Home>,
    pub budget: ClVariable,
    /// Where it is seen whether it was reached from a function it called itself, and what comes then.
    entry: [ClBlock; 2],
    faults: [Option<ClBlock>; Fault::ALL.len()],
    /// Where `break` and `continue` go.
    pub around: Vec<(ClBlock, Option<ClBlock>)>,
    pub parts: Parts,
}

impl<'f> Lower<'f> {
    fn new(
        program: &'f Program,
        settings: &'f Settings<'f>,
        function: &'f mut Function,
        context: &'f mut FunctionBuilderContext,
    ) -> Lower<'f> {
        let mut b = FunctionBuilder::new(function, context);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        let frame = b.block_params(entry)[0];
        let [first, body] = [b.create_block(), b.create_block()];
        b.ins().jump(first, &[]);
        b.switch_to_block(body);
        let budget = b.declare_var(types::I32);
        let (faults, around) = ([None; Fault::ALL.len()], Vec::new());
        let parts = Parts::default();
        let locals = Vec::new();
        let entry = [first, body];
        let mut lower = Lower { b, settings, frame, locals, budget, entry, faults, around, parts };
        let rounds = lower.b.ins().iconst(types::I32, i64::from(program.budget()));
        lower.b.def_var(budget, rounds);
        for local in program.locals() {
            let home = match local.len {
                None if local.ty.is_scalar() => {
                    let variable = lower.b.declare_var(clif(local.ty));
                    let zero = lower.constant(local.ty, 0);
                    lower.b.def_var(variable, zero);
                    Home::Scalar(variable)
                }
                _ => {
                    let slot = lower.slot(local.words() * 8);
                    lower.clear(slot, 0, local.words() * 8);
                    Home::Array(slot, local.words() as u32)
                }
            };
            lower.locals.push(home);
        }
        lower
    }

    fn finish(mut self, isa: &dyn TargetIsa) -> Result<Parts, CompileError> {
        let zero = self.b.ins().iconst(types::I64, 0);
        self.leave(zero, status::NOTHING);
        let [first, body] = self.entry;
        self.b.switch_to_block(first);
        if self.parts.uses.calls {
            self.guard()?;
        }
        self.goto(body, &[]);
        for (fault, block) in Fault::ALL.into_iter().zip(self.faults) {
            let Some(block) = block else { continue };
            self.b.switch_to_block(block);
            let zero = self.b.ins().iconst(types::I64, 0);
            self.leave(zero, status::FAULT + fault as i64);
        }
        self.b.seal_all_blocks();
        self.b.finalize(isa.frontend_config());
        Ok(self.parts)
    }

    /// Ends the run if a function that it called itself, on this thread, led here.
    fn guard(&mut self) -> Result<(), CompileError> {
        let table = Block::new(crate::tree::THREADS * crate::tree::SLOT, 64, Vec::new());
        let table = self.block(&table);
        let zero = self.quadword(0);
        self.b.ins().store(own(), zero, self.frame, frame::GUARD);
        let mark = self.b.ins().iadd_imm_s(self.frame, i64::from(frame::GUARD));
        let piece = routines::enter(crate::tree::THREADS, self.settings.thread_at)?;
        let [outcome] = self.call_routine(piece, &[table, mark]);
        for (code, fault) in [(routines::INSIDE, Fault::Reentered), (routines::NO_ROOM, Fault::Threads)] {
            let found = self.b.ins().icmp_imm_u(IntCC::Equal, outcome, code);
            self.fault_if(found, fault);
        }
        Ok(())
    }

    /// Ends the run; what follows is not reached.
    pub(super) fn leave(&mut self, value: Value, status: i64) {
        let status = self.b.ins().iconst(types::I64, status);
        self.b.ins().return_(&[value, status]);
    }

    /// A new block to go on in, though nothing leads there.
    pub(super) fn unreachable(&mut self) {
        let block = self.b.create_block();
        self.b.switch_to_block(block);
    }

    /// Goes on in `block`.
    pub(super) fn goto(&mut self, block: ClBlock, arguments: &[Value]) {
        let arguments: Vec<BlockArg> = arguments.iter().map(|value| BlockArg::Value(*value)).collect();
        self.b.ins().jump(block, &arguments);
    }

    /// Goes on in one of two blocks.
    pub(super) fn branch(&mut self, condition: Value, yes: ClBlock, no: ClBlock) {
        self.b.ins().brif(condition, yes, &[], no, &[]);
    }

    /// Ends the run early if `condition` holds.
    pub(super) fn fault_if(&mut self, condition: Value, fault: Fault) {
        let block = match self.faults[fault as usize] {
            Some(block) => block,
            None => {
                let block = self.b.create_block();
                self.b.set_cold_block(block);
                self.faults[fault as usize] = Some(block);
                block
            }
        };
        let on = self.b.create_block();
        self.branch(condition, block, on);
        self.b.switch_to_block(on);
    }

    pub(super) fn constant(&mut self, ty: Type, bits: u64) -> Value {
        let bits = bits & ty.mask();
        match ty {
            Type::F32 => self.b.ins().f32const(f32::from_bits(bits as u32)),
            Type::F64 => self.b.ins().f64const(f64::from_bits(bits)),
            _ => self.b.ins().iconst(clif(ty), bits as i64),
        }
    }

    pub(super) fn quadword(&mut self, value: u64) -> Value {
        self.b.ins().iconst(types::I64, value as i64)
    }

    /// The address of the block.
    pub(super) fn block(&mut self, block: &Block) -> Value {
        let index = match self.parts.blocks.iter().position(|known| known == block) {
            Some(index) => index,
            None => {
                self.parts.blocks.push(block.clone());
                self.parts.blocks.len() - 1
            }
        };
        if !self.settings.absolute {
            return self.symbol(BLOCKS, index);
        }
        let literal = self.piece_address(Piece::address(index));
        self.b.ins().load(types::I64, own().with_readonly(), literal, 0)
    }

    /// The address of a piece behind the function.
    pub(super) fn piece_address(&mut self, piece: Piece) -> Value {
        let index = self.piece(piece);
        self.symbol(PIECES, index)
    }

    fn symbol(&mut self, namespace: u32, index: usize) -> Value {
        let name = UserExternalName::new(namespace, index as u32);
        let name = ExternalName::user(self.b.func.declare_imported_user_function(name));
        let data = GlobalValueData::Symbol { name, offset: 0.into(), colocated: true, tls: false };
        let global = self.b.create_global_value(data);
        self.b.ins().symbol_value(types::I64, global)
    }

    /// The number of a piece behind the function; the same one again for the same code.
    fn piece(&mut self, piece: Piece) -> usize {
        if let Some(index) = self.parts.pieces.iter().position(|known| *known == piece) {
            return index;
        }
        self.parts.uses.add_code(&piece.bytes);
        self.parts.pieces.push(piece);
        self.parts.pieces.len() - 1
    }

    /// A function made of a piece.
    pub(super) fn routine(&mut self, piece: Piece, signature: Signature) -> FuncRef {
        let index = self.piece(piece);
        let name = UserExternalName::new(PIECES, index as u32);
        let name = ExternalName::user(self.b.func.declare_imported_user_function(name));
        let signature = self.b.import_signature(signature);
        self.b.import_function(ExtFuncData { name, signature, colocated: true, patchable: false })
    }

    /// Calls a routine with quadwords for its arguments and results.
    pub(super) fn call_routine<const N: usize>(&mut self, piece: Piece, arguments: &[Value]) -> [Value; N] {
        let mut signature = Signature::new(CallConv::SystemV);
        signature.params.extend(arguments.iter().map(|_| AbiParam::new(types::I64)));
        signature.returns.extend([AbiParam::new(types::I64); N]);
        let routine = self.routine(piece, signature);
        let call = self.b.ins().call(routine, arguments);
        let results = self.b.inst_results(call);
        std::array::from_fn(|index| results[index])
    }

    /// Memory on the stack.
    pub(super) fn slot(&mut self, size: u64) -> StackSlot {
        self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, size as u32, 3))
    }

    /// Sets `len` bytes (whole quadwords) of a slot to zero.
    pub(super) fn clear(&mut self, slot: StackSlot, offset: u64, len: u64) {
        const UNROLLED: u64 = 16 * 8;
        let zero = self.quadword(0);
        let base = self.b.ins().stack_addr(types::I64, slot, offset as i32);
        if len <= UNROLLED {
            for at in (0..len).step_by(8) {
                self.b.ins().store(own(), zero, base, at as i32);
            }
            return;
        }
        let end = self.b.ins().iadd_imm_s(base, len as i64);
        let (head, behind) = (self.b.create_block(), self.b.create_block());
        let at = self.b.append_block_param(head, types::I64);
        self.goto(head, &[base]);
        self.b.switch_to_block(head);
        let zero = self.quadword(0);
        self.b.ins().store(own(), zero, at, 0);
        let next = self.b.ins().iadd_imm_s(at, 8);
        let more = self.b.ins().icmp(IntCC::NotEqual, next, end);
        self.b.ins().brif(more, head, &[BlockArg::Value(next)], behind, &[]);
        self.b.switch_to_block(behind);
    }
}

/// How the code generator sees a type.
pub(super) fn clif(ty: Type) -> ClType {
    match ty {
        Type::Bool | Type::I8 | Type::U8 => types::I8,
        Type::I16 | Type::U16 => types::I16,
        Type::I32 | Type::U32 => types::I32,
        Type::F32 => types::F32,
        Type::F64 => types::F64,
        _ => types::I64,
    }
}

/// Memory of ours, which is there.
pub(super) fn own() -> MemFlagsData {
    MemFlagsData::trusted()
}

/// Memory of the program, which may not be there.
pub(super) fn theirs() -> MemFlagsData {
    MemFlagsData::new()
}
