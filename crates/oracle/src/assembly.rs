//! The assembler's oracle: every form, made with many operands, is written as text in both syntaxes by the decoder's
//! formatters; what the assembler makes of the text has to decode as the same instruction.

use std::collections::BTreeMap;

use iced_x86::{
    Code, Decoder, DecoderOptions, Encoder, Formatter, GasFormatter, Instruction, IntelFormatter, Mnemonic,
    OpKind, Register,
};
use incise_isa::Addr;
use incise_isa::native::{Syntax, assemble};

use crate::forms;
use crate::layout::Place;
use crate::operands::{self, Choice};
use crate::rng::Rng;
use crate::{generate, mutate};

/// A text that did not come back as it was.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The form it was made of.
    pub form: String,
    /// The text.
    pub text: String,
    /// The bytes it was made of.
    pub bytes: Vec<u8>,
    /// What the assembler did.
    pub got: Result<Vec<u8>, String>,
}

/// What a run of the oracle found.
#[derive(Clone, Debug, Default)]
pub struct RoundTrips {
    /// Texts that came back, by whether the bytes are the same, too.
    pub same_bytes: usize,
    /// Texts that came back as another encoding of the same instruction.
    pub other_bytes: usize,
    /// Forms that were tried.
    pub forms: usize,
    /// Those that did not come back.
    pub mismatches: Vec<Mismatch>,
    /// The texts that came back and go nowhere, with what the assembler made of them.
    pub texts: Vec<(String, Vec<u8>)>,
}

/// The text of an instruction, in the words the assembler knows.
pub fn text(insn: &Instruction, syntax: Syntax) -> String {
    let mut text = String::new();
    let mut formatter: Box<dyn Formatter> = match syntax {
        Syntax::Intel => Box::new(IntelFormatter::new()),
        Syntax::Att => Box::new(GasFormatter::new()),
    };
    let options = formatter.options_mut();
    options.set_use_pseudo_ops(false);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_rip_relative_addresses(true);
    options.set_small_hex_numbers_in_decimal(false);
    formatter.format(insn, &mut text);
    text
}

/// Runs the oracle with `variants` sets of operands for every way to write each form.
pub fn round_trips(syntax: Syntax, seed: u64, variants: u32) -> RoundTrips {
    let mut found = RoundTrips::default();
    let mut forms_tried: BTreeMap<String, bool> = BTreeMap::new();
    for code in forms::listed() {
        if is_unwritable(code, syntax) {
            continue;
        }
        for (index, (shape, _)) in forms::plan(code).into_iter().enumerate() {
            for variant in 0..variants {
                let stream = (code as u64) << 40 | (index as u64) << 32 | u64::from(variant);
                let mut rng = Rng::new(seed, stream);
                let place = Place::ALL[variant as usize % Place::ALL.len()];
                let site = generate::site(place, &mut rng);
                let choice = Choice { shape, variant };
                let Some(insn) = operands::build(code, choice, &site, &mut rng) else { continue };
                let mut encoder = Encoder::new(64);
                if encoder.encode(&insn, site.at).is_err() {
                    continue;
                }
                let bytes = encoder.take_buffer();
                let Some(insn) = mutate::decode(&bytes, site.at).filter(|insn| insn.code() == code) else {
                    continue;
                };
                forms_tried.insert(format!("{code:?}"), true);
                found.judge(code, &insn, &bytes, syntax);
            }
        }
    }
    found.forms = forms_tried.len();
    found
}

/// Forms whose text means another one: the formatters use words of their own for them.
fn is_unwritable(code: Code, syntax: Syntax) -> bool {
    match code {
        // Written as `xchg` of a register with itself.
        Code::Nopw | Code::Nopq => true,
        // Never made: `shl` does the same.
        _ if code.mnemonic() == Mnemonic::Sal => syntax == Syntax::Att,
        // Written like the form without a prefix.
        Code::Getsecq => true,
        // Written like the known hints.
        Code::Prefetchreserved3_m8
        | Code::Prefetchreserved4_m8
        | Code::Prefetchreserved5_m8
        | Code::Prefetchreserved6_m8
        | Code::Prefetchreserved7_m8 => true,
        // Written without the width, which has always meant 64 bits.
        Code::Pushfw | Code::Popfw | Code::Iretw => syntax == Syntax::Intel,
        // Floating-point state by its old, 16-bit layout.
        Code::Fldenv_m14byte
        | Code::Fnstenv_m14byte
        | Code::Fstenv_m14byte
        | Code::Frstor_m94byte
        | Code::Fnsave_m94byte
        | Code::Fsave_m94byte => true,
        _ => false,
    }
}

