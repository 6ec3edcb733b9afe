//! Maps: made by their first use, and used the same way from then on.

use super::call::counted;
use super::expression::literal;
use super::{Check, Checked, Value};
use crate::language::ast::{BinaryOp, Expr, ExprKind};
use crate::language::output::MapInfo;
use crate::language::types::Type;
use crate::language::{Diagnostic, Span, suggest};
use crate::tree::{self, Aggregate, Map, Update};

/// Bytes of a text that is a key; longer ones are cut.
const KEY_TEXT: u16 = 64;
/// Most keys of one map.
const KEYS: usize = 4;
/// Most buckets of a linear histogram.
const BUCKETS: u64 = 1000;

/// Two values in brackets, where one is kept or shown: tuples of bpftrace.
pub(super) fn no_tuple(value: &Expr) -> Checked<()> {
    match value.kind {
        ExprKind::Comma(..) => {
            let error =
                Diagnostic::error(value.span, "this would be the last value only: there are no tuples");
            Err(error.help("a map has several keys so: @x[a, b]; several values are shown by printf()"))
        }
        _ => Ok(()),
    }
}

impl Check<'_> {
    fn index_of(&self, name: &str) -> Option<usize> {
        self.shared.output.maps.iter().position(|map| map.name == name)
    }

    /// The keys as the map takes them; their types where the map is new.
    fn keys(&mut self, name: &str, keys: &[Expr], span: Span) -> Checked<(Vec<tree::Expr>, Vec<Type>)> {
        if keys.len() > KEYS {
            let error = Diagnostic::error(span, format!("a map has at most {KEYS} keys"));
            return Err(error.help("put small numbers into one: a << 32 | b"));
        }
        let known = self.index_of(name).map(|index| self.shared.output.maps[index].keys.clone());
        if let Some(known) = known.as_ref().filter(|known| known.len() != keys.len()) {
            let (first, here) = (counted(known.len(), "key"), counted(keys.len(), "key"));
            let error = Diagnostic::error(
                span,
                format!("@{name} has {first} where it is used first, here it has {here}"),
            );
            return Err(error.help("a map has the same keys everywhere; use another name for another map"));
        }
        let (mut exprs, mut types) = (Vec::new(), Vec::new());
        for (index, key) in keys.iter().enumerate() {
            no_tuple(key)?;
            let (value, work) = self.apart(|check| check.value(key));
            let value = value?;
            if !work.is_empty() {
                // What keys do happens before the map is used; those before stay as they were.
                exprs = exprs.into_iter().map(|expr| self.kept_expr(expr)).collect();
                self.out.extend(work);
            }
            let value = self.key(value, key.span)?;
            let value = match known.as_ref().map(|known| &known[index]) {
                Some(ty) => self.converted(value, ty, key.span).map_err(|error| {
                    let first = format!("where @{name} is used first, this key is {}", ty.described());
                    error.help(first)
                })?,
                None => value,
            };
            types.push(value.ty);
            exprs.push(value.expr);
        }
        Ok((exprs, types))
    }

    fn kept_expr(&mut self, expr: tree::Expr) -> tree::Expr {
        self.kept(Value { ty: Type::Void, expr }).expr
    }

    fn key(&self, value: Value, span: Span) -> Checked<Value> {
        match value.ty {
            Type::Text(_) => {
                let expr = match value.expr.node() {
                    // Also one of which fewer bytes would be read.
                    tree::Node::ReadText(address, None) => address.clone().text(KEY_TEXT),
                    _ => value.expr.cut(KEY_TEXT),
                };
                Ok(Value { ty: Type::Text(KEY_TEXT), expr })
            }
            Type::Pointer(_) => Ok(Value { ty: Type::Void.pointer(), expr: value.expr }),
            Type::Float | Type::Double => {
                self.error(span, "a float is no key").map_err(|e| e.help("convert it: (long)x"))
            }
            Type::Time(_) => {
                let error = Diagnostic::error(span, "strftime() is shown by printf() and print() only");
                Err(error.help("as a key take the number: @[nsecs / 1000000000]"))
            }
            _ => self.widened(value, span),
        }
    }

    /// The map by this name; made if there is none.
    fn map(
        &mut self,
        name: &str,
        keys: &[Type],
        aggregate: Aggregate,
        value: Type,
        span: Span,
    ) -> Checked<Map> {
        if let Some(index) = self.index_of(name) {
            let info = &self.shared.output.maps[index];
            if info.aggregate == aggregate {
                return Ok(info.map.clone());
            }
            let error = Diagnostic::error(span, format!("@{name} is used in another way"));
            let error = error.label(format!("so far it {}", describe(&info.aggregate)));
            return Err(error.help("use another name for another map"));
        }
        let mut lowered = Vec::new();
        for key in keys {
            let Some(ty) = key.lowered() else {
                return self.error(span, format!("{} is no key", key.described()));
            };
            lowered.push(ty);
        }
        let Some(map) = self.scope.map(name, &lowered, &aggregate) else {
            return self.error(span, format!("there is no room for another map: @{name}"));
        };
        let info = MapInfo { name: name.to_owned(), keys: keys.to_vec(), value, aggregate, map: map.clone() };
        self.shared.output.maps.push(info);
        Ok(map)
    }

    /// For `print(@x)` and its like: the number of a map.
    pub(super) fn map_index(&mut self, argument: &Expr) -> Checked<usize> {
        let ExprKind::Map { name, keys } = &argument.kind else {
            return Err(
                Diagnostic::error(argument.span, "a map is expected here").help("maps begin with @: @x")
            );
        };
        if !keys.is_empty() {
            return self.error(argument.span, "the whole map is meant here, without keys");
        }
        self.index_of(name).ok_or_else(|| {
            let error = Diagnostic::error(argument.span, format!("nothing was put into @{name} before this"));
            let names: Vec<String> =
                self.shared.output.maps.iter().map(|map| format!("@{}", map.name)).collect();
            if names.is_empty() {
                return error.help(format!("such as @{name} = count();"));
            }
            let near = suggest::nearest(&format!("@{name}"), names.iter().map(String::as_str));
            if !near.is_empty() {
                return error.did_you_mean(&near);
            }
            error.help(format!("maps are known from their first use on: {}", names.join(", ")))
        })
    }

    /// `@x[key] OP= value`, where the value may be `count()` and its like.
    pub(super) fn map_assign(
        &mut self,
        name: &str,
        keys: &[Expr],
        op: Option<BinaryOp>,
        value: &Expr,
        span: Span,
    ) -> Checked<Value> {
        if let (None, ExprKind::Call(callee, arguments)) = (op, &value.kind)
            && let ExprKind::Name(function) = &callee.kind
            && function.domain.is_none()
            && let Some(result) = self.aggregate(name, keys, &function.path, arguments, span)
        {
            return result.map(|()| literal(0, false, false));
        }
        no_tuple(value)?;
        let (exprs, types) = self.keys(name, keys, span)?;
        let exprs: Vec<tree::Expr> = exprs.into_iter().map(|expr| self.kept_expr(expr)).collect();
        let new = self.value(value)?;
        let new = match op {
            Some(op) => {
                let old = self.plain(name, &types, exprs.clone(), &new.ty, span)?;
                self.operate(op, old, new, span)?
            }
            None => new,
        };
        self.set(name, exprs, types, new, span)
    }

    fn set(
        &mut self,
        name: &str,
        keys: Vec<tree::Expr>,
        types: Vec<Type>,
        value: Value,
        span: Span,
    ) -> Checked<Value> {
        let value = match value.ty {
            Type::Text(_) | Type::Frames(_) => {
                let message = format!("{} cannot be the value of a map", value.ty.described());
                let help = match value.ty {
                    Type::Text(_) => {
                        "make it a key: @x[comm] = count(); or keep its address: @x[tid] = arg0; … str(@x[tid])"
                    }
                    _ => "make it a key: @x[ustack] = count();",
                };
                return Err(Diagnostic::error(span, message).help(help));
            }
            _ => self.widened(value, span)?,
        };
        let ty = match self.index_of(name).map(|index| &self.shared.output.maps[index]) {
            Some(info) if matches!(info.aggregate, Aggregate::Plain(_)) => info.value.clone(),
            _ => value.ty.clone(),
        };
        let value = self.converted(value, &ty, span)?;
        let lowered = value.expr.ty();
        let map = self.map(name, &types, Aggregate::Plain(lowered), ty.clone(), span)?;
        let value = self.kept(value);
        self.out.push(map.update(keys, Update::Value(value.expr.clone())));
        Ok(value)
    }

    /// What a map that gathers holds at keys, if that is one number.
    fn gathered(&self, name: &str, keys: &[tree::Expr], span: Span) -> Option<Checked<Value>> {
        let info = &self.shared.output.maps[self.index_of(name)?];
        Some(match info.aggregate {
            Aggregate::Plain(_) => return None,
            Aggregate::Count | Aggregate::Sum { .. } | Aggregate::Min { .. } | Aggregate::Max { .. } => self
                .sound(info.map.get(keys.to_vec()), span)
                .map(|expr| Value { ty: info.value.clone(), expr }),
            _ => {
                let message = format!("@{name} has more than one number: it {}", describe(&info.aggregate));
                Err(Diagnostic::error(span, message).help(format!("print(@{name}) shows it")))
            }
        })
    }

    /// The value at keys of a map of plain values, of `like` if it is new.
    fn plain(
        &mut self,
        name: &str,
        types: &[Type],
        keys: Vec<tree::Expr>,
        like: &Type,
        span: Span,
    ) -> Checked<Value> {
        let ty = match self.index_of(name).map(|index| &self.shared.output.maps[index]) {
            Some(info) => info.value.clone(),
            None => match like {
                Type::Float | Type::Double => Type::Double,
                Type::Int { signed: false, .. } => Type::UNSIGNED_LONG,
                _ => Type::LONG,
            },
        };
        let Some(lowered) = ty.lowered() else {
            return self.error(span, format!("@{name} has no plain values"));
        };
        let map = self.map(name, types, Aggregate::Plain(lowered), ty.clone(), span)?;
        Ok(Value { ty, expr: self.sound(map.get(keys), span)? })
    }

    /// Whether a clause that runs in the tool names a map that is empty so far: what puts something into it was not compiled yet, and says
    /// what it holds when it is.
    fn is_to_come(&self, name: &str) -> bool {
        self.scope.point().is_none() && self.index_of(name).is_none()
    }

    /// The same of a map as a whole.
    pub(super) fn map_is_to_come(&self, map: &Expr) -> bool {
        matches!(&map.kind, ExprKind::Map { name, .. } if self.is_to_come(name))
    }

    pub(super) fn map_value(&mut self, name: &str, keys: &[Expr], span: Span) -> Checked<Value> {
        if self.is_to_come(name) {
            return Ok(literal(0, false, true));
        }
        let (exprs, types) = self.keys(name, keys, span)?;
        match self.gathered(name, &exprs, span) {
            Some(value) => value,
            None => self.plain(name, &types, exprs, &Type::LONG, span),
        }
    }

    /// As a condition a map of plain values is asked for its value, others for the key.
    pub(super) fn map_holds(&mut self, name: &str, keys: &[Expr]) -> Checked<Option<tree::Expr>> {
        let Some(index) = self.index_of(name) else { return Ok(None) };
        let info = &self.shared.output.maps[index];
        if matches!(info.aggregate, Aggregate::Plain(_)) {
            return Ok(None);
        }
        let map = info.map.clone();
        let (exprs, _) = self.keys(name, keys, Span::default())?;
        Ok(Some(map.has(exprs)))
    }

    pub(super) fn map_step(
        &mut self,
        name: &str,
        keys: &[Expr],
        op: BinaryOp,
        postfix: bool,
        span: Span,
    ) -> Checked<Value> {
        let (exprs, types) = self.keys(name, keys, span)?;
        let exprs: Vec<tree::Expr> = exprs.into_iter().map(|expr| self.kept_expr(expr)).collect();
        let old = self.plain(name, &types, exprs.clone(), &Type::LONG, span)?;
        let old = if postfix { self.kept(old) } else { old };
        let new = self.operate(op, old.clone(), literal(1, false, true), span)?;
        let new = self.set(name, exprs, types, new, span)?;
        Ok(if postfix { old } else { new })
    }

    /// `@x[key] = count()` and its like; `None` if `function` is something else.
    fn aggregate(
        &mut self,
        name: &str,
        keys: &[Expr],
        function: &str,
        arguments: &[Expr],
        span: Span,
    ) -> Option<Checked<()>> {
        let wanted = match function {
            "count" => 0,
            "sum" | "min" | "max" | "avg" | "stats" | "hist" => 1,
            "lhist" => 4,
            _ => return None,
        };
        // hist(x, k) has finer buckets in bpftrace; they are always as fine as they can be here.
        if arguments.len() != wanted && !(function == "hist" && arguments.len() == 2) {
            let (wanted, found) = (counted(wanted, "argument"), counted(arguments.len(), "argument"));
            let error = Diagnostic::error(span, format!("{function}() takes {wanted}, not {found}"));
            return Some(Err(error.help(match function {
                "count" => "how often each value came: @x[value] = count();".to_owned(),
                "lhist" => "such as lhist(arg0, 0, 1000, 100)".to_owned(),
                _ => format!("such as @x = {function}(arg0);"),
            })));
        }
        Some(self.gather(name, keys, function, arguments, span))
    }

    fn gather(
        &mut self,
        name: &str,
        keys: &[Expr],
        function: &str,
        arguments: &[Expr],
        span: Span,
    ) -> Checked<()> {
        let (exprs, types) = self.keys(name, keys, span)?;
        let exprs: Vec<tree::Expr> = if arguments.is_empty() {
            exprs
        } else {
            exprs.into_iter().map(|expr| self.kept_expr(expr)).collect()
        };
        let (update, signed) = match arguments.first() {
            None => (Update::One, false),
            Some(argument) => {
                let value = self.value(argument)?;
                if !value.ty.is_integral() {
                    let message = format!("{function}() takes an integer, not {}", value.ty.described());
                    let help = match value.ty {
                        Type::Text(_) => "make a text a key: @x[text] = count();",
                        _ => "convert it: (long)x",
                    };
                    return Err(Diagnostic::error(argument.span, message).help(help));
                }
                let value = self.widened(value, argument.span)?;
                let signed = value.expr.ty().is_signed();
                (Update::Value(value.expr), signed)
            }
        };
        // The first use says whether the values are signed.
        let known = self.index_of(name).map(|index| self.shared.output.maps[index].aggregate.clone());
        let signed = match known {
            Some(
                Aggregate::Sum { signed }
                | Aggregate::Min { signed }
                | Aggregate::Max { signed }
                | Aggregate::Average { signed }
                | Aggregate::Stats { signed },
            ) => signed,
            _ => signed,
        };
        let aggregate = match function {
            "count" => Aggregate::Count,
            "sum" => Aggregate::Sum { signed },
            "min" => Aggregate::Min { signed },
            "max" => Aggregate::Max { signed },
            "avg" => Aggregate::Average { signed },
            "stats" => Aggregate::Stats { signed },
            "hist" => Aggregate::Histogram,
            _ => self.linear(&arguments[1..], span)?,
        };
        let value = if signed { Type::LONG } else { Type::UNSIGNED_LONG };
        let map = self.map(name, &types, aggregate, value, span)?;
        self.out.push(map.update(exprs, update));
        Ok(())
    }

    fn linear(&mut self, arguments: &[Expr], span: Span) -> Checked<Aggregate> {
        let mut numbers = [0i64; 3];
        for (number, argument) in numbers.iter_mut().zip(arguments) {
            *number = self.constant_integer(argument)?;
        }
        let [least, most, step] = numbers;
        if step <= 0 || most <= least {
            let error = Diagnostic::error(
                span,
                "lhist() takes a value, the lower end, the upper end and the width of a step",
            );
            return Err(error.help("such as lhist(arg0, 0, 1000, 100)"));
        }
        let (step, width) = (step as u64, least.abs_diff(most));
        if width.div_ceil(step) > BUCKETS {
            let message = format!("this makes {} steps, at most {BUCKETS}", width.div_ceil(step));
            let help = format!("take wider steps: {}", width.div_ceil(BUCKETS));
            return Err(Diagnostic::error(span, message).help(help));
        }
        Ok(Aggregate::Linear { least, most, step })
    }

    /// `delete(@x[key])`
    pub(super) fn map_delete(&mut self, argument: &Expr) -> Checked<()> {
        let ExprKind::Map { name, keys } = &argument.kind else {
            return self.error(argument.span, "a map with its keys is expected here");
        };
        self.map_delete_key(name, keys, argument.span)
    }

    /// `delete(@x, key)`
    pub(super) fn map_delete_key(&mut self, name: &str, keys: &[Expr], span: Span) -> Checked<()> {
        if self.is_to_come(name) {
            return Ok(());
        }
        let (exprs, types) = self.keys(name, keys, span)?;
        let map = match self.index_of(name) {
            Some(index) => self.shared.output.maps[index].map.clone(),
            None => self.map(name, &types, Aggregate::Plain(tree::Type::I64), Type::LONG, span)?,
        };
        self.out.push(map.delete(exprs));
        Ok(())
    }

    /// `has_key(@x, key)`
    pub(super) fn map_has(&mut self, map: &Expr, keys: &[Expr], span: Span) -> Checked<Value> {
        if self.map_is_to_come(map) {
            return Ok(Value { ty: Type::Bool, expr: false.into() });
        }
        let index = self.map_index(map)?;
        let info = &self.shared.output.maps[index];
        let (name, map) = (info.name.clone(), info.map.clone());
        let (exprs, _) = self.keys(&name, keys, span)?;
        Ok(Value { ty: Type::Bool, expr: self.sound(map.has(exprs), span)? })
    }
}

fn describe(aggregate: &Aggregate) -> &'static str {
    match aggregate {
        Aggregate::Plain(_) => "holds plain values",
        Aggregate::Count => "counts: count()",
        Aggregate::Sum { .. } => "adds up: sum()",
        Aggregate::Min { .. } => "holds the least: min()",
        Aggregate::Max { .. } => "holds the greatest: max()",
        Aggregate::Average { .. } => "holds averages: avg()",
        Aggregate::Stats { .. } => "holds statistics: stats()",
        Aggregate::Histogram => "is a histogram: hist()",
        Aggregate::Linear { .. } => "is a linear histogram: lhist() with other bounds or steps",
    }
}
