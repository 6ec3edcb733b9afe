//! Types, names and what programs become: compared with the text of the tree.

mod messages;
mod names;

use incise_snippet::language::ast::{Place, ProbeKind};
use incise_snippet::language::{Action, Compiler, parse_script, parse_snippet};
use names::{names, refused, snippet};

#[test]
fn the_slide_compiles_unchanged() {
    let source = "if (x == 0) {\n inf`printf(\"x == 0\\n\");\n} else if (x > 3) {\n inf`printf(\"x > 3\\n\");\n} else {\n inf`printf(\"x < 3 but x != 0\\n\");\n}";
    let text = snippet(source);
    assert_eq!(text.matches("printf").count(), 3, "{text}");
    // The texts lie one behind the other in the program's memory.
    for address in ["0x5000", "0x5008", "0x500f"] {
        assert!(text.contains(address), "{text}");
    }
}

#[test]
fn arithmetic_has_the_types_of_c() {
    let size = |expr: &str| snippet(&format!("return sizeof({expr});"));
    for (expr, bytes) in [
        ("1", 4),
        ("1l", 8),
        ("4294967296", 8),
        ("1u + 1l", 8),
        ("(char)1 + (char)1", 4),
        ("(char)1", 1),
        ("1 == 2", 1),
        ("1.5f + 1", 4),
        ("1.5 + 1.5f", 8),
        ("(short)1 << 2l", 4),
        ("&x - &x", 8),
    ] {
        assert_eq!(size(expr), format!("return {bytes};\n"), "{expr}");
    }
}

#[test]
fn program_types_are_walked() {
    let text = snippet("return head->next->value;");
    assert!(text.contains("0x108") && text.contains('8'), "{text}");
    assert_eq!(snippet("return table[2];"), snippet("return *(table + 2);"));
    assert_eq!(snippet("return head->value;"), snippet("return (*head).value;"));
    assert_eq!(snippet("return sizeof(struct node) + sizeof head->name;"), snippet("return 32ul + 16ul;"));
    // A bit field: bits 3 and 4.
    assert!(snippet("return head->flag;").contains("<< 59"), "{}", snippet("return head->flag;"));
}

#[test]
fn effects_happen_once_and_from_left_to_right() {
    let text = snippet("int i = 1; int j = i + i++ * 2; $k = i++ && i++; x += j; return $k;");
    assert!(text.contains("if"), "{text}");
    let calls = snippet("global`x = inf`strlen(arg0) + inf`strlen(arg1);");
    assert_eq!(calls.matches("strlen").count(), 2, "{calls}");
    // The condition of a loop is evaluated in each round.
    let rounds = snippet("int i = 0; while (i++ < 10) { if (i == 5) continue; x += i; }");
    assert!(rounds.contains("break"), "{rounds}");
}

#[test]
fn statements_of_every_kind() {
    for source in [
        "for (int i = 0; i < 4; i++) { if (i == 2) break; x += i; }",
        "do { x--; } while (x > 0);",
        "switch (x) { case 1: case 2: x = 3; break; case -1: x = 4; default: x = 5; }",
        "int a[] = {1, 2, 3}; a[1] += a[0]; return a[1] << 2;",
        "char *names[2] = {\"Mark\", \"Phil\"}; return inf`strlen(names[1]);",
        "static int n = 10; n++; return n;",
        "{% static long seen; global`x = 1; %} x++;",
        "unroll (3) { x++; }",
        "double d = 1.5; float f = 2.5f; return (long)(d * f);",
        "bool b = !x; return b ? 1 : x ?: 2;",
        "reg`rax = reg`rdi + 1; return reg`xmm3;",
        "*(int *)arg0 = 5; return ((struct node *)arg0)->next == NULL;",
        "if (dyninst`effective_address > 0x1000) dyninst`break(); else point`stopthread();",
        "return &x == &table[1], sizeof(int);",
        "@n[tid, func] = count(); @s = sum(arg0); @h[comm] = hist(arg0 >> 2); @l = lhist(arg1, 0, 100, 10);",
        "@m = min(arg0); @m2 = max((int)arg0); @a = avg(arg0); @st = stats(arg0); @u[ustack] = count();",
        "@t[tid] = nsecs; if (@t[tid]) { @d = hist(nsecs - @t[tid]); delete(@t[tid]); }",
        "@c++; @c += 2; $z = @c; printf(\"%d %s %p %5.2f %%\\n\", $z, str(arg0), arg1, 1.5);",
        "@x[arg0] = count(); print(@x, 5); clear(@x); zero(@x); time(); exit();",
        "if (strncmp(str(arg0), \"ab\", 2) == 0 && comm == \"bash\") printf(\"%s\\n\", usym(arg1));",
        "return popcount(x) + clz(1ul) + abs(-x) + bswap(x);",
    ] {
        snippet(source);
    }
}

