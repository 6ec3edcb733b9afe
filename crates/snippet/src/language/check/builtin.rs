//! Words with a meaning of their own, registers, facts about the point.

use incise_isa::native::Gpr;

use super::{Check, Checked, Target, Value};
use crate::language::ast::{Expr, ExprKind, Place};
use crate::language::types::Type;
use crate::language::{Diagnostic, Span, suggest};
use crate::tree::{self, PointFact, Register};

/// The words, for suggestions.
pub(super) const NAMES: [&str; 21] = [
    "arg0", "arg1", "arg2", "arg3", "arg4", "arg5", "retval", "fretval", "tid", "pid", "cpu", "nsecs",
    "elapsed", "cycles", "comm", "ustack", "func", "probe", "module", "NULL", "true",
];

/// Frames of `ustack` without a number.
pub(super) const FRAMES: u8 = 16;

/// Longest text of a literal, `func` or `probe`.
const TEXT: usize = 4096;

impl Check<'_> {
    /// A word of the language, if it is one.
    pub(super) fn builtin(&mut self, word: &str, span: Span) -> Checked<Option<Value>> {
        let int = |bytes, expr| Value { ty: Type::Int { bytes, signed: false }, expr };
        let fixed = |expr| Ok(Some(Value { ty: Type::UNSIGNED_LONG, expr }));
        if let Some(n) = word.strip_prefix("arg").and_then(|n| n.parse::<u8>().ok()) {
            match self.scope.probe_argument(n) {
                Some(Some(expr)) => {
                    let signed = expr.ty().is_signed();
                    return Ok(Some(Value { ty: Type::Int { bytes: 8, signed }, expr }));
                }
                Some(None) => return self.error(span, format!("this probe has no argument `{word}`")),
                None => {}
            }
            self.at_entry(word, span)?;
            return fixed(tree::arg(n));
        }
        if let Some(n) = word.strip_prefix("farg").and_then(|n| n.parse::<u8>().ok()) {
            self.at_entry(word, span)?;
            let expr = self.sound(tree::float_arg(n), span)?;
            return Ok(Some(Value { ty: Type::Double, expr }));
        }
        Ok(Some(match word {
            "retval" => return self.returned(span).map(Some),
            "fretval" => {
                self.at_exit(word, span)?;
                Value { ty: Type::Double, expr: tree::float_retval(tree::Type::F64) }
            }
            "tid" => int(4, tree::tid()),
            "pid" => int(4, tree::pid()),
            "cpu" => int(4, tree::cpu()),
            "nsecs" => return fixed(tree::nanoseconds()),
            "cycles" => return fixed(tree::cycles()),
            "elapsed" => return fixed(tree::nanoseconds().sub(self.scope.began())),
            "comm" => Value { ty: Type::Text(16), expr: tree::Expr::command() },
            "ustack" => self.frames(FRAMES),
            "NULL" => {
                Value { ty: Type::Void.pointer(), expr: tree::Constant::new(tree::Type::Pointer, 0).into() }
            }
            "true" | "false" => Value { ty: Type::Bool, expr: (word == "true").into() },
            "func" | "probe" | "module" => {
                let Some(point) = self.scope.point() else {
                    return Err(self.tool_only(word, span));
                };
                let text = match word {
                    "func" => point.function,
                    "probe" => point.probe,
                    _ => point.module,
                };
                return self.text(text.as_bytes(), span).map(Some);
            }
            _ => return Ok(None),
        }))
    }

    /// A text.
    pub(super) fn text(&self, text: &[u8], span: Span) -> Checked<Value> {
        let expr = self.sound(tree::Expr::bytes(&text[..text.len().min(TEXT)]), span)?;
        let tree::Type::Text(len) = expr.ty() else { return self.error(span, "this is no text") };
        Ok(Value { ty: Type::Text(len), expr })
    }

    /// Arguments are where the ABI has them at the entry only.
    fn at_entry(&self, word: &str, span: Span) -> Checked<()> {
        match self.scope.point() {
            Some(point) if point.place == Place::Entry => Ok(()),
            Some(_) => {
                let error =
                    Diagnostic::error(span, format!("`{word}` is known at the entry of a function only"));
                Err(error.help("keep it there: @a[tid] = arg0;"))
            }
            None => Err(self.tool_only(word, span)),
        }
    }

    /// A word that clauses in the tool have no value for.
    fn tool_only(&self, word: &str, span: Span) -> Diagnostic {
        let error = Diagnostic::error(span, format!("`{word}` is known at points of the program only"));
        error.help("begin, end and intervals run in the tool; keep it in a map there: @x = arg0;")
    }

    fn returned(&self, span: Span) -> Checked<Value> {
        self.at_exit("retval", span)?;
        Ok(match self.scope.returns() {
            // Where the ABI has floats.
            Some(Type::Float) => Value { ty: Type::Float, expr: tree::float_retval(tree::Type::F32) },
            Some(Type::Double) => Value { ty: Type::Double, expr: tree::float_retval(tree::Type::F64) },
            _ => Value { ty: Type::UNSIGNED_LONG, expr: tree::retval() },
        })
    }

    /// What a function returns is known as it does.
    fn at_exit(&self, word: &str, span: Span) -> Checked<()> {
        match self.scope.point() {
            Some(point) if matches!(point.place, Place::Exit | Place::AfterCall) => Ok(()),
            _ => {
                let error =
                    Diagnostic::error(span, format!("`{word}` is known at the exit of a function only"));
                Err(error.help("probe the exit: function:MODULE:NAME:exit"))
            }
        }
    }

    /// ``reg`name``
    pub(super) fn register(&mut self, name: &str, span: Span) -> Checked<Target> {
        let plain = name.strip_prefix('%').unwrap_or(name);
        let place = |register| Target::Place(Type::UNSIGNED_LONG, tree::Place::Register(register));
        if let Some(general) = Gpr::ALL.into_iter().find(|general| general.name() == plain) {
            return Ok(place(Register::General(general)));
        }
        if let Some(n @ 0..=15) = plain.strip_prefix("xmm").and_then(|n| n.parse::<u8>().ok()) {
            return Ok(place(Register::Vector(n)));
        }
        match plain {
            "rip" | "pc" => self.point_fact("original_address", span).map(Target::Value),
            "rflags" | "flags" => {
                let expr = tree::register(Register::Flags);
                Ok(Target::Value(Value { ty: Type::UNSIGNED_LONG, expr }))
            }
            _ => {
                let near = suggest::nearest(plain, Gpr::ALL.iter().map(|general| general.name()));
                let error = Diagnostic::error(span, format!("there is no register `{plain}`"));
                Err(if near.is_empty() {
                    error.help("registers are rax to r15, rip, rflags, and xmm0 to xmm15")
                } else {
                    error.did_you_mean(&near)
                })
            }
        }
    }

    /// `reg("di")`, as bpftrace names registers.
    pub(super) fn short_register(&mut self, name: &Expr) -> Checked<Value> {
        let ExprKind::Str(text) = &name.kind else {
            let error = Diagnostic::error(name.span, "reg() takes the name of a register");
            return Err(error.help("such as reg(\"di\"), or reg`rdi"));
        };
        let short = String::from_utf8_lossy(text).into_owned();
        let long = match short.as_str() {
            "ax" | "bx" | "cx" | "dx" | "si" | "di" | "bp" | "sp" | "ip" => format!("r{short}"),
            _ => short,
        };
        let target = self.register(&long, name.span)?;
        self.read(target, name.span)
    }

    /// ``point`name``, ``dyninst`name``
    pub(super) fn point_fact(&mut self, name: &str, span: Span) -> Checked<Value> {
        let address = |fact| Value { ty: Type::Void.pointer(), expr: tree::point(fact) };
        Ok(match name {
            "function_name" => return self.word("func", span),
            "module_name" => return self.word("module", span),
            "bytes_accessed" => {
                Value { ty: Type::UNSIGNED_LONG, expr: tree::point(PointFact::BytesAccessed) }
            }
            "effective_address" => address(PointFact::EffectiveAddress),
            // The probed instruction runs elsewhere, but nothing can tell: it has one address.
            "original_address" | "actual_address" => address(PointFact::OriginalAddress),
            "dynamic_target" => address(PointFact::Target),
            "return_value" => {
                let value = self.returned(span)?;
                self.converted(value, &Type::Void.pointer(), span)?
            }
            "tid" | "thread_index" => return self.word("tid", span),
            _ => {
                let known = [
                    "function_name",
                    "module_name",
                    "bytes_accessed",
                    "effective_address",
                    "original_address",
                    "actual_address",
                    "dynamic_target",
                    "return_value",
                    "tid",
                    "thread_index",
                    "break",
                    "stopthread",
                ];
                let near = suggest::nearest(name, known.into_iter());
                let error = Diagnostic::error(span, format!("a point has no `{name}`"));
                return Err(if near.is_empty() {
                    error.help(format!("it has {}", known.join(", ")))
                } else {
                    error.did_you_mean(&near)
                });
            }
        })
    }

    fn word(&mut self, word: &str, span: Span) -> Checked<Value> {
        match self.builtin(word, span)? {
            Some(value) => Ok(value),
            None => self.error(span, format!("`{word}` is not known here")),
        }
    }

    /// `$n`: a number if it looks like one, else a text.
    pub(super) fn positional(&mut self, n: u32, span: Span) -> Checked<Value> {
        let Some(argument) = self.scope.argument(n) else {
            let error = Diagnostic::error(span, format!("the script was given no argument {n}"));
            return Err(error.help("arguments stand behind the script on the command line"));
        };
        match argument.parse::<i64>() {
            Ok(number) => Ok(Value { ty: Type::LONG, expr: tree::constant(tree::Type::I64, number) }),
            Err(_) => self.text(argument.as_bytes(), span),
        }
    }
}
