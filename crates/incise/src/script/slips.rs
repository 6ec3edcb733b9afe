//! Probes that mean another part of themselves than they say: `function:step:ext` has no module `step`.

use incise_image::{MemoryReader, PatternError, suggest};
use incise_snippet::language::ast::{FunctionProbe, Place, Probe, ProbeKind};
use incise_snippet::language::{Diagnostic, Diagnostics};

use super::state::State;
use crate::point::Query;
use crate::program::Program;

impl State {
    /// Notes a probe whose first part is no module of the program but a function of it, and whose second is then no place in one.
    pub(super) fn note_slip(&mut self, program: &Program, memory: &dyn MemoryReader) {
        let probes = self.script.clauses.iter().flat_map(|clause| &clause.probes);
        let slip = probes.into_iter().find_map(|probe| slip(probe, program, memory));
        self.slip = slip.map(|error| {
            let mut wrong = Diagnostics::new(&self.name, &self.source);
            wrong.push(error);
            wrong
        });
    }
}

fn slip(probe: &Probe, program: &Program, memory: &dyn MemoryReader) -> Option<Diagnostic> {
    let ProbeKind::Function(FunctionProbe { module: Some(first), function: second, place, otherwise: None }) =
        &probe.kind
    else {
        return None;
    };
    let kind = probe.text.split(':').next();
    if *place != Place::Entry || !matches!(kind, Some("function" | "f")) || first.contains('/') {
        return None;
    }
    let found = Query::functions(second).module(first).run(program, memory);
    let Err(PatternError::NoModule { .. }) = found else { return None };
    let function = Query::functions(first).run(program, memory).is_ok_and(|found| !found.points.is_empty());
    if !function {
        return None;
    }
    let message = format!("`{second}` is no place in the function `{first}`");
    let error = Diagnostic::error(probe.span, message);
    let near = suggest::nearest(second, Place::WORDS.iter().map(|(word, _)| *word));
    let whole: Vec<String> = near.iter().map(|word| format!("function:{first}:{word}")).collect();
    Some(if whole.is_empty() {
        error.help(format!(
            "no module is called `{first}`; places are entry, exit, block, call, instruction, …"
        ))
    } else {
        error.did_you_mean(&whole)
    })
}
