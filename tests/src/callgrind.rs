//! What callgrind counted: how often each instruction ran, and which way control went from it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::command::run;
use crate::outcome::Outcome;
use crate::scratch::Scratch;

/// What one file of a program did, by link address.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Profile {
    /// How often each instruction ran.
    pub runs: BTreeMap<u64, u64>,
    /// How often control jumped from one instruction to another.
    pub jumps: BTreeMap<(u64, u64), u64>,
    /// How often each call was made, by the address of the call.
    pub calls: BTreeMap<u64, u64>,
}

impl Profile {
    /// Runs a program under callgrind and reads what the file `object` of it did.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn of(program: &Path, arguments: &[&str], object: &str) -> (Profile, Outcome) {
        Profile::with(program, arguments, object, &|_| ())
    }

    /// The same, where `prepare` sets up how the command runs.
    ///
    /// # Panics
    /// As for [`of`](Profile::of).
    pub fn with(
        program: &Path,
        arguments: &[&str],
        object: &str,
        prepare: &dyn Fn(&mut Command),
    ) -> (Profile, Outcome) {
        let scratch = Scratch::new();
        let written = scratch.file("profile");
        let mut command = Command::new("valgrind");
        prepare(&mut command);
        // Bound when first called, a function seems to be called twice: the linker finds it and jumps there.
        command.env("LD_BIND_NOW", "1");
        command.args(["--quiet", "--tool=callgrind", "--dump-instr=yes", "--collect-jumps=yes"]);
        command.args(["--compress-strings=no", "--compress-pos=no", "--skip-plt=no"]);
        command.arg(format!("--callgrind-out-file={}", written.display())).arg(program).args(arguments);
        let outcome = run(&mut command);
        let text = fs::read_to_string(&written).unwrap_or_else(|error| {
            panic!("callgrind wrote nothing: {error}: {}", outcome.error_text());
        });
        (Profile::parse(&text, object), outcome)
    }

    /// Reads a profile in callgrind's format (valgrind's manual, "Callgrind Format Specification"), with addresses.
    fn parse(text: &str, object: &str) -> Profile {
        /// What the next line with a position belongs to.
        enum Next {
            Cost,
            Call(u64),
            Jump(u64, u64),
        }
        let mut profile = Profile::default();
        let (mut inside, mut next) = (false, Next::Cost);
        let hex =
            |word: &str| word.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        for line in text.lines() {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            if let Some(path) = line.strip_prefix("ob=") {
                inside = path.ends_with(object);
            } else if let Some(rest) = line.strip_prefix("calls=") {
                let count = rest.split(' ').next().and_then(|count| count.parse().ok());
                next = Next::Call(count.unwrap_or(0));
            } else if line.starts_with("jcnd=") || line.starts_with("jump=") {
                let count = words[0][5..].split('/').next().and_then(|count| count.parse().ok());
                let target = words.get(1).copied().and_then(hex);
                next = Next::Jump(count.unwrap_or(0), target.unwrap_or(0));
            } else if let Some(at) = words.first().copied().and_then(hex) {
                let cost = words.get(2).and_then(|cost| cost.parse().ok()).unwrap_or(0);
                match std::mem::replace(&mut next, Next::Cost) {
                    _ if !inside => {}
                    Next::Cost => *profile.runs.entry(at).or_insert(0) += cost,
                    Next::Call(count) => *profile.calls.entry(at).or_insert(0) += count,
                    Next::Jump(count, to) => *profile.jumps.entry((at, to)).or_insert(0) += count,
                }
            }
        }
        profile
    }

    /// How often the instruction at `at` ran.
    pub fn runs_at(&self, at: u64) -> u64 {
        self.runs.get(&at).copied().unwrap_or(0)
    }

    /// How often control went from the instruction at `from` to the one at `to`: by a jump, or by going on.
    pub fn went(&self, from: u64, to: u64) -> u64 {
        if let Some(count) = self.jumps.get(&(from, to)) {
            return *count;
        }
        // Where it goes on is the next instruction that ran.
        if self.runs.range(from + 1..).next().map(|(at, _)| *at) != Some(to) {
            return 0;
        }
        let jumped: u64 = self.jumps.range((from, 0)..=(from, u64::MAX)).map(|(_, count)| count).sum();
        self.runs_at(from) - jumped
    }
}
