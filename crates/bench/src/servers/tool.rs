//! The tools that trace a server, each as its user would start it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::server::{Server, program, stop};
use crate::Error;

/// What is done with the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tool {
    Nothing,
    /// A record at each entry, with arguments, and each exit.
    Trace,
    Uftrace,
    BpftraceTrace,
    /// A histogram of durations for each function.
    Hist,
    BpftraceHist,
}

impl Tool {
    pub(super) const ALL: [Tool; 6] =
        [Tool::Nothing, Tool::Trace, Tool::Uftrace, Tool::BpftraceTrace, Tool::Hist, Tool::BpftraceHist];

    pub(super) fn name(self) -> &'static str {
        match self {
            Tool::Nothing => "not traced",
            Tool::Trace => "incise trace --args --duration",
            Tool::Uftrace => "uftrace record",
            Tool::BpftraceTrace => "bpftrace, printf at entry and exit",
            Tool::Hist => "incise hist",
            Tool::BpftraceHist => "bpftrace, hist(nsecs - @start[tid])",
        }
    }
}

/// A tool at work.
pub(super) struct Running {
    tool: Tool,
    child: Option<Child>,
    output: PathBuf,
    errors: PathBuf,
}

/// What it says it saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Calls: records of entries, or values in histograms.
    pub calls: Option<u64>,
    /// Records that it says it has lost.
    pub lost: u64,
    /// Records that are no records.
    pub torn: u64,
}

/// Starts a server with a tool at work on it. Returns the server.
pub(super) fn start(
    tool: Tool,
    server: &Server,
    folder: &Path,
    incise: &Path,
) -> Result<(Child, Running), Error> {
    let output = folder.join(format!("{tool:?}"));
    let errors = folder.join(format!("{tool:?}.messages"));
    let mut running = Running { tool, child: None, output: output.clone(), errors: errors.clone() };
    if tool == Tool::Uftrace {
        let uftrace = program("uftrace").ok_or("uftrace is not installed (Debian package uftrace)")?;
        let _ = fs::remove_dir_all(&output);
        let served = server.server_command()?;
        let mut command = Command::new(uftrace);
        command.args(["record", "--no-libcall", "--no-event", "-d"]).arg(&output);
        server.kind.functions().iter().for_each(|function| {
            command.args(["-P", function]);
        });
        command.arg(served.get_program()).args(served.get_args());
        server.like(&mut command);
        return Ok((server.start(command)?, running));
    }
    let mut child = server.start(server.server_command()?)?;
    let started = running.attach(server, child.id(), incise);
    match started {
        Ok(()) => Ok((child, running)),
        Err(error) => {
            stop(&mut child);
            Err(error)
        }
    }
}

