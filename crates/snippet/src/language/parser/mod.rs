//! From text to the syntax tree: recursive descent, with bounded depth, going on behind an error.

mod expression;
mod probe;
mod statement;
mod types;

use std::collections::VecDeque;

use super::ast::{Block, Expr, ScriptSyntax};
use super::lexer::{Lexer, Token};
use super::{Diagnostic, Diagnostics, Span};

/// Longest source accepted, in bytes.
const SOURCE_LIMIT: usize = 1 << 20;

/// What is said where there is a directive of C's preprocessor.
const NO_PREPROCESSOR: &str =
    "types come from the program's debugging information; others can be declared: struct name { … };";

/// How deep statements and brackets may nest: C asks for 63 of brackets. Each level costs stack.
const DEPTH_LIMIT: u16 = 64;

/// How high the tree of an expression may be; `a + b + c` is three high.
const HEIGHT_LIMIT: u16 = 200;

/// Parses a script: `PROBE { … }` and what belongs to it.
///
/// # Errors
/// What is wrong with it; up to ten errors.
pub fn parse_script(name: &str, source: &str) -> Result<ScriptSyntax, Diagnostics> {
    parse(name, source, |parser| {
        let mut script = ScriptSyntax::default();
        while !parser.at_end() {
            if let Err(error) = parser.script_item(&mut script) {
                parser.recover_in_script(error);
            }
        }
        script
    })
}

/// Parses a snippet: statements without a probe.
///
/// # Errors
/// What is wrong with it; up to ten errors.
pub fn parse_snippet(name: &str, source: &str) -> Result<Block, Diagnostics> {
    parse(name, source, |parser| {
        let mut statements = Vec::new();
        while !parser.at_end() {
            statements.extend(parser.statement_or_recover());
        }
        Block { statements, span: Span::new(0, source.len()) }
    })
}

/// Parses one expression.
///
/// # Errors
/// What is wrong with it.
pub fn parse_expression(name: &str, source: &str) -> Result<Expr, Diagnostics> {
    let expr = parse(name, source, |parser| match parser.expression() {
        Ok(expr) if parser.at_end() => Some(expr),
        Ok(_) => {
            let error = parser.unexpected("an operator or the end");
            parser.diagnostics.push(error);
            None
        }
        Err(error) => {
            parser.diagnostics.push(error);
            None
        }
    })?;
    // Without an expression there was an error.
    expr.ok_or_else(|| Diagnostics::new(name, source))
}

