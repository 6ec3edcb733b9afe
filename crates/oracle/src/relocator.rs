//! What is judged: something that moves one instruction.

use iced_x86::{Decoder, DecoderOptions};
use incise_isa::{Addr, native};

use crate::layout::Place;

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
        displace(code, at, to, resolve, false, out)
    }
}

/// The same for programs that may be loaded anywhere: copies are made for other addresses than those they run at. A
/// copy that holds an address, instead of a distance, leads somewhere else then.
#[derive(Clone, Copy, Debug, Default)]
pub struct Movable;

impl Relocator for Movable {
    fn relocate(
        &self,
        code: &[u8],
        at: u64,
        to: u64,
        resolve: &dyn Fn(u64) -> u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let load = if Place::High.code().contains(&at) { HIGH_LOAD } else { LOW_LOAD };
        let linked = |address: u64| address.wrapping_sub(load);
        let resolve = |target: u64| linked(resolve(target.wrapping_add(load)));
        displace(code, linked(at), linked(to), &resolve, true, out)
    }
}

/// How far above its link address code of `High` runs: it is linked in the first 4 GiB, where an address fits where
/// it does not at run time.
const HIGH_LOAD: u64 = Place::High.base() - 0xB000_0000;
/// The same for `Low`, as a difference that wraps: linked far above, run in the first 2 GiB.
const LOW_LOAD: u64 = 0x5555_5555_4000_u64.wrapping_neg();

fn displace(
    code: &[u8],
    at: u64,
    to: u64,
    resolve: &dyn Fn(u64) -> u64,
    moves: bool,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let insn = native::decode(code, Addr(at)).map_err(|error| Refusal::Undecodable(name(&error)))?;
    let resolve = |target: Addr| Addr(resolve(target.0));
    let how = native::Relocation { to: Addr(to), resolve: &resolve, shadow_stack: false, moves };
    native::relocate(&insn, &how, out).map_err(|error| Refusal::Refused(name(&error)))
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
