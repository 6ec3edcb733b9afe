//! The parser: what it takes, what it says about the rest, and that nothing harms it.

use std::time::{Duration, Instant};

use incise_snippet::language::ast::{
    BinaryOp, Domain, Expr, ExprKind, FunctionProbe, Place, ProbeKind, StmtKind,
};
use incise_snippet::language::{parse_expression, parse_script, parse_snippet};

/// The program of the slide "Snippet" of "Introduction to the PatchAPI".
const SLIDE: &str = r#"
if (x == 0) {
    inf`printf("x == 0\n");
} else if (x > 3) {
    inf`printf("x > 3\n");
} else {
    inf`printf("x < 3 but x != 0\n");
}
"#;

fn expr(source: &str) -> String {
    show(&parse_expression("test", source).unwrap_or_else(|error| panic!("{source}\n{error}")))
}

/// With all brackets.
fn show(expr: &Expr) -> String {
    match &expr.kind {
        ExprKind::Int { value, .. } => value.to_string(),
        ExprKind::Name(name) => name.path.clone(),
        ExprKind::Unary(op, a) => format!("{op:?}({})", show(a)),
        ExprKind::Binary(op, a, b) => format!("({} {} {})", show(a), op.symbol(), show(b)),
        ExprKind::Assign { op, target, value } => {
            format!("({} {}= {})", show(target), op.map_or("", BinaryOp::symbol), show(value))
        }
        ExprKind::Conditional { condition, then, otherwise } => {
            let then = then.as_deref().map_or(String::new(), show);
            format!("({} ? {then} : {})", show(condition), show(otherwise))
        }
        ExprKind::Comma(a, b) => format!("({}, {})", show(a), show(b)),
        ExprKind::Cast(ty, a) => format!("({:?}{})({})", ty.base, "*".repeat(ty.pointers.into()), show(a)),
        ExprKind::Step { up, postfix, target } => format!("step({up}, {postfix}, {})", show(target)),
        ExprKind::Call(f, list) => {
            format!("{}({})", show(f), list.iter().map(show).collect::<Vec<_>>().join(", "))
        }
        ExprKind::Index(a, i) => format!("{}[{}]", show(a), show(i)),
        ExprKind::Member { base, field, arrow, .. } => {
            format!("{}{}{field}", show(base), if *arrow { "->" } else { "." })
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn operators_bind_as_in_c() {
    assert_eq!(expr("a = b = c + d * e << 1"), "(a = (b = ((c + (d * e)) << 1)))");
    assert_eq!(expr("a || b && c | d ^ e & f == g < h"), "(a || (b && (c | (d ^ (e & (f == (g < h)))))))");
    assert_eq!(expr("a ? b : c ? d : e"), "(a ? b : (c ? d : e))");
    assert_eq!(expr("a - b - c"), "((a - b) - c)");
    assert_eq!(expr("-a->b[1].c"), "Negate(a->b[1].c)");
    assert_eq!(expr("*p++"), "Deref(step(true, true, p))");
    assert_eq!(expr("!~a, b += 1"), "(Not(Complement(a)), (b += 1))");
    assert_eq!(expr("a ?: b"), "(a ?  : b)");
    assert_eq!(expr("ns::f(x)(1)"), "ns::f(x)(1)");
}

#[test]
fn casts_are_told_from_brackets() {
    assert_eq!(expr("(char)x"), "(Int { bytes: 1, signed: true })(x)");
    assert_eq!(expr("(node *)x->next"), "(Named(None, \"node\")*)(x->next)");
    assert_eq!(expr("(size_t)-1"), "(Int { bytes: 8, signed: false })(Negate(1))");
    assert_eq!(expr("(pid_t)*p"), "(Named(None, \"pid_t\"))(Deref(p))");
    assert_eq!(expr("(a) - b"), "(a - b)");
    assert_eq!(expr("(a)(b)"), "a(b)");
    assert_eq!(expr("(struct ns::node *)p"), "(Named(Some(Struct), \"ns::node\")*)(p)");
}

#[test]
fn the_slide_parses() {
    let block = parse_snippet("slide", SLIDE).expect("a snippet");
    let [statement] = &block.statements[..] else { panic!("{block:?}") };
    let StmtKind::If { arms, otherwise } = &statement.kind else { panic!("{statement:?}") };
    assert_eq!((arms.len(), otherwise.is_some()), (2, true));
    let StmtKind::Expr(call) = &arms[0].1.statements[0].kind else { panic!("no call") };
    let ExprKind::Call(callee, arguments) = &call.kind else { panic!("no call") };
    assert!(
        matches!(&callee.kind, ExprKind::Name(n) if n.domain == Some(Domain::Inferior) && n.path == "printf")
    );
    assert!(matches!(&arguments[0].kind, ExprKind::Str(text) if text == b"x == 0\n"));
}

fn probe(source: &str) -> ProbeKind {
    let script = parse_script("test", &format!("{source} {{ }}")).unwrap_or_else(|e| panic!("{source}\n{e}"));
    script.clauses[0].probes[0].kind.clone()
}

fn function(module: Option<&str>, function: &str, place: Place) -> FunctionProbe {
    FunctionProbe { module: module.map(str::to_owned), function: function.to_owned(), place, otherwise: None }
}

#[test]
fn probes_of_every_form() {
    let plain = |source, module, name, place| {
        assert_eq!(probe(source), ProbeKind::Function(function(module, name, place)), "{source}");
    };
    plain("function:libc:malloc", Some("libc"), "malloc", Place::Entry);
    plain("function:malloc", None, "malloc", Place::Entry);
    plain("function:*:str*:exit", None, "str*", Place::Exit);
    plain("function:libc:exit:entry", Some("libc"), "exit", Place::Entry);
    plain("function:libc:\"exit\"", Some("libc"), "exit", Place::Entry);
    plain("uprobe:/bin/bash:readline", Some("/bin/bash"), "readline", Place::Entry);
    plain("uretprobe:/bin/bash:readline", Some("/bin/bash"), "readline", Place::Exit);
    plain("uprobe:/bin/bash:readline+0x10", Some("/bin/bash"), "readline+0x10", Place::Entry);
    plain("u:libc:malloc", Some("libc"), "malloc", Place::Entry);
    plain("function:std::vector<int, a>::push_back", None, "std::vector<int, a>::push_back", Place::Entry);
    plain("function:prog:f(int, char):block-exit", Some("prog"), "f(int, char)", Place::BlockExit);
    plain("uprobe:/bin/bash:read*/arg0 > 1/", Some("/bin/bash"), "read*", Place::Entry);
    plain("function:/usr/lib/*/x.so:f", Some("/usr/lib/*/x.so"), "f", Place::Entry);
    plain("block:prog:step", Some("prog"), "step", Place::Block);
    plain("edge:step", None, "step", Place::Edge);
    plain("call:*:step", None, "step", Place::Call);
    plain("insn:prog:step+0x1f", Some("prog"), "step+0x1f", Place::Instruction);
    plain("*0x401136", None, "*0x401136", Place::Instruction);
    plain("address:0x401136", None, "*0x401136", Place::Instruction);
    let otherwise = Some(Box::new(function(Some("libc"), "exit", Place::Entry)));
    let both = FunctionProbe { otherwise, ..function(None, "libc", Place::Exit) };
    assert_eq!(probe("function:libc:exit"), ProbeKind::Function(both));
    assert_eq!(probe("BEGIN"), ProbeKind::Begin);
    assert_eq!(probe("end"), ProbeKind::End);
    assert_eq!(probe("interval:s:1"), ProbeKind::Interval(Duration::from_secs(1)));
    assert_eq!(probe("interval:hz:20"), ProbeKind::Interval(Duration::from_millis(50)));
}

#[test]
fn clauses_have_several_probes_and_a_filter() {
    let source =
        "function:libc:malloc, function:libc:calloc /arg0 / 2 > 100 && (arg1 / 2) / { @[arg0] = count(); }";
    let script = parse_script("test", source).unwrap_or_else(|error| panic!("{error}"));
    let clause = &script.clauses[0];
    assert_eq!(clause.probes.len(), 2);
    assert_eq!(show(clause.filter.as_ref().expect("a filter")), "(((arg0 / 2) > 100) && (arg1 / 2))");
}

#[test]
fn errors_underline_and_suggest() {
    let script = |source: &str| parse_script("x", source).expect_err(source).render(false);
    let snippet = |source: &str| parse_snippet("x", source).expect_err(source).render(false);
    for (text, wanted) in [
        (script("functoin:libc:malloc { }"), "did you mean `function`?"),
        (script("kprobe:vfs_read { }"), "not in the kernel"),
        (script("function:libc:malloc:entri { }"), "did you mean `entry`?"),
        (script("interval:s { }"), "interval:s:1"),
        (snippet("x = 1 y = 2;"), "`;` is missing"),
        (snippet("inv`printf(\"a\");"), "did you mean `inf`?"),
        (snippet("if (a { b; }"), "opened here"),
        (snippet("x = \"abc"), "no end"),
        (snippet("inf \u{2018}printf(\"a\");"), "back-quote"),
        (snippet("case 1: x;"), "outside of a `switch`"),
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
    // Each statement is looked at on its own.
    let both = parse_snippet("x", "x = ; y = 1; z = );").expect_err("two errors");
    assert_eq!(both.list().len(), 2, "{both}");
    let span = parse_snippet("x", "abc = $;").expect_err("an error").list()[0].span;
    assert_eq!(span.range(), 6..7);
}

