//! Calls: functions of the program, and functions of the language.

use super::expression::{fold, literal};
use super::{Check, Checked, Value, builtin, elsewhere};
use crate::language::ast::{Domain, Expr, ExprKind, Name, Place};
use crate::language::output::Action;
use crate::language::types::Type;
use crate::language::{Diagnostic, Span, suggest};
use crate::tree::{self, Replaced, Stmt};

/// Bytes `str` reads without a length.
const STRING: u16 = 64;

/// The functions of the language.
const FUNCTIONS: [&str; 32] = [
    "printf", "print", "clear", "zero", "delete", "exit", "time", "str", "usym", "sym", "ustack", "has_key",
    "strncmp", "count", "sum", "min", "max", "avg", "stats", "hist", "lhist", "abs", "popcount", "clz",
    "ctz", "bswap", "sqrt", "reg", "override", "uptr", "ntop", "strftime",
];

/// How a function is called.
fn usage(name: &str) -> &'static str {
    match name {
        "printf" => "printf(\"%d %s\\n\", number, text)",
        "print" => "print(@map), print(@map, 5), print(value)",
        "clear" => "clear(@map)",
        "zero" => "zero(@map)",
        "delete" => "delete(@map[key]), delete(@map, key)",
        "exit" => "exit()",
        "time" => "time(), time(\"%H:%M:%S\\n\")",
        "str" => "str(address), str(address, bytes)",
        "usym" | "sym" => "usym(address)",
        "ustack" => "ustack, ustack(frames)",
        "has_key" => "has_key(@map, key)",
        "strncmp" => "strncmp(text, text, bytes)",
        "ntop" => "ntop(number), ntop(pointer), ntop(2, either)",
        "strftime" => "strftime(\"%H:%M:%S\", nsecs)",
        "uptr" => "uptr(pointer)",
        "reg" => "reg(\"di\")",
        "override" => "override(value)",
        _ => "one number",
    }
}