impl Running {
    fn attach(&mut self, server: &Server, pid: u32, incise: &Path) -> Result<(), Error> {
        let functions = server.kind.functions();
        let file = server.file()?;
        let (mut command, ready) = match self.tool {
            Tool::Nothing | Tool::Uftrace => return Ok(()),
            Tool::Trace | Tool::Hist => {
                let mut command = Command::new(incise);
                match self.tool {
                    Tool::Trace => command.args(["trace", "--args", "--duration", "--json"]),
                    _ => command.args(["hist", "--json"]),
                };
                let module = file.file_name().unwrap_or_default();
                command.args(functions).arg("-m").arg(module).args([
                    "-v",
                    "-f",
                    "-p",
                    &pid.to_string(),
                    "-o",
                ]);
                command.arg(&self.output);
                (command, 1)
            }
            Tool::BpftraceTrace | Tool::BpftraceHist => {
                let bpftrace =
                    program("bpftrace").ok_or("bpftrace is not installed (Debian package bpftrace)")?;
                let place = file.display();
                // At an exit `func` is the caller: each function has clauses of its own.
                let clauses = |name: &&str| match self.tool {
                    Tool::BpftraceTrace => format!(
                        "uprobe:{place}:{name} {{ printf(\"E %d %lld {name} %lx %lx %lx\\n\", tid, nsecs, arg0, arg1, arg2); }}\n\
                         uretprobe:{place}:{name} {{ printf(\"X %d %lld {name}\\n\", tid, nsecs); }}\n"
                    ),
                    _ => format!(
                        "uprobe:{place}:{name} {{ @{name}_start[tid] = nsecs; }}\n\
                         uretprobe:{place}:{name} /@{name}_start[tid]/ {{ @{name} = hist(nsecs - @{name}_start[tid]); \
                         @calls = count(); delete(@{name}_start[tid]); }}\n"
                    ),
                };
                let text: String = functions.iter().map(clauses).collect();
                let mut command = Command::new(bpftrace);
                command.arg("-v").arg("-o").arg(&self.output).arg("-e").arg(text);
                (command, 2 * functions.len())
            }
        };
        let errors = File::create(&self.errors)?;
        let _ = fs::remove_file(&self.output);
        command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors);
        let mut child = command.spawn()?;
        let patience = Instant::now() + Duration::from_secs(60);
        // A line when all are there, or one for each.
        let mark = if matches!(self.tool, Tool::Trace | Tool::Hist) { "in place" } else { "Attaching u" };
        while self.messages().matches(mark).count() < ready {
            if let Some(status) = child.try_wait()? {
                return Err(format!("it ended at once, {status}: {}", self.messages()).into());
            }
            if Instant::now() > patience {
                stop(&mut child);
                return Err("it does not get ready".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        // It is told before the last one is there.
        std::thread::sleep(Duration::from_millis(300));
        self.child = Some(child);
        Ok(())
    }

    fn messages(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Ends it, and asks what it saw. The server goes on, but for that of uftrace, which has to have ended.
    pub(super) fn finish(&mut self) -> Result<Seen, Error> {
        if let Some(mut child) = self.child.take() {
            stop(&mut child);
        }
        match self.tool {
            Tool::Nothing => Ok(Seen::default()),
            Tool::Trace => trace(&fs::read_to_string(&self.output)?),
            Tool::Hist => hist(&fs::read_to_string(&self.output)?),
            Tool::BpftraceTrace | Tool::BpftraceHist => {
                let text = fs::read_to_string(&self.output)? + &self.messages();
                let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<u64>().ok());
                let lost = text.lines().filter(|line| line.starts_with("Lost ")).filter_map(number).sum();
                let entries = text.lines().filter(|line| line.starts_with("E ")).count() as u64;
                let counted = text.lines().find(|line| line.starts_with("@calls")).and_then(number);
                Ok(Seen { calls: counted.or(Some(entries)), lost, torn: 0 })
            }
            Tool::Uftrace => {
                let report = Command::new("uftrace")
                    .args(["report", "--no-pager", "-d"])
                    .arg(&self.output)
                    .output()?;
                let text = String::from_utf8_lossy(&report.stdout).into_owned()
                    + &String::from_utf8_lossy(&report.stderr);
                // Total time, its unit, self time, its unit, calls, function.
                let calls =
                    |line: &str| line.split_whitespace().nth(4).and_then(|calls| calls.parse::<u64>().ok());
                let lost = text.lines().filter(|line| line.contains("LOST"));
                let lost = lost
                    .filter_map(|line| line.split_whitespace().find_map(|word| word.parse::<u64>().ok()))
                    .sum();
                Ok(Seen { calls: Some(text.lines().filter_map(calls).sum()), lost, torn: 0 })
            }
        }
    }
}

fn trace(text: &str) -> Result<Seen, Error> {
    let (mut seen, mut records) = (Seen::default(), 0);
    let mut calls = 0;
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        match line["type"].as_str() {
            Some("entry") => calls += 1,
            Some("exit") => {}
            Some("summary") => {
                let number = |name: &str| line[name].as_u64().unwrap_or(0);
                seen.lost = number("dropped") + number("unfinished");
                if number("records") != records {
                    return Err("the summary tells of other records than there are".into());
                }
                continue;
            }
            _ => continue,
        }
        records += 1;
        let (time, thread) = (line["time_ns"].as_u64(), line["thread"].as_u64());
        // A time of more than an hour, or a thread with an impossible number.
        if time.is_none_or(|time| time > 3_600_000_000_000)
            || thread.is_none_or(|thread| thread == 0 || thread > 1 << 22)
        {
            seen.torn += 1;
        }
    }
    Ok(Seen { calls: Some(calls), ..seen })
}

fn hist(text: &str) -> Result<Seen, Error> {
    let (mut seen, mut calls) = (Seen::default(), 0);
    for line in text.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        calls += line["count"].as_u64().unwrap_or(0);
        seen.lost += line["untimed"].as_u64().unwrap_or(0);
    }
    Ok(Seen { calls: Some(calls), ..seen })
}
