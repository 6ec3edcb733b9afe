//! Shell patterns on modules.

use crate::Module;
use crate::names::glob::Glob;
use crate::names::suggest;

/// A shell pattern on modules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ModuleGlob {
    pub text: String,
    glob: Glob,
}

impl ModuleGlob {
    pub(crate) fn new(text: &str) -> ModuleGlob {
        ModuleGlob { text: text.to_owned(), glob: Glob::new(text) }
    }

    /// Whether `module` is meant.
    pub(crate) fn matches(&self, module: &Module) -> bool {
        if self.text.contains('/') {
            return self.text == module.path || self.glob.matches(&module.path);
        }
        // `[vdso]` is also a class of characters; taken literally first.
        self.text == module.name
            || self.fits_file(&module.name)
            || module.path.rsplit('/').next().is_some_and(|file| self.text == file || self.fits_file(file))
            || self.fits_file(module.name.trim_matches(['[', ']']))
            || module.image.soname().is_some_and(|soname| self.fits_file(soname))
    }

    /// The names of modules that are spelled nearly as this, with or without their versions, nearest first.
    pub(crate) fn near(&self, modules: &[Module]) -> Vec<String> {
        let wanted = self.text.rsplit('/').next().unwrap_or(&self.text);
        let stems = modules.iter().flat_map(|module| stems(&module.name).map(move |stem| (stem, module)));
        let stems: Vec<_> = stems.collect();
        let mut names: Vec<String> = Vec::new();
        for near in suggest::nearest(wanted, stems.iter().map(|(stem, _)| *stem)) {
            let named = stems.iter().filter(|(stem, _)| *stem == near).map(|(_, module)| &module.name);
            names.extend(named.filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
        }
        names
    }

    fn fits_file(&self, name: &str) -> bool {
        stems(name).any(|stem| self.glob.matches(stem))
    }
}

/// A file name and what is left when versions are taken off: `libc.so.6`, `libc.so`, `libc`;
/// `libx-2.31.so`, `libx-2.31`, `libx`.
fn stems(name: &str) -> impl Iterator<Item = &str> {
    let is_version = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let base = name.find(".so").filter(|&at| {
        at > 0 && {
            let behind = &name[at + 3..];
            behind.is_empty() || behind.starts_with('.')
        }
    });
    let versions = base.into_iter().flat_map(move |at| {
        let cuts = name[at + 1..].match_indices('.').map(move |(cut, _)| at + 1 + cut);
        cuts.map(|cut| &name[..cut]).chain(std::iter::once(&name[..at]))
    });
    let without_number = base.and_then(move |at| {
        let (stem, version) = name[..at].rsplit_once('-')?;
        is_version(version).then_some(stem)
    });
    std::iter::once(name).chain(versions).chain(without_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_off_library_names() {
        let all = |name| stems(name).collect::<Vec<_>>();
        assert_eq!(all("libc.so.6"), ["libc.so.6", "libc.so", "libc"]);
        assert_eq!(all("libstdc++.so.6.0.30").last(), Some(&"libstdc++"));
        assert!(all("libLLVM-14.so.1").contains(&"libLLVM"));
        assert_eq!(all("python3.11"), ["python3.11"]);
    }
}
