//! Functions replaced and wrapped by those of libraries that are loaded for it, in this process and in another one that uses zlib.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use incise::changing::{self, LoadError};
use incise::space::remote::{ProcessId, Tracer};
use incise::{Addr, Error, Position, Query, Session};
use support::answering::Answering;

/// Answers with checksums and the length of what zlib makes of 1000 zeros; the second answer allocates all the time.
const SOURCE: &str = r#"
#include <stdlib.h>
extern unsigned long crc32(unsigned long, const char *, unsigned);
extern int compress2(char *, unsigned long *, const char *, unsigned long, int);
__attribute__((noinline)) long price(long n) { __asm__ volatile(""); return n + 1; }
long answer(long n) {
    static char zeros[1000], out[2000];
    unsigned long len = sizeof out;
    switch (n) {
    case 1: return crc32(0, "hello", 5);
    case 2: return compress2(out, &len, zeros, sizeof zeros, 6) ? -1 : (long)len;
    case 3: return price(20);
    default: return 0;
    }
}
"#;

const LIBRARY: &str = r#"
unsigned long crc32(unsigned long crc, const char *bytes, unsigned len) { return 1000 + len; }
int compress2(char *to, unsigned long *len, const char *from, unsigned long n, int level) { *len = 7; return 0; }
/* The original is called by this address, once it is known. */
long (*original)(long);
long doubled(long n) { return original ? 2 * original(n) : -1; }
"#;

/// The library, in a folder.
fn library(folder: &Path, name: &str, source: &str) -> PathBuf {
    let (file, library) = (folder.join("library.c"), folder.join(name));
    std::fs::write(&file, source).expect("a file");
    let built = Command::new("gcc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&file).status();
    assert!(built.expect("gcc").success());
    library
}

const CRC_OF_HELLO: i64 = 0x3610_A686;
const PATIENCE: Duration = Duration::from_secs(30);
static NEVER: AtomicBool = AtomicBool::new(false);

#[test]
fn functions_of_another_program_are_replaced_by_those_of_a_library_it_loads() {
    if !Path::new("/lib/x86_64-linux-gnu/libz.so.1").exists() {
        return println!("skipped: zlib is not installed");
    }
    let folder = tempfile::tempdir().expect("a folder");
    // A name that has to be quoted.
    let path = library(folder.path(), "my \"fast\" lib.so", LIBRARY);
    let mut target = Answering::start_with(SOURCE, &["-l:libz.so.1"]);
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.pid())).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    let entry = |pattern: &str| session.find(Query::functions(pattern)).expect(pattern).remove(0);
    let plain = target.ask(&mut tracer, 2);
    assert!(plain > 7);
    let counter = session.counter("crc32");
    let mut batch = session.batch();
    batch.push_back(&entry("libz!crc32"), counter.increment());
    batch.commit().expect("commit");

    let loaded = changing::load(&mut tracer, &session, &path, PATIENCE, &NEVER).expect("loaded");
    assert!(loaded.loaded);
    assert_eq!(target.ask(&mut tracer, 1), CRC_OF_HELLO, "loading changes nothing");
    let again = changing::load(&mut tracer, &session, &path, PATIENCE, &NEVER).expect("there");
    assert!(!again.loaded && again.path == loaded.path);
    let by = |name: &str| loaded.function(&session, name).expect(name);
    let mut batch = session.batch();
    let crc = batch.push_back(&entry("libz!crc32"), changing::replace_by(by("crc32")));
    let compress = batch.push_back(&entry("libz!compress2"), changing::replace_by(by("compress2")));
    batch.commit().expect("commit");
    assert_eq!((target.ask(&mut tracer, 1), target.ask(&mut tracer, 2)), (1005, 7));
    let mut batch = session.batch();
    batch.remove(compress);
    batch.commit().expect("commit");
    assert_eq!((target.ask(&mut tracer, 1), target.ask(&mut tracer, 2)), (1005, plain));
    let mut batch = session.batch();
    batch.remove(crc);
    batch.commit().expect("commit");
    assert_eq!(target.ask(&mut tracer, 1), CRC_OF_HELLO);
    assert_eq!(counter.read(), 4, "what was there before goes on");
    let missing = loaded.function(&session, "nothing").expect_err("no such function");
    assert!(matches!(missing, Error::Pattern(_)), "{missing}");
    session.remove_all().expect("removal");
    // It goes as it came; what was there before is not ours.
    let maps = format!("/proc/{}/maps", target.pid());
    let mapped = || std::fs::read_to_string(&maps).expect("maps").contains("lib.so");
    assert!(mapped());
    assert!(changing::unload(&mut tracer, &session, &again, PATIENCE, &NEVER).is_err());
    assert!(changing::unload(&mut tracer, &session, &loaded, PATIENCE, &NEVER).expect("unloaded"));
    assert!(!mapped());
    assert_eq!(target.ask(&mut tracer, 1), CRC_OF_HELLO);
    let once_more = changing::load(&mut tracer, &session, &path, PATIENCE, &NEVER).expect("loaded");
    assert!(once_more.loaded && mapped());
    tracer.detach(pid).expect("detached");
    target.end();
}

