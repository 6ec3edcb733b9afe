//! Where a thread of another process can be made to call `dlopen`: where it holds neither the lock of an allocator nor one of the
//! dynamic linker, and has left neither half-way.
//!
//! That is the program's own code, or that of its libraries, and system calls that neither an allocator nor the dynamic linker makes. What is
//! called on behalf of either is told by the return addresses on the stack.

use incise_image::Module;
use incise_isa::Addr;
use incise_space::remote::{RemoteSpace, StoppedThread};
use incise_space::{AddressSpace, SpaceError};

use crate::program::Program;
use crate::trace::return_addresses;

/// Quadwords of a stack that are looked at.
const STACK: usize = 2048;

/// System calls that allocators make, by their numbers: `mmap`, `mprotect`, `munmap`, `brk`, `mremap`, `madvise`, `openat`, `getrandom`.
const MEMORY: [u64; 8] = [9, 10, 11, 12, 25, 28, 257, 318];
/// `futex`
const FUTEX: u64 = 202;

/// Functions of allocators, as they are called from outside.
const ALLOCATORS: [&str; 12] = [
    "malloc",
    "free",
    "calloc",
    "realloc",
    "reallocarray",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "cfree",
    "malloc_trim",
];
/// How functions of allocators begin that are linked in, and C++'s operators.
const PREFIXES: [&str; 7] = ["je_", "tc_", "mi_", "_Znw", "_Zna", "_Zdl", "_Zda"];
/// Functions that wait by `futex` and hold no such lock.
const WAITING: [&str; 3] = ["pthread_cond_", "sem_", "pthread_join"];

/// A thread that can call `dlopen` now, of a process whose threads are stopped.
pub(crate) fn thread(
    space: &mut RemoteSpace,
    program: &Program,
) -> Result<Option<StoppedThread>, SpaceError> {
    let threads = space.stopped_threads();
    let Some(found) = threads.into_iter().find(|thread| is_safe(space, program, thread)) else {
        return Ok(None);
    };
    // Signals come first, and may lead elsewhere.
    let now = space.divertible_thread(found.tid)?;
    Ok(Some(now).filter(|now| is_safe(space, program, now)))
}

fn is_safe(space: &RemoteSpace, program: &Program, thread: &StoppedThread) -> bool {
    let modules = program.modules();
    let Some(module) = program.module_at(thread.ip) else {
        // Code that is made at run time, or a trampoline.
        return false;
    };
    let chain = chain(space, program, thread);
    let named = |wanted: &dyn Fn(&str) -> bool| chain.iter().any(|at| is_named(modules, *at, wanted));
    let allocates =
        |name: &str| ALLOCATORS.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if chain.iter().any(|at| program.module_at(*at).is_some_and(is_linker)) || named(&allocates) {
        return false;
    }
    match thread.system_call {
        Some(FUTEX) => named(&|name| WAITING.iter().any(|prefix| name.starts_with(prefix))),
        Some(number) => !MEMORY.contains(&number),
        None => !is_libc(module),
    }
}

/// Where the thread is, and where its callers go on.
fn chain(space: &RemoteSpace, program: &Program, thread: &StoppedThread) -> Vec<Addr> {
    let (sp, rbp) = (thread.registers[4], thread.registers[5]);
    let mut stack = Vec::new();
    // What is mapped of it, page by page.
    while stack.len() < STACK {
        let at = sp + stack.len() as u64 * 8;
        let mut words = vec![0; (4096 - at % 4096) as usize & !7];
        if words.is_empty() || space.read(Addr(at), &mut words).is_err() {
            break;
        }
        let quad = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        stack.extend(words.chunks_exact(8).map(quad));
    }
    let mut chain = vec![thread.ip];
    chain.extend(return_addresses(space.pid(), program.modules(), thread.ip, (sp, rbp), &stack));
    chain
}

/// Whether the function at `at` has such a name.
fn is_named(modules: &[Module], at: Addr, wanted: &dyn Fn(&str) -> bool) -> bool {
    let module = modules.iter().find(|module| module.range.contains(&at));
    let found = module.and_then(|module| Some((module, module.function_at(at)?.0)));
    found.is_some_and(|(module, function)| module.image.names(function).any(|name| wanted(name.text)))
}

/// A dynamic linker that is no C library as well.
fn is_linker(module: &Module) -> bool {
    module.image.debug_state().is_some() && !is_libc(module)
}

fn is_libc(module: &Module) -> bool {
    module.image.function("dlopen").is_some() && module.image.function("malloc").is_some()
}
