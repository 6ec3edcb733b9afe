//! Expressions, with the precedence of C.

use super::{HEIGHT_LIMIT, Parsed, Parser, types};
use crate::language::ast::{BinaryOp, Domain, Expr, ExprKind, Name, UnaryOp};
use crate::language::lexer::Token;
use crate::language::{Diagnostic, Span, suggest};

/// Most arguments of a call, keys of a map.
const ARGUMENTS: usize = 64;

impl<'s> Parser<'s> {
    /// Any expression, with commas.
    pub(super) fn expression(&mut self) -> Parsed<Expr> {
        let mut left = self.assignment()?;
        while self.eat(",") {
            let right = self.assignment()?;
            left = self.node(ExprKind::Comma(left.into(), right.into()))?;
        }
        Ok(left)
    }

    /// An expression without commas outside of brackets.
    pub(super) fn assignment(&mut self) -> Parsed<Expr> {
        self.nested(|p| {
            let target = p.conditional()?;
            let op = match *p.peek() {
                Token::Punct("=") => None,
                Token::Punct(punct) => match assignment_operator(punct) {
                    Some(op) => Some(op),
                    None => return Ok(target),
                },
                _ => return Ok(target),
            };
            p.take();
            let value = p.assignment()?;
            p.node(ExprKind::Assign { op, target: target.into(), value: value.into() })
        })
    }

    /// One level deeper, still in the filter if it was in one.
    fn nested<T>(&mut self, rule: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let filter = self.in_filter;
        self.deeper(|p| {
            p.in_filter = filter;
            rule(p)
        })
    }

    fn conditional(&mut self) -> Parsed<Expr> {
        let condition = self.binary(1)?;
        if !self.eat("?") {
            return Ok(condition);
        }
        let then = if self.is(":") { None } else { Some(Box::new(self.deeper(Self::expression)?)) };
        self.expect(":")?;
        let otherwise = self.nested(Self::conditional)?;
        self.node(ExprKind::Conditional { condition: condition.into(), then, otherwise: otherwise.into() })
    }

    /// Operators that bind at least as tightly as `least`.
    fn binary(&mut self, least: u8) -> Parsed<Expr> {
        let mut left = self.unary()?;
        loop {
            let Token::Punct(punct) = *self.peek() else { return Ok(left) };
            let Some(op) = binary_operator(punct).filter(|op| op.precedence() >= least) else {
                return Ok(left);
            };
            if self.in_filter && op == BinaryOp::Div && matches!(self.peek_at(1).0, Token::Punct("{" | "{%"))
            {
                return Ok(left);
            }
            self.take();
            let right = self.binary(op.precedence() + 1)?;
            left = self.node(ExprKind::Binary(op, left.into(), right.into()))?;
        }
    }

    fn unary(&mut self) -> Parsed<Expr> {
        let start = self.span();
        let is_cast = self.is("(") && self.at_cast();
        let op = match *self.peek() {
            Token::Punct(op @ ("++" | "--")) => {
                self.take();
                let target = self.nested(Self::unary)?;
                let kind = ExprKind::Step { up: op == "++", postfix: false, target: target.into() };
                return self.node_at(kind, start);
            }
            Token::Punct("-") => UnaryOp::Negate,
            Token::Punct("+") => UnaryOp::Plus,
            Token::Punct("!") => UnaryOp::Not,
            Token::Punct("~") => UnaryOp::Complement,
            Token::Punct("*") => UnaryOp::Deref,
            Token::Punct("&") => UnaryOp::AddressOf,
            Token::Word("sizeof") => return self.sizeof(),
            Token::Punct("(") if is_cast => {
                let open = self.take().1;
                let ty = self.type_name()?;
                self.close(")", open)?;
                let value = self.nested(Self::unary)?;
                return self.node_at(ExprKind::Cast(ty, value.into()), start);
            }
            _ => return self.postfix(),
        };
        self.take();
        let operand = self.nested(Self::unary)?;
        self.node_at(ExprKind::Unary(op, operand.into()), start)
    }

