//! The command line of patching by hand, as clap sees it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

/// Text about places, for the help of several commands.
const WHERE: &str = "WHERE is one of:
  main, entry     also of a stripped program: told from its entry code
  puts, environ   a symbol of code or data; libc!puts+0x10 in a module, and behind its start
  libc+0x1000     behind the first page of a module
  '*0x401136'     an address, also of data; of a file, where it is linked
  rip, rip:TID    where the first thread of a process is, or another one";

/// The syntax of assembly.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SyntaxArg {
    /// `mov eax, 1`
    #[default]
    Intel,
    /// `movl $1, %eax`
    Att,
}

/// What is looked at: the last words of a command line.
#[derive(Args, Debug)]
pub struct TargetArgs {
    /// A running process.
    #[arg(short, long, value_name = "PID", conflicts_with = "program")]
    pub pid: Option<i32>,
    /// A program to start, and its arguments.
    #[arg(last = true, value_name = "CMD")]
    pub program: Vec<OsString>,
}

/// Arguments of `inspect`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise inspect [OPTIONS] <FILE> [WHERE]\n       incise inspect [OPTIONS] -p <PID> [WHERE]\n       incise inspect [OPTIONS] [WHERE] -- <CMD> [ARGS]..."
)]
#[command(after_help = WHERE)]
pub struct InspectArgs {
    /// The file (without -p and CMD), and the place; main, or else the entry point.
    #[arg(value_name = "FILE|WHERE")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub target: TargetArgs,
    /// How many instructions, or lines of 16 bytes with --hex.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub count: usize,
    /// Show the memory map.
    #[arg(long, conflicts_with_all = ["strings", "hex"])]
    pub maps: bool,
    /// Show the strings of the program.
    #[arg(long, conflicts_with = "hex")]
    pub strings: bool,
    /// Show bytes instead of instructions.
    #[arg(long)]
    pub hex: bool,
    /// The syntax of the disassembly.
    #[arg(long, value_enum, default_value_t)]
    pub syntax: SyntaxArg,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `find`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise find [OPTIONS] <FILE> <TEXT>\n       incise find [OPTIONS] -p <PID> <TEXT>\n       incise find [OPTIONS] <TEXT> -- <CMD> [ARGS]...\n       (or --bytes <HEX>, --imm <VALUE> instead of TEXT)"
)]
pub struct FindArgs {
    /// The file (without -p and CMD), and the text.
    #[arg(value_name = "FILE|TEXT")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Look for bytes.
    #[arg(long, value_name = "HEX", conflicts_with = "imm")]
    pub bytes: Option<String>,
    /// Look for instructions with this immediate operand.
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub imm: Option<String>,
    /// The syntax of the disassembly.
    #[arg(long, value_enum, default_value_t)]
    pub syntax: SyntaxArg,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `patch`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise patch [OPTIONS] <FILE> <WHERE> <CHANGE> (-o <OUT> | --in-place)\n       incise patch [OPTIONS] -p <PID> <WHERE> <CHANGE>\n       incise patch [OPTIONS] <WHERE> <CHANGE> -- <CMD> [ARGS]..."
)]
#[command(after_help = WHERE)]
pub struct PatchArgs {
    /// The file (without -p and CMD), the place, and assembly text: instructions between `;`.
    #[arg(value_name = "FILE|WHERE|ASSEMBLY")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub target: TargetArgs,
    /// CHANGE: these bytes.
    #[arg(long, value_name = "HEX", group = "change")]
    pub bytes: Option<String>,
    /// CHANGE: nothing runs in place of the instruction.
    #[arg(long, group = "change")]
    pub nop: bool,
    /// CHANGE: a conditional branch is taken when it was not, and the other way round.
    #[arg(long, group = "change")]
    pub invert: bool,
    /// CHANGE: a conditional branch is always taken.
    #[arg(long, group = "change")]
    pub always: bool,
    /// CHANGE: a conditional branch is never taken.
    #[arg(long, group = "change")]
    pub never: bool,
    /// CHANGE: the function at WHERE returns VALUE at once.
    #[arg(long = "return", value_name = "VALUE", group = "change", allow_hyphen_values = true)]
    pub return_value: Option<String>,
    /// CHANGE: in place of the function at WHERE another one runs: FUNCTION, or LIBRARY!FUNCTION, where LIBRARY is a path to a
    /// library, which a process loads if it does not have it.
    #[arg(long, value_name = "FUNCTION", group = "change")]
    pub replace: Option<String>,
    /// CHANGE: a call of another place.
    #[arg(long, value_name = "WHERE", group = "change")]
    pub call: Option<String>,
    /// CHANGE: a jump to another place.
    #[arg(long, value_name = "WHERE", group = "change")]
    pub jump: Option<String>,
    /// CHANGE: another string, not longer than the one at WHERE.
    #[arg(long, value_name = "TEXT", group = "change")]
    pub string: Option<String>,
    /// CHANGE: other data bytes; with @, those of a file.
    #[arg(long, value_name = "HEX|@FILE", group = "change")]
    pub data: Option<String>,
    /// How many instructions are replaced.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub count: usize,
    /// Refuse if these bytes are not at WHERE.
    #[arg(long, value_name = "HEX")]
    pub expect: Option<String>,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Make the same change in a copy of the program's file.
    #[arg(long, value_name = "OUT")]
    pub save: Option<PathBuf>,
    /// Of a file: where to write it.
    #[arg(short, long, value_name = "OUT", conflicts_with = "in_place")]
    pub output: Option<PathBuf>,
    /// Of a file: replace it.
    #[arg(long)]
    pub in_place: bool,
    /// The syntax of the assembly text and of the disassembly.
    #[arg(long, value_enum, default_value_t)]
    pub syntax: SyntaxArg,
}

