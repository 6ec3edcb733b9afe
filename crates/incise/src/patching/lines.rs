//! Patches of a process as text, one a line.

use std::ops::Range;

use incise_isa::Addr;

use super::book::Patch;

pub(super) fn line(patch: &Patch) -> String {
    let heads: Vec<String> = patch.heads.iter().map(usize::to_string).collect();
    let heads = if heads.is_empty() { "-".to_owned() } else { heads.join(",") };
    let (detour, memory) = (ranges(patch.detour.as_slice()), ranges(&patch.memory));
    let kind = if patch.code { "code" } else { "data" };
    let text = escaped(&patch.text);
    format!(
        "{} {kind} {:x} {} {} {heads} {detour} {memory} {text}",
        patch.id,
        patch.at.0,
        hex(&patch.old),
        hex(&patch.new)
    )
}

pub(super) fn parsed(line: &str) -> Option<Patch> {
    let mut words = line.splitn(9, ' ');
    let id = words.next()?.parse().ok()?;
    let code = words.next()? == "code";
    let at = Addr(u64::from_str_radix(words.next()?, 16).ok()?);
    let (old, new) = (unhex(words.next()?)?, unhex(words.next()?)?);
    let heads = match words.next()? {
        "-" => Vec::new(),
        list => list.split(',').map(str::parse).collect::<Result<_, _>>().ok()?,
    };
    let detour = parsed_ranges(words.next()?)?.pop();
    let memory = parsed_ranges(words.next()?)?;
    let text = unescaped(words.next()?);
    (old.len() == new.len() || new.is_empty()).then_some(Patch {
        id,
        text,
        at,
        old,
        new,
        heads,
        code,
        detour,
        memory,
        note: None,
    })
}

/// Ranges as words: `start:end,start:end`, or `-` for none.
pub(super) fn ranges(ranges: &[Range<Addr>]) -> String {
    let list: Vec<String> =
        ranges.iter().map(|range| format!("{:x}:{:x}", range.start.0, range.end.0)).collect();
    if list.is_empty() { "-".to_owned() } else { list.join(",") }
}

pub(super) fn parsed_ranges(text: &str) -> Option<Vec<Range<Addr>>> {
    let addr = |text: &str| u64::from_str_radix(text, 16).ok().map(Addr);
    let range = |text: &str| {
        let (start, end) = text.split_once(':')?;
        Some(addr(start)?..addr(end)?).filter(|range| range.start <= range.end)
    };
    if text == "-" { Some(Vec::new()) } else { text.split(',').map(range).collect() }
}

/// Text in one line.
pub(super) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n")
}

/// Takes `\\` and `\n` back.
pub(super) fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match (c, c == '\\') {
            (_, true) => {
                if chars.next() == Some('n') {
                    '\n'
                } else {
                    '\\'
                }
            }
            (c, false) => c,
        });
    }
    plain
}

/// Bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal digits as bytes, spaces between them allowed.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    digits
        .len()
        .is_multiple_of(2)
        .then(|| digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_again() {
        let patch = Patch {
            id: 7,
            text: "mov eax, 1\n; \\ret".to_owned(),
            at: Addr(0x40_1136),
            old: vec![1, 2],
            new: vec![3, 4],
            heads: vec![0, 1],
            code: true,
            detour: Some(Addr(0x10)..Addr(0x20)),
            memory: vec![Addr(0x1000)..Addr(0x3000), Addr(0x8000)..Addr(0x9000)],
            note: None,
        };
        assert_eq!(parsed(&line(&patch)), Some(patch.clone()));
        let plain = Patch { heads: Vec::new(), detour: None, memory: Vec::new(), code: false, ..patch };
        assert_eq!(parsed(&line(&plain)), Some(plain));
    }

    #[test]
    fn hex_needs_pairs() {
        assert_eq!(unhex("90 90eb"), Some(vec![0x90, 0x90, 0xeb]));
        assert_eq!((unhex("9"), unhex("zz")), (None, None));
    }
}