    fn sizeof(&mut self) -> Parsed<Expr> {
        let start = self.take().1;
        let next = self.peek_at(1).0.clone();
        let type_follows = self.is("(") && {
            // `sizeof (name)` is left to whoever knows names.
            let word = matches!(next, Token::Word(word) if types::is_keyword(word) && word != "sizeof");
            word || self.at_type_in_brackets()
        };
        if type_follows {
            let open = self.take().1;
            let mut ty = self.type_name()?;
            ty.arrays = self.arrays()?;
            self.close(")", open)?;
            return self.node_at(ExprKind::SizeofType(ty), start);
        }
        let value = self.nested(Self::unary)?;
        self.node_at(ExprKind::Sizeof(value.into()), start)
    }

    fn at_type_in_brackets(&mut self) -> bool {
        matches!(self.peek_at(1).0, Token::Word(word) if word.ends_with("_t") || types::begins_type(word))
            && matches!(self.peek_at(2).0, Token::Punct(")" | "*" | "["))
    }

    fn postfix(&mut self) -> Parsed<Expr> {
        let start = self.span();
        let mut expr = self.primary()?;
        loop {
            let kind = match *self.peek() {
                Token::Punct("(") => {
                    let arguments = self.list("(", ")")?;
                    ExprKind::Call(expr.into(), arguments)
                }
                Token::Punct("[") => {
                    let open = self.take().1;
                    let index = self.deeper(Self::expression)?;
                    self.close("]", open)?;
                    ExprKind::Index(expr.into(), index.into())
                }
                Token::Punct(op @ ("." | "->")) => {
                    self.take();
                    let (field, field_span) = self.field()?;
                    ExprKind::Member { base: expr.into(), field, field_span, arrow: op == "->" }
                }
                Token::Punct(op @ ("++" | "--")) => {
                    self.take();
                    ExprKind::Step { up: op == "++", postfix: true, target: expr.into() }
                }
                _ => return Ok(expr),
            };
            expr = self.node_at(kind, start)?;
        }
    }

    /// The name of a field; a number for a field of a Rust tuple.
    fn field(&mut self) -> Parsed<(String, Span)> {
        if let Token::Int(number, ..) = *self.peek() {
            let span = self.take().1;
            return Ok((format!("__{number}"), span));
        }
        self.word("the name of a field").map(|(word, span)| (word.to_owned(), span))
    }

    /// Expressions with commas between brackets.
    fn list(&mut self, open: &str, close: &str) -> Parsed<Vec<Expr>> {
        let bracket = self.expect(open)?;
        let mut list = Vec::new();
        self.deeper(|p| {
            while !p.is(close) {
                if p.is(";") || p.is("}") {
                    return p.close(close, bracket).map(|_| ());
                }
                list.push(p.assignment()?);
                if list.len() > ARGUMENTS {
                    let span = p.span();
                    return Err(Diagnostic::error(span, format!("more than {ARGUMENTS} values")));
                }
                if !p.eat(",") {
                    break;
                }
            }
            p.close(close, bracket).map(|_| ())
        })?;
        Ok(list)
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let start = self.span();
        let kind = match self.peek().clone() {
            Token::Int(value, unsigned, long) => ExprKind::Int { value, unsigned, long },
            Token::Float(value, single) => ExprKind::Float { value, single },
            Token::Char(byte) => ExprKind::Char(byte),
            Token::Scratch(name) => ExprKind::Scratch(name.to_owned()),
            Token::Positional(number) => ExprKind::Positional(number),
            Token::ArgumentCount => ExprKind::ArgumentCount,
            Token::Str(_) => return self.strings(),
            Token::Map(name) => {
                self.take();
                let keys = if self.is("[") { self.list("[", "]")? } else { Vec::new() };
                return self.node_at(ExprKind::Map { name: name.to_owned(), keys }, start);
            }
            Token::Punct("(") => {
                let open = self.take().1;
                let mut inner = self.deeper(Self::expression)?;
                self.close(")", open)?;
                inner.span = self.since(start);
                return Ok(inner);
            }
            Token::Punct("::") => {
                self.take();
                let (word, _) = self.name("a name")?;
                let path = self.rest_of_path(word)?;
                return self.node_at(ExprKind::Name(Name { domain: Some(Domain::Global), path }), start);
            }
            Token::Word(_) => return self.named(),
            _ => return Err(self.unexpected("an expression")),
        };
        self.take();
        self.node_at(kind, start)
    }

    /// Strings beside each other are one.
    fn strings(&mut self) -> Parsed<Expr> {
        let start = self.span();
        let mut text = Vec::new();
        while let Token::Str(part) = self.peek() {
            text.extend_from_slice(part);
            self.take();
        }
        self.node_at(ExprKind::Str(text), start)
    }

