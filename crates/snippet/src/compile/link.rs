//! Compiled code: what it consists of, and how it is put at an address.
//!
//! From its beginning on: the [wrapper](super::wrapper), the function, and the pieces it refers to.

use std::ops::Range;

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::ir::{ExternalName, Function};
use cranelift_codegen::{FinalizedRelocTarget, MachBufferFinalized};
use incise_isa::Addr;

use super::CompileError;
use super::builder::{BLOCKS, PIECES, Parts};
use super::uses::{Uses, changed};
use super::wrapper::{Wrapper, wrap};
use crate::tree::Block;

/// Code or data behind the function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub bytes: Vec<u8>,
    /// Instructions that may fault, and where to go on then.
    pub faults: Vec<(u32, u32)>,
    /// It is the address of a block, by its number in [`Parts::blocks`].
    block: Option<u32>,
}

impl Piece {
    pub(super) fn code(bytes: Vec<u8>) -> Piece {
        Piece { bytes, faults: Vec::new(), block: None }
    }

    pub(super) fn faulting(bytes: Vec<u8>, faults: Vec<(u32, u32)>) -> Piece {
        Piece { bytes, faults, block: None }
    }

    pub(super) fn data(bytes: Vec<u8>) -> Piece {
        Piece::code(bytes)
    }

    /// The address of a block.
    pub(super) fn address(block: usize) -> Piece {
        Piece { bytes: vec![0; 8], faults: Vec::new(), block: Some(block as u32) }
    }
}

/// A place in the code that depends on where a block is.
#[derive(Clone, Copy, Debug)]
enum Relocation {
    /// 32 bits: the distance from here and something added.
    Distance { at: u32, block: u32, addend: i64 },
    /// 64 bits: the address.
    Address { at: u32, block: u32 },
}

/// A block is too far away from the code that uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the data at {to} is out of reach of the code at {at}")]
pub struct OutOfReach {
    /// The code.
    pub at: Addr,
    /// The block.
    pub to: Addr,
}

/// The code of a program. It can be put anywhere.
///
/// It is a function with the system's calling convention: it takes the address of a [`frame`](super::frame) and gives in `rax` the value
/// that the program returned, as a quadword, in `edx` 0 if there is none, 1 if there is one, and from 16 on why the run
/// ended early: 16 and the number of a [`Fault`](crate::tree::Fault). It counts what ended early in a block of its own.
#[derive(Clone, Debug)]
pub struct Compiled {
    code: Vec<u8>,
    relocations: Vec<Relocation>,
    faults: Vec<(u32, u32)>,
    uses: Uses,
    blocks: Vec<Block>,
}

impl Compiled {
    /// Length of the code in bytes. It begins at a multiple of 16.
    pub fn len(&self) -> usize {
        self.code.len()
    }

    /// Whether there is no code; there always is.
    pub fn is_empty(&self) -> bool {
        self.code.is_empty()
    }

    /// What it reads and changes.
    pub fn uses(&self) -> &Uses {
        &self.uses
    }

    /// The blocks it uses. The first counts faults: a quadword for each, by number.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Instructions that may fault, and where to go on then, as offsets in the code.
    pub fn faults(&self) -> &[(u32, u32)] {
        &self.faults
    }

    /// The code as it has to be at `at`, if its blocks are where `blocks` tells.
    ///
    /// # Errors
    /// [`OutOfReach`] if a block is more than 2 GiB away.
    pub fn link(&self, at: Addr, blocks: &[Addr]) -> Result<Vec<u8>, OutOfReach> {
        let mut code = self.code.clone();
        for relocation in &self.relocations {
            match *relocation {
                Relocation::Address { at, block } => {
                    let to = blocks[block as usize].0;
                    code[at as usize..at as usize + 8].copy_from_slice(&to.to_le_bytes());
                }
                Relocation::Distance { at: offset, block, addend } => {
                    let (from, to) = (at + u64::from(offset), blocks[block as usize]);
                    let distance = to.offset_from(from) + addend;
                    let displacement = i32::try_from(distance).map_err(|_| OutOfReach { at: from, to })?;
                    code[offset as usize..offset as usize + 4].copy_from_slice(&displacement.to_le_bytes());
                }
            }
        }
        Ok(code)
    }
}

