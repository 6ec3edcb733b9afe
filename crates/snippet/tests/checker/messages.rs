//! What is said of programs that are wrong: the cause, underlined, and a remedy.

use incise_snippet::language::ast::{Place, ProbeKind};
use incise_snippet::language::{Compiler, Diagnostics, parse_script};

use crate::names::{names, refused, try_snippet};

#[test]
fn what_is_wrong_is_told_with_a_remedy() {
    for (source, wanted) in [
        ("return haed;", "did you mean `head`"),
        ("return head->nxet;", "did you mean `next`"),
        ("return lost;", "optimized out"),
        ("return *x;", "points to nothing"),
        ("return x.y;", "has no members"),
        ("return retval;", "function:MODULE:NAME:exit"),
        ("inf`prinf();", "no function `prinf`"),
        ("strlen(arg0);", "inf`strlen"),
        ("pritnf(\"a\");", "did you mean `printf`"),
        ("printf(\"%d\");", "asks for 1 value, there are 0"),
        ("printf(\"%s\", arg0);", "str(p)"),
        ("printf(\"%y\");", "no conversion"),
        ("@x = count(); @x = hist(arg0);", "used in another way"),
        ("@x[1] = count(); @x[1, 2] = count();", "has 1 key where it is used first, here it has 2 keys"),
        ("count();", "@name = count("),
        ("print(@none);", "nothing was put"),
        ("return reg`raxx;", "did you mean `rax`"),
        ("1 = 2;", "cannot be given a value"),
        ("break;", "not inside a loop"),
        ("switch (x) { case 1: case 1: x; }", "twice"),
        ("return \"a\" + 1;", "is not for"),
        ("struct node n;", "declare a pointer"),
        ("return (struct unknown *)arg0 == 0 ? 0 : ((struct unknown *)arg0)->a;", "struct name"),
        ("return 1.5 % 2;", "is not for"),
        ("return &1;", "no address"),
        ("@ = lhist(arg0, 0, 10, 0);", "lower end"),
        ("return $a;", "no value yet"),
    ] {
        let text = refused(source);
        assert!(text.contains(wanted), "{source}: {wanted}\n{text}");
    }
    let exit = try_snippet("return arg0;", Place::Exit).expect_err("no arguments at the exit");
    assert!(exit.contains("entry of a function only"), "{exit}");
    assert!(try_snippet("return retval;", Place::Exit).is_ok());
}

/// What is wrong with a script.
fn wrong(source: &str) -> Option<Diagnostics> {
    let script = match parse_script("script", source) {
        Ok(script) => script,
        Err(errors) => return Some(errors),
    };
    let mut compiler = Compiler::new(&script.structures);
    script.clauses.iter().find_map(|clause| {
        let place = match &clause.probes[0].kind {
            ProbeKind::Function(function) => Some(function.place),
            _ => None,
        };
        compiler.clause("script", source, clause, &names(place)).err()
    })
}

