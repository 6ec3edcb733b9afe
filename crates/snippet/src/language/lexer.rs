//! Tokens, made one at a time: what a probe's name is made of is no token, so the parser turns to the text there.

use super::{Diagnostic, Span};

/// A piece of the source.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Token<'s> {
    /// A keyword or a name.
    Word(&'s str),
    /// An integer: value, marked unsigned, marked long.
    Int(u64, bool, bool),
    /// A number with a point or an exponent; marked single.
    Float(f64, bool),
    /// `'c'`
    Char(u8),
    /// `"…"`
    Str(Vec<u8>),
    /// `$name`
    Scratch(&'s str),
    /// `$1`
    Positional(u32),
    /// `$#`
    ArgumentCount,
    /// `@name`
    Map(&'s str),
    /// An operator or a bracket.
    Punct(&'static str),
    /// The end of the source.
    End,
}

/// The longest first, where one is the beginning of another.
const PUNCTUATION: [&str; 52] = [
    "<<=", ">>=", "...", "{%", "%}", "->", "++", "--", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "+=",
    "-=", "*=", "/=", "%=", "&=", "|=", "^=", "::", "(", ")", "[", "]", "{", "}", ";", ",", ".", "?", ":",
    "+", "-", "*", "/", "%", "&", "|", "^", "~", "!", "<", ">", "=", "`", "#", "\\",
];

/// Makes tokens of the source from a position on.
pub(super) struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    pub fn new(source: &'s str) -> Lexer<'s> {
        // A first line as shells want it.
        let at = if source.starts_with("#!") { source.find('\n').unwrap_or(source.len()) } else { 0 };
        Lexer { source, at }
    }

    pub fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    pub fn at(&self) -> usize {
        self.at
    }

    /// Goes on at `at`, which must be a character boundary.
    pub fn seek(&mut self, at: usize) {
        self.at = at;
    }

    /// Passes spaces and comments.
    pub fn skip_blank(&mut self) -> Result<(), Diagnostic> {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            let rest = self.rest();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if let Some(comment) = rest.strip_prefix("/*") {
                let Some(end) = comment.find("*/") else {
                    let span = Span::new(self.at, self.at + 2);
                    return Err(Diagnostic::error(span, "this comment has no end").help("close it with `*/`"));
                };
                self.at += end + 4;
            } else {
                return Ok(());
            }
        }
    }

    /// The next token, and where it is.
    pub fn next(&mut self) -> Result<(Token<'s>, Span), Diagnostic> {
        self.skip_blank()?;
        let start = self.at;
        let token = self.token()?;
        Ok((token, Span::new(start, self.at)))
    }

    fn token(&mut self) -> Result<Token<'s>, Diagnostic> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return Ok(Token::End) };
        let second = rest[first.len_utf8()..].chars().next();
        match first {
            c if c.is_alphabetic() || c == '_' => Ok(Token::Word(self.word(0))),
            '0'..='9' => self.number(),
            '.' if second.is_some_and(|c| c.is_ascii_digit()) => self.number(),
            '"' => self.string().map(Token::Str),
            '\'' => self.character(),
            '@' => Ok(Token::Map(self.word(1))),
            '$' => self.scratch(),
            '\u{2018}' | '\u{2019}' | '\u{b4}' => Err(self
                .error(first.len_utf8(), "this quotation mark is not a back-quote")
                .help("write inf`name, with the back-quote (U+0060)")),
            '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{ab}' | '\u{bb}' => {
                // Up to its counterpart it is one mistake.
                let line = rest.lines().next().unwrap_or(rest);
                let closing = line
                    .char_indices()
                    .skip(1)
                    .find(|(_, c)| matches!(c, '\u{201c}' | '\u{201d}' | '\u{ab}' | '\u{bb}'));
                let len = closing.map_or(first.len_utf8(), |(at, c)| at + c.len_utf8());
                let error = self.error(len, "this quotation mark is not `\"`");
                Err(error.help("texts stand between plain quotes (U+0022): \"text\""))
            }
            _ => match PUNCTUATION.iter().find(|p| rest.starts_with(**p)) {
                Some(punct) => {
                    self.at += punct.len();
                    Ok(Token::Punct(punct))
                }
                None => {
                    Err(self.error(first.len_utf8(), format!("the character {first:?} has no meaning here")))
                }
            },
        }
    }

    fn error(&self, len: usize, message: impl Into<String>) -> Diagnostic {
        Diagnostic::error(Span::new(self.at, self.at + len), message)
    }

    /// The word behind `skip` bytes; may be empty.
    fn word(&mut self, skip: usize) -> &'s str {
        let word = &self.rest()[skip..];
        let len = word.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(word.len());
        self.at += skip + len;
        &word[..len]
    }

    fn scratch(&mut self) -> Result<Token<'s>, Diagnostic> {
        let start = self.at;
        if self.rest().starts_with("$#") {
            self.at += 2;
            return Ok(Token::ArgumentCount);
        }
        let name = self.word(1);
        let span = Span::new(start, self.at);
        match name.chars().next() {
            None => Err(Diagnostic::error(span, "a name or a number belongs behind `$`")),
            Some('0'..='9') => name.parse().map(Token::Positional).map_err(|_| {
                Diagnostic::error(span, "this is no argument of the script").help("they are called $1, $2, …")
            }),
            Some(_) => Ok(Token::Scratch(name)),
        }
    }

    /// Integers in C's notations and with `0b`, `_` between digits; floats in decimal notation.
    fn number(&mut self) -> Result<Token<'s>, Diagnostic> {
        let rest = self.rest();
        let mut len = 0;
        let mut float = false;
        let hex = rest.starts_with("0x") || rest.starts_with("0X");
        let bytes = rest.as_bytes();
        while let Some(&byte) = bytes.get(len) {
            let exponent = !hex && matches!(byte, b'e' | b'E');
            if exponent && matches!(bytes.get(len + 1), Some(b'+' | b'-')) {
                float = true;
                len += 1;
            } else if byte == b'.' {
                float = true;
            } else if !(byte.is_ascii_alphanumeric() || byte == b'_') {
                break;
            }
            len += 1;
        }
        let text = &rest[..len];
        let span = Span::new(self.at, self.at + len);
        let digits: String = text.chars().filter(|&c| c != '_').collect::<String>().to_ascii_lowercase();
        let token = if float { float_literal(&digits) } else { integer(&digits) };
        self.at += len;
        token.ok_or_else(|| {
            let error = Diagnostic::error(span, format!("`{text}` is not a number"));
            let all_digits = digits.bytes().all(|b| b.is_ascii_digit());
            if all_digits { error.help("the largest is 18446744073709551615") } else { error }
        })
    }

    fn string(&mut self) -> Result<Vec<u8>, Diagnostic> {
        let start = self.at;
        let mut bytes = Vec::new();
        self.at += 1;
        loop {
            let unterminated = || {
                Diagnostic::error(Span::new(start, start + 1), "this string has no end")
                    .help("close it with `\"`; a new line is written \\n")
            };
            match self.rest().as_bytes().first() {
                None | Some(b'\n') => return Err(unterminated()),
                Some(b'"') => {
                    self.at += 1;
                    return Ok(bytes);
                }
                Some(b'\\') => bytes.push(self.escape()?),
                Some(&byte) => {
                    bytes.push(byte);
                    self.at += 1;
                    // The rest of a character of several bytes.
                    while !self.source.is_char_boundary(self.at) {
                        bytes.push(self.source.as_bytes()[self.at]);
                        self.at += 1;
                    }
                }
            }
        }
    }

    fn character(&mut self) -> Result<Token<'s>, Diagnostic> {
        let start = self.at;
        self.at += 1;
        let value = match self.rest().as_bytes().first() {
            Some(b'\\') => self.escape()?,
            Some(&byte) if byte.is_ascii() && byte != b'\'' && byte != b'\n' => {
                self.at += 1;
                byte
            }
            _ => {
                let message = "a character constant is one ASCII character or an escape between quotes";
                return Err(
                    Diagnostic::error(Span::new(start, start + 1), message).help("such as 'a' or '\\n'")
                );
            }
        };
        if !self.rest().starts_with('\'') {
            let error = Diagnostic::error(Span::new(start, self.at), "this character constant has no end");
            return Err(error.help("strings are written with \""));
        }
        self.at += 1;
        Ok(Token::Char(value))
    }

    /// An escape of C, from the backslash on.
    fn escape(&mut self) -> Result<u8, Diagnostic> {
        let rest = &self.rest().as_bytes()[1..];
        let digits = |from: usize, most: usize, radix: u32| {
            let is_digit = |b: &&u8| char::from(**b).is_digit(radix);
            rest[from..].iter().take(most).take_while(is_digit).count()
        };
        let (value, len) = match rest.first() {
            Some(b'n') => (b'\n', 1),
            Some(b't') => (b'\t', 1),
            Some(b'r') => (b'\r', 1),
            Some(b'a') => (7, 1),
            Some(b'b') => (8, 1),
            Some(b'f') => (12, 1),
            Some(b'v') => (11, 1),
            Some(b'e') => (27, 1),
            Some(&c @ (b'\\' | b'\'' | b'"' | b'?')) => (c, 1),
            Some(b'0'..=b'7') => {
                let len = digits(0, 3, 8);
                let value = rest[..len].iter().fold(0u32, |v, b| v * 8 + u32::from(b - b'0'));
                (u8::try_from(value).map_err(|_| self.error(len + 1, "this does not fit into a byte"))?, len)
            }
            Some(b'x') if digits(1, 2, 16) > 0 => {
                let len = digits(1, 2, 16);
                let digit = |b: &u8| char::from(*b).to_digit(16).unwrap_or(0);
                (rest[1..=len].iter().fold(0u32, |v, b| v * 16 + digit(b)) as u8, len + 1)
            }
            _ => {
                let help = "known are \\n \\t \\r \\\\ \\\" \\' \\0 \\xHH and octal numbers";
                return Err(self.error(1, "this escape is not known").help(help));
            }
        };
        self.at += 1 + len;
        Ok(value)
    }
}

