//! Statements: labels, data and instructions.

use std::ops::Range;

use iced_x86::{EncodingKind, Register};

use super::directive::Data;
use super::error::Problem;
use super::operand::{Operand, Prefixes, Written};
use super::token::{Cursor, Token, tokens};
use super::{Syntax, att, directive, intel, mnemonic, register};

/// A statement and where it is.
pub(super) struct Statement {
    pub body: Body,
    pub span: Range<usize>,
}

/// What a statement is.
pub(super) enum Body {
    Label(String),
    Data(Data),
    Insn(Box<Written>),
}

/// Splits a text into statements.
pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Vec<Statement>, Problem> {
    let tokens = tokens(text)?;
    let mut statements = Vec::new();
    for line in tokens.split(|spanned| spanned.token == Token::End) {
        let Some(last) = line.last() else { continue };
        let mut cursor = Cursor::new(line, last.span.end);
        while let Some(name) = label(&mut cursor) {
            let (name, span) = name;
            statements.push(Statement { body: Body::Label(name), span });
        }
        if cursor.is_empty() {
            continue;
        }
        let span = cursor.span().start..last.span.end;
        let body = match directive::data(&mut cursor)? {
            Some(data) => Body::Data(data),
            None => Body::Insn(Box::new(instruction(&mut cursor, syntax, span.clone())?)),
        };
        if !cursor.is_empty() {
            return Err(Problem::new(cursor.span(), "this is not expected here"));
        }
        statements.push(Statement { body, span });
    }
    Ok(statements)
}

fn label(cursor: &mut Cursor<'_>) -> Option<(String, Range<usize>)> {
    let span = cursor.span();
    let name = match (cursor.peek()?, cursor.second()?) {
        (Token::Word(name), Token::Mark(':')) if register::register(name).is_none() => name.clone(),
        (Token::Number(number), Token::Mark(':')) => number.to_string(),
        _ => return None,
    };
    cursor.next();
    cursor.next();
    Some((name, span))
}

fn instruction(cursor: &mut Cursor<'_>, syntax: Syntax, span: Range<usize>) -> Result<Written, Problem> {
    let mut prefixes = Prefixes::default();
    let (mnemonic, mnemonic_span) = loop {
        let span = cursor.span();
        if cursor.mark('{') {
            prefixes.encoding = Some(wanted_encoding(cursor)?);
            continue;
        }
        // AT&T's prefix for a branch that is taken or not, which no processor heeds any more.
        let Some(Token::Word(word)) = cursor.peek() else {
            return Err(Problem::new(span, "a mnemonic is missing here"));
        };
        let word = word.to_ascii_lowercase();
        cursor.next();
        let more = !cursor.is_empty();
        match word.as_str() {
            "lock" if more => prefixes.lock = true,
            "rep" | "repe" | "repz" if more => prefixes.rep = true,
            "repne" | "repnz" | "bnd" if more => prefixes.repne = true,
            "xacquire" if more => prefixes.xacquire = true,
            "xrelease" if more => prefixes.xrelease = true,
            "addr32" if more => prefixes.narrow_address = true,
            "data64" | "rex.w" if more => prefixes.wide = true,
            "data16" if more => prefixes.narrow = true,
            "notrack" if more => prefixes.notrack = true,
            "cs" | "ds" | "es" | "fs" | "gs" | "ss" if more => {
                prefixes.segment = register::register(&word);
            }
            _ => break (word, span),
        }
    };
    let mut written = Written {
        mnemonic,
        mnemonic_span,
        span,
        prefixes,
        operands: Vec::new(),
        decoration: Default::default(),
        reach: None,
        att: syntax == Syntax::Att,
    };
    match syntax {
        Syntax::Intel => intel::operands(cursor, &mut written)?,
        Syntax::Att => {
            att::operands(cursor, &mut written)?;
            if !mnemonic::is_in_order(&written.mnemonic) {
                written.operands.reverse();
            }
        }
    }
    Ok(written)
}

fn wanted_encoding(cursor: &mut Cursor<'_>) -> Result<EncodingKind, Problem> {
    let span = cursor.span();
    let kind = match () {
        () if cursor.word("vex") || cursor.word("vex2") || cursor.word("vex3") => EncodingKind::VEX,
        () if cursor.word("evex") => EncodingKind::EVEX,
        () => {
            let problem = Problem::new(span, "this prefix in braces is not known");
            return Err(problem.help("there are {vex} and {evex}"));
        }
    };
    cursor.expect('}', "behind the prefix")?;
    Ok(kind)
}

/// What stands in braces: a mask, a rounding, a broadcast. Returns how many a broadcast makes.
pub(super) fn braces(cursor: &mut Cursor<'_>, written: &mut Written) -> Result<Option<u32>, Problem> {
    use iced_x86::RoundingControl as Rounding;
    let span = cursor.span();
    let mut text = String::new();
    while let Some(spanned) = cursor.next() {
        match &spanned.token {
            Token::Mark('}') => break,
            Token::Mark('%') => {}
            Token::Mark(c) => text.push(*c),
            Token::Word(word) => text.push_str(&word.to_ascii_lowercase()),
            Token::Number(number) => text.push_str(&number.to_string()),
            Token::Text(_) | Token::End => {}
        }
    }
    let decoration = &mut written.decoration;
    match text.as_str() {
        "z" => decoration.zeroing = true,
        "rn-sae" | "rne-sae" => decoration.rounding = Some(Rounding::RoundToNearest),
        "rd-sae" => decoration.rounding = Some(Rounding::RoundDown),
        "ru-sae" => decoration.rounding = Some(Rounding::RoundUp),
        "rz-sae" => decoration.rounding = Some(Rounding::RoundTowardZero),
        "sae" => decoration.suppress = true,
        "1to2" | "1to4" | "1to8" | "1to16" | "1to32" => return Ok(text[3..].parse().ok()),
        name => match register::register(name).filter(|register| register.is_k()) {
            Some(mask) if mask != Register::K0 => decoration.mask = Some(mask),
            _ => {
                let problem = Problem::new(span, format!("`{{{text}}}` is not known"));
                return Err(problem.help("there are {k1} to {k7}, {z}, {sae}, {rn-sae} {rd-sae} {ru-sae} {rz-sae}, {1to2} to {1to32}"));
            }
        },
    }
    Ok(None)
}

/// Adds an operand.
pub(super) fn push(written: &mut Written, operand: Operand) -> Result<(), Problem> {
    if written.operands.len() == 5 {
        return Err(Problem::new(operand.span, "no instruction has more than five operands"));
    }
    written.operands.push(operand);
    Ok(())
}
