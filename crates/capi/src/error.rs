//! Errors, and the text of each thread's last one.
//!
use std::cell::RefCell;
use std::ffi::{CString, c_char};

use incise::image::PatternError;
use incise::space::{Fault, SpaceError};
use incise::{CommitError, Entry, Outcome, Refusal};

/// Why a function did nothing, or an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the library is not set up: call patch_init() first")]
    NotInit,
    #[error("the library is set up already: call patch_fini() before patch_init() is called again")]
    AlreadyInit,
    #[error("{0} is NULL")]
    Null(&'static str),
    #[error("flags {given:#x}: {why}")]
    Flags { given: u64, why: &'static str },
    #[error("{0}")]
    Op(String),
    #[error("{0}")]
    Option(String),
    #[error("this option cannot change while probes are installed: remove all {installed} first")]
    Busy { installed: usize },
    #[error("cookie {cookie}: {why}")]
    Cookie { cookie: u64, why: &'static str },
    #[error("{0:#x} is not an array of results that patch_commit() returned, or it was dropped before")]
    Results(usize),
    #[error("{0}")]
    Pattern(PatternError),
    #[error(
        "the indirect function {0} was not called yet, so its implementation is not decided: call it first"
    )]
    Undecided(String),
    #[error("the address {addr:#x} is beyond the end of memory by the offset {offset:#x}")]
    Beyond { addr: usize, offset: u64 },
    #[error("the address is in code of libpatch, which probes need to run: it cannot be probed")]
    OwnCode,
    #[error("{0}")]
    Refused(Refusal),
    #[error("{failed} of the sites failed and nothing was changed; the first: {place}: {first}")]
    Transaction { failed: usize, place: String, first: Box<Error> },
    #[error("removed, because the code there could not be patched again: {0}")]
    Lost(Refusal),
    #[error("{text}{}", remedy(.fault))]
    System { text: String, fault: Fault },
    #[error("called while this thread is inside another function of libpatch: call it later")]
    Reentrant,
    #[error("{0}")]
    Snippet(String),
    #[error("no snippet that was committed has a map @{0}")]
    Map(String),
    #[error("a fault of libpatch's own ({0}): nothing is known about the state of its probes")]
    Internal(String),
}

fn remedy(fault: &Fault) -> &'static str {
    match fault {
        Fault::Caller => "",
        Fault::Target => "; the program changed its own code or mappings meanwhile: try again",
        Fault::System => "; `incise doctor` tells what this machine allows",
    }
}

impl Error {
    /// Its number in `patch_err`.
    pub fn code(&self) -> u32 {
        match self {
            Error::NotInit => 1,
            Error::AlreadyInit => 2,
            Error::Null(_) => 3,
            Error::Flags { .. } => 4,
            Error::Option(_) => 6,
            Error::Busy { .. } => 7,
            Error::Cookie { .. } => 8,
            Error::Results(_) => 9,
            Error::Pattern(PatternError::NoModule { .. }) => 10,
            Error::Pattern(PatternError::NoFunction { .. }) | Error::Undecided(_) => 11,
            Error::Pattern(
                PatternError::OutsideFunction { .. }
                | PatternError::InsideInstruction { .. }
                | PatternError::NotCode { .. },
            )
            | Error::Beyond { .. }
            | Error::Refused(Refusal::NotExecutable(_)) => 12,
            Error::OwnCode | Error::Refused(_) | Error::Lost(_) => 13,
            Error::Transaction { first, .. } => first.code(),
            Error::System { .. } => 14,
            Error::Reentrant => 15,
            Error::Internal(_) => 16,
            Error::Snippet(_) => 17,
            Error::Map(_) => 18,
            // What else is wrong with a pattern is its form.
            Error::Op(_) | Error::Pattern(_) => 5,
        }
    }
}

impl From<SpaceError> for Error {
    fn from(error: SpaceError) -> Error {
        Error::System { text: error.to_string(), fault: error.fault() }
    }
}

impl From<Option<Refusal>> for Error {
    fn from(refusal: Option<Refusal>) -> Error {
        refusal.map_or_else(|| Error::Internal("a refusal without reason".to_owned()), Error::Refused)
    }
}

fn refusal(entries: &[Entry]) -> Option<Refusal> {
    entries.iter().find_map(|entry| match &entry.outcome {
        Outcome::Refused(refusal) => Some(refusal.clone()),
        Outcome::Installed(_) => None,
    })
}

impl From<incise::Error> for Error {
    fn from(error: incise::Error) -> Error {
        match error {
            incise::Error::Pattern(error) => Error::Pattern(error),
            incise::Error::Commit(CommitError::Refused(entries)) => refusal(&entries).into(),
            incise::Error::Space(error) | incise::Error::Commit(CommitError::Space(error)) => error.into(),
            incise::Error::Script(error) => Error::Snippet(error.to_string()),
            incise::Error::Compile(error) => Error::Snippet(error.to_string()),
            other => Error::Internal(other.to_string()),
        }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps `text` as this thread's last error.
pub fn note(text: String) {
    let text = c_string(text);
    // A thread that is ending has no last error any more.
    let _ = LAST.try_with(|last| last.try_borrow_mut().map(|mut last| *last = text));
}

/// This thread's last error: good until its next one.
pub fn last() -> *const c_char {
    let text = |last: &RefCell<CString>| last.try_borrow().map(|text| text.as_ptr()).ok();
    LAST.try_with(text).ok().flatten().unwrap_or(c"".as_ptr())
}

/// A C string of `text` up to its first NUL.
pub fn c_string(text: String) -> CString {
    let mut bytes = text.into_bytes();
    bytes.truncate(bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len()));
    CString::new(bytes).unwrap_or_default()
}
