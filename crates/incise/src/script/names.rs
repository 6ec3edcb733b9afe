//! What records say, in text.

use incise_image::Module;
use incise_isa::Addr;
use incise_snippet::language::{Action, RecordInfo, Type};
use incise_snippet::show::{Shown, decode, printf};

use crate::names::Place as NamedPlace;

/// Names of addresses in the program that was looked at last.
#[derive(Default)]
pub(crate) struct Symbols(Vec<Module>);

impl Symbols {
    /// The program that is looked at has these modules.
    pub(crate) fn set(&mut self, modules: &[Module]) {
        self.0 = modules.to_vec();
    }

    pub(crate) fn name(&self, at: u64) -> String {
        NamedPlace::of(&self.0, Addr(at)).text()
    }
}

/// The text that a record shows, if it shows one, and its fields.
pub(crate) fn shown(
    info: &RecordInfo,
    fields: &[u64],
    symbols: &dyn Fn(u64) -> String,
) -> (Option<String>, Vec<Shown>) {
    let mut values: Vec<Shown> = Vec::new();
    let mut at = 0;
    for ty in &info.fields {
        let (value, taken) = decode(ty, fields.get(at..).unwrap_or_default());
        values.push(match ty {
            Type::Time(format) => {
                Shown::Text(crate::wall::format(crate::wall::seconds(value.bits()), format))
            }
            _ => value,
        });
        at += taken;
    }
    let text = match &info.action {
        Action::Printf(format) => Some(printf(format, &values, &symbols)),
        Action::PrintValue => {
            Some(values.first().map(|value| value.text(&symbols) + "\n").unwrap_or_default())
        }
        Action::Time(format) => Some(super::local_time(format)),
        Action::Exit | Action::Print { .. } | Action::Clear(_) | Action::Zero(_) => None,
    };
    (text, values)
}
