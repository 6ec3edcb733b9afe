//! Text to tokens.

use std::ops::Range;

use super::error::Problem;

/// One token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// A name, a mnemonic, a register; also `1b`, `1f`.
    Word(String),
    /// A number.
    Number(i128),
    /// The contents of a string.
    Text(Vec<u8>),
    /// Anything else, one character.
    Mark(char),
    /// A newline or `;`.
    End,
}

/// A token and where it is.
#[derive(Clone, Debug)]
pub(super) struct Spanned {
    pub token: Token,
    pub span: Range<usize>,
}

/// Whether a name may begin with `c`. `$` and `.` alone are the current address.
fn begins_name(c: char) -> bool {
    c.is_alphabetic() || matches!(c, '_' | '.')
}

/// Whether a name may go on with `c`: `libc.so.6!puts@GLIBC_2.2.5`, `std::io`.
fn continues_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '$' | '@' | '!' | '?')
}

/// Splits `text`; comments are dropped.
pub(super) fn tokens(text: &str) -> Result<Vec<Spanned>, Problem> {
    let mut tokens = Vec::new();
    let mut rest = text.char_indices().peekable();
    while let Some((start, c)) = rest.next() {
        let mut take_while = |keep: &dyn Fn(char) -> bool| {
            let mut end = start + c.len_utf8();
            while let Some((at, next)) = rest.next_if(|(_, next)| keep(*next)) {
                end = at + next.len_utf8();
            }
            end
        };
        let (token, end) = match c {
            '\n' | ';' => (Token::End, start + 1),
            c if c.is_whitespace() => continue,
            '#' => {
                take_while(&|c| c != '\n');
                continue;
            }
            '/' if text[start..].starts_with("//") => {
                take_while(&|c| c != '\n');
                continue;
            }
            '0'..='9' => {
                let end = take_while(&|c| c.is_ascii_alphanumeric() || c == '_');
                (number(&text[start..end]).ok_or_else(|| not_a_number(start..end, &text[start..end]))?, end)
            }
            c if begins_name(c) => {
                let mut end = take_while(&continues_name);
                // `a::b` is one name, `a: b` is a label.
                while text[end..].starts_with("::") && text[end + 2..].starts_with(begins_name) {
                    rest.next();
                    rest.next();
                    end += 2;
                    while let Some((at, next)) = rest.next_if(|(_, next)| continues_name(*next)) {
                        end = at + next.len_utf8();
                    }
                }
                (Token::Word(text[start..end].to_owned()), end)
            }
            '"' | '\'' => {
                let (bytes, len) = quoted(&text[start..]).ok_or_else(|| {
                    Problem::new(start..text.len(), "the string does not end, or has an unknown escape")
                        .help("escapes: \\n \\t \\r \\0 \\\\ \\\" \\' \\xNN")
                })?;
                while rest.next_if(|(at, _)| *at < start + len).is_some() {}
                let token = match c {
                    '\'' if bytes.len() <= 8 => {
                        Token::Number(bytes.iter().rev().fold(0, |n, byte| n << 8 | i128::from(*byte)))
                    }
                    _ => Token::Text(bytes),
                };
                (token, start + len)
            }
            c => (Token::Mark(c), start + c.len_utf8()),
        };
        tokens.push(Spanned { token, span: start..end });
    }
    Ok(tokens)
}

fn not_a_number(span: Range<usize>, text: &str) -> Problem {
    Problem::new(span, format!("`{text}` is not a number"))
        .help("numbers: 16, 0x10, 10h, 0b10000, 0o20; 1b and 1f name the label 1 before and behind")
}

/// A number, or a reference to a numbered label.
fn number(text: &str) -> Option<Token> {
    let lower = text.to_ascii_lowercase().replace('_', "");
    let value = |digits: &str, radix| i128::from_str_radix(digits, radix).ok().filter(|n| *n < 1 << 64);
    if let Some(digits) = lower.strip_prefix("0x") {
        return value(digits, 16).map(Token::Number);
    }
    if let Some(digits) = lower.strip_prefix("0b").filter(|digits| !digits.is_empty()) {
        return value(digits, 2).map(Token::Number);
    }
    if let Some(digits) = lower.strip_prefix("0o") {
        return value(digits, 8).map(Token::Number);
    }
    if let Some(digits) = lower.strip_suffix('h') {
        return value(digits, 16).map(Token::Number);
    }
    if lower.starts_with("1to") {
        return Some(Token::Word(lower));
    }
    if let Some(label) = lower.strip_suffix(['b', 'f'])
        && label.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Some(Token::Word(lower));
    }
    value(&lower, 10).map(Token::Number)
}

/// The bytes of the string that `text` begins with, and its length with the quotes.
pub(super) fn quoted(text: &str) -> Option<(Vec<u8>, usize)> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next()?;
    let mut bytes = Vec::new();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some((bytes, at + 1));
        }
        if c != '\\' {
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let (_, escape) = chars.next()?;
        bytes.push(match escape {
            'n' => b'\n',
            't' => b'\t',
            'r' => b'\r',
            '0' => 0,
            '\\' | '"' | '\'' => escape as u8,
            'x' => {
                let mut digit = || chars.next().and_then(|(_, c)| c.to_digit(16));
                (digit()? << 4 | digit()?) as u8
            }
            _ => return None,
        });
    }
    None
}

/// Reads tokens one after the other.
pub(super) struct Cursor<'t> {
    tokens: &'t [Spanned],
    /// Offset behind the last token.
    end: usize,
}

impl<'t> Cursor<'t> {
    pub(super) fn new(tokens: &'t [Spanned], end: usize) -> Cursor<'t> {
        Cursor { tokens, end }
    }

    /// The next token.
    pub(super) fn peek(&self) -> Option<&'t Token> {
        self.tokens.first().map(|spanned| &spanned.token)
    }

    /// The token behind the next one.
    pub(super) fn second(&self) -> Option<&'t Token> {
        self.tokens.get(1).map(|spanned| &spanned.token)
    }

    /// Takes the next token.
    pub(super) fn next(&mut self) -> Option<&'t Spanned> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    /// Takes the next token if it is this mark.
    pub(super) fn mark(&mut self, mark: char) -> bool {
        let there = self.peek() == Some(&Token::Mark(mark));
        if there {
            self.next();
        }
        there
    }

    /// Takes the next token if it is this word, in any case.
    pub(super) fn word(&mut self, word: &str) -> bool {
        let there = matches!(self.peek(), Some(Token::Word(text)) if text.eq_ignore_ascii_case(word));
        if there {
            self.next();
        }
        there
    }

    /// Takes this mark, or tells that it is missing.
    pub(super) fn expect(&mut self, mark: char, what: &str) -> Result<(), Problem> {
        if self.mark(mark) {
            return Ok(());
        }
        Err(Problem::new(self.span(), format!("`{mark}` is missing {what}")))
    }

    /// Where the next token is; behind the last one at the end.
    pub(super) fn span(&self) -> Range<usize> {
        self.tokens.first().map_or(self.end..self.end, |spanned| spanned.span.clone())
    }

    /// Whether nothing is left.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The rest as a new cursor that can be read without moving this one.
    pub(super) fn fork(&self) -> Cursor<'t> {
        Cursor { tokens: self.tokens, end: self.end }
    }
}
