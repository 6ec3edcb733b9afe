//! Many edits in a large program: one short stop, few mappings, all bytes right.

mod remote_support;

use std::time::{Duration, Instant};

use incise_isa::Addr;
use incise_space::remote::{Left, Tracer};
use incise_space::{AddressSpace, Bytes, Edit};
use remote_support::*;

/// Pages of code.
const PAGES: u64 = 12_000;

/// Text of 12,000 pages with two functions in each, and a sum over all of them.
const LARGE: &str = r#"
extern char many[];
__asm__(".text\n.balign 4096\n.globl many\nmany:\n.rept 12000\n  mov $1, %eax\n  ret\n  .balign 2048\n"
        "  mov $1, %eax\n  ret\n  .balign 4096\n.endr\n");
static volatile int stop;
static void *storm(void *x) {
    unsigned seed = 1;
    while (!stop) {
        int (*f)(void) = (int (*)(void))(many + 2048 * (rand_r(&seed) % 24000));
        int a = f();
        if (a != 1 && a != 2) { dprintf(2, "%d\n", a); _exit(99); }
    }
    return x;
}
int main(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, storm, NULL); pthread_create(&thread, NULL, storm, NULL);
    ready(); printf("%p\n", (void *)many); fflush(stdout);
    while (line()) {
        long sum = 0;
        for (long i = 0; i < 24000; i++) sum += ((int (*)(void))(many + 2048 * i))();
        printf("%ld\n", sum); fflush(stdout);
    }
    return 7;
}
"#;

#[test]
fn twenty_thousand_edits_take_one_short_stop() {
    let mut program = Program::start(LARGE, &[]);
    let many = program.read_line();
    let many = Addr(u64::from_str_radix(many.trim_start_matches("0x"), 16).expect("an address"));
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let mut before = vec![0; (PAGES * PAGE) as usize];
    space.read(many, &mut before).expect("mapped");
    let edits: Vec<Edit> = (0..20_000)
        .map(|index| Edit {
            at: many + index * 2048,
            old: Bytes::new(&[0xB8, 1, 0, 0, 0]),
            new: Bytes::new(&[0xB8, 2, 0, 0, 0]),
            heads: 1,
        })
        .collect();
    let back: Vec<Edit> = edits.iter().map(Edit::inverse).collect();
    let lines = mappings(&space).len();
    for round in 0..3 {
        let started = Instant::now();
        let applied = space.apply(&edits, &|_| None).expect("applied");
        let all = started.elapsed();
        println!("round {round}: stop {:?}, all {all:?}, {} mappings", applied.stop, applied.mappings);
        assert!(applied.mappings <= 2, "{applied:?}");
        assert!(mappings(&space).len() <= lines + 2 + 4);
        // No bar: only what a stop per edit would take is out of the question. The benchmark has the figures.
        assert!(applied.stop < Duration::from_secs(1), "{applied:?}");
        assert_eq!(program.ask_traced(&mut tracer), "44000");
        let mut now = vec![0; before.len()];
        space.read(many, &mut now).expect("mapped");
        let changed = before.iter().zip(&now).filter(|(before, now)| before != now).count();
        assert_eq!(changed, 20_000);
        let applied = space.apply(&back, &|_| None).expect("applied");
        println!("         back: stop {:?}, {} mappings", applied.stop, applied.mappings);
        space.read(many, &mut now).expect("mapped");
        assert!(before == now, "every byte is as before");
        assert_eq!(program.ask_traced(&mut tracer), "24000");
    }
    assert_eq!(space.remove().expect("removed"), Left::default());
    tracer.detach(pid).expect("traced");
    assert_eq!(program.ask(), "24000");
    assert_eq!(program.finish().code(), Some(7));
}

#[test]
fn one_wrong_byte_among_many_changes_nothing() {
    let mut program = Program::start(LARGE, &[]);
    let many = program.read_line();
    let many = Addr(u64::from_str_radix(many.trim_start_matches("0x"), 16).expect("an address"));
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let mut edits: Vec<Edit> = (0..20_000)
        .map(|index| Edit {
            at: many + index * 2048,
            old: Bytes::new(&[0xB8, 1]),
            new: Bytes::new(&[0xB8, 2]),
            heads: 1,
        })
        .collect();
    edits[19_999].old = Bytes::new(&[0xB8, 3]);
    let lines = mappings(&space);
    space.apply(&edits, &|_| None).expect_err("one is wrong");
    let kept = mappings(&space).into_iter().filter(|line| lines.contains(line)).count();
    assert_eq!(kept, lines.len());
    assert_eq!(program.ask_traced(&mut tracer), "24000");
}