fn parse<T>(name: &str, source: &str, rule: impl FnOnce(&mut Parser<'_>) -> T) -> Result<T, Diagnostics> {
    let mut diagnostics = Diagnostics::new(name, source);
    if source.len() > SOURCE_LIMIT {
        let message = format!("the source is too long: {} bytes, at most {SOURCE_LIMIT}", source.len());
        diagnostics.push(Diagnostic::error(Span::new(0, 1), message));
        return Err(diagnostics);
    }
    let mut parser = Parser::new(source, diagnostics);
    let value = rule(&mut parser);
    if let Some(count) = parser.broken {
        parser.diagnostics.truncate(count);
    }
    parser.diagnostics.unless_errors(value)
}

struct Parser<'s> {
    lexer: Lexer<'s>,
    /// Tokens read ahead.
    ahead: VecDeque<(Token<'s>, Span)>,
    /// End of the last token taken.
    behind: usize,
    depth: u16,
    /// Inside the slashes of a filter, outside of brackets: `/ {` ends it.
    in_filter: bool,
    diagnostics: Diagnostics,
    /// Something was no token: an error that follows is likely to come of that.
    garbled: bool,
    /// How many errors there were when the rest of the source made no sense any more.
    broken: Option<usize>,
}

type Parsed<T> = Result<T, Diagnostic>;

impl<'s> Parser<'s> {
    fn new(source: &'s str, diagnostics: Diagnostics) -> Parser<'s> {
        let (lexer, ahead) = (Lexer::new(source), VecDeque::new());
        let (garbled, broken) = (false, None);
        Parser { lexer, ahead, behind: 0, depth: 0, in_filter: false, diagnostics, garbled, broken }
    }

    /// The token `n` places ahead. What is no token is reported, once, and left out.
    fn peek_at(&mut self, n: usize) -> &(Token<'s>, Span) {
        while self.ahead.len() <= n {
            match self.lexer.next() {
                Ok(token) => self.ahead.push_back(token),
                Err(error) => {
                    // Behind the place of the error; at the end if the rest makes no sense either.
                    let behind = (error.span.end as usize).max(self.lexer.at());
                    let end = self.lexer.at() + self.lexer.rest().len();
                    let open = error.message.contains("no end") || error.message.contains("escape");
                    self.diagnostics.push(error);
                    let stop = open || self.diagnostics.is_full();
                    self.garbled = true;
                    if open && self.broken.is_none() {
                        self.broken = Some(self.diagnostics.list().len());
                    }
                    self.lexer.seek(if stop { end } else { behind.min(end) });
                }
            }
        }
        &self.ahead[n]
    }

    fn peek(&mut self) -> &Token<'s> {
        &self.peek_at(0).0
    }

    fn span(&mut self) -> Span {
        self.peek_at(0).1
    }

    fn take(&mut self) -> (Token<'s>, Span) {
        self.peek_at(0);
        let token = self.ahead.pop_front().unwrap_or((Token::End, Span::default()));
        self.behind = token.1.end as usize;
        token
    }

    /// From `start` to the last token taken.
    fn since(&self, start: Span) -> Span {
        Span::new(start.start as usize, self.behind.max(start.end as usize))
    }

    fn at_end(&mut self) -> bool {
        self.diagnostics.is_full() || *self.peek() == Token::End
    }

    fn is(&mut self, punct: &str) -> bool {
        matches!(self.peek(), Token::Punct(p) if *p == punct)
    }

    fn is_word(&mut self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if *w == word)
    }

    fn eat(&mut self, punct: &str) -> bool {
        let there = self.is(punct);
        if there {
            self.take();
        }
        there
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let there = self.is_word(word);
        if there {
            self.take();
        }
        there
    }

    fn expect(&mut self, punct: &str) -> Parsed<Span> {
        if self.is(punct) { Ok(self.take().1) } else { Err(self.unexpected(&format!("`{punct}`"))) }
    }

    /// A closing bracket; tells where the open one is.
    fn close(&mut self, punct: &str, open: Span) -> Parsed<Span> {
        self.expect(punct).map_err(|error| error.also(open, "opened here"))
    }

    /// Any word, also a keyword, where only a name can stand.
    fn word(&mut self, what: &str) -> Parsed<(&'s str, Span)> {
        match *self.peek() {
            Token::Word(word) => Ok((word, self.take().1)),
            _ => Err(self.unexpected(what)),
        }
    }

    /// A word that is no keyword.
    fn name(&mut self, what: &str) -> Parsed<(&'s str, Span)> {
        match *self.peek() {
            Token::Word(word) if types::is_keyword(word) => {
                let span = self.span();
                Err(Diagnostic::error(
                    span,
                    format!("`{word}` is a word of the language, {what} is expected here"),
                ))
            }
            _ => self.word(what),
        }
    }

    /// That the next token is none of what may stand here.
    fn unexpected(&mut self, wanted: &str) -> Diagnostic {
        let (token, span) = self.peek_at(0).clone();
        // What is missing belongs behind what was there, not before what follows.
        let at = if self.behind > 0 { Span::new(self.behind.saturating_sub(1), self.behind) } else { span };
        match token {
            Token::End => Diagnostic::error(at, format!("{wanted} is expected, and the source ends")),
            Token::Punct("#") => Diagnostic::error(span, "there is no preprocessor").help(NO_PREPROCESSOR),
            Token::Word(word @ ("and" | "or" | "not")) => {
                let error =
                    Diagnostic::error(span, format!("{wanted} is expected here")).label("instead of this");
                let sign =
                    ["&&", "||", "!"][["and", "or", "not"].iter().position(|w| *w == word).unwrap_or(0)];
                error.help(format!("`{word}` is written {sign}"))
            }
            _ if wanted == "`;`" => Diagnostic::error(at, "`;` is missing").label("behind this"),
            _ => Diagnostic::error(span, format!("{wanted} is expected here")).label("instead of this"),
        }
    }

    /// Runs `rule` one level deeper.
    fn deeper<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth >= DEPTH_LIMIT {
            let span = self.span();
            return Err(Diagnostic::error(
                span,
                format!("nested too deeply: more than {DEPTH_LIMIT} levels"),
            ));
        }
        self.depth += 1;
        let filter = std::mem::replace(&mut self.in_filter, false);
        let value = rule(self);
        self.in_filter = filter;
        self.depth -= 1;
        value
    }

    /// Notes an error, unless it comes of what was no token.
    fn note(&mut self, error: Diagnostic) {
        if !std::mem::take(&mut self.garbled) {
            self.diagnostics.push(error);
        }
    }

    /// Notes `error` and goes on behind the statement it is in.
    fn recover(&mut self, error: Diagnostic) {
        self.note(error);
        let mut open = 0usize;
        loop {
            match self.peek() {
                Token::End => return,
                Token::Punct(";") if open == 0 => {
                    self.take();
                    return;
                }
                Token::Punct("{" | "{%") => open += 1,
                Token::Punct("}" | "%}") if open <= 1 => {
                    // The end of the block that was begun, or of the one around.
                    if open == 1 || self.depth == 0 {
                        self.take();
                    }
                    return;
                }
                Token::Punct("}" | "%}") => open -= 1,
                _ => {}
            }
            self.take();
        }
    }
}
