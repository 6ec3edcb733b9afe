//! Every program of `programs/`, in every variant, does with probes what it does without, and the counts are
//! those its head comments tell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use incise_tests::command::{count, run};
use incise_tests::directives::{Directives, Need, Run};
use incise_tests::outcome::Ending;
use incise_tests::scratch::Scratch;
use incise_tests::skip::{find_program, skip};
use libtest_mimic::{Arguments, Failed, Trial};

/// Tactics found, by file and line.
type Blessings = Arc<Mutex<BTreeMap<(PathBuf, usize), BTreeSet<String>>>>;

fn main() {
    let arguments = Arguments::from_args();
    let blessings = Blessings::default();
    let mut trials = Vec::new();
    for source in sources() {
        let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&source).expect("a source file");
        let directives = match Directives::parse(&text) {
            Ok(directives) => directives,
            Err(error) => {
                trials.push(Trial::test(name, move || Err(Failed::from(error))));
                continue;
            }
        };
        for variant in 0..directives.compile.len() {
            let (source, directives, blessings) = (source.clone(), directives.clone(), blessings.clone());
            let title = match directives.compile.len() {
                1 => name.clone(),
                _ => format!("{name} [{}]", directives.compile[variant]),
            };
            trials.push(Trial::test(title, move || {
                test(&source, &directives, variant, &blessings).map_err(Failed::from)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if std::env::var_os("INCISE_BLESS").is_some_and(|value| value == "1") {
        bless(&blessings);
    }
    conclusion.exit();
}

fn sources() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/programs"));
    let entries = std::fs::read_dir(folder).expect("the folder of programs");
    let mut sources: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    sources.retain(|path| path.extension().is_some_and(|ext| ext == "c" || ext == "cc" || ext == "s"));
    sources.sort();
    sources
}

fn test(source: &Path, directives: &Directives, variant: usize, blessings: &Blessings) -> Result<(), String> {
    if let Some(missing) = directives.needs.iter().find_map(missing) {
        skip(&missing);
        return Ok(());
    }
    let program = Program::build(source, directives, variant)?;
    for run in &directives.runs {
        let found = program.check(run, directives, &[]).map_err(|error| describe(run, "", &error))?;
        let mut blessings = blessings.lock().map_err(|_| "another test panicked")?;
        for (line, tactic) in found {
            blessings.entry((source.to_owned(), line)).or_default().insert(tactic);
        }
        drop(blessings);
        if directives.traps {
            let all_traps = Run { tactics: Vec::new(), ..run.clone() };
            let options = ["--trap", "force"];
            program
                .check(&all_traps, directives, &options)
                .map_err(|error| describe(run, "--trap force ", &error))?;
        }
    }
    Ok(())
}

fn describe(run: &Run, more: &str, error: &str) -> String {
    format!("count {more}{} -- {}: {error}", run.options.join(" "), run.arguments.join(" "))
}

/// What is not there, as a reason to skip.
fn missing(need: &Need) -> Option<String> {
    match need {
        Need::Cpu(flag) => {
            let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
            let there = flags.split_whitespace().any(|word| word == flag);
            (!there).then(|| format!("this processor has no {flag}"))
        }
        Need::Command(name) => find_program(name).is_none().then(|| format!("{name} is not installed")),
        Need::Root => {
            let root = std::fs::metadata("/proc/1/mem").is_ok() && std::fs::File::open("/proc/1/mem").is_ok();
            (!root).then(|| "needs root".to_owned())
        }
    }
}

/// A built program.
struct Program {
    scratch: Scratch,
    file: PathBuf,
    source: PathBuf,
    symbols: BTreeMap<String, String>,
}

impl Program {
    fn build(source: &Path, directives: &Directives, variant: usize) -> Result<Program, String> {
        let scratch = Scratch::new();
        let file = scratch.file(&source.file_stem().unwrap_or_default().to_string_lossy());
        let mut program = Program { scratch, file, source: source.to_owned(), symbols: BTreeMap::new() };
        for command in &directives.extra {
            program.shell(command)?;
        }
        let compile = format!("{} -o {{program}} {{source}}", directives.compile[variant]);
        program.shell(&compile)?;
        let symbols = program.shell("nm {program}").unwrap_or_default();
        for line in symbols.lines() {
            if let [address, _, name] = line.split_whitespace().collect::<Vec<_>>()[..] {
                program.symbols.insert(name.to_owned(), format!("0x{}", address.trim_start_matches('0')));
            }
        }
        if directives.strip {
            program.shell("strip {program}")?;
        }
        Ok(program)
    }

    fn shell(&self, command: &str) -> Result<String, String> {
        let mut shell = Command::new("/bin/sh");
        shell.arg("-ec").arg(self.expand(command)?).current_dir(self.scratch.path());
        let outcome = run(&mut shell);
        match outcome.ending {
            Ending::Exited(0) => Ok(String::from_utf8_lossy(&outcome.stdout).into_owned()),
            ending => Err(format!("{command}: {ending}: {}", outcome.error_text())),
        }
    }

    fn expand(&self, text: &str) -> Result<String, String> {
        let paths = [("{program}", &self.file), ("{source}", &self.source)];
        let mut text = text.replace("{dir}", &self.scratch.path().to_string_lossy());
        for (name, path) in paths {
            text = text.replace(name, &path.to_string_lossy());
        }
        for (name, address) in &self.symbols {
            text = text.replace(&format!("{{link:{name}}}"), address);
            text = text.replace(&format!("{{hex:{name}}}"), &address[2..]);
        }
        Ok(text)
    }

    /// One run. Returns the tactics found, by line.
    fn check(
        &self,
        run: &Run,
        directives: &Directives,
        more: &[&str],
    ) -> Result<Vec<(usize, String)>, String> {
        let arguments: Vec<String> =
            run.arguments.iter().map(|argument| self.expand(argument)).collect::<Result<_, _>>()?;
        let prepare = |command: &mut Command| {
            command.current_dir(self.scratch.path());
        };
        let options: Vec<String> =
            run.options.iter().map(|option| self.expand(option)).collect::<Result<_, _>>()?;
        let options: Vec<&str> = more.iter().copied().chain(options.iter().map(String::as_str)).collect();
        let counted = count(&options, &self.file, &arguments, &prepare);
        let mut plain = Command::new(&self.file);
        plain.args(&arguments);
        prepare(&mut plain);
        let mut plain = incise_tests::command::run(&mut plain);
        let expected = match run.signal {
            Some(signal) => Ending::Killed(signal),
            None => Ending::Exited(run.exit),
        };
        if plain.ending != expected {
            return Err(format!("without probes: {} instead of {expected}", plain.ending));
        }
        if !directives.steady {
            plain.stdout.clone_from(&counted.outcome.stdout);
        }
        if let Some(difference) = plain.difference(&counted.outcome) {
            return Err(difference);
        }
        let lines: String = run.stdout.iter().map(|line| format!("{line}\n")).collect();
        if !lines.is_empty() && plain.stdout != lines.as_bytes() {
            return Err(format!("output is {:?}", String::from_utf8_lossy(&plain.stdout)));
        }
        let report = counted.report?;
        for (function, times) in &run.counts {
            let function = &self.expand(function)?;
            match report.hits(function) {
                Some(hits) if times.allows(hits) => {}
                found => {
                    let why = report.reason(function).unwrap_or("no reason given");
                    return Err(format!("{function}: {times:?} expected, {found:?} found ({why})"));
                }
            }
        }
        for (function, part) in &run.refused {
            match report.reason(function) {
                Some(reason) if reason.contains(part) => {}
                found => return Err(format!("{function}: refusal is {found:?}")),
            }
        }
        let blessing = std::env::var_os("INCISE_BLESS").is_some_and(|value| value == "1");
        let mut tactics = Vec::new();
        for (line, function, allowed) in &run.tactics {
            let found = report.tactic(function).unwrap_or("none");
            if !blessing && !allowed.split('|').any(|tactic| tactic == found) {
                return Err(format!("{function}: tactic {allowed} expected, {found} found"));
            }
            tactics.push((*line, found.to_owned()));
        }
        Ok(tactics)
    }
}

/// Writes the tactics found into the head comments.
fn bless(blessings: &Blessings) {
    let Ok(blessings) = blessings.lock() else { return };
    for ((path, number), tactics) in blessings.iter() {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let Some((head, _)) = lines[*number].rsplit_once(' ') else { continue };
        lines[*number] = format!("{head} {}", tactics.iter().cloned().collect::<Vec<_>>().join("|"));
        if let Err(error) = std::fs::write(path, lines.join("\n") + "\n") {
            eprintln!("{}: {error}", path.display());
        }
    }
}
