//! Variables at every instruction of compiled programs: what the language reads is what gdb prints there.

mod support;

use std::collections::BTreeMap;

use support::gdb::{Gdb, Stop};
use support::program::{Compiled, Toolchain};

/// What to evaluate in a function, as a number and as a float.
struct Asked {
    function: &'static str,
    integers: &'static [&'static str],
    floats: &'static [&'static str],
    /// Those of them that are parameters, as they are when the function is called.
    parameters: &'static [&'static str],
}

/// How often gdb and the language told the same, told that there is no value, and gdb told more.
#[derive(Default, Debug)]
struct Tally {
    same: usize,
    none: usize,
    only_gdb: usize,
    entries: usize,
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

fn number(text: &str) -> Option<i128> {
    text.trim().parse().ok()
}

/// Compares at each instruction of the functions, at the first time it runs.
fn compare(program: &Compiled, asked: &[Asked], settled: bool) -> Tally {
    let mut tally = Tally::default();
    let mut gdb = Gdb::start(program.path());
    for asked in asked {
        gdb.break_everywhere(asked.function);
    }
    gdb.run();
    let bias = program.bias(gdb.pid());
    let bodies: Vec<u64> = asked.iter().map(|asked| gdb.behind_prologue(asked.function)).collect();
    let mut called: BTreeMap<String, i128> = BTreeMap::new();
    while let Some(stop) = gdb.stop() {
        let function = stop.function.as_str();
        let Some(index) = asked.iter().position(|asked| asked.function == function) else {
            panic!("stopped in {function}");
        };
        let (asked, body) = (&asked[index], bodies[index]);
        if settled && stop.offset == 0 {
            // A debugger shows what is not yet there.
            for text in asked.parameters {
                let ours = program.integer(text, &stop, bias);
                let value = ours.unwrap_or_else(|why| panic!("{function}: {text}: {why}"));
                called.insert((*text).to_owned(), value);
            }
        } else if settled && stop.pc() == body {
            // Of a function that was inlined at once, gdb shows another frame.
            gdb.ask(&format!("up {}", program.inlined(&stop, bias)));
            for text in asked.parameters {
                let theirs = gdb.print(&format!("(long)({text})"));
                let ours = called.remove(*text).expect("its entry was passed");
                assert_eq!(number(&theirs), Some(ours), "{function} at its entry: {text}: {theirs}");
                tally.entries += 1;
            }
            gdb.ask("frame 0");
        }
        let of_integers = asked.integers.iter().map(|text| (text, false));
        for (text, float) in of_integers.chain(asked.floats.iter().map(|text| (text, true))) {
            let of_parameters = |text: &str| {
                asked
                    .parameters
                    .iter()
                    .any(|parameter| words(text).any(|w| Some(w) == words(parameter).next()))
            };
            if settled && stop.offset == 0 && of_parameters(text) {
                continue;
            }
            // gdb 13 ends itself when a member is asked for of what is in several registers.
            if !settled && ["pair.", "mixed."].iter().any(|start| text.starts_with(start)) {
                continue;
            }
            check(program, &mut gdb, &stop, bias, text, float, &mut tally);
        }
        gdb.go_on();
    }
    println!("{}: {tally:?}", program.path().display());
    tally
}

fn check(
    program: &Compiled,
    gdb: &mut Gdb,
    stop: &Stop,
    bias: u64,
    text: &str,
    float: bool,
    tally: &mut Tally,
) {
    let at = format!("{}+{:#x}: {text}", stop.function, stop.offset);
    let theirs = gdb.print(&format!("({})({text})", if float { "double" } else { "long" }));
    let (told, ours) = if float {
        let ours = program.float(text, stop, bias);
        (theirs.trim().parse::<f64>().ok().map(f64::to_bits).map(i128::from), ours)
    } else {
        (number(&theirs), program.integer(text, stop, bias))
    };
    match (told, ours) {
        (Some(theirs), Ok(ours)) => {
            assert_eq!(ours, theirs, "{at}");
            tally.same += 1;
        }
        (Some(_), Err(why)) if why.contains("known at the entry of the function only") => tally.only_gdb += 1,
        (Some(value), Err(why)) => panic!("{at}: gdb has {value}, but {why}"),
        // In what was inlined, gdb does not see the variables of the function around it.
        (None, Ok(_)) if program.inlined(stop, bias) > 0 && theirs.starts_with("No symbol") => {
            tally.none += 1
        }
        (None, Ok(ours)) => panic!("{at}: gdb says {theirs}, we say {ours}"),
        (None, Err(_)) => tally.none += 1,
    }
}

const OF_C: &[Asked] = &[
    Asked {
        function: "make",
        integers: &[
            "value",
            "color",
            "next",
            "made",
            "counter",
            "small",
            "on",
            "table[1][2]",
            "sizeof(node)",
            "sizeof(struct mixed)",
            "GREEN",
            "BLUE",
            "&table[1]",
            "*table[0]",
            "make",
        ],
        floats: &["ratio"],
        parameters: &["value", "color", "next"],
    },
    Asked {
        function: "walk",
        integers: &[
            "from",
            "most",
            "sum",
            "steps",
            "at",
            "doubled",
            "from->value",
            "from->low",
            "from->middle",
            "from->high",
            "from->color",
            "from->next->value",
            "from->whole",
            "from->bytes[1]",
            "from->at[1].x",
            "head->next->next->value",
            "from->name[2]",
            "*from->name",
            "&from->at[2]",
            "head == from",
            "from->middle * 3 - from->high",
        ],
        floats: &["from->at[2].y", "from->next->at[2].y * 3"],
        parameters: &["from", "most"],
    },
    Asked {
        function: "passed",
        integers: &[
            "pair.a",
            "pair.b",
            "pair.c",
            "mixed.u",
            "large.words[3]",
            "c",
            "point",
            "point->x",
            "six",
            "seven",
            "eight",
            "seven + c",
            "eight / 2",
        ],
        floats: &["mixed.d", "f", "point->y", "result"],
        parameters: &[
            "pair.a",
            "pair.b",
            "pair.c",
            "mixed.u",
            "large.words[3]",
            "c",
            "point",
            "six",
            "seven",
            "eight",
            "mixed.d * 1000",
            "f * 1000",
        ],
    },
    Asked {
        function: "outer",
        integers: &["base", "first", "second", "by", "moved", "sink"],
        floats: &[],
        parameters: &["base"],
    },
];

#[test]
fn c_that_is_not_optimized() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let Some(program) = Toolchain::C.compile("values.c", &["-O0", version]) else { return };
        let tally = compare(&program, OF_C, true);
        assert!(tally.same > 2000 && tally.entries == 18, "{tally:?}");
    }
}

