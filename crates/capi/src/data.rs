//! What snippets leave, for C: the functions of `data.h`.
//!
//! # Safety
//! As for [`exports`](crate::exports). The entries that a visitor is shown live until it returns.

#![allow(unsafe_code, reason = "the boundary to C")]

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{offset_of, size_of};

use incise::data::{Aggregate, Buckets, Value};
use incise::space::own::OwnSpace;
use incise::{Language, MapContents, Query, Ran};

use crate::error::Error;
use crate::exports::status;
use crate::library::Active;
use crate::lock::lock;

/// `patch_bucket`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Bucket {
    first: i64,
    last: i64,
    count: u64,
}

/// `patch_entry`.
#[repr(C)]
pub struct Entry {
    key: *const u64,
    key_count: usize,
    value: u32,
    reserved_word: u32,
    number: i64,
    count: u64,
    sum: i64,
    min: i64,
    max: i64,
    buckets: *const Bucket,
    bucket_count: usize,
    reserved: [u64; 2],
}

/// `patch_visit`.
pub type Visit = unsafe extern "C" fn(*const Entry, *mut c_void) -> c_int;

const _: () = {
    assert!(size_of::<Bucket>() == 24);
    assert!(size_of::<Entry>() == 96);
    assert!(offset_of!(Entry, number) == 24);
    assert!(offset_of!(Entry, buckets) == 64);
};

/// The language of the snippets, and what they printed that was not read yet.
pub struct Snippets {
    pub language: Language<OwnSpace>,
    texts: VecDeque<String>,
}

impl Snippets {
    pub fn new(language: Language<OwnSpace>) -> Snippets {
        Snippets { language, texts: VecDeque::new() }
    }
}

/// The buckets of a histogram that are not empty.
fn buckets(aggregate: Aggregate, counts: &[u64]) -> Vec<Bucket> {
    let Aggregate::Histogram(all) = aggregate else { return Vec::new() };
    let used = (0..).zip(counts).filter(|(_, count)| **count > 0);
    used.map(|(bucket, count)| of(all, bucket, *count)).collect()
}

fn of(all: Buckets, bucket: u32, count: u64) -> Bucket {
    Bucket { first: all.start(bucket), last: all.end(bucket).map_or(i64::MAX, |end| end - 1), count }
}

/// Shows a visitor all entries.
fn show(contents: &MapContents, visit: Visit, data: *mut c_void) {
    for (key, value) in contents.iter() {
        let shown;
        let mut entry = Entry {
            key: key.as_ptr(),
            key_count: key.len(),
            value: 0,
            reserved_word: 0,
            number: 0,
            count: 0,
            sum: 0,
            min: 0,
            max: 0,
            buckets: std::ptr::null(),
            bucket_count: 0,
            reserved: [0; 2],
        };
        match value {
            Value::Number(number) => (entry.value, entry.number) = (1, number),
            Value::Count(count) => (entry.value, entry.count) = (2, count),
            Value::Average { count, sum } => (entry.value, entry.count, entry.sum) = (3, count, sum),
            Value::Stats { count, sum, min, max } => {
                (entry.value, entry.count, entry.sum, entry.min, entry.max) = (4, count, sum, min, max);
            }
            Value::Histogram { sum, counts } => {
                shown = buckets(contents.aggregate, &counts);
                (entry.value, entry.count, entry.sum) = (5, counts.iter().sum(), sum);
                (entry.buckets, entry.bucket_count) = (shown.as_ptr(), shown.len());
            }
        }
        // SAFETY: the caller's function; what the entry points to is alive.
        if unsafe { visit(&raw const entry, data) } != 0 {
            return;
        }
    }
}

/// A text of C.
///
/// # Safety
/// It is NULL or ends with a NUL.
unsafe fn text<'a>(from: *const c_char, what: &'static str) -> Result<&'a str, Error> {
    if from.is_null() {
        return Err(Error::Null(what));
    }
    // SAFETY: the caller's.
    let text = unsafe { CStr::from_ptr(from) };
    text.to_str().map_err(|_| Error::Op(format!("{what} is not UTF-8")))
}

impl Active {
    /// What snippets have in common.
    pub fn snippets(&mut self) -> &mut Snippets {
        let session = &self.session;
        self.snippets.get_or_insert_with(|| Snippets::new(session.language()))
    }

    /// Lets stacks be walked through libraries that are loaded now.
    pub fn follow_modules(&self) -> Result<(), Error> {
        self.snippets.as_ref().map_or(Ok(()), |snippets| Ok(snippets.language.follow_modules()?))
    }

