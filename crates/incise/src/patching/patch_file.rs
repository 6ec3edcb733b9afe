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

use incise_isa::Addr;
use incise_isa::native::Syntax;

use super::change::{Change, Request};
use super::lines::{hex, unhex};
use super::{Note, Patch, PatchError, View};

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

    /// What `patches`, all that are wanted of what `view` shows, did to one module.
    ///
    /// # Errors
    /// [`PatchError::Export`] if they are of several modules, or one of them changed what only this process has.
    pub fn of(view: &View, patches: &[Patch]) -> Result<PatchFile, PatchError> {
        let refused = |reason: String| Err(PatchError::Export(reason));
        let module_of = |patch: &Patch| {
            let found = view.program().modules().iter().find(|module| module.range.contains(&patch.at));
            let reason = || format!("patch {} changed memory of no file: it cannot be exported", patch.id);
            found.ok_or_else(|| PatchError::Export(reason()))
        };
        let Some(first) = patches.first() else { return refused("nothing is patched".to_owned()) };
        let module = module_of(first)?;
        let mut notes: Vec<Option<Note>> = Vec::new();
        for (index, patch) in patches.iter().enumerate() {
            let other = module_of(patch)?;
            if other.range != module.range {
                let (one, two) = (&module.name, &other.name);
                return refused(format!("{one} and {two} are patched: export one, with --module {one}"));
            }
            let note = match (&patch.note, patch.code) {
                (Some(note), _) => {
                    let (note, below) = grounded(note, module.bias, &patches[..index])?;
                    below.into_iter().for_each(|below| notes[below] = None);
                    note
                }
                (None, false) => Note {
                    request: Request {
                        at: Addr(patch.at.0.wrapping_sub(module.bias)),
                        change: Change::Data(patch.new.clone()),
                        count: 1,
                        syntax: Syntax::Intel,
                    },
                    expected: patch.old.clone(),
                },
                (None, true) => {
                    return refused(format!(
                        "patch {} ({}) names an address of this process only: made with a name, such as \
                         main+0x10, it can be exported",
                        patch.id, patch.text
                    ));
                }
            };
            notes.push(Some(note));
        }
        let notes = notes.into_iter().flatten().collect();
        let build_id = module.image.build_id().map(<[u8]>::to_vec);
        Ok(PatchFile { program: Some(module.name.clone()), build_id, notes })
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

/// A change over jumps of `earlier` ones, which lead where only this process has code: as it is without them, and which of them it
/// makes up for.
///
/// # Errors
/// [`PatchError::Export`] if the code of an earlier one runs behind it.
fn grounded(note: &Note, bias: u64, earlier: &[Patch]) -> Result<(Note, Vec<usize>), PatchError> {
    let at = Addr(note.request.at.0.wrapping_add(bias));
    let range = at..at + note.expected.len() as u64;
    let is_below = |patch: &Patch| patch.detour.is_some() && patch.touches(&range);
    let below: Vec<usize> = (0..earlier.len()).filter(|&index| is_below(&earlier[index])).collect();
    let mut note = note.clone();
    for &index in below.iter().rev() {
        let patch = &earlier[index];
        if !matches!(note.request.change, Change::Return(_) | Change::Jump(_)) || patch.at < at {
            return Err(PatchError::Export(format!(
                "{at} is changed over the jump of patch {} ({}), which leads to code of this process only: take both back, and make \
                 one change of them",
                patch.id, patch.text
            )));
        }
        let offset = patch.at.offset_from(at) as usize;
        let place = note.expected.iter_mut().skip(offset);
        place.zip(&patch.old).for_each(|(byte, old)| *byte = *old);
    }
    Ok((note, below))
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
