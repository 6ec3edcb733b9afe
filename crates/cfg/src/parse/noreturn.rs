//! Names of library functions that never return.

/// Whether an imported function of that name (as in the symbol table) never returns.
pub(crate) fn by_name(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "_Exit",
        "_Unwind_Resume",
        "__assert",
        "__assert_fail",
        "__assert_perror_fail",
        "__chk_fail",
        "__cxa_bad_cast",
        "__cxa_bad_typeid",
        "__cxa_call_terminate",
        "__cxa_call_unexpected",
        "__cxa_deleted_virtual",
        "__cxa_pure_virtual",
        "__cxa_rethrow",
        "__cxa_throw",
        "__cxa_throw_bad_array_new_length",
        "__fortify_fail",
        "__libc_fatal",
        "__libc_start_main",
        "__longjmp_chk",
        "__stack_chk_fail",
        "_exit",
        "_longjmp",
        "abort",
        "err",
        "errx",
        "exit",
        "longjmp",
        "pthread_exit",
        "quick_exit",
        "siglongjmp",
        "svcerr_progvers",
        "thrd_exit",
        "verr",
        "verrx",
        "_ZSt9terminatev",
        "_ZSt10unexpectedv",
        "_ZSt17rethrow_exceptionNSt15__exception_ptr13exception_ptrE",
    ];
    // std::__throw_length_error(char const*) and its many like.
    let throws = || {
        let rest =
            name.strip_prefix("_ZSt").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
        rest.is_some_and(|rest| rest.starts_with("__throw_") || rest.starts_with("__glibcxx_assert_fail"))
    };
    NAMES.contains(&name) || throws()
}

#[cfg(test)]
mod tests {
    use super::by_name;

    #[test]
    fn throwing_functions_never_return() {
        assert!(by_name("_ZSt20__throw_length_errorPKc"));
        assert!(by_name("abort") && by_name("__stack_chk_fail"));
        assert!(!by_name("_ZSt4cout") && !by_name("warn") && !by_name("error"));
    }
}
