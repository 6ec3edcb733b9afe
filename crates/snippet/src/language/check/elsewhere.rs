//! Words that bpftrace has and this language has not, and what to write instead.

/// What to write instead of a word or a function of bpftrace.
pub(super) fn instead(word: &str) -> Option<&'static str> {
    Some(match word {
        "kstack" | "stack" => "the kernel is not seen from here; `ustack` is the program's stack",
        "uid" | "gid" | "username" | "cgroup" | "curtask" | "cpid" | "numaid" | "jiffies" => {
            "what the kernel knows is not seen from here; `pid` and `tid` tell where to look: /proc/PID/status"
        }
        "ppid" => "inf`getppid() is the parent's number, where the program has it",
        "pid" | "tid" | "comm" | "cpu" | "nsecs" | "elapsed" | "func" | "probe" => {
            "it is a value: leave out the brackets"
        }
        "kptr" | "path" | "cgroupid" | "kstr" | "skboutput" | "cgroup_path" => {
            "the kernel is not seen from here; what the program has is in its own memory"
        }
        "sarg0" | "sarg1" | "sarg2" => "what is on the stack at the entry: *(long *)(reg`rsp + 8), … + 16",
        "len" => "how many keys a map has is not known as it runs; print(@x) shows all",
        "tseries" => "time(\"%H:%M:%S \") before print(@x) in interval:s:1 shows how a value goes",
        "strcontains" => {
            "strncmp(text, \"begin\", 5) == 0 compares beginnings; inf`strstr(p, \"part\") searches"
        }
        "percentiles" => "hist(x) shows how values lie; incise hist tells percentiles",
        "errorf" | "warnf" | "debugf" => "printf(format, …) is the one there is",
        "assert" => "if (!(x)) { printf(\"…\"); exit(); }",
        "unwatch" => "there are no watchpoints; probe the instructions that write: function:NAME:instruction",
        "offsetof" => "&((struct name *)0)->member is the offset",
        "rand" | "random" => "take what differs from run to run: cycles % 100",
        "quantize" => "hist(x) counts by powers of two",
        "lquantize" => "lhist(x, 0, 1000, 100) counts by steps",
        "execname" => "`comm` is the name of the thread",
        "timestamp" => "`nsecs` is the time in nanoseconds",
        "copyinstr" => "str(address) is the text there",
        "args" => "args.name is a parameter by its name, arg0 the first one",
        "join" => "tell the texts one by one: str(((char **)arg0)[0])",
        "buf" => "tell the bytes as numbers: printf(\"%x\", *(uint32_t *)arg0), or as a text: str(arg0, 16)",
        "system" | "cat" => "a script starts no programs; print what they need, and read it from a pipe",
        "signal" => {
            "point`stopthread() stops the thread; inf`raise(15) sends a signal where the program has it"
        }
        "override" => "set what a function returns at its exit: reg`rax = 0",
        "pton" | "macaddr" => "tell the number: printf(\"%x\", …)",
        "ksym" | "kaddr" => "the kernel is not seen from here; usym(address) names places of the program",
        "uaddr" => "the address of a function is &func`name, of a variable &global`name",
        "strlen" => "inf`strlen(pointer) calls the program's own",
        _ => return None,
    })
}