#[test]
fn clauses_share_maps_and_records() {
    let source = "function:step { @start[tid] = nsecs; }\nfunction:step:exit /@start[tid]/ { @ns[func] = hist(nsecs - @start[tid]); delete(@start[tid]); }\nend { print(@ns); }";
    let script = parse_script("test", source).unwrap_or_else(|error| panic!("{error}"));
    let mut compiler = Compiler::new(&script.structures);
    for (clause, place) in script.clauses.iter().zip([Some(Place::Entry), Some(Place::Exit), None]) {
        compiler.clause("test", source, clause, &names(place)).unwrap_or_else(|error| panic!("{error}"));
    }
    let maps: Vec<&str> = compiler.output().maps.iter().map(|map| map.name.as_str()).collect();
    assert_eq!(maps, ["start", "ns"]);
    assert_eq!(compiler.output().records[0].action, Action::Print { map: 1, top: None, divide: None });
}

#[test]
fn declared_structures_are_laid_out_as_c_does() {
    let source = "struct s { char a; long b; short c[3]; int f : 3; int g : 5; }; begin { printf(\"%d\", sizeof(struct s)); }";
    let script = parse_script("test", source).unwrap_or_else(|error| panic!("{error}"));
    let mut compiler = Compiler::new(&script.structures);
    let program = compiler.clause("test", source, &script.clauses[0], &names(None)).expect("a program");
    // a at 0, b at 8, c at 16, the bits in the unit from 20 on.
    assert!(program.to_string().contains("24"), "{program}");
    // A structure is aligned as its members are.
    let source = "struct in { int a; }; struct out { char c; struct in i; }; begin { printf(\"%d\", sizeof(struct out)); }";
    let script = parse_script("test", source).unwrap_or_else(|error| panic!("{error}"));
    let mut compiler = Compiler::new(&script.structures);
    let program = compiler.clause("test", source, &script.clauses[0], &names(None)).expect("a program");
    assert!(program.to_string().contains("emit(8)") || program.to_string().contains('8'), "{program}");
}

#[test]
fn programs_that_grow_are_refused() {
    let body = "if (x) { x++; x++; x++; } ".repeat(50);
    let text = refused(&format!("unroll (100) {{ unroll (100) {{ unroll (100) {{ {body} }} }} }}"));
    assert!(text.contains("more than 100000 statements"), "{text}");
}

/// Every example of the manual compiles.
#[test]
fn the_manual_is_right() {
    let manual = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/language.md"))
        .expect("the manual");
    let mut counts = [0, 0];
    for example in manual.split("```incise\n").skip(1) {
        let source = example.split("```").next().unwrap_or_default();
        let script = parse_script("manual", source).unwrap_or_else(|error| panic!("{source}\n{error}"));
        let mut compiler = Compiler::new(&script.structures);
        for clause in &script.clauses {
            let place = match &clause.probes[0].kind {
                ProbeKind::Function(function) => Some(function.place),
                _ => None,
            };
            let compiled = compiler.clause("manual", source, clause, &names(place));
            compiled.unwrap_or_else(|error| panic!("{source}\n{error}"));
        }
        counts[0] += script.clauses.len();
    }
    for example in manual.split("```snippet\n").skip(1) {
        snippet(example.split("```").next().unwrap_or_default());
        counts[1] += 1;
    }
    assert!(counts[0] >= 18 && counts[1] >= 4, "{counts:?}");
}