/// Slips of those who begin: each is one error, which names the cause, and tells what to write.
#[test]
fn slips_are_one_error_with_a_remedy() {
    let step = |body: &str| format!("function:step {{ {body} }}");
    let scripts = [
        // What is not closed.
        (step("@ = count(;"), "`)` is expected", ""),
        (step("printf(\"%d\\n, arg0);"), "no end", "close it with"),
        (step("@ = 'abc';"), "no end", "strings are written with"),
        (step("@ = \"\\q\";"), "escape", "\\n"),
        (step("/* a"), "no end", "*/"),
        (step("if arg0 > 3 { @ = count(); }"), "`(` is expected", "if ("),
        (step("if (arg0 > 1 and arg1) { @ = count(); }"), "`)` is expected", "&&"),
        (step("printf(\u{201c}hi\u{201d});"), "quotation mark", "U+0022"),
        (step("#include <stdio.h>"), "no preprocessor", "struct name"),
        (step("let $x = 3;"), "no `let`", "$x = 3"),
        ("function:step".to_owned(), "`{` is expected", "function:step { @ = count(); }"),
        ("function:step @ = count(); }".to_owned(), "`{` is expected", "braces"),
        ("function:\"step { @ = count(); }".to_owned(), "no end", "close it"),
        // Numbers.
        (step("@ = 0xzz;"), "not a number", ""),
        (step("@ = 99999999999999999999;"), "not a number", "18446744073709551615"),
        (step("@ = 1 / 0;"), "divides by zero", "end here"),
        (step("unroll (1000) { @++; }"), "0 to 100", "for ("),
        (step("unroll (arg0) { @++; }"), "constant", "sizeof"),
        // Types.
        (step("int i = \"abc\";"), "a text cannot become an int", "a key"),
        (step("itn i = 3;"), "the type `itn`", "did you mean `int`"),
        (step("var i = 3;"), "the type `var`", "long x = 3"),
        (step("goto end;"), "the type `goto`", "no goto"),
        (step("return head->nothing;"), "no member `nothing`", "its members are value, flag, next, name"),
        (step("return (*head)->value;"), "itself, no pointer", "write `.value`"),
        (step("return *head;"), "a whole struct node", "x.member"),
        (step("@ = comm == 3;"), "is not for a text and an int", "comm == \"sh\""),
        (step("@ = comm < \"b\";"), "is not for a text and a text", "strncmp"),
        (step("if (!comm) { @ = count(); }"), "no condition", "compare it"),
        (step("@ = x[0];"), "an int has no elements", "int *"),
        (step("@ = arg0 & 1.5;"), "is not for an unsigned long and a double", "(long)x"),
        (step("return comm;"), "cannot be returned", "print"),
        (
            "struct a { int x; struct b y; }; function:step { @ = count(); }".to_owned(),
            "the type `struct b` of this member",
            "declare it before",
        ),
        ("struct a { struct a x; }; function:step { @ = count(); }".to_owned(), "`struct a`", "pointer"),
        // Maps.
        (step("@x == 3;"), "nobody uses", "write `=`"),
        (step("if (x = 3) @ = count();"), "condition is expected", "`==`"),
        (step("@ = count(arg0);"), "takes no arguments, not 1 argument", "@x[value] = count()"),
        (step("@ = sum();"), "takes 1 argument, not no arguments", "sum(arg0)"),
        (step("@ = hist(comm);"), "not a text", "@x[text] = count()"),
        (step("@ = quantize(arg0);"), "no function `quantize`", "hist(x)"),
        (step("@x = lhist(arg0, 0, 1000000, 1);"), "at most 1000", "wider steps: 1000"),
        (
            step("@[arg0, \"a\"] = count(); @[\"a\", arg0] = count();"),
            "a text cannot become",
            "this key is an unsigned long",
        ),
        (step("@[1, 2, 3, 4, 5] = count();"), "at most 4 keys", "<< 32"),
        (step("@name[tid] = comm;"), "cannot be the value", "str(@x[tid])"),
        (step("@a = (arg0, comm);"), "no tuples", "@x[a, b]"),
        (step("@[(arg0, comm)] = count();"), "no tuples", "@x[a, b]"),
        (step("@x = hist(arg0); @y = @x;"), "more than one number", "print(@x)"),
        (step("@x = count(); for ($kv : @x) { print($kv); }"), "goes over", "print(@x, 5)"),
        (step("print(@none);"), "nothing was put into @none", "@none = count()"),
        (step("clear(x);"), "a map is expected", "@x"),
        // Words and functions.
        (step("@[kstack] = count();"), "`kstack`", "`ustack`"),
        (step("strncmp(comm, \"a\");"), "does not take 2 arguments", "strncmp(text, text, bytes)"),
        (step("printf(\"%d %d\\n\", arg0);"), "asks for 2 values, there is 1", "each %"),
        (step("printf(arg0);"), "literal text", "print(x)"),
        (step("printf(\"%y\\n\", arg0);"), "no conversion", "texts with %s"),
        (step("printf(\"%s\\n\", x);"), "%s cannot show a long", "%d"),
        (step("x();"), "`x` is a variable", "brackets"),
        (step("point`nothing;"), "a point has no `nothing`", "effective_address"),
        (step("reg`nothing = 1;"), "no register `nothing`", "rax"),
        (step("inf`nosuch(1);"), "no function `nosuch`", "incise list"),
        (step("args.nothing;"), "no parameter `nothing`", "arg0"),
        ("begin { @ = arg0; }".to_owned(), "points of the program only", "in the tool"),
        ("begin { @ = other; }".to_owned(), "`other`", "in the tool"),
        ("begin { inf`strlen(3); }".to_owned(), "at its points only", "in the tool"),
    ];
    let mut failures = Vec::new();
    for (source, cause, remedy) in scripts {
        let Some(errors) = wrong(&source) else {
            failures.push(format!("{source}: nothing is wrong"));
            continue;
        };
        let good = match errors.list() {
            [error] => {
                let help = error.help.as_deref().unwrap_or_default();
                error.message.contains(cause) && help.contains(remedy) && !error.span.range().is_empty()
            }
            _ => false,
        };
        if !good {
            failures.push(format!("{source}\n{cause}; {remedy}\n{errors}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What users of bpftrace write.
#[test]
fn words_of_bpftrace_are_taken() {
    for source in [
        "@a[arg0 > 100 ? \"big\" : \"small\"] = count();",
        "$s = comm; @[$s] = count(); $s = \"another\"; printf(\"%s\\n\", $s);",
        "$s = str(arg0); if ($s == \"LANG\") { $s = arg1 ? \"yes\" : $s; } @[$s] = count();",
        "printf(\"%s wrote %d: %s\\n\", comm, arg2, str(arg1, arg2));",
        "@[ustack(perf, 3)] = count(); @b[ustack(bpftrace)] = count(); @c[ustack(5)] = count();",
        "@[usym(*(uint64*)reg(\"sp\")), reg(\"ip\"), reg(\"r12\")] = count();",
        "@n = count(); @s = sum(arg0); @least = min(arg0); if (@n > 10 && @s / @n > 3 && @least < 5) { exit(); }",
    ] {
        try_snippet(source, Place::Entry).unwrap_or_else(|error| panic!("{source}\n{error}"));
    }
}
