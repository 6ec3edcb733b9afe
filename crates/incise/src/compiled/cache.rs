//! Code of programs that were compiled before.

use std::collections::HashMap;

use incise_snippet::compile::{CompileError, Compiled, Settings, compile};
use incise_snippet::tree::Program;

/// Programs and their code, by their text: of programs with the same text the same blocks tell which is meant.
#[derive(Default)]
pub(crate) struct Cache(HashMap<String, Vec<(Program, Compiled)>>);

/// More are not kept.
const PROGRAMS: usize = 1024;

impl Cache {
    /// The code of a program.
    ///
    /// # Errors
    /// [`CompileError`].
    pub(crate) fn get(
        &mut self,
        program: &Program,
        settings: &Settings<'_>,
    ) -> Result<Compiled, CompileError> {
        let text = program.to_string();
        let known = self.0.get(&text).and_then(|same| same.iter().find(|(known, _)| known == program));
        if let Some((_, code)) = known {
            return Ok(code.clone());
        }
        let code = compile(program, settings)?;
        if self.0.len() < PROGRAMS {
            self.0.entry(text).or_default().push((program.clone(), code.clone()));
        }
        Ok(code)
    }
}
