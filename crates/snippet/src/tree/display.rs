//! Trees as text, like C.

use std::fmt::{self, Display, Formatter, Write};

use super::expr::{Expr, Node, PointFact, Register, SystemFact};
use super::operator::{BinaryOp, UnaryOp};
use super::program::{Local, LocalId, Program};
use super::stmt::{Place, Stmt};
use super::table::{Aggregate, Map, Update};
use super::types::Type;

impl Display for Program {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (index, local) in self.locals().iter().enumerate() {
            let name = Name(LocalId(index as u32), self.locals());
            match local.len {
                Some(len) => writeln!(f, "{} {name}[{len}];", local.ty)?,
                None => writeln!(f, "{} {name};", local.ty)?,
            }
        }
        self.body().iter().try_for_each(|stmt| statement(f, stmt, self.locals(), 0))
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        expr(f, self, &[], 0)
    }
}

/// A local by its name, or its number where names are not known.
struct Name<'a>(LocalId, &'a [Local]);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.1.get(self.0.0 as usize) {
            Some(local) if !local.name.is_empty() => f.write_str(&local.name),
            _ => write!(f, "_{}", self.0.0),
        }
    }
}

/// How tightly an operator binds, in C.
fn strength(op: BinaryOp) -> u8 {
    use BinaryOp::*;
    match op {
        Multiply | Divide | Remainder => 10,
        Add | Subtract => 9,
        ShiftLeft | ShiftRight => 8,
        Less | LessEqual | Greater | GreaterEqual => 7,
        Equal | NotEqual => 6,
        BitAnd => 5,
        BitXor => 4,
        BitOr => 3,
        RotateLeft | RotateRight | Minimum | Maximum => 12,
    }
}

const UNARY: u8 = 11;
const AND: u8 = 2;
const OR: u8 = 1;

fn expr(f: &mut Formatter<'_>, e: &Expr, locals: &[Local], around: u8) -> fmt::Result {
    let infix = |f: &mut Formatter<'_>, a: &Expr, name: &str, b: &Expr, level: u8| {
        let open = level < around;
        if open {
            f.write_char('(')?;
        }
        expr(f, a, locals, level)?;
        write!(f, " {name} ")?;
        expr(f, b, locals, level + 1)?;
        if open { f.write_char(')') } else { Ok(()) }
    };
    match e.node() {
        Node::Invalid(error) => write!(f, "<{error}>"),
        Node::Constant(constant) => write!(f, "{constant}"),
        Node::Text(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
        Node::Local(id) => write!(f, "{}", Name(*id, locals)),
        Node::Element(id, index) => {
            write!(f, "{}[", Name(*id, locals))?;
            expr(f, index, locals, 0)?;
            f.write_char(']')
        }
        Node::Variable(variable) => f.write_str(variable.name()),
        Node::Register(register) => write!(f, "{register}"),
        Node::Argument(n) => write!(f, "arg{n}"),
        Node::FloatArgument(n) => write!(f, "farg{n}"),
        Node::Returned => f.write_str("retval"),
        Node::FloatReturned => f.write_str("fretval"),
        Node::Point(fact) => f.write_str(match fact {
            PointFact::EffectiveAddress => "point`effective_address",
            PointFact::BytesAccessed => "point`bytes_accessed",
            PointFact::OriginalAddress => "point`address",
            PointFact::Target => "point`target",
        }),
        Node::System(fact) => f.write_str(match fact {
            SystemFact::Thread => "tid",
            SystemFact::Process => "pid",
            SystemFact::Cpu => "cpu",
            SystemFact::Cycles => "cycles",
            SystemFact::Nanoseconds => "nsecs",
        }),
        Node::Load(address) => {
            write!(f, "*({}*)", e.ty())?;
            expr(f, address, locals, UNARY)
        }
        Node::ReadText(address, most) => {
            f.write_str("str(")?;
            expr(f, address, locals, 0)?;
            if let Some(most) = most {
                f.write_str(", ")?;
                expr(f, most, locals, 0)?;
            }
            if let Type::Text(len) = e.ty() {
                write!(f, ", {len}")?;
            }
            f.write_char(')')
        }
        Node::Command => f.write_str("comm"),
        Node::Stack(_) => match e.ty() {
            Type::Frames(depth) => write!(f, "ustack({depth})"),
            _ => f.write_str("ustack"),
        },
        Node::Unary(op @ (UnaryOp::Negate | UnaryOp::Not | UnaryOp::LogicNot), a) => {
            f.write_str(op.name())?;
            expr(f, a, locals, UNARY)
        }
        Node::Unary(op, a) => call(f, op.name(), std::slice::from_ref(a), locals),
        Node::Binary(op, a, b) if strength(*op) > UNARY => {
            call(f, op.name(), &[a.clone(), b.clone()], locals)
        }
        Node::Binary(op, a, b) => infix(f, a, op.name(), b, strength(*op)),
        Node::And(a, b) => infix(f, a, "&&", b, AND),
        Node::Or(a, b) => infix(f, a, "||", b, OR),
        Node::Choose(a, b, c) => {
            f.write_char('(')?;
            expr(f, a, locals, OR)?;
            f.write_str(" ? ")?;
            expr(f, b, locals, OR)?;
            f.write_str(" : ")?;
            expr(f, c, locals, OR)?;
            f.write_char(')')
        }
        Node::Cast(a) => {
            write!(f, "({})", e.ty())?;
            expr(f, a, locals, UNARY)
        }
        Node::Reinterpret(a) => {
            write!(f, "bits<{}>", e.ty())?;
            call(f, "", std::slice::from_ref(a), locals)
        }
        Node::Call(callee, values) => call(f, &callee.name, values, locals),
        Node::Atomic(op, target, value) => {
            write!(f, "{}(", op.name())?;
            place(f, target, locals)?;
            f.write_str(", ")?;
            expr(f, value, locals, 0)?;
            f.write_char(')')
        }
        Node::CompareExchange(target, expected, new) => {
            f.write_str("compare_exchange(")?;
            place(f, target, locals)?;
            f.write_str(", ")?;
            list(f, &[expected.clone(), new.clone()], locals)?;
            f.write_char(')')
        }
        Node::MapValue(map, keys) => map_at(f, map, keys, locals),
        Node::MapHas(map, keys) => {
            f.write_str("has(")?;
            map_at(f, map, keys, locals)?;
            f.write_char(')')
        }
    }
}

