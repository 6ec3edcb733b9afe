//! Servers as distributions ship them, and what puts them under load.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;

/// A server and its load.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Kind {
    Redis,
    Nginx,
    Postgres,
    Node,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Redis, Kind::Nginx, Kind::Postgres, Kind::Node];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Redis => "redis-server, redis-benchmark -t get",
            Kind::Nginx => "nginx, wrk",
            Kind::Postgres => "postgres, pgbench -S",
            Kind::Node => "node http server, wrk",
        }
    }

    /// The functions that are traced: those that all of the tools find by a plain name.
    pub(super) fn functions(self) -> &'static [&'static str] {
        match self {
            Kind::Redis => &["dictFind", "createStringObject", "decrRefCount", "string2ll", "listNext"],
            Kind::Nginx => &["ngx_pcalloc", "ngx_http_core_generic_phase", "ngx_hash_find", "ngx_list_push"],
            Kind::Postgres => &["ExecutorRun", "palloc", "LWLockAcquire", "hash_search_with_hash_value"],
            Kind::Node => &["uv_buf_init", "uv__read", "uv_try_write", "uv_hrtime", "uv_update_time"],
        }
    }

    fn programs(self) -> &'static [&'static str] {
        match self {
            Kind::Redis => &["redis-server", "redis-benchmark"],
            Kind::Nginx => &["nginx", "wrk"],
            Kind::Postgres => &["postgres", "initdb", "pgbench"],
            Kind::Node => &["node", "wrk"],
        }
    }
}

/// Where a program is, if it is installed.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push("/usr/sbin".into());
    // Debian keeps them out of the way.
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        let versions = versions.flatten().map(|version| version.path().join("bin"));
        folders.splice(0..0, versions);
    }
    folders.into_iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn needed(name: &str) -> Result<PathBuf, Error> {
    program(name).ok_or_else(|| format!("{name} is not installed").into())
}

/// A server, ready to be started.
pub(super) struct Server {
    pub kind: Kind,
    folder: PathBuf,
    port: u16,
    /// Postgres does not run as root.
    user: Option<(u32, u32)>,
}

impl Server {
    /// Makes what it needs in `folder`.
    pub(super) fn prepare(kind: Kind, folder: &Path) -> Result<Server, Error> {
        kind.programs().iter().try_for_each(|name| needed(name).map(drop))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = Server { kind, folder: folder.to_owned(), port, user: None };
        match kind {
            Kind::Redis => {}
            Kind::Nginx => {
                fs::write(folder.join("index.html"), "<p>Hello</p>\n")?;
                let place = folder.display();
                let text = format!(
                    "daemon off; master_process off; pid {place}/pid; error_log {place}/errors;\n\
                     events {{}}\n\
                     http {{ access_log off; server {{ listen 127.0.0.1:{port}; root {place}; }} }}\n"
                );
                fs::write(folder.join("nginx.conf"), text)?;
            }
            Kind::Postgres => server.prepare_postgres()?,
            Kind::Node => {
                let text = format!(
                    "require('http').createServer((_, answer) => answer.end('Hello')).listen({port}, '127.0.0.1')\n"
                );
                fs::write(folder.join("server.js"), text)?;
            }
        }
        Ok(server)
    }

    fn prepare_postgres(&mut self) -> Result<(), Error> {
        if own_user() == 0 {
            let users = fs::read_to_string("/etc/passwd")?;
            let line = users.lines().find(|line| line.starts_with("postgres:"));
            let mut fields = line.ok_or("there is no user postgres")?.split(':').skip(2);
            let mut number = || fields.next().and_then(|field| field.parse().ok());
            let (user, group) = number().zip(number()).ok_or("a strange line in /etc/passwd")?;
            std::os::unix::fs::chown(&self.folder, Some(user), Some(group))?;
            self.user = Some((user, group));
        }
        let mut command = self.command("initdb")?;
        quiet(command.arg("-D").arg(self.folder.join("data")).args(["-A", "trust", "-U", "bench", "-N"]))?;
        let mut child = self.start(self.server_command()?)?;
        let mut fill = self.command("pgbench")?;
        let filled = quiet(
            fill.args(["-i", "-q", "-h", "127.0.0.1", "-U", "bench", "-p"])
                .arg(self.port.to_string())
                .arg("postgres"),
        );
        stop(&mut child);
        filled
    }

    fn command(&self, name: &str) -> Result<Command, Error> {
        let mut command = Command::new(needed(name)?);
        self.like(&mut command);
        Ok(command)
    }

    /// Makes a command run as the server does: where, and by whom.
    pub(super) fn like(&self, command: &mut Command) {
        command.current_dir(&self.folder);
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
    }