impl Check<'_> {
    pub(super) fn call(&mut self, callee: &Expr, arguments: &[Expr], span: Span) -> Checked<Value> {
        let ExprKind::Name(name) = &callee.kind else {
            return self.error(callee.span, "this is not the name of a function");
        };
        match name.domain {
            Some(Domain::Inferior | Domain::Function | Domain::Global) => {
                self.program_call(name, callee.span, arguments, span)
            }
            Some(Domain::Point) => self.point_call(&name.path, arguments, callee.span),
            None => match self.function(&name.path, arguments, span) {
                Some(value) => value,
                None => self.other_call(name, callee.span, arguments, span),
            },
            Some(domain) => {
                let error =
                    Diagnostic::error(callee.span, format!("there are no functions in {}`", domain.word()));
                Err(error.help(format!("functions of the program are called inf`{}(…)", name.path)))
            }
        }
    }

    /// A name without a domain: a type, or a function of the program whose domain was left out.
    fn other_call(&mut self, name: &Name, at: Span, arguments: &[Expr], span: Span) -> Checked<Value> {
        // `(pid)(x)` is a cast if the name is one of a type.
        if let (Some(ty), [argument]) = (self.scope.named_type(None, &name.path), arguments) {
            let value = self.value(argument)?;
            let ty = self.resolve(&ty, at)?;
            return self.converted(value, &ty, span);
        }
        if self.is_variable(&name.path) {
            let error = Diagnostic::error(at, format!("`{}` is a variable, no function", name.path));
            return Err(error.help("leave out the brackets; what a pointer points to is *p"));
        }
        let error = Diagnostic::error(at, format!("there is no function `{}` in the language", name.path));
        if let Some(help) = elsewhere::instead(&name.path) {
            return Err(error.help(help));
        }
        if self.scope.function(&name.path).is_some() {
            return Err(error.help(format!("the program has one: inf`{}(…)", name.path)));
        }
        let near = suggest::nearest(&name.path, FUNCTIONS.into_iter());
        if near.is_empty() {
            return Err(error.help("functions of the program are called inf`name(…)"));
        }
        Err(error.did_you_mean(&near))
    }

    fn point_call(&mut self, name: &str, arguments: &[Expr], span: Span) -> Checked<Value> {
        let statement = match name {
            "break" => Stmt::Debugger,
            "stopthread" => Stmt::Stop,
            _ => {
                let near = suggest::nearest(name, ["break", "stopthread"].into_iter());
                return Err(Diagnostic::error(span, format!("a point has no `{name}()`")).did_you_mean(&near));
            }
        };
        if !arguments.is_empty() {
            return self.error(span, format!("{name}() takes no arguments"));
        }
        self.out.push(statement);
        Ok(Value { ty: Type::Void, expr: literal(0, false, false).expr })
    }

    fn program_call(&mut self, name: &Name, at: Span, arguments: &[Expr], span: Span) -> Checked<Value> {
        if self.scope.point().is_none() {
            let error = Diagnostic::error(at, "functions of the program can be called at its points only");
            return Err(
                error.help("begin, end and intervals run in the tool; call it in a probe of a function")
            );
        }
        let Some(function) = self.scope.function(&name.path) else {
            let error = Diagnostic::error(at, format!("the program has no function `{}`", name.path));
            let near = self.scope.suggest(&name.path);
            if near.is_empty() {
                return Err(error.help("`incise list '*' -- PROGRAM` shows those it has"));
            }
            return Err(error.did_you_mean(&near));
        };
        let mut values: Vec<Value> = Vec::new();
        for argument in arguments {
            let (value, work) = self.apart(|check| check.value(argument));
            if !work.is_empty() {
                values = values.into_iter().map(|value| self.kept(value)).collect();
                self.out.extend(work);
            }
            let value = self.in_memory(value?, &Type::CHAR.pointer(), argument.span)?;
            let value = match value.ty {
                // As C passes what has no prototype.
                Type::Float => self.converted(value, &Type::Double, argument.span)?,
                Type::Text(_) | Type::Frames(_) => {
                    let error = Diagnostic::error(
                        argument.span,
                        format!("{} cannot be passed", value.ty.described()),
                    );
                    return Err(error.help("pass a pointer to it"));
                }
                _ => self.promoted(value, argument.span)?,
            };
            values.push(value);
        }
        let call = tree::Expr::call(function.callee, values.into_iter().map(|value| value.expr).collect());
        let call = self.sound(call, span)?;
        let Some(returned) = function.returns.lowered() else {
            self.out.push(Stmt::Evaluate(call));
            return Ok(Value { ty: Type::Void, expr: literal(0, false, false).expr });
        };
        // Called once, here, in order.
        let value = self.kept(Value { ty: Type::Void, expr: call });
        Ok(Value { ty: function.returns, expr: self.sound(value.expr.cast(returned), span)? })
    }

    /// A function of the language, if it is one.
    fn function(&mut self, name: &str, arguments: &[Expr], span: Span) -> Option<Checked<Value>> {
        let nothing = |result: Checked<()>| {
            Some(result.map(|()| Value { ty: Type::Void, expr: literal(0, false, false).expr }))
        };
        match (name, arguments) {
            ("printf", _) => nothing(self.printf(arguments, span)),
            ("print", [map, rest @ ..]) if matches!(map.kind, ExprKind::Map { ref keys, .. } if keys.is_empty()) => {
                nothing(self.print_map(map, rest, span))
            }
            ("print", [value]) => nothing(self.print_value(value)),
            ("clear" | "zero", [map]) if self.map_is_to_come(map) => nothing(Ok(())),
            ("clear" | "zero", [map]) => {
                let result = self.map_index(map).and_then(|map| {
                    let action = if name == "clear" { Action::Clear(map) } else { Action::Zero(map) };
                    self.emit(name, action, Vec::new(), span)
                });
                nothing(result)
            }
            ("delete", [argument]) => nothing(self.map_delete(argument)),
            ("delete", [map, keys @ ..]) if !keys.is_empty() => nothing(match &map.kind {
                ExprKind::Map { name, keys: none } if none.is_empty() => {
                    self.map_delete_key(name, keys, map.span)
                }
                _ => self.error(map.span, "a map is expected here, and its keys behind it"),
            }),
            // All memory is the program's.
            ("uptr", [pointer]) => Some(self.value(pointer)),
            ("ntop", [address]) => Some(self.internet_address(address)),
            ("ntop", [family, address]) => Some(self.of_family(family, address)),
            ("strftime", [format, time]) => Some(self.local_time(format, time)),
            ("has_key", [map, keys @ ..]) => Some(self.map_has(map, keys, span)),
            ("exit", [] | [_]) => {
                let result = self.emit("exit", Action::Exit, Vec::new(), span);
                self.out.push(Stmt::Return(None));
                nothing(result)
            }
            ("override", [value]) => nothing(self.override_by(value, span)),
            ("time", [] | [_]) => {
                let format = match arguments.first().map(|argument| &argument.kind) {
                    None => Ok("%H:%M:%S\n".to_owned()),
                    Some(ExprKind::Str(text)) => Ok(String::from_utf8_lossy(text).into_owned()),
                    Some(_) => self.error(span, "time() takes a literal format"),
                };
                nothing(format.and_then(|format| self.emit("time", Action::Time(format), Vec::new(), span)))
            }
            ("str", [address] | [address, _]) => Some(self.read_text(address, arguments.get(1))),
            ("usym" | "sym", [address]) => Some(self.value(address).and_then(|value| {
                if !value.ty.is_integral() && !value.ty.is_address() {
                    let message = format!("{} is no address", value.ty.described());
                    return Err(Diagnostic::error(address.span, message)
                        .help("the address of a function is &func`name"));
                }
                self.converted(value, &Type::Symbol, address.span)
            })),
            ("ustack", [] | [_]) if !arguments.first().is_some_and(is_mode) => {
                Some(self.stack(arguments.first()))
            }
            // How bpftrace shows it; here there is one way.
            ("ustack", [mode] | [mode, _]) if is_mode(mode) => Some(self.stack(arguments.get(1))),
            ("reg", [name]) => Some(self.short_register(name)),
            ("strncmp", [left, right, length]) => Some(self.compare_texts(left, right, length, span)),
            ("abs" | "popcount" | "clz" | "ctz" | "bswap" | "sqrt", [operand]) => {
                Some(self.arithmetic_function(name, operand, span))
            }
            ("count" | "sum" | "min" | "max" | "avg" | "stats" | "hist" | "lhist", _) => {
                let error = Diagnostic::error(span, format!("{name}() is what a map holds"));
                Some(Err(error.help(format!("write @name = {name}(…)"))))
            }
            _ if FUNCTIONS.contains(&name) => {
                let message = format!("{name}() does not take {}", counted(arguments.len(), "argument"));
                Some(Err(Diagnostic::error(span, message).help(format!("it is used so: {}", usage(name)))))
            }
            _ => None,
        }
    }

    /// `ntop(2, x)`: the family is AF_INET.
    fn of_family(&mut self, family: &Expr, address: &Expr) -> Checked<Value> {
        match self.constant_integer(family)? {
            2 => self.internet_address(address),
            _ => {
                let error =
                    Diagnostic::error(family.span, "only addresses of the family 2, AF_INET, are shown");
                Err(error.help("of one of IPv6, tell the parts: printf(\"%x\", bswap(*(uint32 *)p))"))
            }
        }
    }

    /// An address of IPv4 as it lies in memory: a number, or where it is.
    fn internet_address(&mut self, address: &Expr) -> Checked<Value> {
        let value = self.value(address)?;
        let word = Type::Int { bytes: 4, signed: false };
        let expr = match &value.ty {
            Type::Pointer(_) => self.sound(value.expr.load(tree::Type::U32), address.span)?,
            _ => self.converted(value, &word, address.span)?.expr,
        };
        Ok(Value { ty: Type::Inet, expr })
    }

    /// `strftime(format, nsecs)`: it is shown by whoever reads the record.
    fn local_time(&mut self, format: &Expr, time: &Expr) -> Checked<Value> {
        let ExprKind::Str(text) = &format.kind else {
            let error = Diagnostic::error(format.span, "strftime() takes a literal format");
            return Err(error.help("such as strftime(\"%H:%M:%S\", nsecs)"));
        };
        let value = self.value(time)?;
        let value = self.converted(value, &Type::UNSIGNED_LONG, time.span)?;
        Ok(Value { ty: Type::Time(String::from_utf8_lossy(text).into()), expr: value.expr })
    }

    /// The function at whose entry this is, or the call before which it is, gives a value and does not run.
    fn override_by(&mut self, value: &Expr, span: Span) -> Checked<()> {
        let what = match self.scope.point().map(|point| point.place) {
            Some(Place::Entry) => Replaced::Function,
            Some(Place::Call) => Replaced::Call,
            _ => {
                let error = Diagnostic::error(span, "override() is for the entry of a function, or a call");
                return Err(error.help("function:NAME { override(0); }, call:NAME { override(0); }"));
            }
        };
        let found = self.value(value)?;
        let ty = found.expr.ty();
        if !ty.is_scalar() {
            let message = format!("{} cannot be returned", found.ty.described());
            return Err(
                Diagnostic::error(value.span, message).help("a function returns a number or a pointer")
            );
        }
        if self.overridden.replace(ty.is_float()).is_some_and(|float| float != ty.is_float()) {
            return self.error(value.span, "a function returns either floats or other values");
        }
        self.builder.replace(what, ty);
        self.out.push(Stmt::give(found.expr));
        Ok(())
    }

    fn arithmetic_function(&mut self, name: &str, operand: &Expr, span: Span) -> Checked<Value> {
        let value = self.value(operand)?;
        let value = if name == "bswap" { value } else { self.promoted(value, span)? };
        let value = if name == "sqrt" { self.converted(value, &Type::Double, span)? } else { value };
        // The amount of an unsigned value is itself.
        if name == "abs" && matches!(value.ty, Type::Int { signed: false, .. }) {
            return Ok(value);
        }
        let expr = match name {
            "abs" => value.expr.abs(),
            "popcount" => value.expr.count_ones(),
            "clz" => value.expr.leading_zeros(),
            "ctz" => value.expr.trailing_zeros(),
            "bswap" => value.expr.swap_bytes(),
            _ => value.expr.sqrt(),
        };
        Ok(Value { ty: value.ty, expr: self.sound(expr, span)? })
    }

    /// `str(address, length)`: what is longer is cut.
    fn read_text(&mut self, address: &Expr, length: Option<&Expr>) -> Checked<Value> {
        let value = self.value(address)?;
        let (mut room, mut most) = (STRING, None);
        if let Some(length) = length {
            let (found, work) = self.apart(|check| check.value(length));
            let found = found?;
            match fold(&found.expr) {
                Some(bytes @ 1..=4096) => room = bytes as u16,
                Some(bytes) => {
                    let error =
                        Diagnostic::error(length.span, format!("str() reads 1 to 4096 bytes, not {bytes}"));
                    return Err(error.help(format!("without a length it reads {STRING}")));
                }
                None if found.ty.is_integral() => {
                    self.out.extend(work);
                    most = Some(self.amount(found, length.span)?);
                }
                None => {
                    let message = format!("a length is an integer, not {}", found.ty.described());
                    return self.error(length.span, message);
                }
            }
        }
        if let Type::Text(len) = value.ty {
            let room = if length.is_some() { room.min(len) } else { len };
            return Ok(Value { ty: Type::Text(room), expr: value.expr.cut(room) });
        }
        let wide = matches!(value.ty, Type::Int { bytes: 8, .. });
        if !wide && !value.ty.is_address() {
            let message = format!("{} is no address of a text", value.ty.described());
            return Err(Diagnostic::error(address.span, message).help("convert it: str((char *)x)"));
        }
        let expr = match most {
            Some(most) => value.expr.text_up_to(most, room),
            None => value.expr.text(room),
        };
        Ok(Value { ty: Type::Text(room), expr: self.sound(expr, address.span)? })
    }

    /// How many bytes a value says: none if it is below zero.
    fn amount(&mut self, value: Value, span: Span) -> Checked<tree::Expr> {
        let value = self.widened(value, span)?;
        if !value.expr.ty().is_signed() {
            return Ok(value.expr);
        }
        let value = self.kept(value).expr;
        let below = value.clone().lt(0);
        let none = tree::Expr::from(tree::Constant::new(tree::Type::U64, 0));
        self.sound(below.choose(none, value.cast(tree::Type::U64)), span)
    }

    fn stack(&mut self, depth: Option<&Expr>) -> Checked<Value> {
        let depth = match depth {
            None => builtin::FRAMES,
            Some(depth) => match self.constant_integer(depth)? {
                frames @ 1..=127 => frames as u8,
                frames => {
                    return self.error(depth.span, format!("a stack has 1 to 127 frames, not {frames}"));
                }
            },
        };
        Ok(self.frames(depth))
    }

    pub(super) fn frames(&mut self, depth: u8) -> Value {
        let table = self.scope.frames();
        let expr = match &table {
            Some(table) => tree::Expr::stack_by(depth, table),
            None => tree::Expr::stack(depth),
        };
        Value { ty: Type::Frames(depth), expr }
    }

    /// 0 if the texts are the same in so many bytes, else 1.
    fn compare_texts(&mut self, left: &Expr, right: &Expr, length: &Expr, span: Span) -> Checked<Value> {
        let length = match self.constant_integer(length)? {
            bytes @ 1..=4096 => bytes as u16,
            bytes => {
                return self.error(length.span, format!("strncmp() compares 1 to 4096 bytes, not {bytes}"));
            }
        };
        let mut cut = |text: &Expr| -> Checked<tree::Expr> {
            let value = self.value(text)?;
            match (value.ty, value.expr.node()) {
                // Also one that is longer than what would be read of it.
                (_, tree::Node::ReadText(address, None)) => Ok(address.clone().text(length)),
                (Type::Text(_), _) => Ok(value.expr.cut(length)),
                (ty, _) => {
                    let error = Diagnostic::error(text.span, format!("{} is no text", ty.described()));
                    Err(error.help("the text a pointer points to is str(p)"))
                }
            }
        };
        let (left, right) = (cut(left)?, cut(right)?);
        let differ = self.sound(left.ne(right), span)?;
        Ok(Value { ty: Type::INT, expr: differ.cast(tree::Type::I32) })
    }
}

/// How bpftrace would show a stack.
fn is_mode(argument: &Expr) -> bool {
    matches!(&argument.kind, ExprKind::Name(name) if name.domain.is_none() && matches!(name.path.as_str(), "perf" | "bpftrace" | "raw"))
}

/// `1 value`, `2 values`.
pub(super) fn counted(count: usize, what: &str) -> String {
    match count {
        0 => format!("no {what}s"),
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
