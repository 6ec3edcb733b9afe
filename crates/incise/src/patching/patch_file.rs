//! Patch files: changes of a program as text, to be kept, sent and applied elsewhere.
//!
//! ```text
//! incise patch 1
//! # comments and empty lines are left out
//! program castle
//! build-id 1f0c…
//! 0x1149 1 7f11 --never
//! ```
//!
//! The first line names the format. `program` is for people; `build-id`, if it is there, has to be that of the program
//! it is applied to. Every other line is a change as in [`Note`].

use super::PatchError;
use super::lines::{hex, unhex};
use super::note::Note;

/// The first line.
const FORMAT: &str = "incise patch 1";

/// The contents of a patch file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PatchFile {
    /// The name of the program, for people.
    pub program: Option<String>,
    /// The build-id that the program has to have.
    pub build_id: Option<Vec<u8>>,
    /// The changes.
    pub notes: Vec<Note>,
}

impl PatchFile {
    /// Reads a patch file.
    ///
    /// # Errors
    /// [`PatchError::PatchFile`] with the line that is wrong.
    pub fn parse(text: &str) -> Result<PatchFile, PatchError> {
        let wrong = |line: usize, reason: &str| PatchError::PatchFile { line, reason: reason.to_owned() };
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        if lines.next().is_none_or(|(_, line)| line != FORMAT) {
            return Err(wrong(1, "it does not begin with `incise patch 1`"));
        }
        let mut file = PatchFile::default();
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix("program ") {
                file.program = Some(name.to_owned());
            } else if let Some(id) = line.strip_prefix("build-id ") {
                file.build_id =
                    Some(unhex(id).ok_or_else(|| wrong(number, "the build-id is not hexadecimal"))?);
            } else {
                file.notes.push(Note::parse(line).map_err(|reason| wrong(number, &reason))?);
            }
        }
        if file.notes.is_empty() {
            return Err(wrong(text.lines().count(), "there is no change in it"));
        }
        Ok(file)
    }

    /// The text.
    pub fn to_text(&self) -> String {
        let mut text = format!("{FORMAT}\n");
        if let Some(program) = &self.program {
            text.push_str(&format!("program {program}\n"));
        }
        if let Some(id) = &self.build_id {
            text.push_str(&format!("build-id {}\n", hex(id)));
        }
        for note in &self.notes {
            text.push_str(&note.to_line());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_again() {
        let text = "incise patch 1\nprogram castle\nbuild-id 1f0c\n\n# why\n0x1149 1 7f11 --never\n0x1150 2 - intel nop; ret\n";
        let file = PatchFile::parse(text).expect("a patch file");
        assert_eq!((file.notes.len(), file.build_id.as_deref()), (2, Some(&[0x1f, 0x0c][..])));
        assert_eq!(PatchFile::parse(&file.to_text()).expect("again"), file);
    }

    #[test]
    fn the_wrong_line_is_named() {
        let error = PatchFile::parse("incise patch 1\n0x10 1 - --never\nnonsense\n").expect_err("no change");
        assert!(error.to_string().starts_with("line 3 "), "{error}");
        assert!(PatchFile::parse("incise patch 2\n").is_err());
        assert!(PatchFile::parse("incise patch 1\n").is_err());
    }
}
