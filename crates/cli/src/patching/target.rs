//! What a command line names: a file, a process, a program to start.

use std::path::PathBuf;

use incise::isa::native::Syntax;
use incise::patching::{Live, View};

use super::args::{SyntaxArg, TargetArgs};
use crate::Failure;

/// What to look at, and what to let go in the end.
pub(super) struct Target {
    pub view: View,
    live: Option<Live>,
}

impl Target {
    /// Opens the target to look at it. Without a process or a program, the first of `words` is a file, and is taken.
    pub(super) fn open(args: &TargetArgs, words: &mut Vec<String>) -> Result<Target, Failure> {
        if let Some(pid) = args.pid {
            return Ok(Target { view: View::of_process(pid)?, live: None });
        }
        if let Some((program, arguments)) = args.program.split_first() {
            let mut live = Live::launch(program, arguments)?;
            let view = live.run_to_entry().and_then(|()| live.view());
            return match view {
                Ok(view) => Ok(Target { view, live: Some(live) }),
                Err(error) => {
                    live.kill();
                    Err(error.into())
                }
            };
        }
        Ok(Target { view: View::of_file(&file(words)?)?, live: None })
    }

    /// Lets go: a program that was started only to look at it ends.
    pub(super) fn close(self) {
        if let Some(live) = self.live {
            live.kill();
        }
    }
}

/// Takes the file off the words.
pub(super) fn file(words: &mut Vec<String>) -> Result<PathBuf, Failure> {
    if words.is_empty() {
        return Err("what to look at? Name a file, or -p PID, or -- CMD".into());
    }
    Ok(PathBuf::from(words.remove(0)))
}

impl From<SyntaxArg> for Syntax {
    fn from(syntax: SyntaxArg) -> Syntax {
        match syntax {
            SyntaxArg::Intel => Syntax::Intel,
            SyntaxArg::Att => Syntax::Att,
        }
    }
}
