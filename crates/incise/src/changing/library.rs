//! Libraries that are loaded so that functions of theirs can run in place of the program's.
//!
//! The program's own `dlopen` loads them. In another process one of its threads calls it where it holds no lock that `dlopen`
//! needs ([`safe`](super::safe)): at the entry point of a program that was launched, or else wherever a thread comes to a good place first. What was
//! loaded stays until it is unloaded ([`unload`](super::unload)): threads may be in it.
//!
//! ```
//! use incise::{Addr, Position, Session, changing};
//!
//! #[inline(never)]
//! extern "C" fn magnitude(n: f64) -> f64 {
//!     std::hint::black_box(n)
//! }
//!
//! let session = Session::own()?;
//! let library = session.load("libm.so.6".as_ref())?;
//! let by = library.function(&session, "fabs")?;
//! let mut batch = session.batch();
//! let entry = Addr(magnitude as *const () as u64);
//! let instance = batch.insert(entry, changing::replace_by(by), Position::Last);
//! batch.commit()?;
//! assert_eq!(magnitude(-2.0), 2.0);
//! let mut batch = session.batch();
//! batch.remove(instance);
//! batch.commit()?;
//! assert_eq!(magnitude(-2.0), -2.0);
//! # Ok::<(), incise::Error>(())
//! ```
//!
//! # Safety
//! Loading a library runs its constructors: whoever asks for it vouches for them. The names that are passed end with a zero byte.

#![allow(unsafe_code, reason = "calls dlopen")]

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use incise_isa::Addr;
use incise_space::own::OwnSpace;
use incise_space::remote::{Event, ProcessId, RemoteSpace, Tracer};
use incise_space::{AddressSpace, SpaceError};

use super::safe;
use crate::compiled::{Choose, Ran};
use crate::point::Query;
use crate::program::Program;
use crate::session::{Error, Session};

/// Why a library was not loaded. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no such file.
    #[error("there is no library {}", .0.display())]
    NoFile(PathBuf),
    /// Its name cannot be passed on.
    #[error("the name of the library {} is no text", .0.display())]
    Name(PathBuf),
    /// The program was linked without a dynamic linker.
    #[error("a library cannot be loaded into this program: {0}")]
    NoLoader(&'static str),
    /// The dynamic linker refuses it.
    #[error("the library is not loaded: {0}")]
    Refused(String),
    /// All threads are where they may hold a lock that loading needs.
    #[error(
        "no thread came to a place where a library can be loaded: they allocate memory, load libraries or wait for a lock; try again"
    )]
    Busy,
    /// It was there before it was asked for.
    #[error("{} was not loaded for us: it is not ours to unload", .0.display())]
    NotOurs(PathBuf),
    /// A thread is in it, or what it was called by.
    #[error("{} cannot be unloaded: a thread is in it; try again", .0.display())]
    InUse(PathBuf),
}

/// A library that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Library {
    /// Its file, as the process has it mapped.
    pub path: PathBuf,
    /// Whether it was loaded for us; if not, it was there before.
    pub loaded: bool,
}

impl Library {
    /// The address of a function of it.
    ///
    /// # Errors
    /// [`Error::Pattern`] if it has none of that name.
    pub fn function<S: AddressSpace>(&self, session: &Session<S>, name: &str) -> Result<Addr, Error> {
        let found = session.find(Query::functions(name).module(self.path.to_string_lossy()))?;
        Ok(found.first().map_or(Addr(0), |point| point.addr))
    }
}

/// How long a process runs between two looks for a thread at a good place.
const PAUSE: Duration = Duration::from_millis(2);

impl Session<OwnSpace> {
    /// Loads a library into this process, as dlopen(3) does: a name without `/` is looked for where libraries are.
    ///
    /// # Errors
    /// [`LoadError::Refused`] with the words of the dynamic linker.
    pub fn load(&self, library: &Path) -> Result<Library, Error> {
        let name = CString::new(library.as_os_str().as_bytes());
        let name = name.map_err(|_| LoadError::Name(library.to_owned()))?;
        // SAFETY: the name ends with a zero byte; nothing is loaded.
        let there = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        // SAFETY: the name ends with a zero byte; the caller vouches for the constructors.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        if handle.is_null() {
            // SAFETY: the text is valid until the next such call on this thread.
            let told = unsafe { libc::dlerror().as_ref().map(|told| CStr::from_ptr(told)) };
            let told = told.map_or_else(String::new, |told| told.to_string_lossy().into_owned());
            return Err(LoadError::Refused(told).into());
        }
        let mut map: *mut LinkMap = std::ptr::null_mut();
        // SAFETY: the handle is valid; the linker stores a pointer to its description, which stays as long as the library.
        let path = unsafe {
            match libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) {
                0 if !map.is_null() => CStr::from_ptr((*map).name).to_string_lossy().into_owned(),
                _ => library.to_string_lossy().into_owned(),
            }
        };
        let path = std::fs::canonicalize(&path).unwrap_or_else(|_| path.into());
        if !there.is_null() {
            // What was there is not held here.
            // SAFETY: two handles that were just taken.
            unsafe { (libc::dlclose(handle), libc::dlclose(there)) };
        }
        Ok(Library { path, loaded: there.is_null() })
    }
}

/// The beginning of `struct link_map` (link.h).
#[repr(C)]
struct LinkMap {
    addr: usize,
    name: *const libc::c_char,
}

