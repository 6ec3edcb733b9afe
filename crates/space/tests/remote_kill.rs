//! Kills the tracer, at random instants and before every single step it takes: the target computes
//! the right results every time.
//!
//! Runs itself as the tracer. `KILLS` in the environment says how often it is killed at random per program
//! (25 if unset), `STEPS` how many steps apart it is killed otherwise (23 if unset), `SEED` where chance begins.
//! With `INCISE_LONG=1` it is killed 1,000 times, and 3 steps apart.

mod remote_support;

use std::env;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use incise_isa::Addr;
use incise_space::remote::{ProcessId, RemoteSpace, Tracer};
use incise_space::{AddressSpace, Bytes, Edit, Landing, SpaceError, faults};
use remote_support::*;

/// Pages of the program that each hold `mov $1, %eax; ret`.
const PAGES: u64 = 64;

/// `answer` and two more places that are changed: an instruction across two pages, and many pages.
const PLACES: &str = r#"
extern int crossing(void), pages(void);
__asm__(".text\n.balign 4096\n.skip 4093\n.globl crossing\ncrossing:\n  mov $1, %eax\n  ret\n"
        ".globl pages\n.balign 4096\npages:\n.rept 64\n  mov $1, %eax\n  ret\n  .balign 4096\n.endr\n");
static void good(const char *where, int a) { if (a != 1 && a != 2) { dprintf(2, "%s: %d\n", where, a); _exit(99); } }
static int once(void) {
    int (*page)(void) = (int (*)(void))((char *)pages + 4096 * (rand() % 64));
    int a = answer(), b = crossing(), c = page();
    good("answer", a); good("crossing", b); good("pages", c);
    return 0;
}
"#;

const SPINNING: &str = r#"
static void *spin(void *x) { for (;;) once(); return x; }
int main(void) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) pthread_create(&thread, NULL, spin, NULL);
    ready(); printf("%p\n", (void *)crossing); fflush(stdout);
    while (line()) { printf("%d\n", once()); fflush(stdout); }
    return 7;
}
"#;

/// Sleeps and reads all the time, with vector registers in use, on a stack that is checked.
const SLEEPING: &str = r#"
static void *nap(void *x) {
    struct timespec short_time = { 0, 200000 };
    for (;;) { once(); if (nanosleep(&short_time, NULL)) { dprintf(2, "nanosleep: %s\n", strerror(errno)); _exit(99); } }
    return x;
}
static void *transfer(void *x) {
    int p[2]; pipe(p);
    for (uint64_t i = 0;; i++) {
        uint64_t j = 0;
        if (write(p[1], &i, 8) != 8 || read(p[0], &j, 8) != 8 || i != j) { dprintf(2, "pipe\n"); _exit(99); }
        volatile double d = i; d = d * 3.0; if (d != 3.0 * i) { dprintf(2, "vector\n"); _exit(99); }
        once();
    }
    return x;
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, nap, NULL); pthread_create(&thread, NULL, transfer, NULL);
    ready(); printf("%p\n", (void *)crossing); fflush(stdout);
    while (line()) { printf("%d\n", once()); fflush(stdout); }
    return 7;
}
"#;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // Numerical Recipes' linear congruential generator; its upper bits.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn main() {
    let arguments: Vec<String> = env::args().collect();
    if let [_, role, pid, answer, crossing, seed, step] = arguments.as_slice()
        && role == "tracer"
    {
        let number = |text: &str| text.parse().expect("a number");
        if step != "never" {
            faults::kill_nth(number(step));
        }
        return trace(
            ProcessId(number(pid) as i32),
            Addr(number(answer)),
            Addr(number(crossing)),
            Random(number(seed)),
        );
    }
    // What a test runner asks of a test program that brings its own harness.
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("killed_tracers_leave_a_right_target: test");
        }
        return;
    }
    let setting = |name: &str| env::var(name).ok().and_then(|value| value.parse().ok());
    let long = env::var("INCISE_LONG").is_ok_and(|value| value == "1");
    let (kills, stride) = if long { (1000, 3) } else { (25, 23) };
    let (kills, stride) = (setting("KILLS").unwrap_or(kills), setting("STEPS").unwrap_or(stride));
    let mut random = Random(setting("SEED").unwrap_or(0x9E37_79B9_7F4A_7C15));
    for (name, source) in [("spinning", SPINNING), ("sleeping", SLEEPING)] {
        println!("{name}: {kills} kills at random, seed {}", random.0);
        let mut subject = Subject::start(source);
        for _ in 0..kills {
            let mut tracer = subject.tracer(&mut random, "never");
            thread::sleep(Duration::from_micros(random.below(40_000)));
            tracer.kill().expect("a child");
            subject.check(tracer, "a random kill");
        }
        let first = random.below(stride);
        println!("{name}: killed before each step {first} + {stride} n, seed {}", random.0);
        for step in (first..STEPS).step_by(stride as usize) {
            let tracer = subject.tracer(&mut random, &step.to_string());
            subject.check(tracer, &format!("the kill before step {step}"));
        }
        assert_eq!(subject.program.finish().code(), Some(7));
    }
    println!("test result: ok. every result was right");
}

