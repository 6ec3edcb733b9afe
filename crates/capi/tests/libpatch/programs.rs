//! C and C++ programs that use libpatch: what they print is compared with the `.out` file beside each.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use incise::data::RingLayout;

use crate::support::{Program, run};

#[test]
fn the_example_runs_as_it_is() {
    Program::new("demo.c").flags("-O0 -g").check("", &[]);
}

#[test]
fn the_example_runs_with_the_static_library() {
    let libraries = ["-l:libpatch.a", "-lgcc_s", "-lpthread", "-ldl", "-lm"];
    Program::new("demo.c").flags("-O0 -g").libraries(&libraries).check("_static", &[]);
}

#[test]
fn the_header_is_strict_c99_and_c11_with_the_layouts_of_the_library() {
    for standard in ["c99", "c11", "gnu17"] {
        let flags = format!("-std={standard} -pedantic -Wall -Wextra -Wc++-compat -Werror");
        Program::new("layout.c").flags(&flags).check(standard, &[]);
    }
}

#[test]
fn the_header_is_cpp_and_names_of_cpp_can_be_probed() {
    for standard in ["c++11", "c++17", "c++20"] {
        let flags = format!("-std={standard} -pedantic -Wall -Wextra -Werror -g");
        Program::new("consumer.cpp").flags(&flags).check(standard, &[]);
    }
}

#[test]
fn wrong_use_is_answered_by_an_error() {
    Program::new("errors.c").flags("-O1 -Wall -Wextra -Werror -pthread").check("", &[]);
}

#[test]
fn a_probe_reads_and_changes_registers() {
    Program::new("registers.c").flags("-O2 -Wall -Wextra -Werror").check("", &[]);
}

#[test]
fn every_form_of_address_finds_its_sites() {
    Program::new("addresses.c").flags("-O1 -Wall -Wextra -Werror").check("", &[]);
    Program::new("addresses.c").flags("-O1 -no-pie -Wall -Wextra -Werror").check("_fixed", &[]);
}

#[test]
fn snippets_are_built_as_trees() {
    Program::new("trees.c").flags("-std=c11 -O2 -Wall -Wextra -Werror").check("", &[]);
}

#[test]
fn trees_leave_records_with_texts_and_stacks() {
    let program =
        Program::new("records.c").flags("-std=gnu11 -O1 -Wall -Wextra -Werror -pthread -rdynamic -ldl");
    program.check("", &[]);
}

/// The rings of a writer that is not there any more.
#[test]
fn rings_are_read() {
    let layout = RingLayout::new(1, 8, 7).expect("a layout");
    let words: Vec<AtomicU64> = (0..layout.bytes() / 8).map(|_| AtomicU64::new(0)).collect();
    layout.format(&words, 0);
    // docs/trace.md, The rings: position, dropped, the distance of the slots from here.
    let head = 128 / 8;
    words[head].store(3, Relaxed);
    words[head + 1].store(5, Relaxed);
    let slots = head + words[head + 2].load(Relaxed) as usize / 8;
    for (index, slot) in words[slots..].chunks(8).take(3).enumerate() {
        let index = index as u64;
        [1, 100 + index, 0, 0, 0, 0, 0, 700 + 7 * index].iter().zip(slot).for_each(|(value, word)| {
            word.store(*value, Relaxed);
        });
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rings.bin");
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
    std::fs::write(&file, bytes).expect("written");
    let program = Program::new("rings.c").flags("-O1 -Wall -Wextra -Werror");
    program.check("", &[file.to_str().expect("a path")]);
    // A later reader goes on behind it.
    let Some(program) = program.compile("") else { return };
    let output = run(&program, &[file.to_str().expect("a path")]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "7 words, 5 dropped\n");
}

#[test]
fn counters_are_exact_and_can_rest() {
    Program::new("counters.c").flags("-O2 -Wall -Wextra -Werror -pthread").check("", &[]);
}

#[test]
fn a_commit_is_whole_or_best_effort_and_says_what_failed() {
    Program::new("results.c").flags("-O1 -no-pie -Wall -Wextra -Werror").check("", &[]);
}

#[test]
fn every_way_to_change_code_leaves_it_as_it_was() {
    let program = Program::new("options.c").flags("-O1 -Wall -Wextra -Werror");
    program.check("", &[]);
    program.check("", &["mdwe"]);
}

#[test]
fn threads_run_the_code_while_others_install_and_remove() {
    Program::new("threads.c").flags("-O2 -Wall -Wextra -Werror -pthread").check("", &[]);
}

#[test]
fn unwinders_and_jumps_leave_displaced_instructions_from_signal_handlers() {
    let flags = "-O2 -rdynamic -pthread -fnon-call-exceptions -Wall -Wextra -Werror";
    Program::new("unwinding.cpp").flags(flags).check("", &["20"]);
}

#[test]
fn children_have_the_probes_and_change_only_their_own() {
    Program::new("fork.c").flags("-O1 -Wall -Wextra -Werror -pthread").check("", &[]);
}

#[test]
fn the_library_can_be_probed_under_itself() {
    Program::new("inside.c").flags("-O1 -Wall -Wextra -Werror").check("", &[]);
}

#[test]
fn every_function_of_the_c_library_and_of_the_loader_can_be_probed() {
    let program = Program::new("everything.c").flags("-O1 -Wall -Wextra -Werror -pthread");
    for module in ["libc.so.6", "ld-linux-x86-64.so.2", "libgcc_s.so.1"] {
        program.check("", &[module]);
    }
}