/// Has the process of `session`, which `tracer` traces, load a library, unless it has it already. It may take up to `patience`
/// until a thread comes to a good place and has loaded it.
///
/// # Errors
/// [`Error::Load`]; [`Error::Late`] if `dlopen` does not come back, or when `interrupted` is set; if the process cannot be traced.
pub fn load(
    tracer: &mut Tracer,
    session: &Session<RemoteSpace>,
    library: &Path,
    patience: Duration,
    interrupted: &AtomicBool,
) -> Result<Library, Error> {
    load_until(tracer, session, library, patience, interrupted, None)
}

/// The same; `until`: a gate that a thread of the program comes to behind the load. It stands there then.
pub(crate) fn load_until(
    tracer: &mut Tracer,
    session: &Session<RemoteSpace>,
    library: &Path,
    patience: Duration,
    interrupted: &AtomicBool,
    until: Option<Addr>,
) -> Result<Library, Error> {
    let path = std::fs::canonicalize(library).map_err(|_| LoadError::NoFile(library.to_owned()))?;
    let name = path.to_str().ok_or_else(|| LoadError::Name(path.clone()))?;
    let there = session.with_program(|program, _| {
        let modules = program.modules();
        if modules.first().is_some_and(|main| main.image.is_static()) {
            return Err(LoadError::NoLoader("it is static, and has no dynamic linker").into());
        }
        Ok(modules.iter().any(|module| module.path == name))
    })?;
    if there {
        return Ok(Library { path, loaded: false });
    }
    if session.find(Query::functions("dlopen")).is_err() {
        return Err(LoadError::NoLoader("its C library has no dlopen").into());
    }
    // Before the program has begun, nobody holds a lock.
    let only = |space: &mut RemoteSpace, _: &Program| space.divertible().map(Some);
    let choose: Choose<'_> = if until.is_some() { &only } else { &safe::thread };
    let told = have_called(tracer, session, choose, &call(name), patience, interrupted, until)?;
    let told = told.ok_or(LoadError::Busy)?;
    if told.starts_with('+') {
        Ok(Library { path, loaded: true })
    } else {
        Err(LoadError::Refused(told).into())
    }
}

/// Has a thread that `choose` chooses run `text`, in the language. What that prints; nothing if no thread came to a good place in
/// time.
pub(super) fn have_called(
    tracer: &mut Tracer,
    session: &Session<RemoteSpace>,
    choose: Choose<'_>,
    text: &str,
    patience: Duration,
    interrupted: &AtomicBool,
    until: Option<Addr>,
) -> Result<Option<String>, Error> {
    let pid = session.with_space(|space| space.pid());
    let mut language = session.language();
    language.make_room_for_texts()?;
    let began = Instant::now();
    let once = loop {
        let started = session.start_once_where(choose, |thread| {
            let at = |pattern: &str| session.find(Query::functions(pattern));
            let point =
                at(&format!("*{:#x}", thread.ip.0)).or_else(|_| at("main")).or_else(|_| at("_start"))?;
            language.evaluation(text, &point[0])
        })?;
        match started {
            Some(once) => break once,
            None if began.elapsed() > patience => return Ok(None),
            None => drop(next(tracer, pid, PAUSE, interrupted)?),
        }
    };
    if until.is_some() {
        tracer.resume(pid)?;
    }
    let mut gate = until;
    let ran = loop {
        match once.outcome().filter(|_| gate.is_none()) {
            Some(ran) => break ran,
            None if began.elapsed() > patience => return Err(Error::Late),
            None => {}
        }
        match next(tracer, pid, Duration::from_millis(1), interrupted)? {
            Some(Event::Gate { at, .. }) if Some(at) == gate => gate = None,
            Some(Event::Gate { .. }) => tracer.resume(pid)?,
            _ => {}
        }
    };
    match ran {
        Ran::Fault(fault) => {
            Err(LoadError::Refused(format!("the dynamic linker ended early: {fault}")).into())
        }
        _ => Ok(Some(language.printed().concat())),
    }
}

/// The next thing that happens to a process, in so long a time.
fn next(
    tracer: &mut Tracer,
    pid: ProcessId,
    pause: Duration,
    interrupted: &AtomicBool,
) -> Result<Option<Event>, Error> {
    match tracer.next_event(Some(pause), interrupted)? {
        Event::Interrupted => Err(Error::Late),
        Event::Exited { pid: ended, .. } | Event::Killed { pid: ended, .. } if ended == pid => {
            Err(SpaceError::Gone { pid: pid.0 }.into())
        }
        Event::Fork { child, vfork: false, .. } => {
            tracer.detach(child)?;
            Ok(None)
        }
        event => Ok(Some(event)),
    }
}

/// What the thread does, in the language: `+` is printed if the library is there, else what the dynamic linker says.
fn call(path: &str) -> String {
    let quoted = quoted(path);
    let now = libc::RTLD_NOW;
    // A record has room for so many bytes.
    format!(
        "if (inf`dlopen(\"{quoted}\", {now})) {{ printf(\"+\"); return; }}
         unsigned long why = inf`dlerror(); unsigned long len = inf`strlen(why);
         printf(\"%s\", str(why, 400));
         if (len > 400) printf(\"%s\", str(why + 400, 400));
         if (len > 800) printf(\"%s\", str(why + 800, 400));"
    )
}

/// A text as it stands between quotes.
pub(super) fn quoted(text: &str) -> String {
    text.chars()
        .flat_map(|letter| ['\\'].into_iter().filter(move |_| matches!(letter, '"' | '\\')).chain([letter]))
        .collect()
}
