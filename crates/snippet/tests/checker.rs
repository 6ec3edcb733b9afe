//! Types, names and what programs become: compared with the text of the tree.

use std::cell::RefCell;

use incise_isa::Addr;
use incise_snippet::language::ast::{Domain, Place, ProbeKind, Tag};
use incise_snippet::language::{
    Action, Compiler, Function, Home, Member, PointInfo, ProgramVariable, Scope, Structure, Type,
    parse_script, parse_snippet,
};
use incise_snippet::tree::{self, Aggregate, Block, Callee, Constant, Map, Program, Ring};

/// A program with a few names.
struct Names {
    place: Option<Place>,
    texts: RefCell<u64>,
    ring: Ring,
}

fn names(place: Option<Place>) -> Names {
    Names { place, texts: RefCell::new(0x5000), ring: Ring::new(4096, Block::new(4096, 64, Vec::new())) }
}

fn pointer(address: u64) -> tree::Expr {
    Constant::new(tree::Type::Pointer, address).into()
}

fn node() -> Type {
    let next = Type::Named(Some(Tag::Struct), "node".into()).pointer();
    let member = |name: &str, ty, offset, bits| Member { name: name.to_owned(), ty, offset, bits };
    let members = vec![
        member("value", Type::INT, 0, None),
        member("flag", Type::Int { bytes: 4, signed: false }, 4, Some((3, 2))),
        member("next", next, 8, None),
        member("name", Type::Array(Type::CHAR.into(), 16), 16, None),
    ];
    Type::Structure(Structure { name: "node".to_owned(), tag: Tag::Struct, size: 32, members }.into())
}

impl Scope for Names {
    fn point(&self) -> Option<PointInfo> {
        let place = self.place?;
        let (function, module, probe) =
            ("step".to_owned(), "prog".to_owned(), "function:prog:step".to_owned());
        Some(PointInfo { function, module, probe, place })
    }

    fn function(&self, name: &str) -> Option<Function> {
        let at = match name {
            "printf" => 0x1000,
            "strlen" => 0x2000,
            _ => return None,
        };
        let mut callee = Callee::new(name, Addr(at));
        callee.variadic = name == "printf";
        Some(Function { callee, returns: if name == "printf" { Type::INT } else { Type::UNSIGNED_LONG } })
    }

    fn variable(&self, domain: Domain, name: &str) -> Result<Option<ProgramVariable>, String> {
        let memory = |ty, at| Ok(Some(ProgramVariable { ty, home: Home::Memory(pointer(at)) }));
        match (domain, name) {
            (Domain::Global, "x") => memory(Type::INT, 0x100),
            (Domain::Global, "head") => {
                memory(Type::Named(Some(Tag::Struct), "node".into()).pointer(), 0x108)
            }
            (Domain::Global, "table") => memory(Type::Array(Type::LONG.into(), 4), 0x200),
            (Domain::Default, "lost") => Err("it is optimized out".to_owned()),
            _ => Ok(None),
        }
    }

    fn named_type(&self, tag: Option<Tag>, name: &str) -> Option<Type> {
        (name == "node" && tag != Some(Tag::Union)).then(node)
    }

    fn suggest(&self, name: &str) -> Vec<String> {
        if name == "haed" { vec!["head".to_owned()] } else { Vec::new() }
    }

    fn text(&self, text: &[u8]) -> Option<tree::Expr> {
        let at = self.texts.replace_with(|at| *at + text.len() as u64 + 1);
        Some(pointer(at))
    }

    fn map(&self, name: &str, keys: &[tree::Type], aggregate: &Aggregate) -> Option<Map> {
        Some(Map::new(name, keys.to_vec(), aggregate.clone(), 1024, Block::new(4096, 64, Vec::new())))
    }

    fn ring(&self) -> Option<Ring> {
        Some(self.ring.clone())
    }
}

fn try_snippet(source: &str, place: Place) -> Result<Program, String> {
    let body = parse_snippet("test", source).map_err(|errors| errors.to_string())?;
    let scope = names(Some(place));
    Compiler::default().snippet("test", source, &body, &scope).map_err(|errors| errors.to_string())
}

fn snippet(source: &str) -> String {
    try_snippet(source, Place::Entry).unwrap_or_else(|error| panic!("{source}\n{error}")).to_string()
}

fn refused(source: &str) -> String {
    match try_snippet(source, Place::Entry) {
        Ok(program) => panic!("{source}\nwas taken:\n{program}"),
        Err(error) => error,
    }
}

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
        ("printf(\"%d\");", "asks for 1 values"),
        ("printf(\"%s\", arg0);", "str(p)"),
        ("printf(\"%y\");", "no conversion"),
        ("@x = count(); @x = hist(arg0);", "used in another way"),
        ("@x[1] = count(); @x[1, 2] = count();", "has 1 keys, not 2"),
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
