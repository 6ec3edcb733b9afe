//! The encoding of one instruction: every form of its mnemonic is tried, the shortest that fits is taken.

use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction, Mnemonic, OpKind};

use super::error::Problem;
use super::expression::Names;
use super::fit::{Failure, Misfit, fit, register_text};
use super::kinds::has_memory;
use super::mnemonic::{self, Meaning};
use super::operand::{Reach, What, Written};

/// A form that is possible.
struct Candidate {
    bytes: Vec<u8>,
    insn: Instruction,
    /// How far it is from what is usually meant: 16 bits without anything that says so.
    unusual: u32,
}

/// The bytes of `written`, at least `at_least` where there are several ways.
pub(super) fn encode(written: &Written, names: &Names<'_>, at_least: usize) -> Result<Vec<u8>, Problem> {
    let meanings = mnemonic::meanings(&written.mnemonic, written.att);
    if meanings.is_empty() {
        return Err(unknown(written));
    }
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut misfit: Option<Misfit> = None;
    for meaning in &meanings {
        for &code in &meaning.codes {
            if !is_meant(code, meaning, written) {
                continue;
            }
            match candidate(code, meaning, written, names) {
                Ok(candidate) => candidates.push(candidate),
                Err(Failure::Problem(problem)) => return Err(problem),
                Err(Failure::Misfit(other)) => {
                    if misfit.as_ref().is_none_or(|known| *known < other) {
                        misfit = Some(other);
                    }
                }
            }
        }
    }
    check_width(&candidates, &meanings, written)?;
    if written.prefixes.narrow_address {
        candidates.retain(|candidate| has_prefix(&candidate.bytes, 0x67));
    }
    let usual = candidates.iter().map(|candidate| candidate.unusual).min();
    candidates.retain(|candidate| Some(candidate.unusual) == usual);
    let long_enough = candidates.iter().filter(|candidate| candidate.bytes.len() >= at_least);
    let best = long_enough
        .min_by_key(|candidate| candidate.bytes.len())
        .or_else(|| candidates.iter().max_by_key(|candidate| candidate.bytes.len()));
    match best {
        Some(candidate) => Ok(candidate.bytes.clone()),
        None => Err(refused(written, &meanings, misfit.unwrap_or(Misfit::Count))),
    }
}

/// Whether the words say that this form is not meant.
fn is_meant(code: Code, meaning: &Meaning, written: &Written) -> bool {
    if written.att && is_swapped_family(code) {
        let wanted = format!("{:?}", mnemonic::swapped(code).unwrap_or(code.mnemonic())).to_ascii_lowercase();
        return wanted == written.mnemonic;
    }
    let far = matches!(
        code,
        Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
    );
    let says_far = meaning.far
        || written.reach == Some(Reach::Far)
        || written.operands.iter().any(|operand| match &operand.what {
            What::Memory(memory) => matches!(memory.size, Some(6 | 10)),
            _ => false,
        });
    let wide = matches!(
        code,
        Code::Mov_r64_imm64
            | Code::Mov_AL_moffs8
            | Code::Mov_AX_moffs16
            | Code::Mov_EAX_moffs32
            | Code::Mov_RAX_moffs64
            | Code::Mov_moffs8_AL
            | Code::Mov_moffs16_AX
            | Code::Mov_moffs32_EAX
            | Code::Mov_moffs64_RAX
    );
    (far == says_far || !matches!(code.mnemonic(), Mnemonic::Jmp | Mnemonic::Call))
        && (wide || !meaning.absolute)
}

/// The forms of subtraction and division that work on two floating-point registers.
fn is_swapped_family(code: Code) -> bool {
    mnemonic::swapped(code).is_some()
}

