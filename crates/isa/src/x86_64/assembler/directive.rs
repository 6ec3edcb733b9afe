//! Data between instructions.

use std::ops::Range;

use super::error::Problem;
use super::expression::{Expression, Names, expression};
use super::token::{Cursor, Token};

/// One directive.
pub(super) struct Data {
    pieces: Vec<Piece>,
}

enum Piece {
    Bytes(Vec<u8>),
    Value { value: Expression, size: usize, span: Range<usize> },
}

impl Data {
    /// The bytes.
    pub(super) fn bytes(&self, names: &Names<'_>) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        for piece in &self.pieces {
            match piece {
                Piece::Bytes(text) => bytes.extend_from_slice(text),
                Piece::Value { value, size, span } => {
                    let number = value.value(names)?;
                    let bits = 8 * *size as u32;
                    if number >= 1 << bits || number < -(1 << (bits - 1)) {
                        let message = format!("{number:#x} does not fit {size} bytes");
                        return Err(Problem::new(span.clone(), message));
                    }
                    bytes.extend_from_slice(&(number as u64).to_le_bytes()[..*size]);
                }
            }
        }
        Ok(bytes)
    }
}

/// A directive, if the cursor stands before one.
pub(super) fn data(cursor: &mut Cursor<'_>) -> Result<Option<Data>, Problem> {
    let Some(Token::Word(word)) = cursor.peek() else { return Ok(None) };
    let (size, zero) = match word.to_ascii_lowercase().as_str() {
        ".byte" | "db" => (1, false),
        ".word" | ".short" | ".value" | "dw" => (2, false),
        ".long" | ".int" | "dd" => (4, false),
        ".quad" | "dq" => (8, false),
        ".ascii" => (1, false),
        ".asciz" | ".string" => (1, true),
        _ => return Ok(None),
    };
    cursor.next();
    let mut pieces = Vec::new();
    loop {
        let span = cursor.span();
        match cursor.peek() {
            Some(Token::Text(text)) => {
                cursor.next();
                pieces.push(Piece::Bytes(text.clone()));
                if zero {
                    pieces.push(Piece::Bytes(vec![0]));
                }
            }
            _ => pieces.push(Piece::Value { value: expression(cursor)?, size, span }),
        }
        if !cursor.mark(',') {
            return Ok(Some(Data { pieces }));
        }
    }
}
