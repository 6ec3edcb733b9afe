//! What is judged: something that moves one instruction.

use iced_x86::{Decoder, DecoderOptions};
use incise_isa::{Addr, native};

/// A typed refusal, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// The relocator's decoder did not know the bytes.
    Undecodable(String),
    /// It knows the instruction and will not move it.
    Refused(String),
}

/// Moves instructions. The contract is that of [`incise_isa::native::relocate`].
pub trait Relocator: Sync {
    /// Appends code to `out` which at `to` does what the first instruction of `code` does at `at`.
    /// `resolve` tells where branch targets have gone. On an error `out` is as it was.
    fn relocate(
        &self,
        code: &[u8],
        at: u64,
        to: u64,
        resolve: &dyn Fn(u64) -> u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal>;
}

/// The project's own relocator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Incise;

impl Relocator for Incise {
    fn relocate(
        &self,
        code: &[u8],
        at: u64,
        to: u64,
        resolve: &dyn Fn(u64) -> u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let insn = native::decode(code, Addr(at)).map_err(|error| Refusal::Undecodable(name(&error)))?;
        let how = native::Relocation {
            to: Addr(to),
            resolve: &|target: Addr| Addr(resolve(target.0)),
            shadow_stack: false,
            moves: false,
        };
        native::relocate(&insn, &how, out).map_err(|error| Refusal::Refused(name(&error)))
    }
}

/// Copies bytes and adjusts nothing. Right for position-independent instructions, wrong for the
/// rest: it tests the oracle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verbatim;

impl Relocator for Verbatim {
    fn relocate(
        &self,
        code: &[u8],
        at: u64,
        _: u64,
        _: &dyn Fn(u64) -> u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let insn = Decoder::with_ip(64, code, at, DecoderOptions::NONE).decode();
        if insn.is_invalid() {
            return Err(Refusal::Undecodable("Invalid".to_owned()));
        }
        out.extend_from_slice(&code[..insn.len()]);
        Ok(())
    }
}

/// The name of an error's variant: the first word of its debug form.
fn name(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    text[..end].to_owned()
}
