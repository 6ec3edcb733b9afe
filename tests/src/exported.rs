//! The functions a file exports, as binutils and the dynamic linker see them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::command::run;
use crate::outcome::Ending;
use crate::scratch::Scratch;

/// An exported function.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Exported {
    /// Its name, without version.
    pub name: String,
    /// Its version, if it has one.
    pub version: Option<String>,
    /// Whether that is the version that programs are linked with.
    pub default: bool,
    /// Its address as linked. That of an indirect function is its implementation's.
    pub link: u64,
    /// It is an indirect function.
    pub indirect: bool,
}

/// Segments that are executable: file offset, address as linked, length.
pub struct Text(Vec<(u64, u64, u64)>);

impl Text {
    /// Reads the program headers of `file`.
    ///
    /// # Errors
    /// If readelf cannot.
    pub fn of(file: &Path) -> Result<Text, String> {
        let text = tool(Command::new("readelf").arg("-lW").arg(file))?;
        let mut segments = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| words.get(index).and_then(|w| hex(w.strip_prefix("0x")?));
            if words.first() == Some(&"LOAD")
                && words.contains(&"E") | words.contains(&"RWE")
                && let (Some(offset), Some(link), Some(len)) = (number(1), number(2), number(4))
            {
                segments.push((offset, link, len));
            }
        }
        Ok(Text(segments))
    }

    /// The file offset of an address in the code.
    pub fn offset(&self, link: u64) -> Option<u64> {
        let (offset, start, _) = self.0.iter().find(|(_, s, len)| (*s..s + len).contains(&link))?;
        Some(link - start + offset)
    }
}

/// The exported functions of `file`, a library or a program, of plain and of indirect kind. `library_path` is
/// where the dynamic linker finds what it needs.
///
/// Indirect functions whose implementation lies in another file (the vdso) are left out.
///
/// # Errors
/// If binutils or the compiler fail.
pub fn exported(file: &Path, library_path: &Path) -> Result<Vec<Exported>, String> {
    let text = tool(Command::new("readelf").args(["--dyn-syms", "-W"]).arg(file))?;
    let mut found = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, value, _, kind, bind, _, section, name, ..] = words[..] else { continue };
        let is_function = matches!(kind, "FUNC" | "IFUNC") && matches!(bind, "GLOBAL" | "WEAK" | "UNIQUE");
        if !is_function || matches!(section, "UND" | "ABS") {
            continue;
        }
        let (name, version) = name.split_once('@').map_or((name, None), |(n, v)| (n, Some(v)));
        found.push(Exported {
            name: name.to_owned(),
            version: version.map(|v| v.trim_start_matches('@').to_owned()),
            default: version.is_none_or(|v| v.starts_with('@')),
            link: hex(value).ok_or_else(|| format!("not an address: {line}"))?,
            indirect: kind == "IFUNC",
        });
    }
    if found.iter().any(|function| function.indirect) {
        resolve(file, library_path, &mut found)?;
    }
    Ok(found)
}

/// Asks the dynamic linker what indirect functions resolve to.
fn resolve(file: &Path, library_path: &Path, functions: &mut Vec<Exported>) -> Result<(), String> {
    let scratch = Scratch::new();
    let (source, program) = (scratch.file("resolve.c"), scratch.file("resolve"));
    std::fs::write(&source, RESOLVE).map_err(|error| error.to_string())?;
    tool(Command::new("gcc").arg("-o").arg(&program).arg(&source))?;
    let mut asked = Command::new(&program);
    asked.arg(file).env("LD_LIBRARY_PATH", library_path);
    for function in functions.iter().filter(|function| function.indirect) {
        asked.arg(&function.name).arg(function.version.as_deref().unwrap_or(""));
    }
    let answer = tool(&mut asked)?;
    let mut links: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in answer.lines() {
        if let [name, version, link] = line.split('\t').collect::<Vec<_>>()[..]
            && let Some(link) = hex(link)
        {
            links.insert((name.to_owned(), version.to_owned()), link);
        }
    }
    functions.retain_mut(|function| {
        let key = (function.name.clone(), function.version.clone().unwrap_or_default());
        match links.get(&key) {
            Some(link) if function.indirect => function.link = *link,
            None if function.indirect => return false,
            _ => {}
        }
        true
    });
    Ok(())
}

/// Prints name, version and the implementation's address as linked, for those in the file itself.
const RESOLVE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    void *library = dlopen(argv[1], RTLD_NOW);
    struct link_map *map, *found;
    if (library == NULL || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    for (int i = 2; i + 1 < argc; i += 2) {
        void *at = *argv[i + 1] ? dlvsym(library, argv[i], argv[i + 1]) : dlsym(library, argv[i]);
        Dl_info info;
        if (at != NULL && dladdr1(at, &info, (void **)&found, RTLD_DL_LINKMAP) && found == map)
            printf("%s\t%s\t%lx\n", argv[i], argv[i + 1], (unsigned long)at - map->l_addr);
    }
    return 0;
}
"#;

fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word, 16).ok()
}

fn tool(command: &mut Command) -> Result<String, String> {
    let outcome = run(command);
    match outcome.ending {
        Ending::Exited(0) => Ok(String::from_utf8_lossy(&outcome.stdout).into_owned()),
        ending => Err(format!("{command:?}: {ending}: {}", outcome.error_text())),
    }
}
