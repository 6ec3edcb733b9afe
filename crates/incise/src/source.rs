//! Where graphs of programs come from: the parser, when they are asked for; a store; or whoever the user says. One of the
//! plug-ins of PatchAPI.
//!
//! ```
//! use std::sync::Arc;
//!
//! use incise::source::{Binary, CfgSource, Graphs, Online};
//! use incise::{PointKind, Query, Session};
//! use incise_cfg::{Cfg, ParseError};
//! use incise_image::LinkAddr;
//!
//! /// The parser's graphs, with a line for each function that is looked at.
//! #[derive(Debug)]
//! struct Talking;
//!
//! struct Told<'a>(Box<dyn Graphs + 'a>);
//!
//! impl CfgSource for Talking {
//!     fn open<'a>(&self, binary: Binary<'a>) -> Result<Box<dyn Graphs + 'a>, ParseError> {
//!         Ok(Box::new(Told(Online.open(binary)?)))
//!     }
//! }
//!
//! impl Graphs for Told<'_> {
//!     fn function(&self, entry: LinkAddr) -> Result<Option<Arc<Cfg>>, ParseError> {
//!         println!("looking at {entry}");
//!         self.0.function(entry)
//!     }
//!     fn whole(&self) -> Result<Arc<Cfg>, ParseError> {
//!         self.0.whole()
//!     }
//! }
//!
//! let session = Session::own()?;
//! session.set_cfg_source(Talking);
//! let blocks = session.find(Query::functions("libc!bsearch").kind(PointKind::BlockEntry))?;
//! assert!(!blocks.is_empty());
//! # Ok::<(), incise::Error>(())
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use incise_cfg::{Cfg, Options, ParseError, Parser, Store};
use incise_image::{Image, LinkAddr};

/// A program or library whose graph is wanted.
#[derive(Clone, Copy)]
pub struct Binary<'a> {
    /// Path of its file, as the process sees it.
    pub path: &'a str,
    /// What its file says of it.
    pub image: &'a Image,
    /// The contents of the file.
    pub file: &'a [u8],
}

impl fmt::Debug for Binary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Binary({})", self.path)
    }
}

/// Tells graphs of programs. What is wrong in them costs counts and speed, never the program.
pub trait CfgSource: fmt::Debug + Send + Sync {
    /// The graphs of one program.
    ///
    /// # Errors
    /// [`ParseError`], [`ParseError::Source`] for one of its own.
    fn open<'a>(&self, binary: Binary<'a>) -> Result<Box<dyn Graphs + 'a>, ParseError>;
}

/// The graphs of one program.
pub trait Graphs {
    /// One that has the function at `entry`, and perhaps others; nothing if no code is there.
    ///
    /// # Errors
    /// As for [`CfgSource::open`].
    fn function(&self, entry: LinkAddr) -> Result<Option<Arc<Cfg>>, ParseError>;

    /// As [`function`](Self::function), for someone who only asks where jumps of that function lead: what it calls need not be
    /// looked at. [`function`](Self::function) unless it can be done quicker.
    ///
    /// # Errors
    /// As for [`CfgSource::open`].
    fn function_alone(&self, entry: LinkAddr) -> Result<Option<Arc<Cfg>>, ParseError> {
        self.function(entry)
    }

    /// That of the whole program.
    ///
    /// # Errors
    /// As for [`CfgSource::open`].
    fn whole(&self) -> Result<Arc<Cfg>, ParseError>;
}

/// The parser: what is asked for is parsed when it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Online;

struct Parsed<'a> {
    parser: Parser<'a>,
    whole: OnceLock<Arc<Cfg>>,
}

impl CfgSource for Online {
    fn open<'a>(&self, binary: Binary<'a>) -> Result<Box<dyn Graphs + 'a>, ParseError> {
        let parser = Parser::new(binary.image, binary.file)?;
        Ok(Box::new(Parsed { parser, whole: OnceLock::new() }))
    }
}

impl Graphs for Parsed<'_> {
    fn function(&self, entry: LinkAddr) -> Result<Option<Arc<Cfg>>, ParseError> {
        if let Some(whole) = self.whole.get().filter(|cfg| cfg.function_at(entry).is_some()) {
            return Ok(Some(Arc::clone(whole)));
        }
        Ok(self.parser.function(entry)?.map(Arc::new))
    }

    fn function_alone(&self, entry: LinkAddr) -> Result<Option<Arc<Cfg>>, ParseError> {
        Ok(self.parser.function_alone(entry)?.map(Arc::new))
    }

    fn whole(&self) -> Result<Arc<Cfg>, ParseError> {
        if let Some(whole) = self.whole.get() {
            return Ok(Arc::clone(whole));
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let cfg = Arc::new(self.parser.parse(&Options { threads, ..Options::default() })?);
        Ok(Arc::clone(self.whole.get_or_init(|| cfg)))
    }
}

/// Graphs that were stored by build-id; what is not there, or of another program, or damaged, is parsed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored {
    folder: Option<PathBuf>,
}

impl Stored {
    /// Those in a folder.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Stored {
        Stored { folder: Some(folder.into()) }
    }

    /// Those in the user's cache, where `incise parse` keeps them: `incise` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub fn by_user() -> Stored {
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
        Stored { folder: cache.map(|cache| cache.join("incise")) }
    }

    /// Where the graph of `image` is, or would be; nothing without a build-id or a folder.
    pub fn path(&self, image: &Image) -> Option<PathBuf> {
        let id = image.build_id().filter(|id| !id.is_empty())?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_deref()?.join(format!("{id}.cfg")))
    }

    /// The graph of `image`, if one is stored that fits the contents of its file.
    pub fn read(&self, image: &Image, file: &[u8]) -> Option<Cfg> {
        let stored = std::fs::read(self.path(image)?).ok()?;
        Store::read(&stored, image, file).ok()
    }

    /// Keeps a graph. Returns where, if it could be.
    pub fn keep(&self, cfg: &Cfg, image: &Image, file: &[u8]) -> Option<PathBuf> {
        let path = self.path(image)?;
        write_whole(&path, &Store::write(cfg, image, file)).ok()?;
        Some(path)
    }
}

/// Writes a file, and the folders it is in, so that readers see the old one or the new.
///
/// # Errors
/// What the system says.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    std::fs::write(&name, bytes)?;
    std::fs::rename(&name, path)
}

struct Kept(Arc<Cfg>);

impl CfgSource for Stored {
    fn open<'a>(&self, binary: Binary<'a>) -> Result<Box<dyn Graphs + 'a>, ParseError> {
        match self.read(binary.image, binary.file) {
            Some(cfg) => Ok(Box::new(Kept(Arc::new(cfg)))),
            None => Online.open(binary),
        }
    }
}

impl Graphs for Kept {
    fn function(&self, entry: LinkAddr) -> Result<Option<Arc<Cfg>>, ParseError> {
        Ok(self.0.function_at(entry).map(|_| Arc::clone(&self.0)))
    }

    fn whole(&self) -> Result<Arc<Cfg>, ParseError> {
        Ok(Arc::clone(&self.0))
    }
}
