//! C and C++ programs that use libpatch: what they print is compared with the `.out` file beside each.

use crate::support::Program;

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
