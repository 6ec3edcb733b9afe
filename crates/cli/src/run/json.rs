//! What a script tells, as JSON Lines.

use std::io::{self, Write};

use incise::data::{Aggregate, Value as Held};
use incise::language::Type;
use incise::script::{ScriptEvent, ScriptTotals};
use incise::show::{Shown, Symbols, buckets};
use serde_json::{Value, json};

pub(super) fn show(event: &ScriptEvent<'_>, out: &mut dyn Write) -> io::Result<()> {
    let line = match event {
        ScriptEvent::Printf { text, values } => {
            // Names are in the text; a value is told as it is.
            let values: Vec<Value> = values.iter().map(|value| shown(value, &plain)).collect();
            json!({ "type": "printf", "text": text, "values": values })
        }
        ScriptEvent::Map { name, ty, kind, entries, symbols, .. } => {
            for entry in *entries {
                let key: Vec<Value> = entry.key.iter().map(|part| shown(part, *symbols)).collect();
                let value = held(&entry.value, ty, *kind, *symbols);
                let line = json!({ "type": "map", "map": format!("@{name}"), "key": key, "value": value });
                writeln!(out, "{line}")?;
            }
            return Ok(());
        }
        ScriptEvent::Point { probe, point, program } => json!({
            "type": "point",
            "probe": probe,
            "module": point.point.module,
            "function": point.point.display_name,
            "address": point.point.addr.to_string(),
            "line": point.line.as_ref().map(|(file, line)| format!("{file}:{line}")),
            "program": program.to_string(),
        }),
        ScriptEvent::Clause { probe, program } => {
            json!({ "type": "clause", "probe": probe, "program": program.to_string() })
        }
        _ => return out.flush(),
    };
    writeln!(out, "{line}")
}

/// The last line.
pub(super) fn totals(totals: &ScriptTotals, out: &mut dyn Write) -> io::Result<()> {
    let faults: Vec<Value> = totals
        .faults
        .iter()
        .map(|(fault, count)| json!({ "reason": fault.to_string(), "runs": count }))
        .collect();
    let ScriptTotals { lost, dropped, left_out, rows_left_out, .. } = totals;
    let line = json!({
        "type": "summary", "lost": lost, "dropped": dropped, "left_out": left_out, "ended_early": faults,
        "unwind_rows_left_out": rows_left_out,
    });
    writeln!(out, "{line}")
}

fn plain(at: u64) -> String {
    format!("{at:#x}")
}

fn shown(value: &Shown, symbols: &dyn Symbols) -> Value {
    match value {
        Shown::Signed(value) => json!(value),
        Shown::Unsigned(value) => json!(value),
        Shown::Float(value) => json!(value),
        Shown::Pointer(at) => json!(plain(*at)),
        Shown::Symbol(at) => json!(symbols.symbol(*at)),
        Shown::Text(text) => json!(text),
        Shown::Frames(frames) => json!(frames.iter().map(|at| symbols.symbol(*at)).collect::<Vec<_>>()),
    }
}

fn held(value: &Held, ty: &Type, kind: Aggregate, symbols: &dyn Symbols) -> Value {
    let unsigned = matches!(ty, Type::Int { signed: false, .. });
    let number = |value: i64| if unsigned { json!(value as u64) } else { json!(value) };
    match value {
        Held::Number(bits) => match ty {
            Type::Int { .. } | Type::Bool => number(*bits),
            other => shown(&incise::show::decode(other, &[*bits as u64]).0, symbols),
        },
        Held::Count(count) => json!(count),
        Held::Average { count, sum } => json!({ "count": count, "sum": number(*sum) }),
        Held::Stats { count, sum, min, max } => {
            json!({ "count": count, "sum": number(*sum), "min": number(*min), "max": number(*max) })
        }
        Held::Histogram { sum, counts } => {
            let Aggregate::Histogram(kind) = kind else { return Value::Null };
            let bars = buckets(kind, counts).into_iter();
            let bars = bars.map(|bar| json!({ "from": bar.from, "to": bar.to, "count": bar.count }));
            json!({ "sum": sum, "buckets": bars.collect::<Vec<Value>>() })
        }
    }
}
