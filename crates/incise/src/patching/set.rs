//! Registers and memory set when a thread comes by: the probe's code, as assembly text.
//!
//! The code runs below the red zone with the flags saved, then the instruction that was there. It reads
//! `rsp` in addresses as the program has it.

use std::ops::Range;

use incise_isa::Addr;
use incise_isa::native::{AsmError, Syntax, assemble};

use super::{PatchError, View, place};

/// The red zone (psABI 3.2.2) and the saved flags: how far `rsp` is below the program's.
const BELOW: u64 = 128 + 8;

/// What is set when a thread comes by.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Setting {
    /// Only if this holds: `rdi == 5`, `[rbp-4] > 0`; signed.
    pub condition: Option<String>,
    /// Only so often.
    pub times: Option<u64>,
    /// `[rbp-4]=0`, `rax=1`, `rcx+=8`, `[rdi]="text"`.
    pub assignments: Vec<String>,
    /// With `times`: the quadword that is counted down from it. It is not part of the text.
    pub counter: Option<Addr>,
}

/// Between the parts of a setting as text.
const APART: &str = " ;; ";

impl Setting {
    /// As one line of text.
    pub fn to_text(&self) -> String {
        let condition = self.condition.iter().map(|condition| format!("if {condition}"));
        let times = self.times.iter().map(|times| format!("times {times}"));
        condition.chain(times).chain(self.assignments.iter().cloned()).collect::<Vec<_>>().join(APART)
    }

    /// Reads what [`to_text`](Self::to_text) wrote.
    ///
    /// # Errors
    /// If it makes no sense.
    pub fn parse(text: &str) -> Result<Setting, String> {
        let mut setting = Setting::default();
        for part in text.split(APART) {
            match part.split_once(' ') {
                Some(("if", condition)) if setting.assignments.is_empty() => {
                    setting.condition = Some(condition.to_owned());
                }
                Some(("times", times)) if setting.assignments.is_empty() => {
                    let times = times.parse().ok().filter(|times| (1..=MOST_TIMES).contains(times));
                    setting.times = Some(times.ok_or("how often it is to be set is not a number")?);
                }
                _ => setting.assignments.push(part.to_owned()),
            }
        }
        setting.check().map(|()| setting)
    }

    /// Whether it can be made into code and into text.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self) -> Result<(), String> {
        self.condition.as_deref().map(compared).transpose()?;
        for assignment in &self.assignments {
            assigned(assignment)?;
        }
        let parts = self.assignments.iter().chain(&self.condition);
        match parts.into_iter().find(|part| part.contains(APART) || part.contains('\n')) {
            Some(part) => Err(format!("`{part}` has `{APART}` or a new line in it")),
            None if self.assignments.is_empty() => Err("nothing is set".to_owned()),
            None => Ok(()),
        }
    }

    /// The instructions that make the assignments before the instruction at `at`, as Intel assembly. To be put in place
    /// of that instruction, which is the last of them.
    ///
    /// # Errors
    /// [`PatchError::Unsuitable`] for what is no assignment or condition; [`PatchError::Assembly`] for operands that are none.
    pub fn code(&self, view: &View, at: Addr) -> Result<String, PatchError> {
        let insn = view.insn(at)?;
        let wrong = |reason: String| PatchError::Unsuitable { at, reason };
        self.check().map_err(wrong)?;
        let names = |name: &str| place(view, name).ok().map(|place| place.addr);
        // Errors are shown without what the user did not write.
        let checked = |line: &str, written: &str| {
            assemble(line, at, Syntax::Intel, &names).map_err(|error| as_written(error, written))
        };
        let mut lines = vec!["lea rsp, [rsp-128]".to_owned(), "pushfq".to_owned()];
        if let Some(condition) = &self.condition {
            let compared = compared(condition).map_err(wrong)?;
            checked(&compared[0], condition)?;
            lines.extend(compared);
        }
        if self.times.is_some() {
            let counter = self.counter.unwrap_or(at);
            lines.push(format!("lock dec qword ptr [rel {:#x}]", counter.0));
            lines.push("js incise_past".to_owned());
        }
        for assignment in &self.assignments {
            let assigned = assigned(assignment).map_err(wrong)?;
            for line in &assigned {
                checked(line, assignment)?;
            }
            lines.extend(assigned);
        }
        lines.extend(["incise_past: popfq".to_owned(), "lea rsp, [rsp+128]".to_owned()]);
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
}

/// An error in an instruction that was made of what the user wrote, shown in that.
fn as_written(error: AsmError, written: &str) -> AsmError {
    let Range { start, end } = error.columns;
    let place: String = error.line.chars().skip(start).take(end.saturating_sub(start)).collect();
    let columns = match written.find(&place).filter(|_| !place.is_empty()) {
        Some(byte) => {
            let column = written[..byte].chars().count();
            column..column + place.chars().count()
        }
        None => 0..written.chars().count(),
    };
    let mut help = error.help;
    if !written.contains('[') && names_something(&place) {
        help = vec![
            "registers and memory are set at a place: rax=1, [rbp-4]=0, [0x404028]=0".to_owned(),
            "a variable of a running process is set once, without --at: incise set -p PID NAME=VALUE"
                .to_owned(),
        ];
    }
    AsmError { line: written.to_owned(), number: 1, columns, help, ..error }
}

/// Whether a text may be the name of a variable.
fn names_something(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_:.".contains(c))
}

/// The most times that something can be set.
pub const MOST_TIMES: u64 = 1 << 62;

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
    fn errors_are_shown_in_what_the_user_wrote() {
        let shown = |line: &str, written: &str| {
            let error = assemble(line, Addr(0), Syntax::Intel, &|_| None).expect_err(line);
            let error = as_written(error, written);
            let marked = error.line.chars().skip(error.columns.start).take(error.columns.len());
            (error.line.clone(), marked.collect::<String>(), error.help.concat())
        };
        let (line, marked, help) = shown("mov foo, 1", "foo=1");
        assert_eq!((line.as_str(), marked.as_str()), ("foo=1", "foo"));
        assert!(help.contains("without --at"), "{help}");
        let (line, marked, help) = shown("mov dword ptr [foo], 1", "[foo]=1");
        assert_eq!((line.as_str(), marked.as_str()), ("[foo]=1", "foo"));
        assert!(!help.contains("--at"), "{help}");
        assert_eq!(shown("mov qword ptr [rsp+136+rox], 1", "qword [rsp+rox]=1").1, "rox");
        assert_eq!(shown("add rax, ebx", "rax += ebx").0, "rax += ebx");
    }

    #[test]
    fn settings_are_read_again() {
        let setting = Setting {
            condition: Some("[rbp-4] > 0".to_owned()),
            times: Some(3),
            assignments: vec!["rax=1".to_owned(), "[rdi]=\"a; b\"".to_owned()],
            counter: None,
        };
        assert_eq!(setting.to_text(), "if [rbp-4] > 0 ;; times 3 ;; rax=1 ;; [rdi]=\"a; b\"");
        assert_eq!(Setting::parse(&setting.to_text()), Ok(setting));
        for text in ["", "if rax == 1", "times 0 ;; rax=1", "times x ;; rax=1", "if rax ;; rax=1", "rax"] {
            assert!(Setting::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn conditions_leave_where_they_do_not_hold() {
        assert_eq!(compared("[rbp-4] >= 1").expect("one"), ["cmp dword ptr [rbp-4], 1", "jl incise_past"]);
        assert_eq!(compared("rdi==rsi").expect("one"), ["cmp rdi, rsi", "jne incise_past"]);
        assert!(compared("rdi").is_err());
    }
}