fn candidate(
    code: Code,
    meaning: &Meaning,
    written: &Written,
    names: &Names<'_>,
) -> Result<Candidate, Failure> {
    // Where a displacement counts from the end, the length is found first.
    let (mut insn, mut bytes) = attempt(code, meaning, written, names, 0)?;
    if insn.is_ip_rel_memory_operand() {
        (insn, bytes) = attempt(code, meaning, written, names, bytes.len())?;
    }
    let narrow = code.op_code().operand_size() == 16;
    let says_narrow = meaning.width == Some(2)
        || written.prefixes.narrow
        || written.operands.iter().any(|operand| match &operand.what {
            What::Register(named) => named.size() == 2,
            What::Memory(memory) => memory.size == Some(2),
            _ => false,
        });
    // A width that the suffix names, where there is no memory to have it.
    let size = code.op_code().operand_size() / 8;
    let other_width = match meaning.width.filter(|width| !has_memory(&insn) && *width != size) {
        Some(_) if size == 0 => 1,
        Some(_) => 2,
        None => 0,
    };
    let odd = narrow != says_narrow && (narrow || written.prefixes.narrow) || is_odd(code);
    let odd = odd || written.prefixes.wide && code.op_code().operand_size() != 64;
    let unusual = other_width + 4 * u32::from(odd) + 8 * u32::from(meaning.shortened);
    Ok(Candidate { bytes, insn, unusual })
}

/// Whether `prefix` is among the legacy prefixes that `bytes` begins with.
fn has_prefix(bytes: &[u8], prefix: u8) -> bool {
    let is_prefix =
        |byte: &&u8| matches!(**byte, 0x26 | 0x2E | 0x36 | 0x3E | 0x64..=0x67 | 0xF0 | 0xF2 | 0xF3);
    bytes.iter().take_while(is_prefix).any(|byte| *byte == prefix)
}

/// Forms that no one means unless there is no other: duplicates of others by undocumented opcodes, 32-bit far
/// returns where the width is not said.
fn is_odd(code: Code) -> bool {
    use Code as C;
    matches!(
        code,
        C::Fcom_st0_sti_DCD0
            | C::Fcomp_st0_sti_DCD8
            | C::Fxch_st0_sti_DDC8
            | C::Fcomp_st0_sti_DED0
            | C::Fxch_st0_sti_DFC8
            | C::Fstp_sti_DFD0
            | C::Fstp_sti_DFD8
            | C::Test_rm8_imm8_F6r1
            | C::Test_rm16_imm16_F7r1
            | C::Test_rm32_imm32_F7r1
            | C::Test_rm64_imm32_F7r1
    )
}

fn attempt(
    code: Code,
    meaning: &Meaning,
    written: &Written,
    names: &Names<'_>,
    len: usize,
) -> Result<(Instruction, Vec<u8>), Failure> {
    let insn = fit(code, meaning, written, names, len)?;
    let mut encoder = Encoder::new(64);
    if let Err(error) = encoder.encode(&insn, names.here.0) {
        return Err(encoder_says(&insn, written, &error.to_string()).into());
    }
    let bytes = encoder.take_buffer();
    // What does not decode as the same form would run as another instruction: `xchg eax, eax` is not `nop`.
    let mut decoder = Decoder::with_ip(64, &bytes, names.here.0, DecoderOptions::NONE);
    let decoded = decoder.decode();
    if !code.op_code().fwait() && !same(&insn, &decoded, bytes.len()) {
        return Err(Misfit::Encoder("it has no such encoding".to_owned()).into());
    }
    Ok((insn, bytes))
}

/// Whether `decoded` is what was to be encoded, as far as its operands go.
fn same(insn: &Instruction, decoded: &Instruction, len: usize) -> bool {
    decoded.code() == insn.code()
        && decoded.len() == len
        && (0..insn.op_count()).all(|op| {
            let (kind, other) = (insn.op_kind(op), decoded.op_kind(op));
            kind == other && (kind != OpKind::Register || insn.op_register(op) == decoded.op_register(op))
        })
        && (!has_memory(insn)
            || insn.memory_base() == decoded.memory_base() && insn.memory_index() == decoded.memory_index())
}

/// Turns what the encoder says into a misfit.
fn encoder_says(insn: &Instruction, written: &Written, error: &str) -> Misfit {
    let branch = (0..insn.op_count()).find(|op| insn.op_kind(*op) == OpKind::NearBranch64);
    if branch.is_some() {
        let place = written.operands.len().saturating_sub(1);
        return Misfit::Range(place, format!("the target {:#x} is out of reach", insn.near_branch64()));
    }
    if insn.is_ip_rel_memory_operand() && error.contains("RIP") {
        let place = written.operands.iter().position(|operand| !matches!(operand.what, What::Register(_)));
        let message = format!("{:#x} is out of reach of the instruction", insn.memory_displacement64());
        return Misfit::Range(place.unwrap_or(0), message);
    }
    let place =
        error.split_whitespace().nth(1).and_then(|word| word.trim_end_matches(':').parse::<usize>().ok());
    match place {
        Some(place) if error.to_ascii_lowercase().contains("register") => {
            Misfit::Kind(place.min(written.operands.len().saturating_sub(1)))
        }
        _ => Misfit::Encoder(error.to_owned()),
    }
}