    /// A name: ``domain`name``, `A::B`, or plain.
    fn named(&mut self) -> Parsed<Expr> {
        let start = self.span();
        if matches!(self.peek_at(1).0, Token::Punct("`")) {
            let (word, span) = self.word("a domain")?;
            let Some(domain) = Domain::from_word(word) else {
                let words = Domain::WORDS.iter().map(|(word, _)| *word);
                let near = suggest::nearest(word, words);
                let error =
                    Diagnostic::error(span, format!("there is no domain `{word}`")).did_you_mean(&near);
                let all = "domains are inf, func, global, local, param, reg, point, dyninst and default";
                return Err(if near.is_empty() { error.help(all) } else { error });
            };
            self.take();
            let path = if let Token::Str(text) = self.peek().clone() {
                self.take();
                String::from_utf8_lossy(&text).into_owned()
            } else {
                let (word, _) = self.word("a name")?;
                self.rest_of_path(word)?
            };
            return self.node_at(ExprKind::Name(Name { domain: Some(domain), path }), start);
        }
        let (word, _) = self.name("an expression")?;
        let path = self.rest_of_path(word)?;
        self.node_at(ExprKind::Name(Name { domain: None, path }), start)
    }

    /// A node that begins where its first operand does.
    fn node(&mut self, kind: ExprKind) -> Parsed<Expr> {
        let start = match &kind {
            ExprKind::Comma(first, _) | ExprKind::Binary(_, first, _) => first.span,
            ExprKind::Assign { target, .. } => target.span,
            ExprKind::Conditional { condition, .. } => condition.span,
            _ => self.span(),
        };
        self.node_at(kind, start)
    }

    fn node_at(&mut self, kind: ExprKind, start: Span) -> Parsed<Expr> {
        let span = self.since(start);
        let height = 1 + kind.operands().map(|operand| operand.height).max().unwrap_or(0);
        if height > HEIGHT_LIMIT {
            let error =
                Diagnostic::error(span, format!("this expression has more than {HEIGHT_LIMIT} levels"));
            return Err(error.help("keep a part of it in a variable"));
        }
        Ok(Expr { kind, span, height })
    }
}

impl ExprKind {
    /// The expressions right below.
    fn operands(&self) -> impl Iterator<Item = &Expr> {
        let (fixed, list): ([Option<&Expr>; 3], &[Expr]) = match self {
            ExprKind::Unary(_, a) | ExprKind::Cast(_, a) | ExprKind::Sizeof(a) => {
                ([Some(a), None, None], &[])
            }
            ExprKind::Step { target: a, .. } | ExprKind::Member { base: a, .. } => {
                ([Some(a), None, None], &[])
            }
            ExprKind::Binary(_, a, b) | ExprKind::Comma(a, b) => ([Some(a), Some(b), None], &[]),
            ExprKind::Index(a, b) => ([Some(a), Some(b), None], &[]),
            ExprKind::Assign { target, value, .. } => ([Some(target), Some(value), None], &[]),
            ExprKind::Conditional { condition, then, otherwise } => {
                ([Some(condition), then.as_deref(), Some(otherwise)], &[])
            }
            ExprKind::Call(callee, arguments) => ([Some(callee), None, None], arguments),
            ExprKind::Map { keys, .. } => ([None; 3], keys),
            _ => ([None; 3], &[]),
        };
        fixed.into_iter().flatten().chain(list)
    }
}

fn binary_operator(punct: &str) -> Option<BinaryOp> {
    use BinaryOp::{
        Add, And, Div, Eq, Ge, Gt, Le, LogicalAnd, LogicalOr, Lt, Match, Mul, Ne, Or, Rem, Shl, Shr, Sub, Xor,
    };
    let all = [
        Mul, Div, Rem, Add, Sub, Shl, Shr, Lt, Le, Gt, Ge, Eq, Ne, And, Xor, Or, LogicalAnd, LogicalOr, Match,
    ];
    all.into_iter().find(|op| op.symbol() == punct)
}

fn assignment_operator(punct: &str) -> Option<BinaryOp> {
    let op = binary_operator(punct.strip_suffix('=')?)?;
    let assigns = matches!(punct, "+=" | "-=" | "*=" | "/=" | "%=" | "<<=" | ">>=" | "&=" | "|=" | "^=");
    assigns.then_some(op)
}