/// So many steps into its work, the tracer has done everything several times.
const STEPS: u64 = 2500;

struct Subject {
    program: Program,
    crossing: u64,
}

impl Subject {
    fn start(source: &str) -> Subject {
        let mut program = Program::start(&format!("{PLACES}{source}"), &[]);
        let crossing = program.read_line();
        let crossing = u64::from_str_radix(crossing.trim_start_matches("0x"), 16).expect("an address");
        Subject { program, crossing }
    }

    fn tracer(&self, random: &mut Random, step: &str) -> Child {
        Command::new(env::current_exe().expect("known"))
            .arg("tracer")
            .args([
                self.program.pid.0.to_string(),
                self.program.answer.0.to_string(),
                self.crossing.to_string(),
            ])
            .args([&random.below(u64::MAX).to_string(), step])
            .stdin(Stdio::null())
            .spawn()
            .expect("it starts")
    }

    /// After the tracer was killed.
    fn check(&mut self, mut tracer: Child, when: &str) {
        let status = tracer.wait().expect("a child");
        if status.code().is_some() {
            thread::sleep(Duration::from_millis(50));
            let target = self.program.child.try_wait();
            panic!("the tracer ended by itself instead of {when}; the target: {target:?}");
        }
        for _ in 0..3 {
            assert_eq!(self.program.ask(), "0", "after {when}");
        }
    }
}

/// The tracer: changes things for ever.
fn trace(pid: ProcessId, answer: Addr, crossing: Addr, mut random: Random) {
    let mut disturbed = 0;
    loop {
        match trace_once(pid, answer, crossing, &mut random) {
            Ok(()) => disturbed = 0,
            // A thread was still about to make the last call of the tracer that was killed before.
            Err(SpaceError::Changed { .. } | SpaceError::Occupied { .. }) if disturbed < 20 => disturbed += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

fn trace_once(pid: ProcessId, answer: Addr, crossing: Addr, random: &mut Random) -> Result<(), SpaceError> {
    let (mut tracer, _) = Tracer::attach(pid)?;
    let mut space = tracer.space(pid)?;
    let probe = Probe::try_prepare(&mut space, answer, Springboard::Jump)?;
    let second = trampoline(&mut space, &probe, crossing)?;
    space.publish_landings(&[probe.landing, second])?;
    // What an earlier tracer has left is undone first.
    let pages = (crossing + 6).align_up(PAGE);
    let all = [answer, crossing].into_iter().chain((0..PAGES).map(|page| pages + page * PAGE));
    let left: Vec<Edit> = all.filter_map(|at| edit(&space, at, [0xB8, 1, 0, 0, 0])).collect();
    space.apply(&left, &|_| None)?;
    for _ in 0..1 + random.below(5) {
        let mut jump = [0xE9, 0, 0, 0, 0];
        jump[1..].copy_from_slice(&(second.landing.offset_from(crossing + 5) as i32).to_le_bytes());
        let trap = random.below(2) == 0;
        let mut edits = vec![probe.edit];
        edits.extend(edit(&space, crossing, if trap { [0xCC, 1, 0, 0, 0] } else { jump }));
        edits.extend((0..PAGES).filter_map(|page| edit(&space, pages + page * PAGE, [0xB8, 2, 0, 0, 0])));
        space.apply(&edits, &|_| None)?;
        pump(&mut tracer, Duration::from_micros(random.below(2000)));
        let back: Vec<Edit> = edits.iter().map(Edit::inverse).collect();
        space.apply(&back, &|_| None)?;
    }
    space.remove()?;
    tracer.detach(pid)
}

/// The edit that makes the five bytes at `at` what is asked, if they are not.
fn edit(space: &RemoteSpace, at: Addr, new: [u8; 5]) -> Option<Edit> {
    let mut old = [0; 5];
    space.read(at, &mut old).expect("mapped");
    (old != new).then(|| Edit { at, old: Bytes::new(&old), new: Bytes::new(&new), heads: 1 })
}

/// A second trampoline, for the instruction at `site`.
fn trampoline(space: &mut RemoteSpace, probe: &Probe, site: Addr) -> Result<Landing, SpaceError> {
    let at = probe.code + 256;
    let mut body = vec![0xB8, 2, 0, 0, 0, 0xE9];
    body.extend(((site + 5).offset_from(at + 10) as i32).to_le_bytes());
    space.write_code(&[(at, &body)])?;
    Ok(Landing { trap: site, landing: at })
}