/// Refuses memory whose width nothing tells.
fn check_width(candidates: &[Candidate], meanings: &[Meaning], written: &Written) -> Result<(), Problem> {
    let told = meanings.len() == 1 && meanings[0].width.is_some();
    let memory = written.operands.iter().find(|operand| match &operand.what {
        What::Memory(memory) => memory.size.is_none(),
        _ => false,
    });
    let Some(memory) = memory.filter(|_| !told) else { return Ok(()) };
    let width = |candidate: &Candidate| candidate.insn.memory_size().size();
    let mut widths: Vec<usize> = candidates
        .iter()
        .filter(|c| c.unusual == 0 && has_memory(&c.insn))
        .map(width)
        .filter(|w| *w != 0)
        .collect();
    widths.sort_unstable();
    widths.dedup();
    let settled = |candidate: &Candidate| {
        matches!(
            candidate.insn.mnemonic(),
            Mnemonic::Push | Mnemonic::Pop | Mnemonic::Jmp | Mnemonic::Call | Mnemonic::Nop
        )
    };
    if widths.len() < 2 || candidates.iter().any(settled) {
        return Ok(());
    }
    let problem = Problem::new(memory.span.clone(), "how many bytes of memory are meant is not said");
    Err(problem.help(if written.att {
        "add a suffix to the mnemonic: b (1), w (2), l (4) or q (8 bytes)"
    } else {
        "write `byte ptr`, `word ptr`, `dword ptr` or `qword ptr` before it"
    }))
}

fn unknown(written: &Written) -> Problem {
    let problem = Problem::new(
        written.mnemonic_span.clone(),
        format!("there is no instruction `{}`", written.mnemonic),
    );
    let near = mnemonic::nearest(&written.mnemonic);
    if near.is_empty() { problem } else { problem.help(format!("did you mean {}?", near.join(", "))) }
}

/// Why no form fits, with those that there are.
fn refused(written: &Written, meanings: &[Meaning], misfit: Misfit) -> Problem {
    const MOST: usize = 8;
    let span = |place: usize| {
        written.operands.get(place).map_or(written.span.clone(), |operand| operand.span.clone())
    };
    let name = &written.mnemonic;
    let problem = match misfit {
        Misfit::Count => {
            let count = written.operands.len();
            let operands = if count == 1 { "operand" } else { "operands" };
            Problem::new(
                written.span.clone(),
                format!("`{name}` does not take {count} {operands} like these"),
            )
        }
        Misfit::Kind(place) => {
            let what = written.operands.get(place).and_then(register_text);
            let what = what.map_or("this operand".to_owned(), |register| format!("{register} here"));
            Problem::new(span(place), format!("`{name}` does not take {what}"))
        }
        Misfit::Extra(what) => return Problem::new(written.span.clone(), format!("`{name}`: {what}")),
        Misfit::Encoder(what) => Problem::new(written.span.clone(), format!("`{name}`: {what}")),
        Misfit::Width(place, width) => {
            let bytes = if width == 1 { "byte" } else { "bytes" };
            Problem::new(span(place), format!("`{name}` has {width} {bytes} of memory here"))
        }
        Misfit::Range(place, what) => return Problem::new(span(place), what),
    };
    let codes: Vec<Code> = meanings.iter().flat_map(|meaning| meaning.codes.iter().copied()).collect();
    let forms = mnemonic::forms(&codes);
    let mut problem = problem.help("it can be:");
    for form in forms.iter().take(MOST) {
        problem = problem.help(format!("  {}", form.to_ascii_lowercase()));
    }
    if forms.len() > MOST {
        problem = problem.help(format!("  ... and {} more", forms.len() - MOST));
    }
    problem
}
