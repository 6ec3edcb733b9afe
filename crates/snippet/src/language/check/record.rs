//! What a snippet tells its reader: records, and the functions that send them.

use super::call::counted;
use super::map::no_tuple;
use super::{Check, Checked, Value};
use crate::data::tables;
use crate::language::ast::{Expr, ExprKind};
use crate::language::output::{Action, RecordInfo};
use crate::language::types::Type;
use crate::language::{Diagnostic, Span};
use crate::tree::{Field, Record};

impl Check<'_> {
    /// Sends a record to the reader.
    pub(super) fn emit(&mut self, name: &str, action: Action, values: Vec<Value>, span: Span) -> Checked<()> {
        let Some(ring) = self.scope.ring() else { return self.error(span, "there is nowhere to send this") };
        let mut fields = Vec::new();
        let types: Vec<Type> = values.iter().map(|value| value.ty.clone()).collect();
        for (index, value) in values.iter().enumerate() {
            fields.push(Field { name: format!("field{index}"), ty: value.expr.ty() });
        }
        let records = &self.shared.output.records;
        let known = records.iter().find(|record| record.action == action && record.fields == types);
        let record = match known.filter(|known| known.record.fields() == fields) {
            Some(known) => known.record.clone(),
            None => {
                let Ok(id) = u16::try_from(records.len()) else {
                    return self.error(span, "more than 65536 kinds of records");
                };
                let format = match &action {
                    Action::Printf(format) => Some(format.clone()),
                    _ => None,
                };
                let record = Record::new(id, name, fields, format);
                if !tables::fits(&record) {
                    let message = format!("{} bytes in one record are too many", record.size());
                    let help = "read shorter texts: str(p, 32), ustack(8)";
                    return Err(Diagnostic::error(span, message).help(help));
                }
                let info = RecordInfo { action, fields: types, record: record.clone() };
                self.shared.output.records.push(info);
                record
            }
        };
        self.out.push(ring.emit(&record, values.into_iter().map(|value| value.expr).collect()));
        Ok(())
    }

    pub(super) fn print_map(&mut self, map: &Expr, rest: &[Expr], span: Span) -> Checked<()> {
        if self.map_is_to_come(map) {
            return Ok(());
        }
        let map = self.map_index(map)?;
        let mut numbers = Vec::new();
        for number in rest {
            numbers.push(self.constant_integer(number)?);
        }
        let (top, divide) = match numbers[..] {
            [] => (None, None),
            [top @ (0..)] => (Some(top as u64), None),
            [top @ (0..), divide @ (1..)] => (Some(top as u64).filter(|top| *top > 0), Some(divide as u64)),
            _ => {
                let error = Diagnostic::error(span, "print() takes a map, how many entries, and a divisor");
                return Err(error.help("such as print(@x), print(@x, 5) or print(@x, 0, 1000)"));
            }
        };
        self.emit("print", Action::Print { map, top, divide }, Vec::new(), span)
    }

    pub(super) fn print_value(&mut self, value: &Expr) -> Checked<()> {
        let span = value.span;
        no_tuple(value)?;
        let value = self.value(value)?;
        let value = self.widened(value, span)?;
        self.emit("print", Action::PrintValue, vec![value], span)
    }

    pub(super) fn printf(&mut self, arguments: &[Expr], span: Span) -> Checked<()> {
        let Some((format, rest)) = arguments.split_first() else {
            return Err(
                Diagnostic::error(span, "printf() needs a format").help("such as printf(\"%d\\n\", arg0)")
            );
        };
        let ExprKind::Str(text) = &format.kind else {
            let error = Diagnostic::error(format.span, "the format has to be a literal text");
            return Err(error.help("such as printf(\"%d\\n\", x), or print(x)"));
        };
        let text = String::from_utf8_lossy(text).into_owned();
        let conversions = conversions(&text).map_err(|what| {
            let error = Diagnostic::error(format.span, what);
            error.help("numbers are shown with %d %u %x %o %c, pointers with %p, floats with %f %e %g, texts with %s; a percent sign is %%")
        })?;
        if conversions.len() != rest.len() {
            let wanted = counted(conversions.len(), "value");
            let there = if rest.len() == 1 { "is" } else { "are" };
            let message = format!("the format asks for {wanted}, there {there} {}", rest.len());
            let help = "each % of the format takes one value behind it; a percent sign is %%";
            return Err(Diagnostic::error(format.span, message).help(help));
        }
        let mut values: Vec<Value> = Vec::new();
        for (argument, conversion) in rest.iter().zip(conversions) {
            let (value, work) = self.apart(|check| check.value(argument));
            if !work.is_empty() {
                values = values.into_iter().map(|value| self.kept(value)).collect();
                self.out.extend(work);
            }
            let value = self.widened(value?, argument.span)?;
            let fits = match conversion {
                's' => matches!(
                    value.ty,
                    Type::Text(_) | Type::Symbol | Type::Frames(_) | Type::Inet | Type::Time(_)
                ),
                'f' | 'e' | 'g' => value.ty.is_float(),
                _ => value.ty.is_integral() || value.ty.is_address(),
            };
            if !fits {
                let message = format!("%{conversion} cannot show {}", value.ty.described());
                let error = Diagnostic::error(argument.span, message);
                let help = match (conversion, &value.ty) {
                    ('s', Type::Pointer(_)) => "the text a pointer points to is str(p)",
                    ('s', ty) if ty.is_float() => "floats are shown with %f",
                    ('s', _) => "numbers are shown with %d; the text a pointer points to is str(p)",
                    (_, Type::Text(_) | Type::Frames(_) | Type::Inet | Type::Time(_)) => {
                        "texts are shown with %s"
                    }
                    (_, ty) if ty.is_float() => "floats are shown with %f",
                    _ => "convert it: (double)x",
                };
                return Err(error.help(help));
            }
            values.push(value);
        }
        self.emit("printf", Action::Printf(text), values, span)
    }
}

/// The conversions of a format, each by its letter.
fn conversions(format: &str) -> Result<Vec<char>, String> {
    let mut found = Vec::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            continue;
        }
        let mut text = String::from("%");
        loop {
            let Some(c) = chars.next() else {
                return Err(format!("`{text}` at the end of the format is not complete"));
            };
            text.push(c);
            match c {
                '%' if text == "%%" => break,
                'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'c' | 'p' | 's' | 'f' | 'e' | 'g' => {
                    found.push(c);
                    break;
                }
                '0'..='9' | '-' | '+' | ' ' | '#' | '.' | 'l' | 'h' | 'z' | 'j' | 't' if text.len() < 16 => {}
                _ => return Err(format!("`{text}` is no conversion")),
            }
        }
    }
    Ok(found)
}
