//! Libraries that were loaded for us are unloaded again, once nothing leads to them any more.
//!
//! # Safety
//! Whoever asks for it has taken back what leads into the library, in an own process also pointers of its own. Names end with a
//! zero byte.

#![allow(unsafe_code, reason = "calls dlclose")]

use std::ffi::CString;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise_isa::Addr;
use incise_space::own::OwnSpace;
use incise_space::remote::{RemoteSpace, Tracer};
use incise_space::{AddressSpace, SpaceError};

use super::library::{Library, LoadError, have_called, quoted};
use super::safe;
use crate::program::Program;
use crate::session::{Error, Session};

/// Where a library is, if it is there.
fn range<S: AddressSpace>(session: &Session<S>, library: &Library) -> Result<Option<Range<Addr>>, Error> {
    session.with_program(|program, _| {
        let path = library.path.to_string_lossy();
        Ok(program.modules().iter().find(|module| module.path == path).map(|module| module.range.clone()))
    })
}

impl Library {
    fn ours(&self) -> Result<(), Error> {
        if self.loaded { Ok(()) } else { Err(LoadError::NotOurs(self.path.clone()).into()) }
    }
}

impl Session<OwnSpace> {
    /// Unloads a library that [`load`](Self::load) has loaded, whose destructors run. What leads to it has to be taken back before, and no
    /// thread may be about to call it. Whether it is gone: it stays as long as somebody else holds it.
    ///
    /// # Errors
    /// [`LoadError::NotOurs`]; [`LoadError::InUse`] if a thread is in it.
    pub fn unload(&self, library: &Library) -> Result<bool, Error> {
        library.ours()?;
        let Some(range) = range(self, library)? else { return Ok(true) };
        if self.with_space(|space| space.quiescent(std::slice::from_ref(&range)))? != [true] {
            return Err(LoadError::InUse(library.path.clone()).into());
        }
        let name = CString::new(library.path.as_os_str().as_bytes());
        let name = name.map_err(|_| LoadError::Name(library.path.clone()))?;
        // SAFETY: the name ends with a zero byte; nothing is loaded. A handle is given back as often as it was taken, here and when it
        // was loaded; the caller vouches for what leads to it.
        unsafe {
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
            if !handle.is_null() {
                libc::dlclose(handle);
                libc::dlclose(handle);
            }
        }
        Ok(self::range(self, library)?.is_none())
    }
}

/// Has the process of `session`, which `tracer` traces, unload a library that [`load`](super::load) has it load, as soon as no
/// thread is in it and one is where it can do so. What leads to it has to be taken back before. Whether it is gone: it stays as long as
/// somebody else holds it.
///
/// # Errors
/// [`LoadError::NotOurs`]; [`LoadError::InUse`] after `patience`; as for [`load`](super::load).
pub fn unload(
    tracer: &mut Tracer,
    session: &Session<RemoteSpace>,
    library: &Library,
    patience: Duration,
    interrupted: &AtomicBool,
) -> Result<bool, Error> {
    library.ours()?;
    let Some(range) = range(session, library)? else { return Ok(true) };
    let choose = |space: &mut RemoteSpace, program: &Program| {
        if space.quiescent(std::slice::from_ref(&range))? != [true] {
            return Ok::<_, SpaceError>(None);
        }
        safe::thread(space, program)
    };
    let path = library.path.to_str().ok_or_else(|| LoadError::Name(library.path.clone()))?;
    let text = format!(
        "unsigned long handle = inf`dlopen(\"{}\", {});
         if (handle) {{ inf`dlclose(handle); inf`dlclose(handle); }}",
        quoted(path),
        libc::RTLD_NOW | libc::RTLD_NOLOAD
    );
    let told = have_called(tracer, session, &choose, &text, patience, interrupted, None)?;
    told.ok_or_else(|| LoadError::InUse(library.path.clone()))?;
    Ok(self::range(session, library)?.is_none())
}
