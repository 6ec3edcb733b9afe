//! Registers and memory set when a thread comes by: the probe's code, as assembly text.
//!
//! The code runs below the red zone with the flags saved, then the instruction that was there. It reads
//! `rsp` in addresses as the program has it.

use incise_isa::Addr;
use incise_isa::native::{Syntax, assemble};

use super::{PatchError, View};

/// The red zone (psABI 3.2.2) and the saved flags: how far `rsp` is below the program's.
const BELOW: u64 = 128 + 8;

/// The instructions that make `assignments` (`[rbp-4]=0`, `rax=1`, `rcx+=8`, `[rdi]="text"`) before the instruction at
/// `at`, if `condition` (`rdi == 5`, `[rbp-4] > 0`; signed) holds, and while the quadword at `times`, counted down, is
/// not used up. To be put in place of that instruction, which is the last of them.
///
/// # Errors
/// [`PatchError::Unsuitable`] for what is no assignment or condition; [`PatchError::Assembly`] for operands that are none.
pub fn set_code(
    view: &View,
    at: Addr,
    condition: Option<&str>,
    times: Option<Addr>,
    assignments: &[String],
) -> Result<String, PatchError> {
    let insn = view.insn(at)?;
    let wrong = |reason: String| PatchError::Unsuitable { at, reason };
    let mut lines = vec!["lea rsp, [rsp-128]".to_owned(), "pushfq".to_owned()];
    if let Some(condition) = condition {
        lines.extend(compared(condition).map_err(wrong)?);
    }
    if let Some(counter) = times {
        let count =
            ["push rax", &format!("movabs rax, {:#x}", counter.0), "lock dec qword ptr [rax]", "pop rax"];
        lines.extend(count.map(str::to_owned));
        lines.push("js incise_past".to_owned());
    }
    for assignment in assignments {
        lines.extend(assigned(assignment).map_err(wrong)?);
    }
    lines.extend(["incise_past: popfq".to_owned(), "lea rsp, [rsp+128]".to_owned()]);
    // Errors are shown without what the user did not write.
    for assignment in assignments {
        for line in assigned(assignment).map_err(wrong)? {
            assemble(&line, at, Syntax::Intel, &|_| None)?;
        }
    }
    // The distance of its own operand is that from where it stands.
    let mut last = insn.text_in(Syntax::Intel);
    if let Some(target) = insn.ip_relative_target()
        && let (Some(start), Some(end)) = (last.find("[rip"), last.find(']'))
    {
        last.replace_range(start..=end, &format!("[rel {:#x}]", target.0));
    }
    lines.push(last);
    Ok(lines.join("\n"))
}

/// An operand with `rsp` as the program has it, and a width where none can be told.
fn operand(text: &str, wide: bool) -> String {
    let text = text.trim();
    if !text.contains('[') {
        return text.to_owned();
    }
    let shifted = text.replace("rsp", &format!("rsp+{BELOW}"));
    if wide && !shifted.contains("ptr") {
        return match shifted.split_once('[') {
            Some((width, address)) if !width.trim().is_empty() && !width.contains(':') => {
                format!("{} ptr [{address}", width.trim())
            }
            _ => format!("dword ptr {shifted}"),
        };
    }
    shifted
}

/// Whether an operand is a number, so that the other has to tell the width.
fn is_number(text: &str) -> bool {
    text.trim().starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '\'')
}

fn compared(condition: &str) -> Result<Vec<String>, String> {
    // The longer ones first.
    const OPERATORS: [(&str, &str); 6] =
        [("==", "jne"), ("!=", "je"), ("<=", "jg"), (">=", "jl"), ("<", "jge"), (">", "jle")];
    let found = OPERATORS.iter().find_map(|(sign, past)| {
        let (left, right) = condition.split_once(sign)?;
        (!left.trim().is_empty() && !right.trim().is_empty()).then_some((left, right, *past))
    });
    let (left, right, past) = found
        .ok_or_else(|| format!("`{condition}` is no condition: write `rdi == 5`, with == != < <= > >="))?;
    let compare = format!("cmp {}, {}", operand(left, is_number(right)), operand(right, false));
    Ok(vec![compare, format!("{past} incise_past")])
}

fn assigned(assignment: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("`{assignment}` is no assignment: write rax=1, [rbp-4]=0, rcx+=8, [rdi]=\"text\"");
    let (left, right) = assignment.split_once('=').ok_or_else(wrong)?;
    let (left, verb) = match left.trim_end().chars().last() {
        Some('+') => (&left[..left.rfind('+').unwrap_or(0)], "add"),
        Some('-') => (&left[..left.rfind('-').unwrap_or(0)], "sub"),
        Some('^') => (&left[..left.rfind('^').unwrap_or(0)], "xor"),
        Some('|') => (&left[..left.rfind('|').unwrap_or(0)], "or"),
        Some('&') => (&left[..left.rfind('&').unwrap_or(0)], "and"),
        _ => (left, "mov"),
    };
    let (left, right) = (left.trim(), right.trim());
    if left.is_empty() || right.is_empty() {
        return Err(wrong());
    }
    if ["rsp", "esp", "sp", "spl"].contains(&left) {
        return Err("the stack pointer cannot be set".to_owned());
    }
    if let Some(text) = right.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        let address =
            left.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|_| verb == "mov");
        let address =
            address.ok_or_else(|| format!("`{left}`: a string is put into memory: [rdi]=\"text\""))?;
        let address = address.replace("rsp", &format!("rsp+{BELOW}"));
        let bytes = text.bytes().chain([0]).enumerate();
        return Ok(bytes
            .map(|(index, byte)| format!("mov byte ptr [{address}+{index}], {byte:#x}"))
            .collect());
    }
    Ok(vec![format!("{verb} {}, {}", operand(left, is_number(right)), operand(right, false))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_instructions() {
        let one = |text: &str| assigned(text).expect(text).join("; ");
        assert_eq!(one("rax=1"), "mov rax, 1");
        assert_eq!(one("[rbp-4] = 0"), "mov dword ptr [rbp-4], 0");
        assert_eq!(one("qword [rsp+8]=0"), "mov qword ptr [rsp+136+8], 0");
        assert_eq!(one("[rdi]=eax"), "mov [rdi], eax");
        assert_eq!(one("rcx+=8"), "add rcx, 8");
        assert_eq!(one("[rdi]=\"a\""), "mov byte ptr [rdi+0], 0x61; mov byte ptr [rdi+1], 0x0");
        for text in ["rax", "=1", "rax=", "rsp=1", "rax=\"x\""] {
            assert!(assigned(text).is_err(), "{text}");
        }
    }

    #[test]
    fn conditions_leave_where_they_do_not_hold() {
        assert_eq!(compared("[rbp-4] >= 1").expect("one"), ["cmp dword ptr [rbp-4], 1", "jl incise_past"]);
        assert_eq!(compared("rdi==rsi").expect("one"), ["cmp rdi, rsi", "jne incise_past"]);
        assert!(compared("rdi").is_err());
    }
}
