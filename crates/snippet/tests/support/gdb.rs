//! A conversation with gdb.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use incise_isa::native::Gpr;

/// What ends an answer.
const END: &str = "=end of answer=";

/// A program that is being debugged.
pub struct Gdb {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    pid: Option<i32>,
}

/// The program stands still.
pub struct Stop {
    pub function: String,
    /// Bytes behind the function's first instruction.
    pub offset: u64,
    /// General registers by their number.
    pub general: [u64; 16],
    pub vector: [u64; 16],
    pc: u64,
    memory: File,
}

impl Stop {
    pub fn pc(&self) -> u64 {
        self.pc
    }

    pub fn read(&self, at: u64, into: &mut [u8]) -> bool {
        self.memory.read_exact_at(into, at).is_ok()
    }
}

impl Gdb {
    pub fn start(program: &Path) -> Gdb {
        let line = "exec gdb --nx --quiet \"$0\" 2>&1";
        let mut child = Command::new("sh")
            .args(["-c", line])
            .arg(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gdb starts");
        let to = child.stdin.take().expect("a pipe");
        let from = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut gdb = Gdb { child, to, from, pid: None };
        // Expressions are those of C, whatever the program is written in.
        for setting in
            ["confirm off", "pagination off", "width 0", "debuginfod enabled off", "prompt", "language c++"]
        {
            gdb.ask(&format!("set {setting}"));
        }
        gdb
    }

    /// What a command prints.
    pub fn ask(&mut self, command: &str) -> String {
        writeln!(self.to, "{command}\necho \\n{END}\\n").expect("gdb listens");
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            let len = self.from.read_line(&mut line).expect("gdb answers");
            assert!(len > 0, "gdb ended: {command}: {answer}");
            if line.trim_end() == END {
                return answer.trim_end().to_owned();
            }
            if !line.starts_with("Warning: the current language does not match this frame") {
                answer.push_str(&line);
            }
        }
    }

    /// A value, or what gdb says instead.
    pub fn print(&mut self, expression: &str) -> String {
        self.ask(&format!("output {expression}"))
    }

    /// Stops once at each instruction of a function.
    pub fn break_everywhere(&mut self, function: &str) {
        let listing = self.ask(&format!("disassemble '{function}'"));
        let offsets = listing.lines().filter_map(|line| {
            let (_, rest) = line.split_once("<+")?;
            rest.split_once(">:").map(|(offset, _)| offset.to_owned())
        });
        let offsets: Vec<String> = offsets.collect();
        assert!(offsets.len() > 2, "{function}: {listing}");
        for offset in offsets {
            let answer = self.ask(&format!("tbreak *((char *)'{function}' + {offset})"));
            assert!(answer.contains("reakpoint"), "{answer}");
        }
    }

    pub fn run(&mut self) {
        let answer = self.ask("run > /dev/null");
        assert!(answer.contains("reakpoint"), "{answer}");
        let inferiors = self.ask("info inferiors");
        let pid = inferiors
            .split_once("process ")
            .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
        self.pid = Some(pid.unwrap_or_else(|| panic!("{inferiors}")));
    }

    pub fn pid(&self) -> i32 {
        self.pid.expect("the program runs")
    }

    /// Where gdb would stop in a function: its variables have their values.
    pub fn behind_prologue(&mut self, function: &str) -> u64 {
        let answer = self.ask(&format!("break '{function}'"));
        let (_, rest) = answer.split_once(" at 0x").unwrap_or_else(|| panic!("{answer}"));
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        self.ask("delete $bpnum");
        let at = u64::from_str_radix(&rest[..end], 16).expect("an address");
        // There is a stop at each instruction already.
        self.ask(&format!("tbreak *{at:#x}"));
        at
    }

    /// Where the program stands, unless it has ended.
    pub fn stop(&mut self) -> Option<Stop> {
        let alive = self.ask("info inferiors");
        if !alive.contains("process ") {
            return None;
        }
        let general: Vec<String> = (0..16).map(|n| format!("${}", Gpr::ALL[n].name())).collect();
        let vector: Vec<String> = (0..16).map(|n| format!("$xmm{n}.v2_int64[0]")).collect();
        let format = "%lx ".repeat(33);
        let all: Vec<String> = general.into_iter().chain(vector).chain(["$pc".to_owned()]).collect();
        let answer = self.ask(&format!("printf \"{format}\\n\", {}", all.join(", ")));
        let values: Vec<u64> =
            answer.split_whitespace().map(|word| u64::from_str_radix(word, 16).expect(word)).collect();
        let symbol = self.ask("info symbol $pc");
        let symbol = symbol.split_once(" in section").map_or(symbol.as_str(), |(symbol, _)| symbol);
        let (name, offset) = symbol.split_once(" + ").unwrap_or((symbol, "0"));
        // Without parameters and what is returned.
        let name = name.split_once('(').map_or(name, |(name, _)| name);
        let name = name.rsplit(' ').next().unwrap_or(name);
        // Nor the hash of Rust.
        let hash = |last: &str| last.len() == 17 && last.starts_with('h');
        let name = name.rsplit_once("::").filter(|(_, last)| hash(last)).map_or(name, |(name, _)| name);
        Some(Stop {
            function: name.to_owned(),
            offset: offset.trim().parse().expect("an offset"),
            general: values[..16].try_into().expect("sixteen"),
            vector: values[16..32].try_into().expect("sixteen"),
            pc: values[32],
            memory: File::open(format!("/proc/{}/mem", self.pid())).expect("its memory"),
        })
    }

    pub fn go_on(&mut self) {
        self.ask("continue");
    }
}

impl Drop for Gdb {
    fn drop(&mut self) {
        let _ = writeln!(self.to, "kill\nquit");
        let _ = self.child.wait();
    }
}
