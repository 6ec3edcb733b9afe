//! The command line, as clap sees it. Manual pages and shell completions are made from it too.

use std::path::PathBuf;

use clap::{ArgGroup, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use incise::{Filter, Layout, TrapPolicy};

pub use crate::eval::EvalArgs;
pub use crate::flow::args::{CfgArgs, DisasmArgs, FunctionsArgs, ParseArgs};
pub use crate::hist::args::HistArgs;
pub use crate::kinds::{CoveragePoints, Points};
pub use crate::patching::args::{ApplyArgs, FindArgs, InspectArgs, PatchArgs, PatchesArgs, SetArgs};
pub use crate::run::args::RunArgs;
pub use crate::target::{PatternArgs, TargetArgs};
pub use crate::top::args::TopArgs;
pub use crate::trace::args::TraceArgs;

/// Put code into programs that already exist.
#[derive(Parser, Debug)]
#[command(name = "incise", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "Example:\n  incise count malloc free 'str*' -- ls -lR /usr/share")]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Count how often functions of a program are called.
    Count(CountArgs),
    /// Show calls of functions as they happen: arguments, results, durations.
    Trace(TraceArgs),
    /// Show histograms of how long functions take, of their arguments or results.
    Hist(HistArgs),
    /// Show which functions are called most and take longest, live.
    Top(TopArgs),
    /// Run a script: probes with code in a language like C.
    Run(RunArgs),
    /// Evaluate an expression, or statements, once in a running process.
    Eval(EvalArgs),
    /// List the functions that patterns match, without touching anything.
    List(ListArgs),
    /// List the functions of a program, with their blocks and what is unresolved.
    Functions(FunctionsArgs),
    /// Show a function's instructions, block by block.
    Disasm(DisasmArgs),
    /// Show a function's control flow graph.
    Cfg(CfgArgs),
    /// Parse whole programs; store their control flow graphs.
    Parse(ParseArgs),
    /// Write a program with counters in it, which it keeps in a file while it runs.
    Rewrite(RewriteArgs),
    /// Show what a rewritten program has counted so far.
    Report(ReportArgs),
    /// Give back the original of a file that was rewritten, or take patches back.
    Undo(UndoArgs),
    /// Tell how all instructions of programs would be patched, without running anything.
    Coverage(CoverageArgs),
    /// Look at a program: disassembly, memory, strings.
    Inspect(InspectArgs),
    /// Find a string or constant, who uses it, and which branches decide that.
    Find(FindArgs),
    /// Change a program: a running one, one that starts, or a file.
    Patch(PatchArgs),
    /// List the patches in a process or a file.
    Patches(PatchesArgs),
    /// Set registers or memory whenever a thread comes by a place.
    Set(SetArgs),
    /// Make the changes of a patch file in a process or a file.
    Apply(ApplyArgs),
    /// Tell what this machine allows, and what to do about what it does not.
    Doctor(DoctorArgs),
}

