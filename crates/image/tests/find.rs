//! Patterns on the modules of this process.
//!
//! # Safety
//! Functions of the C library are named for their addresses, not called.

mod support;

use incise_image::{FunctionKind, Module, Pattern, PatternError, Target, find, implementations};
use incise_isa::Addr;
use support::{own_modules, read_own};

fn search(modules: &[Module], pattern: &str) -> Result<Vec<Target>, PatternError> {
    find(modules, &[Pattern::parse(pattern)?], None)
}

unsafe extern "C" {
    fn malloc(size: usize) -> *mut u8;
    fn strlen(text: *const u8) -> usize;
    fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    fn malloc_usable_size(at: *const u8) -> usize;
}

/// The address of a C function as this program calls it.
fn address(function: *const ()) -> Addr {
    Addr(function as u64)
}

#[test]
fn a_name_gives_the_address_that_this_program_calls() {
    let modules = own_modules();
    let targets = search(&modules, "libc!malloc_usable_size").expect("in libc");
    assert_eq!(targets.len(), 1);
    assert_eq!(targets[0].addr, address(malloc_usable_size as *const ()));
    let targets = search(&modules, "malloc").expect("somewhere");
    let libc = targets.iter().find(|t| t.addr == address(malloc as *const ())).expect("libc's malloc");
    assert_eq!(libc.names, ["malloc", "__libc_malloc"]);
    assert!(modules[libc.module].name.starts_with("libc.so"));
}

#[test]
fn an_alias_is_the_same_target_under_the_name_that_was_asked_for() {
    let modules = own_modules();
    let patterns = ["__libc_malloc", "libc!malloc"].map(|p| Pattern::parse(p).expect("a pattern"));
    let targets = find(&modules, &patterns, None).expect("in libc");
    assert_eq!(targets.len(), 1, "{targets:?}");
    assert_eq!(targets[0].name, "__libc_malloc");
    assert_eq!(targets[0].names, ["__libc_malloc", "malloc"]);
}

#[test]
fn targets_come_module_by_module_and_ascending() {
    let modules = own_modules();
    let targets = search(&modules, "*a*").expect("many");
    assert!(targets.len() > 1000);
    assert!(targets.is_sorted_by_key(|t| (t.module, t.addr)));
    assert!(targets.iter().all(|t| modules[t.module].is_text(t.addr)));
    assert!(modules[0].main && modules.iter().filter(|m| m.main).count() == 1);
    assert_eq!(modules[0].path, std::env::current_exe().expect("own path").to_string_lossy());
}

#[test]
fn offsets_and_addresses_are_inside_functions() {
    let modules = own_modules();
    let start = address(malloc_usable_size as *const ());
    let by_offset = search(&modules, "libc!malloc_usable_size+0x4").expect("inside");
    let by_address = search(&modules, &format!("*{:#x}", start.0 + 4)).expect("inside");
    assert_eq!(by_offset, by_address);
    assert_eq!((by_offset[0].addr, by_offset[0].start), (start + 4, start));
    assert_eq!(by_offset[0].name, "malloc_usable_size+0x4");
    let libc = &modules[by_offset[0].module];
    let link = libc.to_link(start).expect("in libc");
    assert_eq!(search(&modules, &format!("libc!*{link}")).expect("inside")[0].addr, start);
    assert!(matches!(
        search(&modules, "libc!malloc_usable_size+0x10000"),
        Err(PatternError::OutsideFunction { size: 1..0x10000, .. })
    ));
    let data = Box::new(0u64);
    let error = search(&modules, &format!("*{:p}", &*data)).expect_err("the heap is no code");
    assert!(matches!(error, PatternError::NotCode { .. }), "{error}");
}

#[test]
fn versions_select_among_symbols_of_one_name() {
    let modules = own_modules();
    let all = search(&modules, "libc!memcpy").expect("both");
    let old = search(&modules, "libc!memcpy@GLIBC_2.2.5").expect("the old one");
    let new = search(&modules, "libc!memcpy@@GLIBC_*").expect("the default");
    assert_eq!((all.len(), old.len(), new.len()), (2, 1, 1));
    assert_eq!(old[0].name, "memcpy@GLIBC_2.2.5");
    assert_eq!(new[0].name, "memcpy");
    assert_ne!(old[0].addr, new[0].addr);
}