#[test]
fn what_is_deep_or_long_is_refused() {
    for source in [
        "(".repeat(100_000),
        "-".repeat(100_000),
        "{".repeat(100_000),
        "if (a) ".repeat(100_000),
        "a = ".repeat(100_000),
        "a ? ".repeat(100_000),
        format!("a{}", " + a".repeat(100_000)),
        format!("a{}", "[a]".repeat(100_000)),
        format!("(int{})a", "*".repeat(100_000)),
        "x".repeat(2 << 20),
    ] {
        let start = Instant::now();
        let _ = parse_snippet("deep", &source).expect_err("too deep");
        let _ = parse_script("deep", &format!("begin {{ {source}")).expect_err("too deep");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    // Long, not deep.
    assert!(parse_snippet("long", &"a = a + 1;\n".repeat(20_000)).is_ok());
    let chain = format!("if (a) b; {}", "else if (a) b; ".repeat(20_000));
    assert!(parse_snippet("long", &chain).is_ok());
}

/// Any order of what programs are made of: errors, no panic.
#[test]
fn random_programs_do_no_harm() {
    let pieces = [
        "a",
        "b1",
        "inf`",
        "@x",
        "@",
        "$y",
        "$1",
        "1",
        "0x1f",
        "1.5",
        "'c'",
        "\"s\"",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "{%",
        "%}",
        ";",
        ",",
        ".",
        "->",
        "++",
        "*",
        "&",
        "-",
        "/",
        "%",
        "=",
        "+=",
        "==",
        "<",
        ">",
        "<<",
        "?",
        ":",
        "::",
        "if",
        "else",
        "while",
        "for",
        "do",
        "switch",
        "case",
        "default",
        "break",
        "return",
        "int",
        "struct",
        "sizeof",
        "static",
        "unsigned",
        "unroll",
        "function:libc:malloc",
        "begin",
        "interval:s:1",
        "/",
        "\u{e9}",
        "\u{2018}",
        "\n",
        "/*",
        "*/",
        "//",
        "\"",
        "\\",
        "#",
        "uprobe:/bin/x:y",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |bound: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    };
    let rounds = if std::env::var_os("INCISE_LONG").is_some() { 2_000_000 } else { 30_000 };
    let mut accepted = 0;
    for round in 0..rounds {
        // Half of them damaged from something right.
        let source = if round % 2 == 0 {
            let count = next(24);
            (0..count)
                .map(|_| format!("{}{}", pieces[next(pieces.len())], [" ", ""][next(2)]))
                .collect::<String>()
        } else {
            let mut text: Vec<char> = SLIDE.chars().collect();
            for _ in 0..1 + next(3) {
                let at = next(text.len());
                let piece: Vec<char> = pieces[next(pieces.len())].chars().collect();
                let end = (at + next(4)).min(text.len());
                text.splice(at..end, piece);
            }
            text.into_iter().collect()
        };
        accepted += usize::from(parse_snippet("fuzz", &source).is_ok());
        for errors in [parse_script("fuzz", &source).err(), parse_expression("fuzz", &source).err()] {
            let _ = errors.map(|errors| errors.render(round % 3 == 0));
        }
    }
    assert!(accepted > rounds / 200, "{accepted} of {rounds}");
}