fn list(f: &mut Formatter<'_>, exprs: &[Expr], locals: &[Local]) -> fmt::Result {
    for (index, e) in exprs.iter().enumerate() {
        f.write_str(if index == 0 { "" } else { ", " })?;
        expr(f, e, locals, 0)?;
    }
    Ok(())
}

fn call(f: &mut Formatter<'_>, name: &str, exprs: &[Expr], locals: &[Local]) -> fmt::Result {
    write!(f, "{name}(")?;
    list(f, exprs, locals)?;
    f.write_char(')')
}

fn map_at(f: &mut Formatter<'_>, map: &Map, keys: &[Expr], locals: &[Local]) -> fmt::Result {
    write!(f, "@{}", map.name())?;
    if keys.is_empty() {
        return Ok(());
    }
    f.write_char('[')?;
    list(f, keys, locals)?;
    f.write_char(']')
}

fn place(f: &mut Formatter<'_>, target: &Place, locals: &[Local]) -> fmt::Result {
    match target {
        Place::Local(id, _) => write!(f, "{}", Name(*id, locals)),
        Place::Element(id, _, index) => {
            write!(f, "{}[", Name(*id, locals))?;
            expr(f, index, locals, 0)?;
            f.write_char(']')
        }
        Place::Variable(variable) => f.write_str(variable.name()),
        Place::Register(register) => write!(f, "{register}"),
        Place::Memory(ty, address) => {
            write!(f, "*({ty}*)")?;
            expr(f, address, locals, UNARY)
        }
    }
}

impl Display for Register {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Register::General(gpr) => write!(f, "reg`{gpr}"),
            Register::Flags => f.write_str("reg`flags"),
            Register::Vector(n) => write!(f, "reg`xmm{n}"),
        }
    }
}

fn body(f: &mut Formatter<'_>, stmts: &[Stmt], locals: &[Local], depth: usize) -> fmt::Result {
    f.write_str("{\n")?;
    stmts.iter().try_for_each(|stmt| statement(f, stmt, locals, depth + 1))?;
    indent(f, depth)?;
    f.write_char('}')
}

fn indent(f: &mut Formatter<'_>, depth: usize) -> fmt::Result {
    (0..depth).try_for_each(|_| f.write_str("    "))
}