/// Pieces begin at multiples of this.
const ALIGN: usize = 16;

/// Puts all parts behind one another.
pub(super) fn link_pieces(
    body: &MachBufferFinalized<cranelift_codegen::Final>,
    function: &Function,
    mut parts: Parts,
    absolute: bool,
) -> Result<Compiled, CompileError> {
    let internal = |what: String| Err(CompileError::Internal(what));
    parts.uses.add_code(body.data());
    parts.uses.clobbers = parts.uses.clobbers.union(super::wrapper::CLOBBERS);
    let kept = changed(body.data()).0.intersection(incise_isa::native::abi::CALLEE_SAVED);
    let loads: Vec<u32> = body.traps().iter().map(|trap| trap.offset).collect();
    let Wrapper { bytes: mut code, fixup, call, counts } =
        wrap(kept, !loads.is_empty(), absolute, parts.uses.calls);
    pad(&mut code);
    let start = code.len();
    set(&mut code, call, start);
    code.extend_from_slice(body.data());
    let mut places: Vec<Range<usize>> = Vec::new();
    // The first block counts faults.
    let mut blocks = vec![Block::new(crate::tree::Fault::ALL.len() as u64 * 8, 8, Vec::new())];
    blocks.append(&mut parts.blocks);
    let mut relocations = Vec::new();
    let mut faults: Vec<(u32, u32)> = loads.iter().map(|load| (start as u32 + load, fixup as u32)).collect();
    for piece in &parts.pieces {
        pad(&mut code);
        let base = code.len() as u32;
        places.push(code.len()..code.len() + piece.bytes.len());
        faults.extend(piece.faults.iter().map(|(load, to)| (base + load, base + to)));
        if let Some(block) = piece.block {
            relocations.push(Relocation::Address { at: base, block: block + 1 });
        }
        code.extend_from_slice(&piece.bytes);
    }
    faults.sort_unstable();
    if absolute {
        pad(&mut code);
        let literal = code.len();
        code.extend_from_slice(&[0; 8]);
        set(&mut code, counts, literal);
        relocations.push(Relocation::Address { at: literal as u32, block: 0 });
    } else {
        relocations.push(Relocation::Distance { at: counts as u32, block: 0, addend: -4 });
    }
    for reloc in body.relocs() {
        let offset = start + reloc.offset as usize;
        let relative = matches!(reloc.kind, Reloc::X86PCRel4 | Reloc::X86CallPCRel4);
        if !relative {
            return internal(format!("relocation {:?}", reloc.kind));
        }
        let name = match &reloc.target {
            FinalizedRelocTarget::Func(to) => {
                set_to(&mut code, offset, (start + *to as usize) as i64 + reloc.addend);
                continue;
            }
            FinalizedRelocTarget::ExternalName(ExternalName::User(name)) => {
                function.params.user_named_funcs()[*name].clone()
            }
            FinalizedRelocTarget::ExternalName(other) => {
                return internal(format!("it refers to {other:?}"));
            }
        };
        match name.namespace {
            BLOCKS => {
                let (at, block, addend) = (offset as u32, name.index + 1, reloc.addend);
                relocations.push(Relocation::Distance { at, block, addend });
            }
            PIECES => {
                let to = places[name.index as usize].start as i64;
                set_to(&mut code, offset, to + reloc.addend);
            }
            other => return internal(format!("namespace {other}")),
        }
    }
    Ok(Compiled { code, relocations, faults, uses: parts.uses, blocks })
}

fn pad(code: &mut Vec<u8>) {
    code.resize(code.len().next_multiple_of(ALIGN), incise_isa::native::TRAP);
}

/// Fills in the displacement of a branch at `field` to `to`.
fn set(code: &mut [u8], field: usize, to: usize) {
    set_to(code, field, to as i64 - 4);
}

/// Fills in `to` less the place of the field.
fn set_to(code: &mut [u8], field: usize, to: i64) {
    let displacement = (to - field as i64) as i32;
    code[field..field + 4].copy_from_slice(&displacement.to_le_bytes());
}
