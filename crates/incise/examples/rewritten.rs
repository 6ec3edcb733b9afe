//! Writes a copy of a program that counts its own calls, runs it, and reads the counts.
//!
//! ```sh
//! cargo run --release -p incise --example rewritten -- /usr/bin/bash -c 'echo {1..9}'
//! ```

use std::error::Error;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use incise::space::file::Output;
use incise::{RewriteOptions, read_counts, rewrite};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let program: PathBuf = arguments.next().ok_or("usage: rewritten PROGRAM [ARGUMENT…]")?.into();
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join(program.file_name().ok_or("a program has a name")?);
    let options = RewriteOptions { patterns: vec!["*".into()], ..RewriteOptions::default() };
    rewrite(&program, &Output::new(&copy), &options)?;
    let arguments: Vec<OsString> = arguments.collect();
    Command::new(&copy).args(arguments).status()?;
    let mut counted = read_counts(&copy, None)?.counted;
    counted.retain(|function| function.hits > 0);
    counted.sort_by_key(|function| std::cmp::Reverse(function.hits));
    for function in counted.iter().take(10) {
        println!("{:>10}  {}", function.hits, function.point.display_name);
    }
    Ok(())
}
