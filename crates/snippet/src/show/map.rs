//! Maps with their keys and values.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::bars::bars;
use super::{Shown, Symbols, buckets, decode};
use crate::data::{Aggregate, Value};
use crate::language::{MapInfo, Type};

/// A key of a map and its value.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The parts of the key; none in a map without keys.
    pub key: Vec<Shown>,
    /// What the map holds there.
    pub value: Value,
}

/// The entries of a map, the least value first, from its quadwords by key.
pub fn entries(map: &MapInfo, kind: Aggregate, words: &BTreeMap<Vec<u64>, Vec<u64>>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (key, value) in words {
        let Some(value) = kind.read(value) else { continue };
        let (mut parts, mut at) = (Vec::new(), 0);
        for ty in &map.keys {
            let (part, taken) = decode(ty, key.get(at..).unwrap_or_default());
            parts.push(part);
            at += taken;
        }
        entries.push(Entry { key: parts, value });
    }
    let unsigned = matches!(map.value, Type::Int { signed: false, .. } | Type::Pointer(_) | Type::Symbol);
    entries.sort_by_key(|entry| weight(&entry.value, unsigned));
    entries
}

/// What entries are ordered by.
fn weight(value: &Value, unsigned: bool) -> i128 {
    match value {
        Value::Number(number) if unsigned => i128::from(*number as u64),
        Value::Number(number) => i128::from(*number),
        Value::Count(count) => i128::from(*count),
        Value::Average { count, sum } => average(*count, *sum, unsigned),
        Value::Stats { sum, .. } => i128::from(*sum),
        Value::Histogram { counts, .. } => counts.iter().map(|count| i128::from(*count)).sum(),
    }
}

fn average(count: u64, sum: i64, unsigned: bool) -> i128 {
    let sum = if unsigned { i128::from(sum as u64) } else { i128::from(sum) };
    sum / i128::from(count.max(1))
}

/// The largest `top` entries of a map, values divided by `divide`, the largest last.
pub fn print_map(
    map: &MapInfo,
    kind: Aggregate,
    entries: &[Entry],
    top: Option<u64>,
    divide: Option<u64>,
    symbols: &dyn Symbols,
) -> String {
    let mut out = String::new();
    let most = top.map_or(entries.len(), |top| usize::try_from(top).unwrap_or(usize::MAX));
    for entry in &entries[entries.len().saturating_sub(most)..] {
        let _ = write!(out, "@{}", map.name);
        if !entry.key.is_empty() {
            let parts: Vec<String> = entry.key.iter().map(|part| part.text(symbols)).collect();
            let _ = write!(out, "[{}]", parts.join(", "));
        }
        out.push_str(": ");
        show(map, kind, &entry.value, divide.unwrap_or(1).max(1), symbols, &mut out);
    }
    out
}

fn show(map: &MapInfo, kind: Aggregate, value: &Value, divide: u64, symbols: &dyn Symbols, out: &mut String) {
    let unsigned = matches!(map.value, Type::Int { signed: false, .. });
    let number = |value: i64| match unsigned {
        true => (value as u64 / divide).to_string(),
        false => (i128::from(value) / i128::from(divide)).to_string(),
    };
    let line = match value {
        Value::Number(bits) => match &map.value {
            Type::Int { .. } | Type::Bool => number(*bits),
            other => decode(other, &[*bits as u64]).0.text(symbols),
        },
        Value::Count(count) => (count / divide).to_string(),
        Value::Average { count, sum } => (average(*count, *sum, unsigned) / i128::from(divide)).to_string(),
        Value::Stats { count, sum, min, max } => format!(
            "count {count}, average {}, total {}, least {}, most {}",
            average(*count, *sum, unsigned) / i128::from(divide),
            number(*sum),
            number(*min),
            number(*max)
        ),
        Value::Histogram { counts, .. } => {
            out.push('\n');
            if let Aggregate::Histogram(kind) = kind {
                bars(&buckets(kind, counts), out);
            }
            String::new()
        }
    };
    let _ = writeln!(out, "{line}");
}