/// Programs damaged at random: refused or taken, no panic, no long work.
#[test]
fn random_programs_do_no_harm() {
    let seeds = [
        "int i = 0; while (i++ < 10) { if (head->value == i) continue; x += i; }",
        "@n[tid, func] = count(); @h[comm] = hist(arg0 >> 2); printf(\"%d %s\\n\", x, str(arg0));",
        "switch (x) { case 1: case 2: x = 3; break; default: x = head->next->flag; } int a[] = {1, 2};",
    ];
    let pieces = [
        "x",
        "head",
        "->",
        ".",
        "*",
        "&",
        "(",
        ")",
        "[",
        "]",
        "1",
        "1.5",
        "\"t\"",
        "@n",
        "@h",
        "$s",
        "arg0",
        "func",
        "tid",
        "=",
        "+=",
        "++",
        "?",
        ":",
        "/",
        "%",
        "<<",
        ",",
        ";",
        "{",
        "}",
        "int ",
        "struct node ",
        "sizeof ",
        "a",
        "inf`strlen",
        "table",
        "~",
        "!",
        "static ",
        "unroll(3)",
        "break;",
        "i",
        "(double)",
        "(char *)",
        "ustack",
        "{%",
        "%}",
        "if (x)",
        "switch (1)",
        "case 2:",
        "-9223372036854775808",
    ];
    let mut state = 0x1234_5678_9abc_def1u64;
    let mut next = |bound: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    };
    let rounds = if std::env::var_os("INCISE_LONG").is_some() { 1_000_000 } else { 40_000 };
    let scope = names(Some(Place::Entry));
    let mut accepted = 0;
    for _ in 0..rounds {
        let mut source: Vec<char> = seeds[next(seeds.len())].chars().collect();
        for _ in 0..1 + next(4) {
            let at = next(source.len() + 1);
            let end = (at + next(6)).min(source.len());
            source.splice(at..end, pieces[next(pieces.len())].chars());
        }
        let source: String = source.into_iter().collect();
        let Ok(body) = parse_snippet("fuzz", &source) else { continue };
        match Compiler::default().snippet("fuzz", &source, &body, &scope) {
            Ok(program) => accepted += usize::from(!program.to_string().is_empty()),
            Err(errors) => assert!(errors.has_errors()),
        }
    }
    assert!(accepted > rounds / 500, "{accepted} of {rounds}");
}

/// The whole text, where each part of it matters.
#[test]
fn programs_become_what_they_mean() {
    for (source, wanted) in EXACT {
        assert_eq!(snippet(source), wanted, "{source}");
    }
}

const EXACT: [(&str, &str); 8] = [
    ("return (char)x + (char)x;", "return (i64)((i32)(i8)*(i32*)0x100 + (i32)(i8)*(i32*)0x100);\n"),
    ("return sizeof(1u + 1l) + sizeof((char)1 + (char)1);", "return 8 + 4;\n"),
    ("return head->flag;", "return (u64)(u32)((u64)*(u32*)(*(pointer*)0x108 + 4) << 59 >> 62);\n"),
    (
        "head->flag = 2;",
        "pointer _0;\n_0 = *(pointer*)0x108 + 4;\n\
         *(u32*)_0 = (u32)((u64)*(u32*)_0 & 18446744073709551591 | ((u64)(u32)2 & 3) << 3);\n",
    ),
    ("int i = 1; x = i++ + i;", "i32 i;\ni32 _1;\ni = 1;\n_1 = i;\ni = _1 + 1;\n*(i32*)0x100 = _1 + i;\n"),
    (
        "x = x && inf`strlen(arg0);",
        "u64 _0;\nbool _1;\n_1 = (bool)*(i32*)0x100;\nif (_1) {\n    _0 = strlen(arg0);\n    _1 = (bool)_0;\n}\n\
         *(i32*)0x100 = (i32)_1;\n",
    ),
    ("@n[tid] = sum(arg0);", "u64 _0;\n_0 = (u64)tid;\n@n[_0] = sum(arg0);\n"),
    ("return table + 2 == &table[2];", "return (i64)(0x200 + (i64)2 * 8 == 0x200 + (i64)2 * 8);\n"),
];
