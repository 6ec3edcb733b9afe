//! `incise undo`: takes changes back.

use std::process::ExitCode;

use incise::space::file::Output;

use crate::Failure;
use crate::args::UndoArgs;

pub(crate) fn run(args: &UndoArgs) -> Result<ExitCode, Failure> {
    if let Some(pid) = args.pid {
        let id = args.file.as_ref().map(|id| id.to_string_lossy().parse());
        let id =
            id.transpose().map_err(|_| "the number of a patch, as `incise patches` shows it, is needed")?;
        return crate::patching::undo_live(pid, id);
    }
    let file = args.file.as_ref().ok_or("which file?")?;
    let output = match &args.output {
        Some(path) => Output::new(path),
        None => Output::in_place(file),
    };
    if let Some(id) = args.id {
        return crate::patching::undo_in_file(file, id, &output);
    }
    let len = incise::space::file::undo(file, &output)?;
    println!("{}: the original, {len} bytes", output.path.display());
    Ok(ExitCode::SUCCESS)
}
