//! The arguments of `incise run`.

use clap::Args;

use crate::target::TargetArgs;

/// Arguments of `run`.
#[derive(Args, Debug)]
#[command(
    override_usage = "incise run [OPTIONS] -e <TEXT> [ARGS]... [-p <PID> | -- <CMD> [ARGS]...]\n       incise run [OPTIONS] <SCRIPT> [ARGS]... [-p <PID> | -- <CMD> [ARGS]...]"
)]
#[command(after_help = "One-liners:
  incise run -e 'function:libc:malloc { @[arg0] = count(); }' -- ls
  incise run -e 'uretprobe:libc:read { @bytes = hist(retval); }' -p 1234
  incise run -e 'function:step:exit { if (x == 0) { printf(\"x == 0\\n\"); } }' -- ./program

The language is that of docs/language.md: C, with the probes, maps and functions of bpftrace. What the script shows \
goes to standard output (or -o FILE); its maps are shown at the end. It ends with the program, on Ctrl-C, or by \
exit(). The exit code is the program's.")]
pub struct RunArgs {
    /// The script itself.
    #[arg(short, long, value_name = "TEXT")]
    pub expression: Option<String>,
    /// A file with the script (unless -e is given), and the script's arguments: $1, $2, ...
    #[arg(value_name = "SCRIPT")]
    pub words: Vec<String>,
    /// The program to run, and its arguments, in one word; as `-- CMD ARGS...`.
    #[arg(short, long, value_name = "CMD", conflicts_with_all = ["program", "pid"])]
    pub command: Option<String>,
    /// Lists probes in bpftrace; other commands do so here.
    #[arg(short, long, hide = true)]
    pub list: bool,
    /// Show which points the probes mean, and what would run there; change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON Lines.
    #[arg(long)]
    pub json: bool,
    /// Room for N records on each CPU.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=1 << 16))]
    pub buffer: u32,
    /// Room for N keys in each map, and N / 4 in one of histograms.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    pub keys: u32,
    /// Room for N rows of unwind tables of libraries that are loaded later, for `ustack`.
    #[arg(long, value_name = "N", default_value_t = 1 << 16)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub unwind_rows: u32,
    /// The program.
    #[command(flatten)]
    pub target: TargetArgs,
}