/// `digits` in lower case, without underscores.
fn integer(digits: &str) -> Option<Token<'static>> {
    let hex = digits.starts_with("0x");
    let is_suffix = |c: char| matches!(c, 'u' | 'l');
    let number = digits.trim_end_matches(is_suffix);
    let suffix = &digits[number.len()..];
    if !matches!(suffix, "" | "u" | "l" | "ul" | "lu" | "ll" | "ull" | "llu") {
        return None;
    }
    let value = if hex {
        u64::from_str_radix(&number[2..], 16).ok()
    } else if let Some(binary) = number.strip_prefix("0b") {
        u64::from_str_radix(binary, 2).ok()
    } else if number.len() > 1 && number.starts_with('0') {
        u64::from_str_radix(&number[1..], 8).ok()
    } else if let Some((mantissa, exponent)) = number.split_once('e') {
        // 1e6 is an integer, as in bpftrace.
        let power = exponent.parse().ok().and_then(|e| 10u64.checked_pow(e))?;
        mantissa.parse::<u64>().ok()?.checked_mul(power)
    } else {
        number.parse().ok()
    };
    Some(Token::Int(value?, suffix.contains('u'), suffix.contains('l')))
}

fn float_literal(digits: &str) -> Option<Token<'static>> {
    let number = digits.strip_suffix('f');
    let value: f64 = number.unwrap_or(digits).parse().ok()?;
    value.is_finite().then_some(Token::Float(value, number.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(source: &str) -> Vec<Token<'_>> {
        let mut lexer = Lexer::new(source);
        let mut tokens = Vec::new();
        loop {
            match lexer.next().expect("a token").0 {
                Token::End => return tokens,
                token => tokens.push(token),
            }
        }
    }

    #[test]
    fn numbers_of_every_notation() {
        let ints = |source| match tokens(source)[..] {
            [Token::Int(value, unsigned, long)] => (value, unsigned, long),
            ref other => panic!("{other:?}"),
        };
        assert_eq!(ints("0x_ff"), (255, false, false));
        assert_eq!(ints("1_000UL"), (1000, true, true));
        assert_eq!(ints("017"), (15, false, false));
        assert_eq!(ints("0b101"), (5, false, false));
        assert_eq!(ints("1e6"), (1_000_000, false, false));
        assert_eq!(tokens("1.5e-1f"), [Token::Float(0.15, true)]);
        assert_eq!(tokens(".5"), [Token::Float(0.5, false)]);
        for wrong in ["0x", "09", "1z", "18446744073709551616", "1e99", "1.2.3", "0xfu_l_q"] {
            assert!(Lexer::new(wrong).next().is_err(), "{wrong}");
        }
    }

    #[test]
    fn strings_and_their_escapes() {
        assert_eq!(tokens(r#""a\n\x41\101\0é""#), [Token::Str(b"a\nAA\0\xc3\xa9".to_vec())]);
        assert_eq!(tokens(r"'\''"), [Token::Char(b'\'')]);
        for wrong in ["\"abc", "\"a\nb\"", "'ab'", "''", "\"\\q\"", "'", "\"\\777\"", "\"\\"] {
            assert!(Lexer::new(wrong).next().is_err(), "{wrong}");
        }
    }

    #[test]
    fn operators_are_taken_at_their_longest() {
        let puncts = ["a", "<<=", "->", "++", ">>", "%", "{%", "%}", "::", "`"].join(" ");
        assert_eq!(tokens(&puncts).len(), 10);
        assert_eq!(tokens("a+++b")[1..3], [Token::Punct("++"), Token::Punct("+")]);
    }
}
