//! Disassembly as text.

use std::io::{self, Write};

use incise::patching::{Line, Patch};

/// Bytes as a listing shows them.
pub(super) fn bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
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
