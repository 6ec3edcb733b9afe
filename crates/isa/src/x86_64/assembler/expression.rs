//! Values: numbers, and names with an offset.

use std::ops::Range;

use super::error::Problem;
use super::token::{Cursor, Token};
use crate::Addr;

/// What names stand for while a statement is encoded.
pub(super) struct Names<'a> {
    /// The address of the statement.
    pub here: Addr,
    /// Labels and symbols.
    pub lookup: &'a dyn Fn(&str) -> Option<Addr>,
}

/// A number, or the address that a name stands for plus a number.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Expression {
    pub number: i128,
    pub name: Option<(String, Range<usize>)>,
}

impl Expression {
    /// A number.
    pub(super) fn number(number: i128) -> Expression {
        Expression { number, name: None }
    }

    /// The value, wrapped to 64 bits where a name is part of it.
    pub(super) fn value(&self, names: &Names<'_>) -> Result<i128, Problem> {
        let Some((name, span)) = &self.name else { return Ok(self.number) };
        let base = match name.as_str() {
            "." | "$" => names.here,
            name => (names.lookup)(name).ok_or_else(|| {
                Problem::new(span.clone(), format!("nothing is called `{name}`"))
                    .help("a name is a label of this text, or a symbol of the program: NAME, MODULE!NAME")
            })?,
        };
        Ok(i128::from(base.0.wrapping_add(self.number as u64)))
    }

    /// Adds `sign` times `other`.
    pub(super) fn add(&mut self, other: Expression, sign: i128, span: &Range<usize>) -> Result<(), Problem> {
        if other.name.is_some() && (sign != 1 || self.name.is_some()) {
            return Err(Problem::new(span.clone(), "only one name can be part of a value, and be added"));
        }
        self.name = self.name.take().or(other.name);
        self.number = self.number.wrapping_add(other.number.wrapping_mul(sign));
        Ok(())
    }
}

/// A sum of products.
pub(super) fn expression(cursor: &mut Cursor<'_>) -> Result<Expression, Problem> {
    let mut sum = Expression::default();
    let mut sign = match () {
        () if cursor.mark('-') => -1,
        () => {
            cursor.mark('+');
            1
        }
    };
    loop {
        let span = cursor.span();
        let term = product(cursor)?;
        sum.add(term, sign, &span)?;
        sign = match cursor.peek() {
            Some(Token::Mark('+')) => 1,
            Some(Token::Mark('-')) => -1,
            _ => return Ok(sum),
        };
        cursor.next();
    }
}

/// Factors between `*`.
pub(super) fn product(cursor: &mut Cursor<'_>) -> Result<Expression, Problem> {
    let mut product = factor(cursor)?;
    while cursor.mark('*') {
        let span = cursor.span();
        let other = factor(cursor)?;
        if product.name.is_some() || other.name.is_some() {
            return Err(Problem::new(span, "a name cannot be multiplied"));
        }
        product.number = product.number.wrapping_mul(other.number);
    }
    Ok(product)
}

fn factor(cursor: &mut Cursor<'_>) -> Result<Expression, Problem> {
    let span = cursor.span();
    match cursor.peek() {
        Some(Token::Number(number)) => {
            cursor.next();
            Ok(Expression::number(*number))
        }
        Some(Token::Word(name)) => {
            cursor.next();
            Ok(Expression { number: 0, name: Some((name.clone(), span)) })
        }
        Some(Token::Mark('$')) => {
            cursor.next();
            Ok(Expression { number: 0, name: Some(("$".to_owned(), span)) })
        }
        Some(Token::Mark('-')) => {
            cursor.next();
            let negated = factor(cursor)?;
            match negated.name {
                None => Ok(Expression::number(negated.number.wrapping_neg())),
                Some(_) => Err(Problem::new(span, "a name cannot be negated")),
            }
        }
        Some(Token::Mark('~')) => {
            cursor.next();
            let inner = factor(cursor)?;
            match inner.name {
                None => Ok(Expression::number(!inner.number)),
                Some(_) => Err(Problem::new(span, "a name cannot be inverted")),
            }
        }
        Some(Token::Mark('(')) => {
            cursor.next();
            let inner = expression(cursor)?;
            cursor.expect(')', "behind the value")?;
            Ok(inner)
        }
        _ => Err(Problem::new(span, "a number or a name is missing here")),
    }
}
