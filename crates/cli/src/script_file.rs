//! Programs that are scripts: it is their interpreter that runs, which has not the functions of what it starts.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::list::in_path;

/// The longest first line that the kernel looks at (`BINPRM_BUF_SIZE`).
const LONGEST: u64 = 256;

/// The interpreter of the program that `name` stands for, if that is a script: what its first line says.
pub(crate) fn interpreter(name: &Path) -> Option<String> {
    let file = BufReader::new(File::open(in_path(name)?).ok()?);
    let mut line = Vec::new();
    file.take(LONGEST).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8(line).ok()?;
    let mut words = line.strip_prefix("#!")?.split_whitespace();
    let first = words.next()?;
    // `env` looks up what it runs, behind options and variables of its own.
    let looked_up = first
        .ends_with("/env")
        .then(|| words.find(|word| !word.starts_with('-') && !word.contains('=')).map(str::to_owned));
    Some(looked_up.flatten().unwrap_or_else(|| first.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_told_by_the_first_line() {
        let file = std::env::temp_dir().join(format!("incise-script-{}", std::process::id()));
        let of = |text: &[u8]| {
            std::fs::write(&file, text).expect("a file");
            interpreter(&file)
        };
        assert_eq!(of(b"#!/bin/sh\nexec ls\n").as_deref(), Some("/bin/sh"));
        assert_eq!(of(b"#! /usr/bin/python3 -u\n").as_deref(), Some("/usr/bin/python3"));
        assert_eq!(of(b"#!/usr/bin/env -S A=1 bash -e\n").as_deref(), Some("bash"));
        assert_eq!([of(b"exec ls\n"), of(b"#!\n"), of(b"\x7fELF\x02\xff"), of(b"")], [const { None }; 4]);
        std::fs::remove_file(&file).expect("our own file");
        assert_eq!(interpreter(&file), None);
    }
}