    fn map(&mut self, name: &str) -> Result<MapContents, Error> {
        let name = name.strip_prefix('@').unwrap_or(name);
        let map = self.snippets.as_ref().and_then(|snippets| snippets.language.map(name));
        map.ok_or_else(|| Error::Map(name.to_owned()))
    }
}

/// Reads a map.
///
/// # Safety
/// `name` is NULL or ends with a NUL; `dropped` is NULL or points to a variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_read_map(
    name: *const c_char,
    visit: Option<Visit>,
    data: *mut c_void,
    dropped: *mut u64,
) -> u32 {
    status(|| {
        let contents = {
            let mut library = lock()?;
            library.check_active()?;
            // SAFETY: the caller's.
            let name = unsafe { text(name, "`name`") }?;
            library.active()?.map(name)?
        };
        // SAFETY: the caller's.
        unsafe { read_entries(&contents, visit, data, dropped) }
    })
}

/// Shows a visitor what a map holds.
///
/// # Errors
/// If there is no visitor.
///
/// # Safety
/// `dropped` is NULL or points to a variable.
pub(crate) unsafe fn read_entries(
    contents: &MapContents,
    visit: Option<Visit>,
    data: *mut c_void,
    dropped: *mut u64,
) -> Result<(), Error> {
    let visit = visit.ok_or(Error::Null("`visit`"))?;
    if !dropped.is_null() {
        // SAFETY: the caller's.
        unsafe { dropped.write(contents.dropped) };
    }
    show(contents, visit, data);
    Ok(())
}

/// Empties a map.
///
/// # Safety
/// `name` is NULL or ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_clear_map(name: *const c_char) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        // SAFETY: the caller's.
        let name = unsafe { text(name, "`name`") }?;
        let active = library.active()?;
        active.map(name)?;
        active.snippets().language.clear(name.strip_prefix('@').unwrap_or(name));
        Ok(())
    })
}

/// Takes what was printed.
///
/// # Safety
/// `buffer` is NULL or has `size` bytes; `length` and `dropped` are NULL or point to variables.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_read_text(
    buffer: *mut c_char,
    size: usize,
    length: *mut usize,
    dropped: *mut u64,
) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        if buffer.is_null() || size == 0 {
            return Err(Error::Null("`buffer` (or its size)"));
        }
        if length.is_null() {
            return Err(Error::Null("`length`"));
        }
        let snippets = library.active()?.snippets();
        let printed = snippets.language.printed();
        snippets.texts.extend(printed);
        let mut all: Vec<u8> = Vec::new();
        while let Some(text) = snippets.texts.front() {
            let room = size - 1 - all.len();
            if text.len() > room && !all.is_empty() {
                break;
            }
            all.extend(text.bytes().take(room));
            snippets.texts.pop_front();
        }
        // SAFETY: the caller's; there are fewer bytes than `size`.
        unsafe {
            std::ptr::copy_nonoverlapping(all.as_ptr().cast(), buffer, all.len());
            buffer.add(all.len()).write(0);
            length.write(all.len());
            if !dropped.is_null() {
                dropped.write(snippets.language.dropped());
            }
        }
        Ok(())
    })
}

/// Runs a snippet once.
///
/// # Safety
/// `snippet` is NULL or ends with a NUL; `value` is NULL or points to a variable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn patch_run_once(snippet: *const c_char, value: *mut i64) -> u32 {
    status(|| {
        let mut library = lock()?;
        library.check_active()?;
        // SAFETY: the caller's.
        let snippet = unsafe { text(snippet, "`snippet`") }?;
        let active = library.active()?;
        // Some place in the program: its own variables are seen from everywhere.
        let points = active.session.find(Query::functions("main"));
        let points = points.or_else(|_| active.session.find(Query::functions("libc!exit")))?;
        let tree = active.snippets().language.tree(snippet, &points[0])?;
        let ran = active.session.once(&tree)?;
        // SAFETY: the caller's.
        unsafe { store_value(ran, value) }
    })
}

/// Stores what a run gave, 0 if nothing, where there is a place for it.
///
/// # Errors
/// [`Error::Snippet`] if the run ended early.
///
/// # Safety
/// `value` is NULL or points to a variable.
pub(crate) unsafe fn store_value(ran: Ran, value: *mut i64) -> Result<(), Error> {
    let returned = match ran {
        Ran::Value(value) => value as i64,
        Ran::Nothing => 0,
        Ran::Fault(fault) => return Err(Error::Snippet(format!("the run ended early: {fault}"))),
    };
    if !value.is_null() {
        // SAFETY: the caller's.
        unsafe { value.write(returned) };
    }
    Ok(())
}
