//! A file to be looked at: contents, image with the symbols of its debug file, names, source lines.

use std::path::{Path, PathBuf};

use incise::image::{Image, LinkAddr, MAIN, debug_file_candidates, demangle, main_of_entry, nameless};
use incise::source::Stored;
use incise::{Addr, Program, Query};
use incise_cfg::{Cfg, Options, Parser, Store, import_of_stub};

use crate::Failure;

pub(crate) struct Binary {
    pub path: PathBuf,
    pub file: Vec<u8>,
    pub image: Image,
    /// Where `main` begins, if no symbol tells so.
    unnamed_main: Option<LinkAddr>,
    /// Where symbols and lines come from, if not from the file itself.
    debug: Option<PathBuf>,
}

impl Binary {
    pub(crate) fn open(path: &Path) -> Result<Binary, Failure> {
        let shown = path.display();
        let file = std::fs::read(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        let mut image = Image::parse(&file).map_err(|error| format!("{shown}: {error}"))?;
        let mut debug = None;
        if !image.has_symtab() {
            let roots = ["/usr/lib/debug"];
            let name = path.to_string_lossy();
            for candidate in debug_file_candidates(&name, image.build_id(), image.debug_link(), &roots) {
                let contents = std::fs::read(&candidate).ok();
                if contents.is_some_and(|contents| image.merge_debug(&contents).is_ok()) {
                    debug = Some(PathBuf::from(candidate));
                    break;
                }
            }
        }
        let unnamed_main = if image.is_program() && !image.has_symtab() {
            let read = |at: Addr, into: &mut [u8]| image.read_file(&file, at, into);
            main_of_entry(&image, 0, &read).ok()
        } else {
            None
        };
        Ok(Binary { path: path.to_owned(), file, image, unnamed_main, debug })
    }

    /// The whole program's graph: from `store` if that fits, from the user's cache, else parsed afresh.
    pub(super) fn graph(&self, store: Option<&Path>) -> Result<Cfg, Failure> {
        if let Some(store) = store {
            let bytes =
                std::fs::read(store).map_err(|error| format!("cannot read {}: {error}", store.display()))?;
            match Store::read(&bytes, &self.image, &self.file) {
                Ok(cfg) => return Ok(cfg),
                Err(error) => eprintln!("incise: {}: {error}; parsing afresh", store.display()),
            }
        }
        if let Some(cfg) = Stored::by_user().read(&self.image, &self.file).filter(Cfg::is_whole) {
            return Ok(cfg);
        }
        let parser = Parser::new(&self.image, &self.file)?;
        Ok(parser.parse(&Options { threads: threads(), progress: None })?)
    }

    /// The entries of the functions that `pattern` names, or the address it is.
    pub(super) fn find(&self, pattern: &str) -> Result<Vec<LinkAddr>, Failure> {
        let address = pattern.strip_prefix('*').unwrap_or(pattern);
        if let Some(digits) = address.strip_prefix("0x") {
            let at = u64::from_str_radix(digits, 16).map_err(|_| format!("{pattern} is no address"))?;
            return Ok(vec![LinkAddr(at)]);
        }
        let program = Program::of_file(&self.path, &self.file)?;
        let unread = |_: Addr, _: &mut [u8]| false;
        let found = Query::functions(pattern).run(&program, &unread);
        // A file is looked at where it is linked.
        let mut entries: Vec<LinkAddr> =
            found.map(|found| found.points.iter().map(|p| LinkAddr(p.addr.0)).collect()).unwrap_or_default();
        let named = |f: &&incise::image::Function| {
            self.image.names(f).any(|n| n.text == pattern || demangle(n.text).as_deref() == Some(pattern))
        };
        entries.extend(self.image.functions().iter().filter(named).map(|f| f.addr));
        entries.sort_unstable();
        entries.dedup();
        Ok(entries)
    }

    /// The graph of the one function that `pattern` names.
    pub(super) fn function(&self, pattern: &str) -> Result<(Cfg, LinkAddr), Failure> {
        let found = self.find(pattern)?;
        let &entry = match &found[..] {
            [] => return Err(format!("no function {pattern} in {}", self.path.display()).into()),
            [one] => one,
            several => {
                let names: Vec<String> =
                    several.iter().take(8).map(|&at| format!("{at} {}", self.name(at))).collect();
                return Err(format!("{pattern} is {} functions: {}", several.len(), names.join(", ")).into());
            }
        };
        let cfg = Parser::new(&self.image, &self.file)?.function(entry)?;
        Ok((cfg.ok_or_else(|| format!("no instruction at {entry}"))?, entry))
    }

    /// The name of the function at `entry`, as its programmer wrote it; of the import for a linkage stub.
    pub(crate) fn name(&self, entry: LinkAddr) -> String {
        let Some(function) = self.image.function_starting_at(entry) else {
            let import = self.import_behind(entry);
            return match import {
                Some(import) => format!("{import}@plt"),
                None if self.unnamed_main == Some(entry) => MAIN.to_owned(),
                None => nameless(entry),
            };
        };
        let name = self.image.name(function);
        demangle(name).map_or_else(|| name.to_owned(), |text| text.to_string())
    }

    /// All names that reports may have for the function at `entry`.
    pub(super) fn names(&self, entry: LinkAddr) -> Vec<String> {
        let function = self.image.function_starting_at(entry);
        let symbols = function.into_iter().flat_map(|function| self.image.names(function));
        let symbols = symbols.map(|name| name.text.to_owned());
        let mut names: Vec<String> = symbols.chain([self.name(entry)]).collect();
        // Where one begins with another, the whole name is meant.
        names.sort_unstable_by_key(|name| std::cmp::Reverse(name.len()));
        names
    }

    /// The import that the linkage stub at `entry` leads to.
    fn import_behind(&self, entry: LinkAddr) -> Option<&str> {
        import_of_stub(&self.image, &self.file, entry)
    }

    /// What finds source lines; `None` without DWARF.
    pub(super) fn lines(&self) -> Option<Lines> {
        let from = self.debug.as_ref().unwrap_or(&self.path);
        addr2line::Loader::new(from).ok().map(Lines)
    }
}

/// Source lines by address.
pub(super) struct Lines(addr2line::Loader);

impl Lines {
    /// File and line of the instruction at `at`.
    pub(super) fn at(&self, at: LinkAddr) -> Option<String> {
        let location = self.0.find_location(at.0).ok()??;
        Some(format!("{}:{}", location.file?, location.line?))
    }
}

/// Cores to work on.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
