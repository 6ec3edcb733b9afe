//! AT&T syntax: `movl $1, %fs:8(%rax,%rcx,4)`.

use iced_x86::Register;

use super::error::Problem;
use super::expression::{Expression, expression};
use super::intel::stack_register;
use super::operand::{Memory, Operand, What, Written};
use super::register::{is_segment, register};
use super::statement::{braces, push};
use super::token::{Cursor, Token};

/// Reads the operands of an instruction, in the order written.
pub(super) fn operands(cursor: &mut Cursor<'_>, written: &mut Written) -> Result<(), Problem> {
    if cursor.is_empty() {
        return Ok(());
    }
    loop {
        let start = cursor.span();
        if cursor.mark('{') {
            braces(cursor, written)?;
        } else {
            let what = operand(cursor)?;
            let mut operand = Operand { what, span: start.start..cursor.span().start };
            while cursor.mark('{') {
                let broadcast = braces(cursor, written)?;
                if let (What::Bare(address), Some(_)) = (&operand.what, broadcast) {
                    operand.what = What::Memory(Memory::absolute(address.clone()));
                }
                if let What::Memory(memory) = &mut operand.what {
                    memory.broadcast = broadcast.or(memory.broadcast);
                }
            }
            push(written, operand)?;
        }
        if !cursor.mark(',') {
            return Ok(());
        }
    }
}

/// A register behind `%`.
fn percent(cursor: &mut Cursor<'_>) -> Result<Register, Problem> {
    let span = cursor.span();
    match cursor.next().map(|spanned| &spanned.token) {
        Some(Token::Word(word)) => match register(word) {
            Some(named) => stack_register(cursor, named),
            None => Err(Problem::new(span, format!("there is no register %{word}"))),
        },
        _ => Err(Problem::new(span, "the name of a register is missing behind %")),
    }
}

fn operand(cursor: &mut Cursor<'_>) -> Result<What, Problem> {
    if cursor.mark('$') {
        return Ok(What::Value(expression(cursor)?));
    }
    let indirect = cursor.mark('*');
    let mut segment = None;
    if cursor.mark('%') {
        let named = percent(cursor)?;
        if is_segment(named) && cursor.mark(':') {
            segment = Some(named);
        } else {
            return Ok(What::Register(named));
        }
    } else if let Some(Token::Word(word)) = cursor.peek()
        && register(word).is_some()
        && cursor.second() != Some(&Token::Mark('('))
    {
        let problem = Problem::new(cursor.span(), "registers are written with % in AT&T syntax");
        return Err(problem.help(format!("%{word}")));
    }
    let bracketed =
        matches!((cursor.peek(), cursor.second()), (Some(Token::Mark('(')), Some(Token::Mark('%' | ','))));
    let displacement = if bracketed { Expression::default() } else { expression(cursor)? };
    if cursor.peek() != Some(&Token::Mark('(')) {
        return Ok(match (indirect, segment) {
            (false, None) => What::Bare(displacement),
            _ => What::Memory(Memory { segment, ..Memory::absolute(displacement) }),
        });
    }
    let mut memory = address(cursor, displacement)?;
    memory.segment = segment;
    Ok(What::Memory(memory))
}

/// `(base,index,scale)` behind a displacement.
fn address(cursor: &mut Cursor<'_>, displacement: Expression) -> Result<Memory, Problem> {
    let mut memory = Memory::absolute(displacement);
    cursor.expect('(', "before the registers")?;
    let none = |named: Register| !matches!(format!("{named:?}").as_str(), "RIZ" | "EIZ");
    if cursor.mark('%') {
        memory.base = percent(cursor)?;
    }
    if cursor.mark(',') {
        if cursor.mark('%') {
            let named = percent(cursor)?;
            if none(named) {
                memory.index = named;
            }
        }
        if cursor.mark(',') {
            let span = cursor.span();
            memory.scale = match cursor.next().map(|spanned| &spanned.token) {
                Some(Token::Number(number @ (1 | 2 | 4 | 8))) => *number as u32,
                _ => return Err(Problem::new(span, "an index is scaled by 1, 2, 4 or 8")),
            };
        }
    }
    cursor.expect(')', "behind the registers")?;
    if matches!(memory.base, Register::RIP | Register::EIP) && memory.displacement.name.is_some() {
        // `name(%rip)`: the address of the name itself, not a distance.
        memory.relative = true;
    }
    Ok(memory)
}