#[test]
fn a_function_of_another_program_is_wrapped_and_the_original_stays_callable() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = library(folder.path(), "wrapper.so", LIBRARY);
    let mut target = Answering::start_with(SOURCE, &["-l:libz.so.1"]);
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.pid())).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    let price = session.find(Query::functions("price")).expect("the function").remove(0).addr;
    let loaded = changing::load(&mut tracer, &session, &path, PATIENCE, &NEVER).expect("loaded");
    let wrapped = changing::wrap(price, loaded.function(&session, "doubled").expect("the wrapper"));
    assert_eq!(wrapped.original(), None);
    let mut batch = session.batch();
    let instance = batch.insert(price, wrapped.snippet(), Position::Last);
    batch.commit().expect("commit");
    assert_eq!(target.ask(&mut tracer, 3), -1, "the wrapper runs, and knows no original yet");
    // The wrapper is told by its own variable, while the program runs.
    let original = wrapped.original().expect("installed");
    store(target.pid(), &path, "original", original);
    assert_eq!(target.ask(&mut tracer, 3), 42);
    let mut batch = session.batch();
    batch.remove(instance);
    batch.commit().expect("commit");
    assert_eq!(target.ask(&mut tracer, 3), 21);
    session.remove_all().expect("removal");
    tracer.detach(pid).expect("detached");
    target.end();
}

/// Stores an address in a variable of a library of a process, as the process' own code would.
fn store(pid: i32, library: &Path, variable: &str, value: Addr) {
    let symbols = Command::new("nm").arg("-D").arg(library).output().expect("nm");
    let symbols = String::from_utf8_lossy(&symbols.stdout).into_owned();
    let line = symbols.lines().find(|line| line.ends_with(&format!(" {variable}"))).expect("the variable");
    let offset = u64::from_str_radix(line.split(' ').next().unwrap_or(""), 16).expect("an address");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("the map");
    let library = library.to_str().expect("a name");
    let first = maps.lines().find(|line| line.ends_with(library)).expect("it is mapped");
    let base = u64::from_str_radix(first.split('-').next().unwrap_or(""), 16).expect("an address");
    let memory = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem")).expect("memory");
    let write = std::os::unix::fs::FileExt::write_all_at(&memory, &value.0.to_le_bytes(), base + offset);
    write.expect("written");
}