/// Arguments of `patches`.
#[derive(Args, Debug)]
#[command(override_usage = "incise patches [OPTIONS] <FILE>\n       incise patches [OPTIONS] -p <PID>")]
pub struct PatchesArgs {
    /// The file.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A running process.
    #[arg(short, long, value_name = "PID", conflicts_with = "file", required_unless_present = "file")]
    pub pid: Option<i32>,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
    /// Print them as a patch file, for `incise apply`.
    #[arg(long, conflicts_with = "json")]
    pub export: bool,
    /// Only those of this program or library.
    #[arg(long, value_name = "MODULE")]
    pub module: Option<String>,
}

/// Arguments of `apply`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise apply [OPTIONS] <FILE.patch> <FILE> (-o <OUT> | --in-place)\n       incise apply [OPTIONS] <FILE.patch> -p <PID>"
)]
pub struct ApplyArgs {
    /// The patch file.
    #[arg(value_name = "FILE.patch")]
    pub patch: PathBuf,
    /// The file to change.
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A running process to change.
    #[arg(short, long, value_name = "PID", conflicts_with = "file", required_unless_present = "file")]
    pub pid: Option<i32>,
    /// Tell whether the changes fit, and do nothing.
    #[arg(long)]
    pub check: bool,
    /// Of a file: where to write it.
    #[arg(short, long, value_name = "OUT", conflicts_with = "in_place")]
    pub output: Option<PathBuf>,
    /// Of a file: replace it.
    #[arg(long)]
    pub in_place: bool,
}

/// Arguments of `set`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise set -p <PID> <NAME=VALUE>...\n       incise set [OPTIONS] -p <PID> --at <WHERE> <ASSIGNMENT>...\n       incise set [OPTIONS] <FILE> --at <WHERE> <ASSIGNMENT>... (-o <OUT> | --in-place)\n       incise set [OPTIONS] --at <WHERE> <ASSIGNMENT>... -- <CMD> [ARGS]..."
)]
#[command(
    after_help = "Without --at, variables of a running process that was compiled with -g are set once, now, and \
the values they had and have are told: incise set -p 4711 debug_level=3

With --at, ASSIGNMENT is one of:
  rax=1, 'rcx+=8'     a register; also -= ^= |= &=
  '[rbp-4]=0'         memory: 4 bytes, unless a register or a word such as qword says otherwise
  '[rdi]=\"text\"'      a string, with a zero byte behind it"
)]
pub struct SetArgs {
    /// What to set: see below. Without -p and CMD, the first word is a file.
    #[arg(value_name = "ASSIGNMENT", required = true)]
    pub assignments: Vec<String>,
    #[command(flatten)]
    pub target: TargetArgs,
    /// Before the instruction at this place, whenever a thread comes by.
    #[arg(long, value_name = "WHERE", required_unless_present = "pid")]
    pub at: Option<String>,
    /// Only if this holds: 'rdi == 5', '[rbp-4] > 0'.
    #[arg(long = "if", value_name = "CONDITION", requires = "at")]
    pub condition: Option<String>,
    /// Only so often; in a file, in each process anew.
    #[arg(long, value_name = "N", requires = "at", value_parser = clap::value_parser!(u64).range(1..=incise::patching::MOST_TIMES))]
    pub times: Option<u64>,
    /// Of a file: where to write it.
    #[arg(short, long, value_name = "OUT", conflicts_with = "in_place")]
    pub output: Option<PathBuf>,
    /// Of a file: replace it.
    #[arg(long)]
    pub in_place: bool,
}