#[test]
fn rust_functions_are_found_by_their_source_names() {
    let modules = own_modules();
    let targets = search(&modules, "core::fmt::write").expect("in this program");
    assert!(targets.iter().all(|t| t.module == 0 && t.display_name() == "core::fmt::write"), "{targets:?}");
    assert!(search(&modules, "core::fmt::wr*e").is_ok_and(|wild| wild.len() >= targets.len()));
}

#[test]
fn what_is_not_there_is_explained() {
    let modules = own_modules();
    match search(&modules, "libc!mallok") {
        Err(PatternError::NoFunction { near, .. }) => assert_eq!(near[0], "malloc"),
        other => panic!("{other:?}"),
    }
    let error = search(&modules, "libfoo!malloc").expect_err("no such module");
    assert!(matches!(&error, PatternError::NoModule { module, loaded, .. }
        if module == "libfoo" && loaded.iter().any(|m| m.starts_with("libc.so"))));
    assert!(error.to_string().contains("; there are "), "{error}");
    for misspelled in ["libbc!malloc", "libv.so.6!malloc", "libc.so.7!malloc", "/lib/lobc!malloc"] {
        let error = search(&modules, misspelled).expect_err("no such module");
        assert!(
            matches!(&error, PatternError::NoModule { near, .. }
            if near.iter().any(|name| name.starts_with("libc.so"))),
            "{error}"
        );
        assert!(error.to_string().contains("; did you mean lib"), "{error}");
    }
    let main = Some(modules[0].name.as_str());
    match find(&modules, &[Pattern::parse("malloc_usable_size").expect("a pattern")], main) {
        Err(PatternError::NoFunction { imported_by, elsewhere, .. }) => {
            assert_eq!(imported_by, [modules[0].name.clone()]);
            assert!(elsewhere.iter().any(|e| e.starts_with("libc.so") && e.ends_with("!malloc_usable_size")));
        }
        other => panic!("{other:?}"),
    }
    // A data symbol is no function.
    assert!(search(&modules, "libc!stdout").is_err());
}

#[test]
fn the_implementation_of_an_indirect_function_is_the_one_that_is_called() {
    let modules = own_modules();
    // Taking an ifunc's address gives its implementation.
    for (name, called) in
        [("libc!strlen", address(strlen as *const ())), ("libc!memcpy@@*", address(memcpy as *const ()))]
    {
        let targets = search(&modules, name).expect("in libc");
        assert_eq!(targets.len(), 1, "{targets:?}");
        assert_eq!(targets[0].kind, FunctionKind::Ifunc);
        let used = implementations(&modules, &targets[0], &read_own);
        assert!(used.contains(&called), "{name}: {used:?} and not {called}");
        assert!(used.iter().all(|at| *at != targets[0].addr));
        println!("{name}: resolver {}, in use {used:?}", targets[0].addr);
    }
}

#[test]
fn most_indirect_functions_of_libc_are_resolved() {
    let modules = own_modules();
    let targets = search(&modules, "libc!*").expect("many");
    let ifuncs: Vec<&Target> = targets.iter().filter(|t| t.kind == FunctionKind::Ifunc).collect();
    let count = |t: &&&Target| implementations(&modules, t, &read_own).len() == 1;
    let resolved = ifuncs.iter().filter(count).count();
    println!("{resolved} of {} indirect functions have one implementation in use", ifuncs.len());
    assert!(resolved >= 10 && !ifuncs.is_empty());
}

#[test]
fn the_vdso_is_a_module() {
    let modules = own_modules();
    let Some(vdso) = modules.iter().position(Module::is_vdso) else {
        return support::skip("this process has no vdso");
    };
    let targets = search(&modules, "vdso!__vdso_clock_gettime").expect("in the vdso");
    assert!(targets.iter().all(|t| t.module == vdso));
    assert_eq!(search(&modules, "[vdso]!__vdso_clock_gettime"), Ok(targets));
}