    /// What runs it.
    pub(super) fn server_command(&self) -> Result<Command, Error> {
        let port = self.port.to_string();
        Ok(match self.kind {
            Kind::Redis => {
                let mut command = self.command("redis-server")?;
                command.args(["--port", &port, "--save", "", "--bind", "127.0.0.1"]);
                command
            }
            Kind::Nginx => {
                let mut command = self.command("nginx")?;
                command.arg("-p").arg(&self.folder).args(["-c", "nginx.conf"]);
                command
            }
            Kind::Postgres => {
                let mut command = self.command("postgres")?;
                command.arg("-D").arg(self.folder.join("data"));
                command.args(["-h", "127.0.0.1", "-k", "", "-p", &port, "-c", "fsync=off", "-c", "jit=off"]);
                command
            }
            Kind::Node => {
                let mut command = self.command("node")?;
                command.arg("server.js");
                command
            }
        })
    }

    /// The file that is run.
    pub(super) fn file(&self) -> Result<PathBuf, Error> {
        Ok(needed(self.kind.programs()[0])?.canonicalize()?)
    }

    /// Starts it, and waits until it answers.
    pub(super) fn start(&self, mut command: Command) -> Result<Child, Error> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let patience = Instant::now() + Duration::from_secs(60);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = child.try_wait()? {
                return Err(format!("the server ended at once: {status}").into());
            }
            if Instant::now() > patience {
                stop(&mut child);
                return Err("the server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // A process that was forked may be seconds behind.
        std::thread::sleep(Duration::from_millis(300));
        Ok(child)
    }

    /// Puts it under load for so many seconds. Returns requests a second, and requests in all.
    pub(super) fn load(&self, seconds: u32) -> Result<(f64, f64), Error> {
        let port = self.port.to_string();
        let address = format!("http://127.0.0.1:{port}/index.html");
        let began = Instant::now();
        let (command, mark) = match self.kind {
            Kind::Redis => {
                // It counts requests, not seconds.
                let requests = (seconds * 40_000).to_string();
                let mut command = self.command("redis-benchmark")?;
                command.args(["-p", &port, "-t", "get", "-c", "20", "-n", &requests, "--csv"]);
                (command, "\"GET\",\"")
            }
            Kind::Nginx | Kind::Node => {
                let mut command = self.command("wrk")?;
                command.args(["-t1", "-c20", &format!("-d{seconds}s"), &address]);
                (command, "Requests/sec:")
            }
            Kind::Postgres => {
                let mut command = self.command("pgbench")?;
                command.args([
                    "-S",
                    "-n",
                    "-c",
                    "4",
                    "-T",
                    &seconds.to_string(),
                    "-h",
                    "127.0.0.1",
                    "-U",
                    "bench",
                    "-p",
                    &port,
                ]);
                command.arg("postgres");
                (command, "tps = ")
            }
        };
        let text = output(command)?;
        let took = began.elapsed().as_secs_f64();
        let number = text.split(mark).nth(1).map(|rest| rest.trim_start());
        let number = number.and_then(|rest| rest.split(|c: char| !c.is_ascii_digit() && c != '.').next());
        let rate: f64 =
            number.and_then(|number| number.parse().ok()).ok_or_else(|| format!("no rate in {text}"))?;
        let requests = if self.kind == Kind::Redis { f64::from(seconds * 40_000) } else { rate * took };
        Ok((rate, requests))
    }
}

fn own_user() -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata("/proc/self").expect("the own process"))
}

fn output(mut command: Command) -> Result<String, Error> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(
            format!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr)).into()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn quiet(command: &mut Command) -> Result<(), Error> {
    let output = command.stdin(Stdio::null()).output()?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(format!("{:?}: {}", command.get_program(), String::from_utf8_lossy(&output.stderr)).into())
        }
    }
}

/// Asks a process to end (SIGINT, which all of them know), and waits for it.
pub(super) fn stop(child: &mut Child) {
    interrupt(child.id());
    let patience = Instant::now() + Duration::from_secs(30);
    while Instant::now() < patience {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Sends SIGINT.
pub(crate) fn interrupt(pid: u32) {
    let _ = Command::new("kill").args(["-INT", &pid.to_string()]).stderr(Stdio::null()).status();
}

/// Processor time of a process and all its descendants so far, those that were waited for too.
pub(super) fn processor_time(pid: u32) -> Result<Duration, Error> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name may hold anything; fields are counted behind it (proc_pid_stat(5), from field 3).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|field| field.parse::<u64>().ok());
        let ticks: u64 = [14, 15, 16, 17].into_iter().filter_map(field).sum();
        parents.push((id, field(4).unwrap_or(0) as u32, ticks));
    }
    let (mut family, mut ticks) = (vec![pid], 0);
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        ticks += parents.iter().filter(|(id, ..)| *id == member).map(|(.., ticks)| ticks).sum::<u64>();
        family.extend(parents.iter().filter(|(_, parent, _)| *parent == member).map(|(id, ..)| *id));
        next += 1;
    }
    // USER_HZ is 100 on x86-64.
    Ok(Duration::from_millis(ticks * 10))
}

/// Asks the children of a process to end.
pub(super) fn stop_children(pid: u32) {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).for_each(interrupt);
}