impl RoundTrips {
    fn judge(&mut self, code: Code, insn: &Instruction, bytes: &[u8], syntax: Syntax) {
        let text = text(insn, syntax);
        let at = Addr(insn.ip());
        let got = assemble(&text, at, syntax, &|_| None);
        let decoded =
            got.as_ref().ok().map(|bytes| Decoder::with_ip(64, bytes, at.0, DecoderOptions::NONE).decode());
        if got.as_ref().is_ok_and(|got| got == bytes) {
            self.same_bytes += 1;
        } else if decoded.is_some_and(|decoded| same(insn, &decoded, syntax)) {
            self.other_bytes += 1;
        } else {
            let got = got.map_err(|error| error.to_string());
            self.mismatches.push(Mismatch {
                form: format!("{code:?}"),
                text: text.clone(),
                bytes: bytes.to_vec(),
                got,
            });
            return;
        }
        let goes = insn.op_count() > 0 && insn.op0_kind() == OpKind::NearBranch64;
        if let (Ok(got), false) = (got, goes) {
            self.texts.push((text, got));
        }
    }
}

/// Whether two encodings are of the same instruction, wherever it lies.
pub fn same_bytes(a: &[u8], b: &[u8], syntax: Syntax) -> bool {
    let decode = |bytes: &[u8]| Decoder::with_ip(64, bytes, 0, DecoderOptions::NONE).decode();
    a == b || same(&decode(a), &decode(b), syntax)
}

/// Whether two instructions do the same, in whatever encoding: they read the same, or have the same operands.
fn same(a: &Instruction, b: &Instruction, syntax: Syntax) -> bool {
    let memory_operand =
        |insn: &Instruction| (0..insn.op_count()).any(|op| insn.op_kind(op) == OpKind::Memory);
    let nop = a.mnemonic() == Mnemonic::Nop;
    if memory_operand(a) && a.memory_size() != b.memory_size() && !nop {
        return false;
    }
    // Of one register, and so the same.
    let alone =
        a.op_count() == 2 && a.op0_register() == a.op1_register() && a.op0_register() == Register::ST0;
    if alone && matches!(a.mnemonic(), Mnemonic::Fsub | Mnemonic::Fsubr | Mnemonic::Fdiv | Mnemonic::Fdivr) {
        return b.op0_register() == Register::ST0 && b.op1_register() == Register::ST0;
    }
    // (What is relative to the end of the instruction is written as a distance.)
    if text(a, syntax) == text(b, syntax) {
        return true;
    }
    a.mnemonic() == b.mnemonic()
        && a.op_count() == b.op_count()
        && (0..a.op_count()).all(|op| match (a.op_kind(op), b.op_kind(op)) {
            (OpKind::Register, OpKind::Register) => a.op_register(op) == b.op_register(op),
            (OpKind::Memory, OpKind::Memory) => memory(a) == memory(b),
            (OpKind::NearBranch64, OpKind::NearBranch64) => a.near_branch64() == b.near_branch64(),
            (one, other) => match (immediate(a, op), immediate(b, op)) {
                (Some(one), Some(other)) => one == other,
                _ => one == other,
            },
        })
        && a.op_mask() == b.op_mask()
        && a.zeroing_masking() == b.zeroing_masking()
        && a.rounding_control() == b.rounding_control()
        && a.suppress_all_exceptions() == b.suppress_all_exceptions()
        && a.has_lock_prefix() == b.has_lock_prefix()
        && segment(a) == segment(b)
}

/// What memory operand is meant: base and index without a scale can change places.
fn memory(insn: &Instruction) -> (Register, Register, u32, u64, bool) {
    let (base, index, scale) = (insn.memory_base(), insn.memory_index(), insn.memory_index_scale());
    let (base, index) = match (base, index, scale) {
        (Register::None, index, 1) if !index.is_vector_register() => (index, Register::None),
        other => (other.0, other.1),
    };
    let scale = if index == Register::None { 1 } else { scale };
    // The displacement is the address meant, in the decoder's view.
    let base = if base == Register::RIP { Register::None } else { base };
    (base, index, scale, insn.memory_displacement64(), insn.is_broadcast())
}

/// The segment that is used, whether by a prefix or not.
fn segment(insn: &Instruction) -> Register {
    let memory = (0..insn.op_count()).any(|op| insn.op_kind(op) == OpKind::Memory);
    if memory { insn.memory_segment() } else { insn.segment_prefix() }
}

/// The value of an immediate operand, cut to its width.
fn immediate(insn: &Instruction, op: u32) -> Option<u64> {
    let bits = match insn.op_kind(op) {
        OpKind::Immediate8 | OpKind::Immediate8_2nd => 8,
        OpKind::Immediate16 | OpKind::Immediate8to16 => 16,
        OpKind::Immediate32 | OpKind::Immediate8to32 => 32,
        OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 64,
        _ => return None,
    };
    Some(insn.immediate(op) & (u64::MAX >> (64 - bits)))
}
