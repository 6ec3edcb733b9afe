//! Shell patterns: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before a character that stands for itself.

/// A shell pattern over whole strings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob {
    /// Literal characters before the first wildcard.
    prefix: String,
    /// What follows the prefix; empty if there is no wildcard.
    rest: Vec<Token>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Literal(char),
    AnyChar,
    AnyRun,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Glob {
    /// Every text is a pattern: a bracket that is not closed stands for itself.
    pub fn new(text: &str) -> Glob {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let tail = &rest[c.len_utf8()..];
            let (token, tail) = match c {
                '*' => (Token::AnyRun, tail),
                '?' => (Token::AnyChar, tail),
                '[' => class(tail).unwrap_or((Token::Literal('['), tail)),
                '\\' => match tail.chars().next() {
                    Some(escaped) => (Token::Literal(escaped), &tail[escaped.len_utf8()..]),
                    None => (Token::Literal('\\'), tail),
                },
                c => (Token::Literal(c), tail),
            };
            // Runs of stars are one star.
            if token != Token::AnyRun || tokens.last() != Some(&Token::AnyRun) {
                tokens.push(token);
            }
            rest = tail;
        }
        let literals = tokens.iter().take_while(|t| matches!(t, Token::Literal(_))).count();
        let rest = tokens.split_off(literals);
        let literal = |token| if let Token::Literal(c) = token { Some(c) } else { None };
        Glob { prefix: tokens.into_iter().filter_map(literal).collect(), rest }
    }

    /// Whether it has no wildcard.
    pub(crate) fn is_literal(&self) -> bool {
        self.rest.is_empty()
    }

    /// The literal text before the first wildcard.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the whole of `text` fits.
    pub fn matches(&self, text: &str) -> bool {
        match text.strip_prefix(self.prefix.as_str()) {
            Some(tail) if self.rest.is_empty() => tail.is_empty(),
            Some(tail) => matches(&self.rest, tail),
            None => false,
        }
    }
}

/// Reads a class behind its opening bracket; `None` if it is not closed.
fn class(text: &str) -> Option<(Token, &str)> {
    let negated = text.starts_with(['!', '^']);
    let mut rest = if negated { &text[1..] } else { text };
    let mut ranges = Vec::new();
    loop {
        let low = rest.chars().next()?;
        let tail = &rest[low.len_utf8()..];
        if low == ']' && !ranges.is_empty() {
            return Some((Token::Class { negated, ranges }, tail));
        }
        let high = tail.strip_prefix('-').and_then(|t| t.chars().next()).filter(|&c| c != ']');
        rest = &tail[high.map_or(0, |c| 1 + c.len_utf8())..];
        ranges.push((low, high.unwrap_or(low)));
    }
}

impl Token {
    fn accepts(&self, c: char) -> bool {
        match self {
            Token::Literal(own) => *own == c,
            Token::AnyChar => true,
            Token::AnyRun => false,
            Token::Class { negated, ranges } => {
                ranges.iter().any(|&(low, high)| (low..=high).contains(&c)) != *negated
            }
        }
    }
}

/// Matching with one point of return: only the last star can be made to take more.
fn matches(tokens: &[Token], text: &str) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let next = text[at..].chars().next();
        match (tokens.get(token), next) {
            (None, None) => return true,
            (Some(Token::AnyRun), _) => {
                star = Some((token + 1, at));
                token += 1;
                if token == tokens.len() {
                    return true;
                }
                continue;
            }
            (Some(t), Some(c)) if t.accepts(c) => {
                token += 1;
                at += c.len_utf8();
                continue;
            }
            _ => {}
        }
        let Some((after, from)) = star else { return false };
        let Some(skipped) = text[from..].chars().next() else { return false };
        (token, at) = (after, from + skipped.len_utf8());
        star = Some((after, at));
    }
}

#[cfg(test)]
mod tests {
    use super::Glob;

    #[test]
    fn a_pattern_covers_the_whole_text() {
        let cases = [
            ("str*", "strlen", true),
            ("str*", "str", true),
            ("str*", "xstr", false),
            ("*str", "xstr", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("mem?py", "mempcpy", false),
            ("mem?py", "memcpy", true),
            ("str[a-l]en", "strlen", true),
            ("str[!a-l]en", "strlen", false),
            ("str[^m-z]en", "strlen", true),
            ("[]x]", "]", true),
            ("a[b", "a[b", true),
            ("operator[](int)", "operator[](int)", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("", "", true),
            ("?", "é", true),
            ("a**b", "ab", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }
}
