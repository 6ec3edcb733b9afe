//! A change as one line of text: what records and patch files keep, and do again.
//!
//! `ADDRESS COUNT EXPECTED CHANGE`: the link address, how many instructions are replaced, the bytes that were there
//! (`-` for those of no interest), and the change as on the command line: `--invert`, `--bytes 90 90`,
//! `--string "text"`, `intel mov eax, 1; ret`, `att movl $1, %eax`, `set if rdi == 5 ;; rax=1`.

use incise_isa::Addr;
use incise_isa::native::Syntax;

use super::change::{Change, Request, behind_mark};
use super::lines::{hex, unhex};
use super::place::number;
use super::set::Setting;
use super::{PatchError, View, expect};

/// A request with the bytes that it expects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// What is to be done; the address is a link address.
    pub request: Request,
    /// The bytes that are replaced.
    pub expected: Vec<u8>,
}

impl Note {
    /// The line.
    pub fn to_line(&self) -> String {
        let Request { at, change, count, syntax } = &self.request;
        let expected = if self.expected.is_empty() { "-".to_owned() } else { hex(&self.expected) };
        let change = match change {
            Change::Assembly(text) => {
                let syntax = if *syntax == Syntax::Att { "att" } else { "intel" };
                format!("{syntax} {}", text.replace('\n', "; "))
            }
            Change::Bytes(bytes) => format!("--bytes {}", hex(bytes)),
            Change::Nop => "--nop".to_owned(),
            Change::Invert => "--invert".to_owned(),
            Change::Always => "--always".to_owned(),
            Change::Never => "--never".to_owned(),
            Change::Return(value) => format!("--return {value:#x}"),
            Change::Call(place) => format!("--call {place}"),
            Change::Jump(place) => format!("--jump {place}"),
            // As bytes: a string need not be text.
            Change::Text(bytes) => format!("--string {}", hex(bytes)),
            Change::Data(bytes) => format!("--data {}", hex(bytes)),
            Change::Set(setting) => format!("set {}", setting.to_text()),
        };
        format!("{at} {count} {expected} {change}")
    }

    /// Checks that the expected bytes are there.
    ///
    /// # Errors
    /// [`PatchError::Unexpected`] if not.
    pub fn check(&self, view: &View) -> Result<(), PatchError> {
        if self.expected.is_empty() {
            return Ok(());
        }
        expect(view, behind_mark(view, &self.request), &self.expected)
    }

    /// The change as a user would write it.
    pub fn shown(&self) -> String {
        let line = self.to_line();
        let change = line.splitn(4, ' ').nth(3).unwrap_or("");
        match &self.request.change {
            Change::Text(text) => format!("--string {:?}", String::from_utf8_lossy(text)),
            Change::Assembly(text) => text.clone(),
            _ => change.to_owned(),
        }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Note, String> {
        let mut words = line.trim().splitn(4, ' ');
        let mut word =
            |what: &str| words.next().filter(|word| !word.is_empty()).ok_or(format!("{what} is missing"));
        let at = word("the address")?;
        let at = number(at).map(Addr).ok_or_else(|| format!("`{at}` is not an address"))?;
        let count = word("the number of instructions")?;
        let count = count.parse().ok().filter(|count| (1..=256).contains(count));
        let count = count.ok_or("the number of instructions is not one from 1 to 256")?;
        let expected = match word("what is expected")? {
            "-" => Vec::new(),
            digits => unhex(digits).ok_or("what is expected is not hexadecimal")?,
        };
        let change = word("the change")?;
        let (kind, rest) = change.split_once(' ').unwrap_or((change, ""));
        let bytes = || unhex(rest).filter(|bytes| !bytes.is_empty()).ok_or("the bytes are not hexadecimal");
        let change = match kind {
            "intel" | "att" => Change::Assembly(rest.to_owned()),
            "--bytes" => Change::Bytes(bytes()?),
            "--nop" => Change::Nop,
            "--invert" => Change::Invert,
            "--always" => Change::Always,
            "--never" => Change::Never,
            "--return" => Change::Return(number(rest).ok_or("what to return is not a number")?),
            "--call" => Change::Call(rest.to_owned()),
            "--jump" => Change::Jump(rest.to_owned()),
            "--string" => Change::Text(unhex(rest).ok_or("the bytes are not hexadecimal")?),
            "--data" => Change::Data(bytes()?),
            "set" => Change::Set(Setting::parse(rest)?),
            other => return Err(format!("`{other}` is not a change")),
        };
        let syntax = if kind == "att" { Syntax::Att } else { Syntax::Intel };
        Ok(Note { request: Request { at, change, count, syntax }, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_again() {
        let changes = [
            Change::Assembly("mov eax, 1; ret".to_owned()),
            Change::Bytes(vec![0x90, 0x90]),
            Change::Nop,
            Change::Invert,
            Change::Always,
            Change::Never,
            Change::Return(u64::MAX),
            Change::Call("libc!puts".to_owned()),
            Change::Jump("main+0x10".to_owned()),
            Change::Text(Vec::new()),
            Change::Text(b"a b".to_vec()),
            Change::Data(vec![0]),
            Change::Set(Setting {
                assignments: vec!["rax=1".to_owned()],
                times: Some(2),
                ..Setting::default()
            }),
        ];
        for change in changes {
            let request = Request { at: Addr(0x1149), change, count: 2, syntax: Syntax::Intel };
            let note = Note { request, expected: vec![0x7f, 0x11] };
            let line = note.to_line();
            assert_eq!(Note::parse(&line), Ok(note), "{line}");
        }
    }

    #[test]
    fn nonsense_is_told() {
        for line in [
            "",
            "x 1 - --nop",
            "0x10 0 - --nop",
            "0x10 1 z --nop",
            "0x10 1 -",
            "0x10 1 - --explode",
            "0x10 1 - --bytes",
        ] {
            assert!(Note::parse(line).is_err(), "{line}");
        }
    }
}
