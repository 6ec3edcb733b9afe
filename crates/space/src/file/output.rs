//! Files that are replaced whole: written beside, made durable, then renamed. Whoever is killed in between
//! leaves the old file.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::record;

/// Where a result goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Output {
    /// The file; one that is there is replaced.
    pub path: PathBuf,
    /// It may be the file the result was made from.
    pub in_place: bool,
}

impl Output {
    /// Another file than the one the result is made from.
    pub fn new(path: impl Into<PathBuf>) -> Output {
        Output { path: path.into(), in_place: false }
    }

    /// The file the result is made from.
    pub fn in_place(path: impl Into<PathBuf>) -> Output {
        Output { path: path.into(), in_place: true }
    }

    /// Refuses to replace `source` if that was not asked for.
    pub(super) fn check(&self, source: &Path) -> Result<(), FileError> {
        let identity = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        let same = identity(&self.path).is_some_and(|out| Some(out) == identity(source));
        if same && !self.in_place {
            return Err(FileError::SameFile { path: self.path.clone() });
        }
        Ok(())
    }

    /// Writes `bytes`, with the mode, the owner (as far as this process may) and the extended attributes of
    /// `source`.
    ///
    /// 1. A file beside the output is created, which no one can open that could not open the source.
    /// 2. It is written, gets its attributes, and is synchronized.
    /// 3. It is renamed over the output, and the folder synchronized.
    pub(super) fn write(&self, source: &Path, bytes: &[u8]) -> Result<(), FileError> {
        // A symbolic link stays one: what it leads to is replaced.
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let (temporary, file) = beside(&target)?;
        let result = fill(file, &temporary, source, bytes).and_then(|()| {
            fs::rename(&temporary, &target).map_err(|error| FileError::system("replacing", &target, error))
        });
        if result.is_err() {
            let _ = fs::remove_file(&temporary);
            return result;
        }
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        // The file is whole either way; not every file system can do this for a folder.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

/// A new file in the folder of `target`.
fn beside(target: &Path) -> Result<(PathBuf, File), FileError> {
    let name = target.file_name().unwrap_or_default();
    for n in 0..1000 {
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".incise-{}-{n}", std::process::id()));
        let path = target.with_file_name(temporary);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(FileError::system("creating", &path, error)),
        }
    }
    Err(FileError::system("creating a file beside", target, std::io::ErrorKind::AlreadyExists))
}

fn fill(mut file: File, path: &Path, source: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let failed = |action| move |error| FileError::system(action, path, error);
    file.write_all(bytes).map_err(failed("writing"))?;
    let found = fs::metadata(source).map_err(|error| FileError::system("looking at", source, error))?;
    // Only root may give files away; then the mode must not lend this user's rights.
    let owned = fchown(&file, Some(found.uid()), Some(found.gid())).is_ok();
    let mode = if owned { found.mode() & 0o7777 } else { found.mode() & 0o777 };
    copy_attributes(source, &file);
    file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed("setting the mode of"))?;
    file.sync_all().map_err(failed("synchronizing"))
}

/// Extended attributes, as far as the file system has them and this process may set them.
fn copy_attributes(source: &Path, to: &File) {
    const LIMIT: usize = 64 << 10;
    let mut names = vec![0; LIMIT];
    let Ok(len) = rustix::fs::listxattr(source, &mut names[..]) else { return };
    let names = names.get(..len).unwrap_or(&[]);
    let mut value = vec![0; LIMIT];
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if let Ok(len) = rustix::fs::getxattr(source, name, &mut value[..]) {
            let value = value.get(..len).unwrap_or(&[]);
            let _ = rustix::fs::fsetxattr(to, name, value, rustix::fs::XattrFlags::empty());
        }
    }
}

/// Makes the original of a file that has a record, bit for bit, in the place of it or elsewhere.
///
/// # Errors
/// As for [`original`](record::original), and if a file cannot be read or written: then nothing is changed.
pub fn undo(path: &Path, output: &Output) -> Result<u64, FileError> {
    output.check(path)?;
    let file = fs::read(path).map_err(|error| FileError::system("reading", path, error))?;
    let (bytes, _) = record::original(path, &file)?;
    output.write(path, &bytes)?;
    Ok(bytes.len() as u64)
}