/// Arguments of `count`.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("target").args(["pid", "program"]).required(true))]
#[command(
    override_usage = "incise count [OPTIONS] <PATTERN>... -- <CMD> [ARGS]...\n       incise count [OPTIONS] <PATTERN>... -p <PID>"
)]
#[command(after_help = "Patterns:
  malloc          a name, in any module
  'str*'          a glob on names: * ? [a-c]
  libc!malloc     in libc, libc.so, libc.so.6, ...; also when that is loaded later
  main+0x1f       an instruction inside a function
  '*0x401136'     an address
  main+0..main+END, '*0x401136..*0x401180'
                  all instructions that begin from the first to before the second
  'std::*'        a pattern with :: or ( matches C++ and Rust names as written

The report goes to standard error (or -o FILE), after the program ends or on Ctrl-C. The exit code is the \
program's.")]
pub struct CountArgs {
    /// The functions.
    #[command(flatten)]
    pub functions: PatternArgs,
    /// Where in the functions to count.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Points::Entry)]
    pub points: Points,
    /// Only points for which EXPR holds, such as 'callee ~ "mem*" && loop_depth > 0'.
    #[arg(long = "where", value_name = "EXPR", value_parser = Filter::parse)]
    pub filter: Option<Filter>,
    /// List what would be counted, without touching or running anything.
    #[arg(short, long, conflicts_with_all = ["follow", "output", "keep"])]
    pub list: bool,
    /// Report as JSON Lines.
    #[arg(long)]
    pub json: bool,
    /// A counter at every point, though the counts of most blocks and instructions follow from others. For programs whose threads
    /// are taken out of functions for good, by signals or faults.
    #[arg(long)]
    pub exact: bool,
    /// How probed functions are laid out.
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,
    /// Name trampolines in /tmp/perf-PID.map, where perf report looks for them.
    #[arg(long, conflicts_with = "list")]
    pub perf_map: bool,
    /// Put trampolines with their code into /tmp/jit-PID.dump, for perf record -k mono and perf inject --jit.
    #[arg(long, conflicts_with = "list")]
    pub jit_dump: bool,
    /// Describe trampolines in /tmp/incise-PID.debug, for gdb: add-symbol-file FILE -o 0
    #[arg(long, conflicts_with = "list")]
    pub debug_file: bool,
    /// Leave the probes in the process when detaching.
    #[arg(long, conflicts_with = "program")]
    pub keep: bool,
    /// The program.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Arguments of `list`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise list [OPTIONS] <PATTERN>... <BINARY>\n       incise list [OPTIONS] <PATTERN>... -p <PID>"
)]
pub struct ListArgs {
    /// Patterns, then the file to look in (unless -p is given).
    #[arg(value_name = "PATTERN", required = true)]
    pub words: Vec<String>,
    /// Where in the functions to look.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Points::Entry)]
    pub points: Points,
    /// Only points for which EXPR holds, such as 'callee ~ "mem*" && loop_depth > 0'.
    #[arg(long = "where", value_name = "EXPR", value_parser = Filter::parse)]
    pub filter: Option<Filter>,
    /// Look in a running process.
    #[arg(short, long, value_name = "PID")]
    pub pid: Option<i32>,
    /// Only in modules whose file name matches.
    #[arg(short, long, value_name = "MODULE")]
    pub module: Option<String>,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `rewrite`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise rewrite [OPTIONS] <BINARY> -o <OUT> --count <PATTERN>...\n       incise rewrite [OPTIONS] <BINARY> --in-place --count <PATTERN>..."
)]
#[command(
    after_help = "Every process that runs OUT keeps its counts in a file of its own, NAME.PID in the folder OUT.counts \
(--counts names another one), from its first instruction on and also when it is killed; forked children \
count into the file of their parent. The variable INCISE_COUNTS of the program's environment names \
another folder; if it is empty, or the file cannot be made, the program runs on uncounted. So does a \
set-user-id program. `incise report OUT` adds the files up, `incise undo OUT` restores the original.

Patterns are those of `incise count`."
)]
pub struct RewriteArgs {
    /// The program or library.
    #[arg(value_name = "BINARY")]
    pub binary: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "OUT", required_unless_present = "in_place")]
    pub output: Option<PathBuf>,
    /// Replace BINARY itself.
    #[arg(long, conflicts_with = "output")]
    pub in_place: bool,
    /// Functions or places to count.
    #[arg(short, long, value_name = "PATTERN", num_args = 1.., required = true)]
    pub count: Vec<String>,
    /// Where in the functions to count.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = Points::Entry)]
    pub points: Points,
    /// Only points for which EXPR holds, such as 'callee ~ "mem*" && loop_depth > 0'.
    #[arg(long = "where", value_name = "EXPR", value_parser = Filter::parse)]
    pub filter: Option<Filter>,
    /// Folder for the files of counts.
    #[arg(long, value_name = "DIR")]
    pub counts: Option<PathBuf>,
    /// What to do where only a trap fits. Traps need the program's own start to have come by.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Trap::Forbid)]
    pub trap: Trap,
    /// How probed functions are laid out.
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,
    /// Show for each function how it was patched, and why not where it was not.
    #[arg(long)]
    pub explain: bool,
    /// Report as JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    /// The rewritten program, or a file of counts, or a folder of these.
    #[arg(value_name = "OUT|COUNTS")]
    pub target: PathBuf,
    /// Folder of the files of counts, if it is not where INCISE_COUNTS or the program itself says.
    #[arg(long, value_name = "DIR")]
    pub counts: Option<PathBuf>,
    /// Show functions that never ran too, and how each was patched.
    #[arg(long)]
    pub explain: bool,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `undo`.
