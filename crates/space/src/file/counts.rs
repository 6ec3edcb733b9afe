//! Files of counts: what a rewritten program counts, kept by the kernel while it runs and after it ended.
//!
//! A file is a header of 4096 bytes, then the counters, quadwords, little-endian. The header
//! (quadwords, but for the id): the bytes `incise\0C`, a version, the 16 bytes of the id in the program's
//! record, the size of the counters, the process id, the length of the path of the program, the path; the rest
//! is zero. The start code (`start.rs`) makes the file; the process id is written last.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::elf::u64_at;
use super::error::FileError;
use super::record::Counting;

/// The variable of the environment that names the folder for files of counts.
pub const VARIABLE: &str = "INCISE_COUNTS";

/// Where the counters begin in the file; a multiple of the page size.
pub(super) const HEADER_LEN: usize = 4096;
/// Offset of the process id in the header.
pub(super) const PID: usize = 40;
/// Offset of the path of the program.
const PATH: usize = 56;

const MAGIC: [u8; 8] = *b"incise\0C";
const VERSION: u64 = 1;

/// What one process has counted, and the forked children that share its counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counts {
    /// The file.
    pub path: PathBuf,
    /// The process that made it.
    pub pid: u32,
    /// The counters, in the order of the file.
    pub values: Vec<u64>,
}

impl Counts {
    /// Reads a file of counts of the program whose record says `counting`; the program may be running.
    ///
    /// # Errors
    /// [`FileError::NoCounts`] if it is no file of counts, or another program's.
    pub fn read(path: &Path, counting: &Counting) -> Result<Counts, FileError> {
        let none = |what| FileError::NoCounts { path: path.to_owned(), what };
        let bytes = fs::read(path).map_err(|error| FileError::system("reading", path, error))?;
        check(path, &bytes)?;
        if bytes.get(16..32) != Some(&counting.id) {
            return Err(none("another program counted into it"));
        }
        let len = usize::try_from(counting.len).ok().and_then(|len| bytes.get(HEADER_LEN..)?.get(..len));
        let counters = len.ok_or(none("it is cut short"))?;
        let values = (0..counters.len() / 8).filter_map(|n| u64_at(counters, 8 * n)).collect();
        let pid = u64_at(&bytes, PID).unwrap_or(0) as u32;
        if pid == 0 {
            return Err(none("it is not complete"));
        }
        Ok(Counts { path: path.to_owned(), pid, values })
    }

    /// Reads every file of counts of the program in `folder`; others there are left out, and none is no error.
    ///
    /// # Errors
    /// [`FileError::System`] if the folder is there but cannot be read.
    pub fn read_all(folder: &Path, counting: &Counting) -> Result<Vec<Counts>, FileError> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| FileError::system("reading", folder, error))?,
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        Ok(paths.iter().filter_map(|path| Counts::read(path, counting).ok()).collect())
    }
}

/// The path of the program that counted into the file `path`, as it was when it was rewritten.
///
/// # Errors
/// [`FileError::NoCounts`] if it is no file of counts.
pub fn program(path: &Path) -> Result<PathBuf, FileError> {
    let none = |what| FileError::NoCounts { path: path.to_owned(), what };
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| FileError::system("opening", path, error))?;
    let read = file.take(HEADER_LEN as u64).read_to_end(&mut bytes);
    read.map_err(|error| FileError::system("reading", path, error))?;
    check(path, &bytes)?;
    let len = u64_at(&bytes, PATH - 8).and_then(|len| usize::try_from(len).ok());
    let name = len.and_then(|len| bytes.get(PATH..)?.get(..len)).ok_or(none("it is cut short"))?;
    Ok(PathBuf::from(OsStr::from_bytes(name)))
}

fn check(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if bytes.starts_with(&MAGIC) && u64_at(bytes, 8) == Some(VERSION) {
        return Ok(());
    }
    Err(FileError::NoCounts { path: path.to_owned(), what: "it does not begin as one" })
}

/// The header that the start code completes with the process id.
pub(super) fn header(counting: &Counting) -> Vec<u8> {
    let program = counting.program.get(..HEADER_LEN - PATH).unwrap_or(&counting.program);
    let mut header = MAGIC.to_vec();
    header.extend(VERSION.to_le_bytes());
    header.extend(counting.id);
    for word in [counting.len, 0, program.len() as u64] {
        header.extend(word.to_le_bytes());
    }
    header.extend(program);
    header
}
