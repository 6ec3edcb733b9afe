//! Intel syntax: `mov dword ptr fs:[rax+rcx*4+8], 1`.

use iced_x86::Register;

use super::error::Problem;
use super::expression::{Expression, expression, product};
use super::operand::{Memory, Operand, Reach, What, Written};
use super::register::{is_segment, register};
use super::statement::{braces, push};
use super::token::{Cursor, Token};

/// Reads the operands of an instruction.
pub(super) fn operands(cursor: &mut Cursor<'_>, written: &mut Written) -> Result<(), Problem> {
    if written.mnemonic == "ret" && cursor.word("far") {
        written.mnemonic = "retf".to_owned();
    }
    if cursor.is_empty() {
        return Ok(());
    }
    loop {
        let start = cursor.span();
        if cursor.mark('{') {
            // Rounding as an operand of its own: `vaddps zmm1, zmm2, zmm3, {rn-sae}`.
            braces(cursor, written)?;
        } else {
            let what = operand(cursor, written)?;
            let mut operand = Operand { what, span: start.start..cursor.span().start };
            while cursor.mark('{') {
                let broadcast = braces(cursor, written)?;
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

/// Bytes that a word before `ptr` means.
fn size(word: &str) -> Option<u32> {
    Some(match word.to_ascii_lowercase().as_str() {
        "byte" => 1,
        "word" => 2,
        "dword" => 4,
        "fword" => 6,
        "qword" | "mmword" => 8,
        "tbyte" | "tword" => 10,
        "oword" | "xmmword" => 16,
        "yword" | "ymmword" => 32,
        "zword" | "zmmword" => 64,
        _ => return None,
    })
}

fn operand(cursor: &mut Cursor<'_>, written: &mut Written) -> Result<What, Problem> {
    let mut width = None;
    let mut broadcast = None;
    loop {
        match cursor.peek() {
            Some(Token::Word(word)) if size(word).is_some() && !next_is_end(cursor) => {
                width = size(word);
                cursor.next();
                if cursor.word("bcst") {
                    broadcast = Some(0);
                }
                cursor.word("ptr");
            }
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("short") && !next_is_end(cursor) => {
                written.reach = Some(Reach::Short);
                cursor.next();
            }
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("near") && !next_is_end(cursor) => {
                written.reach = Some(Reach::Near);
                cursor.next();
                cursor.word("ptr");
            }
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("far") && !next_is_end(cursor) => {
                written.reach = Some(Reach::Far);
                cursor.next();
                cursor.word("ptr");
            }
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("offset") && !next_is_end(cursor) => {
                cursor.next();
                return Ok(What::Value(expression(cursor)?));
            }
            _ => break,
        }
    }
    let mut segment = None;
    if let Some(Token::Word(word)) = cursor.peek()
        && let Some(named) = register(word)
    {
        if cursor.second() == Some(&Token::Mark(':')) && is_segment(named) {
            cursor.next();
            cursor.next();
            segment = Some(named);
        } else {
            cursor.next();
            return stack_register(cursor, named).map(What::Register);
        }
    }
    if cursor.mark('[') {
        let mut memory = address(cursor)?;
        memory.size = width;
        memory.segment = memory.segment.or(segment);
        memory.broadcast = broadcast;
        return Ok(What::Memory(memory));
    }
    if segment.is_some() {
        // `fs:0x28`
        let displacement = expression(cursor)?;
        return Ok(What::Memory(Memory { size: width, segment, ..Memory::absolute(displacement) }));
    }
    let value = expression(cursor)?;
    if cursor.mark('[') {
        // `table[rax*8]`
        let mut memory = address(cursor)?;
        let span = cursor.span();
        memory.displacement.add(value, 1, &span)?;
        memory.size = width;
        return Ok(What::Memory(memory));
    }
    if width.is_some() && value.name.is_some() {
        let memory = Memory::absolute(value);
        return Ok(What::Memory(Memory { size: width, relative: true, ..memory }));
    }
    Ok(What::Value(value))
}

fn next_is_end(cursor: &Cursor<'_>) -> bool {
    matches!(cursor.second(), None | Some(Token::Mark(',')))
}

/// `st(1)` behind `st`.
pub(super) fn stack_register(cursor: &mut Cursor<'_>, named: Register) -> Result<Register, Problem> {
    if named != Register::ST0 || !cursor.mark('(') {
        return Ok(named);
    }
    let span = cursor.span();
    let number = match cursor.next().map(|spanned| &spanned.token) {
        Some(Token::Number(number @ 0..=7)) => *number as u32,
        _ => return Err(Problem::new(span, "the floating-point registers are st(0) to st(7)")),
    };
    cursor.expect(')', "behind the number")?;
    Ok(Register::ST0 + number)
}

/// What is in brackets, the first one taken.
fn address(cursor: &mut Cursor<'_>) -> Result<Memory, Problem> {
    let mut memory = Memory::absolute(Expression::default());
    let start = cursor.span();
    if let (Some(Token::Word(word)), Some(Token::Mark(':'))) = (cursor.peek(), cursor.second())
        && let Some(named) = register(word).filter(|named| is_segment(*named))
    {
        cursor.next();
        cursor.next();
        memory.segment = Some(named);
    }
    if cursor.word("rel") {
        memory.relative = true;
    } else {
        cursor.word("abs");
    }
    let mut sign = 1;
    if cursor.mark('-') {
        sign = -1;
    }
    loop {
        let span = cursor.span();
        match index(cursor)? {
            Some((named, scale)) => {
                if sign < 0 {
                    return Err(Problem::new(span, "a register cannot be subtracted from an address"));
                }
                add_register(&mut memory, named, scale, span)?;
            }
            None => {
                let term = product(cursor)?;
                memory.displacement.add(term, sign, &span)?;
            }
        }
        sign = match cursor.peek() {
            Some(Token::Mark('+')) => 1,
            Some(Token::Mark('-')) => -1,
            _ => break,
        };
        cursor.next();
    }
    cursor.expect(']', "behind the address")?;
    let alone = memory.base == Register::None && memory.index == Register::None;
    // `[name]` is where the code can reach it: by the instruction pointer.
    let to_ip = matches!(memory.base, Register::RIP | Register::EIP) && memory.index == Register::None;
    memory.relative |= (alone || to_ip) && memory.segment.is_none() && memory.displacement.name.is_some();
    if memory.relative && !alone && !to_ip {
        return Err(Problem::new(start, "`rel` goes with a lone address"));
    }
    Ok(memory)
}

/// A register with its scale: `rax`, `rax*4`, `4*rax`.
fn index(cursor: &mut Cursor<'_>) -> Result<Option<(Register, Option<u32>)>, Problem> {
    let span = cursor.span();
    let scale = |number: i128, span| match number {
        1 | 2 | 4 | 8 => Ok(number as u32),
        _ => Err(Problem::new(span, "an index is scaled by 1, 2, 4 or 8")),
    };
    if let (Some(Token::Number(number)), Some(Token::Mark('*'))) = (cursor.peek(), cursor.second()) {
        let mut ahead = cursor.fork();
        ahead.next();
        ahead.next();
        if let Some(Token::Word(word)) = ahead.peek()
            && let Some(named) = register(word)
        {
            ahead.next();
            *cursor = ahead;
            return Ok(Some((named, Some(scale(*number, span)?))));
        }
    }
    let Some(Token::Word(word)) = cursor.peek() else { return Ok(None) };
    let Some(named) = register(word) else { return Ok(None) };
    cursor.next();
    if !cursor.mark('*') {
        return Ok(Some((named, None)));
    }
    let span = cursor.span();
    match cursor.next().map(|spanned| &spanned.token) {
        Some(Token::Number(number)) => Ok(Some((named, Some(scale(*number, span)?)))),
        _ => Err(Problem::new(span, "an index is scaled by 1, 2, 4 or 8")),
    }
}

fn add_register(
    memory: &mut Memory,
    named: Register,
    scale: Option<u32>,
    span: std::ops::Range<usize>,
) -> Result<(), Problem> {
    let is_vector = named.is_vector_register();
    if memory.base == Register::None && scale.is_none() && !is_vector {
        memory.base = named;
    } else if memory.index == Register::None {
        memory.index = named;
        memory.scale = scale.unwrap_or(1);
    } else if memory.base == Register::None && scale == Some(1) {
        memory.base = named;
    } else {
        return Err(Problem::new(span, "an address has one base and one index register at most"));
    }
    // rsp cannot be an index, but may well have been written first or last.
    if matches!(memory.index, Register::RSP | Register::ESP) && memory.scale == 1 {
        std::mem::swap(&mut memory.base, &mut memory.index);
    }
    Ok(())
}