#[derive(Args, Debug)]
pub struct UndoArgs {
    /// The file that was rewritten; it is replaced by its original. With -p, the number of a patch instead.
    #[arg(value_name = "FILE|ID", required_unless_present = "pid")]
    pub file: Option<PathBuf>,
    /// The number of one patch of the file, as `patches` shows it; the others stay.
    #[arg(value_name = "ID", conflicts_with = "pid")]
    pub id: Option<u32>,
    /// Take a patch of a running process back; all of them, if no ID is given.
    #[arg(short, long, value_name = "PID", conflicts_with = "output")]
    pub pid: Option<i32>,
    /// Write the original to OUT, and leave FILE as it is.
    #[arg(short, long, value_name = "OUT")]
    pub output: Option<PathBuf>,
}

/// Arguments of `coverage`.
#[derive(Args, Debug)]
#[command(
    after_help = "A counter at every point of the file's code is planned, as if it were loaded; nothing is run or changed. \
Addresses are link addresses. With --json there is one line for each site, with its tactic or the \
reason why it is refused, and a summary behind those of each file."
)]
pub struct CoverageArgs {
    /// Programs and libraries.
    #[arg(value_name = "BINARY", required = true)]
    pub binaries: Vec<PathBuf>,
    /// Where the probes would be.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = CoveragePoints::Instruction)]
    pub points: CoveragePoints,
    /// What to do where only a trap fits.
    #[arg(long, value_name = "POLICY", value_enum, default_value_t = Trap::Fallback)]
    pub trap: Trap,
    /// How probed functions are laid out.
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = EngineChoice::Auto)]
    pub engine: EngineChoice,
    /// As if it were loaded ADDR (hexadecimal) behind its link addresses; by default where Linux loads it without address
    /// randomization.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    pub base: Option<u64>,
    /// Number of threads; all cores if not given. The plan is the same for any.
    #[arg(short = 'j', long, value_name = "N")]
    pub threads: Option<usize>,
    /// Plan the first N sites only.
    #[arg(long, value_name = "N")]
    pub first: Option<usize>,
    /// Plan N of the sites, drawn at random but always the same, each as if it were the only one.
    #[arg(long, value_name = "N")]
    pub alone: Option<usize>,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Reads a hexadecimal address, with or without 0x.
fn address(text: &str) -> Result<u64, String> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16)
        .map_err(|_| format!("{text} is no hexadecimal address"))
}

/// Arguments of `doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// What to do where only a trap fits.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trap {
    /// Refuse the site.
    Forbid,
    /// Use a trap, which costs microseconds a hit.
    Fallback,
    /// Use traps everywhere.
    Force,
}

impl From<Trap> for TrapPolicy {
    fn from(trap: Trap) -> TrapPolicy {
        match trap {
            Trap::Forbid => TrapPolicy::Forbid,
            Trap::Fallback => TrapPolicy::Fallback,
            Trap::Force => TrapPolicy::Force,
        }
    }
}

/// How probed functions are laid out.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineChoice {
    /// Function by function, what is likely to cost less.
    Auto,
    /// Only what has to make room runs in trampolines.
    OutOfLine,
    /// Each probed function runs as a copy with its probes in it.
    InLine,
}

impl From<EngineChoice> for Option<Layout> {
    fn from(choice: EngineChoice) -> Option<Layout> {
        match choice {
            EngineChoice::Auto => None,
            EngineChoice::OutOfLine => Some(Layout::OutOfLine),
            EngineChoice::InLine => Some(Layout::InLine),
        }
    }
}

/// The definition of the command line.
pub fn command() -> clap::Command {
    Cli::command()
}
