//! From the syntax of an expression to a condition on points: types are checked, names are looked up.

use incise_image::Glob;
use incise_image::suggest::nearest;
use incise_snippet::language::ast::{BinaryOp, Expr, ExprKind, Name, UnaryOp};
use incise_snippet::language::{Diagnostic, Span};

use super::fact::{FACTS, Fact, possible};
use crate::flow::PointView;

/// What holds at a point or does not.
pub(super) enum Condition {
    Not(Box<Condition>),
    Both(Box<Condition>, Box<Condition>),
    Either(Box<Condition>, Box<Condition>),
    Flag(fn(&PointView<'_>) -> bool),
    Constant(bool),
    /// Any of the names is the other's.
    Same(Names, Names),
    Fits(Names, Glob),
    Compare(BinaryOp, Number, Number),
}

pub(super) enum Names {
    Fact(fn(&PointView<'_>) -> Vec<String>),
    Text(String),
}

pub(super) enum Number {
    Constant(i64),
    Fact(fn(&PointView<'_>) -> Option<i64>),
    Of(BinaryOp, Box<Number>, Box<Number>),
}

/// A part of an expression, by its type.
enum Part {
    Condition(Condition),
    Names(Names),
    Number(Number),
}

type Compiled<T> = Result<T, Diagnostic>;

impl Condition {
    pub(super) fn holds(&self, view: &PointView<'_>) -> bool {
        match self {
            Condition::Not(one) => !one.holds(view),
            Condition::Both(a, b) => a.holds(view) && b.holds(view),
            Condition::Either(a, b) => a.holds(view) || b.holds(view),
            Condition::Flag(fact) => fact(view),
            Condition::Constant(value) => *value,
            Condition::Same(a, b) => {
                let b = b.at(view);
                a.at(view).iter().any(|name| b.contains(name))
            }
            Condition::Fits(names, glob) => names.at(view).iter().any(|name| glob.matches(name)),
            Condition::Compare(op, a, b) => {
                let (Some(a), Some(b)) = (a.at(view), b.at(view)) else { return false };
                match op {
                    BinaryOp::Lt => a < b,
                    BinaryOp::Le => a <= b,
                    BinaryOp::Gt => a > b,
                    BinaryOp::Ge => a >= b,
                    _ => a == b,
                }
            }
        }
    }
}

impl Names {
    fn at(&self, view: &PointView<'_>) -> Vec<String> {
        match self {
            Names::Fact(fact) => fact(view),
            Names::Text(text) => vec![text.clone()],
        }
    }
}

impl Number {
    /// `None` where a fact is missing, or the result has no meaning.
    fn at(&self, view: &PointView<'_>) -> Option<i64> {
        let (op, a, b) = match self {
            Number::Constant(value) => return Some(*value),
            Number::Fact(fact) => return fact(view),
            Number::Of(op, a, b) => (op, a.at(view)?, b.at(view)?),
        };
        match op {
            BinaryOp::Add => a.checked_add(b),
            BinaryOp::Sub => a.checked_sub(b),
            BinaryOp::Mul => a.checked_mul(b),
            BinaryOp::Div => a.checked_div(b),
            BinaryOp::Rem => a.checked_rem(b),
            BinaryOp::And => Some(a & b),
            _ => None,
        }
    }
}

/// The condition that an expression is.
pub(super) fn condition(expr: &Expr) -> Compiled<Condition> {
    match part(expr)? {
        Part::Condition(condition) => Ok(condition),
        Part::Number(_) => {
            Err(error(expr, "this is a number, and no condition").help("compare it, as in `… > 0`"))
        }
        Part::Names(_) => Err(error(expr, "this is a name, and no condition")
            .help("compare it, as in `… == \"main\"`, or with a pattern: `… ~ \"str*\"`")),
    }
}

fn error(expr: &Expr, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(expr.span, message)
}

fn part(expr: &Expr) -> Compiled<Part> {
    match &expr.kind {
        ExprKind::Int { value, .. } => {
            let number = i64::try_from(*value).map_err(|_| error(expr, "this number is too large"))?;
            Ok(Part::Number(Number::Constant(number)))
        }
        ExprKind::Str(bytes) => Ok(Part::Names(Names::Text(String::from_utf8_lossy(bytes).into_owned()))),
        ExprKind::Name(name) => fact(name, expr),
        ExprKind::Unary(UnaryOp::Not, inner) => {
            Ok(Part::Condition(Condition::Not(Box::new(condition(inner)?))))
        }
        ExprKind::Unary(UnaryOp::Negate, inner) => {
            let zero = Box::new(Number::Constant(0));
            Ok(Part::Number(Number::Of(BinaryOp::Sub, zero, Box::new(number(inner)?))))
        }
        ExprKind::Binary(op, left, right) => binary(*op, left, right, expr),
        ExprKind::Assign { op: None, .. } => {
            Err(error(expr, "a filter changes nothing").help("to compare, write `==`"))
        }
        _ => Err(error(expr, "this has no meaning in a filter of points")
            .help("filters know facts, numbers, strings, comparisons, `&&`, `||`, `!` and `~`")),
    }
}

fn fact(name: &Name, expr: &Expr) -> Compiled<Part> {
    let constant = match name.path.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    };
    if let Some(value) = constant {
        return Ok(Part::Condition(Condition::Constant(value)));
    }
    match Fact::named(&name.path).filter(|_| name.domain.is_none()) {
        Some(Fact::Flag(flag)) => Ok(Part::Condition(Condition::Flag(flag))),
        Some(Fact::Number(number)) => Ok(Part::Number(Number::Fact(number))),
        Some(Fact::Names(names)) => Ok(Part::Names(Names::Fact(names))),
        None => {
            let near = nearest(&name.path, FACTS.iter().map(|(known, _)| *known));
            let error = error(expr, format!("no fact about points is called `{}`", name.path));
            let all: Vec<&str> = FACTS.iter().map(|(known, _)| *known).collect();
            Err(match near.is_empty() {
                true => error.help(format!("there are: {}", all.join(", "))),
                false => error.did_you_mean(&near),
            })
        }
    }
}

fn number(expr: &Expr) -> Compiled<Number> {
    match part(expr)? {
        Part::Number(number) => Ok(number),
        _ => Err(error(expr, "a number belongs here")),
    }
}

fn binary(op: BinaryOp, left: &Expr, right: &Expr, whole: &Expr) -> Compiled<Part> {
    match op {
        BinaryOp::LogicalAnd => {
            Ok(Part::Condition(Condition::Both(condition(left)?.into(), condition(right)?.into())))
        }
        BinaryOp::LogicalOr => {
            Ok(Part::Condition(Condition::Either(condition(left)?.into(), condition(right)?.into())))
        }
        BinaryOp::Match => {
            let Part::Names(names) = part(left)? else {
                return Err(error(left, "`~` compares names, and this is none"));
            };
            let Part::Names(Names::Text(pattern)) = part(right)? else {
                return Err(error(right, "behind `~` belongs a pattern").help("in quotes, as in \"str*\""));
            };
            Ok(Part::Condition(Condition::Fits(names, Glob::new(&pattern))))
        }
        BinaryOp::Eq | BinaryOp::Ne => {
            let equal = equal(left, right, whole.span)?;
            Ok(Part::Condition(if op == BinaryOp::Eq { equal } else { Condition::Not(equal.into()) }))
        }
        BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => {
            Ok(Part::Condition(Condition::Compare(op, number(left)?, number(right)?)))
        }
        BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Rem | BinaryOp::And => {
            Ok(Part::Number(Number::Of(op, number(left)?.into(), number(right)?.into())))
        }
        BinaryOp::Shl | BinaryOp::Shr | BinaryOp::Xor | BinaryOp::Or => {
            let error = error(whole, format!("`{}` has no meaning in a filter of points", op.symbol()));
            Err(if op == BinaryOp::Or { error.help("for one or the other, write `||`") } else { error })
        }
    }
}

fn equal(left: &Expr, right: &Expr, span: Span) -> Compiled<Condition> {
    match (part(left)?, part(right)?) {
        (Part::Number(a), Part::Number(b)) => Ok(Condition::Compare(BinaryOp::Eq, a, b)),
        (Part::Names(a), Part::Names(b)) => {
            sensible(left, right, &b)?;
            sensible(right, left, &a)?;
            Ok(Condition::Same(a, b))
        }
        (Part::Condition(_), _) | (_, Part::Condition(_)) => {
            Err(Diagnostic::error(span, "what holds or does not is not compared")
                .help("write it alone, or with `!` in front"))
        }
        _ => Err(Diagnostic::error(span, "a name and a number are never equal")),
    }
}

/// Refuses a text that the fact beside it can never be.
fn sensible(fact: &Expr, text: &Expr, value: &Names) -> Compiled<()> {
    let (ExprKind::Name(name), Names::Text(value)) = (&fact.kind, value) else { return Ok(()) };
    let Some(known) = possible(&name.path).filter(|known| !known.contains(value)) else { return Ok(()) };
    let near = nearest(value, known.iter().map(String::as_str));
    let error = error(text, format!("{} is never \"{value}\"", name.path));
    let pattern = value.contains(['*', '?', '[']);
    Err(match pattern {
        true => error.help("to compare with a pattern, write `~`"),
        false => error.did_you_mean(&near),
    })
}
