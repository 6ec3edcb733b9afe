//! Disassembly as text.

use std::io::{self, Write};

use incise::Addr;
use incise::patching::{Line, Patch};

/// Bytes as a listing shows them.
pub(super) fn bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

/// What bytes were and are, in one line; the beginning of it where there are many.
pub(super) fn bytes_difference(old: &[u8], new: &[u8]) -> String {
    const MOST: usize = 16;
    let cut = |data: &[u8]| {
        let more = data.len().saturating_sub(MOST);
        let rest = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        bytes(&data[..data.len() - more]) + &rest
    };
    format!("{} -> {}", cut(old), cut(new))
}

/// A row of bytes, and what of them is text.
pub(super) fn row(at: Addr, row: &[u8]) -> String {
    let text: String =
        row.iter().map(|&byte| if (0x20..0x7f).contains(&byte) { byte as char } else { '.' }).collect();
    format!("{:>14}  {:<47}  |{text}|", at.to_string(), bytes(row))
}

/// What data of the length of a number is; of other lengths, what of it is text.
fn value(data: &[u8]) -> String {
    let text = data.iter().position(|byte| *byte == 0).map_or(data, |end| &data[..end]);
    let printable = |byte: &u8| matches!(byte, 0x20..0x7f | b'\n' | b'\r' | b'\t');
    if text.len() > 1 && text.iter().all(printable) && data[text.len()..].iter().all(|byte| *byte == 0) {
        return format!("{:?}", String::from_utf8_lossy(text));
    }
    let number = match *data {
        [a] => (a as i8).into(),
        [a, b] => i16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => return String::new(),
    };
    number.to_string()
}

/// Writes what data was and is, as a difference: in rows of 16 bytes where it is long.
pub(super) fn data_difference(out: &mut dyn Write, at: Addr, old: &[u8], new: &[u8]) -> io::Result<()> {
    const ROW: usize = 16;
    const MOST: usize = 16;
    if old.len() <= ROW {
        for (sign, data) in [('-', old), ('+', new)] {
            let line = format!("{sign}{:>14}  {:<24}", at.to_string(), bytes(data));
            let value = value(data);
            let value = if value.is_empty() { value } else { format!("  # {value}") };
            writeln!(out, "{}", format!("{line}{value}").trim_end())?;
        }
        return Ok(());
    }
    let rows = old.chunks(ROW).zip(new.chunks(ROW)).enumerate().filter(|(_, (old, new))| old != new);
    let changed: Vec<_> = rows.collect();
    for (sign, which) in [('-', 0), ('+', 1)] {
        for (index, (old, new)) in changed.iter().take(MOST) {
            let data = if which == 0 { old } else { new };
            writeln!(out, "{sign}{}", row(at + (ROW * index) as u64, data))?;
        }
    }
    if changed.len() > MOST {
        writeln!(out, " {:>14}  {} more rows differ", "", changed.len() - MOST)?;
    }
    Ok(())
}

/// `1 change`, `2 changes`.
pub(super) fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

/// One instruction: address, bytes, text, what it names.
pub(super) fn line(line: &Line) -> String {
    let note = line.note.as_ref().map_or(String::new(), |note| format!("  # {note}"));
    let text = format!("{:>14}  {:<24}  {}", line.at.to_string(), bytes(&line.bytes), line.text);
    if note.is_empty() { text } else { format!("{text:<72}{note}") }
}

/// Writes instructions; where a patch changed them, the mark `*` and what it is.
pub(super) fn listing(
    out: &mut dyn Write,
    lines: &[Line],
    patches: &[Patch],
    original: &dyn Fn(&Patch) -> Vec<Line>,
) -> io::Result<()> {
    let targets: Vec<_> = lines.iter().filter_map(|line| line.target).collect();
    for shown in lines {
        if let Some(label) = &shown.label {
            writeln!(out, "{label}:")?;
        }
        let end = shown.at + shown.bytes.len() as u64;
        let patch =
            patches.iter().find(|patch| shown.at < patch.at + patch.new.len() as u64 && patch.at < end);
        let mark = match patch {
            Some(_) => '*',
            None if targets.contains(&shown.at) => '>',
            None => ' ',
        };
        writeln!(out, "{mark}{}", line(shown))?;
        let Some(patch) = patch else { continue };
        // Told once, at the last instruction that it touches.
        let last = end >= patch.at + patch.new.len() as u64;
        if last {
            for old in original(patch) {
                writeln!(out, "-{}", line(&old))?;
            }
            writeln!(out, " {:>14}  patch {}: {}", "", patch.id, patch.text.replace('\n', "; "))?;
        }
    }
    Ok(())
}

/// Writes what was and what is, as a difference.
pub(super) fn difference(out: &mut dyn Write, before: &[Line], after: &[Line]) -> io::Result<()> {
    for old in before.iter().filter(|old| !after.iter().any(|new| new.at == old.at && new.bytes == old.bytes))
    {
        writeln!(out, "-{}", line(old))?;
    }
    for new in after.iter().filter(|new| !before.iter().any(|old| old.at == new.at && new.bytes == old.bytes))
    {
        writeln!(out, "+{}", line(new))?;
    }
    Ok(())
}