fn statement(f: &mut Formatter<'_>, stmt: &Stmt, locals: &[Local], depth: usize) -> fmt::Result {
    if let Stmt::Sequence(stmts) = stmt {
        return stmts.iter().try_for_each(|stmt| statement(f, stmt, locals, depth));
    }
    indent(f, depth)?;
    match stmt {
        Stmt::Invalid(error) => write!(f, "<{error}>;")?,
        Stmt::Sequence(_) => {}
        Stmt::Evaluate(value) => {
            expr(f, value, locals, 0)?;
            f.write_char(';')?;
        }
        Stmt::Assign(target, value) => {
            place(f, target, locals)?;
            f.write_str(" = ")?;
            expr(f, value, locals, 0)?;
            f.write_char(';')?;
        }
        Stmt::Add(variable, value) => {
            write!(f, "{} += ", variable.name())?;
            expr(f, value, locals, 0)?;
            f.write_char(';')?;
        }
        Stmt::If(condition, then, otherwise) => {
            f.write_str("if (")?;
            expr(f, condition, locals, 0)?;
            f.write_str(") ")?;
            body(f, then, locals, depth)?;
            if !otherwise.is_empty() {
                f.write_str(" else ")?;
                body(f, otherwise, locals, depth)?;
            }
        }
        Stmt::Loop { before, body: round, step, after } => {
            if after.is_some() {
                f.write_str("do ")?;
            } else {
                f.write_str("while (")?;
                condition(f, before.as_ref(), locals)?;
                f.write_str(") ")?;
            }
            body(f, round, locals, depth)?;
            if !step.is_empty() {
                f.write_str(" step ")?;
                body(f, step, locals, depth)?;
            }
            if after.is_some() {
                f.write_str(" while (")?;
                condition(f, after.as_ref(), locals)?;
                f.write_str(");")?;
            }
        }
        Stmt::Switch(value, cases) => {
            f.write_str("switch (")?;
            expr(f, value, locals, 0)?;
            f.write_str(") {\n")?;
            for case in cases {
                indent(f, depth)?;
                if case.values.is_empty() {
                    f.write_str("default:")?;
                }
                for (index, value) in case.values.iter().enumerate() {
                    write!(f, "{}case {}:", if index == 0 { "" } else { " " }, *value as i64)?;
                }
                f.write_char('\n')?;
                case.body.iter().try_for_each(|stmt| statement(f, stmt, locals, depth + 1))?;
            }
            indent(f, depth)?;
            f.write_char('}')?;
        }
        Stmt::Break => f.write_str("break;")?,
        Stmt::Continue => f.write_str("continue;")?,
        Stmt::Return(None) => f.write_str("return;")?,
        Stmt::Return(Some(value)) => {
            f.write_str("return ")?;
            expr(f, value, locals, 0)?;
            f.write_char(';')?;
        }
        Stmt::Update(map, keys, update) => {
            map_at(f, map, keys, locals)?;
            f.write_str(" = ")?;
            aggregation(f, map.aggregate(), update, locals)?;
            f.write_char(';')?;
        }
        Stmt::Delete(map, keys) => {
            f.write_str("delete(")?;
            map_at(f, map, keys, locals)?;
            f.write_str(");")?;
        }
        Stmt::Emit(_, record, values) => {
            call(f, record.name(), values, locals)?;
            f.write_char(';')?;
        }
        Stmt::Stop => f.write_str("stop();")?,
        Stmt::Debugger => f.write_str("debugger();")?,
    }
    f.write_char('\n')
}

fn condition(f: &mut Formatter<'_>, condition: Option<&Expr>, locals: &[Local]) -> fmt::Result {
    match condition {
        Some(condition) => expr(f, condition, locals, 0),
        None => f.write_str("true"),
    }
}

fn aggregation(f: &mut Formatter<'_>, how: &Aggregate, update: &Update, locals: &[Local]) -> fmt::Result {
    let name = match how {
        Aggregate::Plain(_) => "",
        Aggregate::Count => "count",
        Aggregate::Sum { .. } => "sum",
        Aggregate::Min { .. } => "min",
        Aggregate::Max { .. } => "max",
        Aggregate::Average { .. } => "avg",
        Aggregate::Stats { .. } => "stats",
        Aggregate::Histogram => "hist",
        Aggregate::Linear { .. } => "lhist",
    };
    match update {
        Update::One => write!(f, "{name}()"),
        Update::Value(value) if name.is_empty() => expr(f, value, locals, 0),
        Update::Value(value) => {
            write!(f, "{name}(")?;
            expr(f, value, locals, 0)?;
            if let Aggregate::Linear { least, most, step } = how {
                write!(f, ", {least}, {most}, {step}")?;
            }
            f.write_char(')')
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::tree::{Type, arg, constant};

    #[test]
    fn brackets_are_where_they_are_needed() {
        let sum = arg(0).add(arg(1)).mul(2).sub(arg(2).sub(arg(3).sub(1)));
        assert_eq!(sum.to_string(), "(arg0 + arg1) * 2 - (arg2 - (arg3 - 1))");
        let both = arg(0).eq(0).or(arg(1).bitand(7).ne(0)).and(arg(2).shr(3).lt(9).is_false());
        assert_eq!(both.to_string(), "(arg0 == 0 || (arg1 & 7) != 0) && !(arg2 >> 3 < 9)");
        let load = arg(0).add(8).load(Type::I32).cast(Type::F64).max(constant(Type::F64, 2.0));
        assert_eq!(load.to_string(), "max((f64)*(i32*)(pointer)(arg0 + 8), 2.0)");
    }
}