#[test]
fn what_cannot_be_loaded_is_refused_with_its_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = folder.path().join("broken.so");
    std::fs::write(&broken, [b'?'; 4096]).expect("a file");
    let refused = |options: &[&str], path: &Path| {
        let mut target = Answering::start_with("long answer(long n) { return n + 1; }\n", options);
        let (mut tracer, pid) = Tracer::attach(ProcessId(target.pid())).expect("attached");
        let session = Session::over(tracer.space(pid).expect("space"), &pid.to_string()).expect("a session");
        let error = changing::load(&mut tracer, &session, path, PATIENCE, &NEVER).expect_err("refused");
        assert_eq!(target.ask(&mut tracer, 1), 2);
        session.remove_all().expect("removal");
        tracer.detach(pid).expect("detached");
        target.end();
        match error {
            Error::Load(error) => error,
            other => panic!("{other}"),
        }
    };
    let error = refused(&[], &broken);
    assert!(matches!(&error, LoadError::Refused(why) if why.contains("invalid ELF header")), "{error}");
    let error = refused(&[], Path::new("/nonexistent/library.so"));
    assert_eq!(error, LoadError::NoFile("/nonexistent/library.so".into()));
    let error = refused(&["-static"], &broken);
    assert!(matches!(&error, LoadError::NoLoader(why) if why.contains("static")), "{error}");
    let session = Session::own().expect("a session");
    let error = session.load(&broken).expect_err("refused");
    assert!(
        matches!(&error, Error::Load(LoadError::Refused(why)) if why.contains("invalid ELF header")),
        "{error}"
    );
}

#[inline(never)]
extern "C" fn inner(n: u64) -> u64 {
    std::hint::black_box(n) + 1
}

#[test]
fn a_function_of_this_program_is_replaced_by_one_of_a_library() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = "long tenfold(long n) { return 10 * n; }\n";
    let path = library(folder.path(), "own.so", source);
    let session = Session::own().expect("a session");
    let library = session.load(&path).expect("loaded");
    assert!(library.loaded && !session.load(&path).expect("there").loaded);
    let by = library.function(&session, "tenfold").expect("the function");
    let entry = Addr(inner as *const () as u64);
    let mut batch = session.batch();
    let instance = batch.insert(entry, changing::replace_by(by), Position::Last);
    batch.commit().expect("commit");
    assert_eq!(inner(4), 40);
    let mut batch = session.batch();
    batch.remove(instance);
    batch.commit().expect("commit");
    assert_eq!(inner(4), 5);
    let mapped = || std::fs::read_to_string("/proc/self/maps").expect("maps").contains("own.so");
    assert!(mapped() && session.unload(&library).expect("unloaded") && !mapped());
    assert!(session.unload(&library).expect("gone already"));
}

/// Threads that allocate all the time hold the allocator's lock at most instants: a thread that does never loads.
#[test]
fn a_program_that_allocates_all_the_time_loads_a_library_too() {
    let source = r#"
        #include <pthread.h>
        #include <stdlib.h>
        static volatile long sum;
        __attribute__((noinline)) static void work(int n) { for (int i = 0; i < n; i++) sum += i; }
        static void *churn(void *unused) {
            for (unsigned i = 0;; i++) { void *p = malloc(16 + i % 4096); *(volatile char *)p = 1; work(20); free(p); }
            return unused;
        }
        long answer(long n) {
            static int started;
            pthread_t thread;
            for (; started < 3; started++) pthread_create(&thread, NULL, churn, NULL);
            return n + 1;
        }
    "#;
    let folder = tempfile::tempdir().expect("a folder");
    let mut target = Answering::start_with(source, &["-pthread"]);
    let (mut tracer, pid) = Tracer::attach(ProcessId(target.pid())).expect("attached");
    let session = Session::over(tracer.space(pid).expect("a space"), &pid.to_string()).expect("a session");
    for round in 0..10 {
        let path = library(folder.path(), &format!("l{round}.so"), "long f(void) { return 1; }\n");
        let loaded = changing::load(&mut tracer, &session, &path, PATIENCE, &NEVER).expect("loaded");
        assert!(loaded.function(&session, "f").is_ok());
        assert_eq!(target.ask(&mut tracer, 1), 2);
    }
    session.remove_all().expect("removal");
    tracer.detach(pid).expect("detached");
    target.end();
}
