//! `incise undo`: takes changes back.

use std::process::ExitCode;

use incise::space::file::{self, Output};

use crate::Failure;
use crate::args::UndoArgs;

pub(crate) fn run(args: &UndoArgs) -> Result<ExitCode, Failure> {
    let output = match &args.output {
        Some(path) => Output::new(path),
        None => Output::in_place(&args.file),
    };
    let len = file::undo(&args.file, &output)?;
    println!("{}: the original, {len} bytes", output.path.display());
    Ok(ExitCode::SUCCESS)
}
