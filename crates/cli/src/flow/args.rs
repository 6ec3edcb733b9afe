//! Arguments of the commands about control flow.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Arguments of `functions`.
#[derive(Args, Debug)]
pub struct FunctionsArgs {
    /// The program or library.
    #[arg(value_name = "BINARY")]
    pub binary: PathBuf,
    /// Only functions whose name matches.
    #[arg(value_name = "GLOB")]
    pub glob: Option<String>,
    /// Use the graph that `parse -o` stored, if it fits; by default that which `parse` stored.
    #[arg(long, value_name = "STORE")]
    pub store: Option<PathBuf>,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `disasm`.
#[derive(Args, Debug)]
pub struct DisasmArgs {
    /// The program or library.
    #[arg(value_name = "BINARY")]
    pub binary: PathBuf,
    /// A function's name, or the address it begins at (0x401136).
    #[arg(value_name = "FUNC")]
    pub function: String,
}

/// Arguments of `cfg`.
#[derive(Args, Debug)]
pub struct CfgArgs {
    /// The program or library.
    #[arg(value_name = "BINARY")]
    pub binary: PathBuf,
    /// A function's name, or the address it begins at (0x401136).
    #[arg(value_name = "FUNC")]
    pub function: String,
    /// What to print.
    #[arg(long, value_enum, default_value_t = Format::Dot)]
    pub format: Format,
    /// Show how often blocks and edges ran, from a report of `count --json --points block` (or edge, instruction).
    #[arg(long, value_name = "COUNTS")]
    pub heat: Option<PathBuf>,
    /// Write to FILE instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Arguments of `parse`.
#[derive(Args, Debug)]
pub struct ParseArgs {
    /// Programs and libraries.
    #[arg(value_name = "BINARY", required = true)]
    pub binaries: Vec<PathBuf>,
    /// Store the graph in this file, or, with several programs, in this folder by build-id; by default in
    /// $XDG_CACHE_HOME/incise by build-id, where other commands look for it.
    #[arg(short, long, value_name = "STORE")]
    pub output: Option<PathBuf>,
    /// Print JSON Lines, the summary last.
    #[arg(long)]
    pub json: bool,
    /// Number of threads; all cores if not given.
    #[arg(short = 'j', long, value_name = "N")]
    pub threads: Option<usize>,
}

/// How a graph is printed.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// The language of Graphviz.
    Dot,
    /// A picture.
    Svg,
    /// One JSON object.
    Json,
}