#[test]
fn c_that_is_optimized() {
    for version in ["-gdwarf-4", "-gdwarf-5"] {
        let Some(program) = Toolchain::C.compile("values.c", &["-O2", version]) else { return };
        let tally = compare(&program, OF_C, false);
        assert!(tally.same > 1000 && tally.none > 20, "{tally:?}");
    }
}

const OF_CPP: &[Asked] = &[
    Asked {
        function: "deep::Derived::add",
        integers: &[
            "this",
            "by",
            "more",
            "total",
            "this->own",
            "this->common",
            "this->other",
            "this->shade",
            "deep::inside::hidden",
            "deep::Derived::made",
            "deep::Shade::Light",
            "sizeof(deep::Derived)",
        ],
        floats: &[],
        parameters: &["this", "by", "more"],
    },
    Asked {
        function: "by_reference",
        integers: &["copied.value", "count", "moved.own", "value", "moved.common"],
        floats: &[],
        parameters: &["copied.value", "count", "moved.own"],
    },
    Asked {
        function: "largest<double>",
        integers: &[],
        floats: &["a", "b", "most"],
        parameters: &["a * 1000", "b * 1000"],
    },
];

#[test]
fn cpp() {
    for (level, least) in [("-O0", 150), ("-O2", 50)] {
        let Some(program) = Toolchain::Cpp.compile("values.cc", &[level, "-g"]) else { return };
        let tally = compare(&program, OF_CPP, level == "-O0");
        assert!(tally.same > least, "{tally:?}");
    }
}

const OF_RUST: &[Asked] = &[Asked {
    function: "values::combine",
    integers: &[
        "number",
        "pair->first",
        "pair->second",
        "wide.words[4]",
        "wide.flag",
        "text.length",
        "*text.data_ptr",
        "sum",
        "length",
        "scaled",
        "flag",
        "values::LEVEL",
    ],
    floats: &["ratio"],
    parameters: &["number", "pair->first", "wide.words[4]", "text.length", "flag", "ratio * 1000"],
}];

#[test]
fn rust() {
    for level in ["0", "2"] {
        let optimize = format!("-Copt-level={level}");
        let Some(program) = Toolchain::Rust.compile("values.rs", &["-g", &optimize]) else { return };
        let tally = compare(&program, OF_RUST, level == "0");
        assert!(tally.same > 100, "{tally:?}");
    }
}
