//! Texts as people write them.

use super::*;
use crate::x86_64::decode;

const AT: Addr = Addr(0x40_1000);

fn symbols(name: &str) -> Option<Addr> {
    match name {
        "puts" => Some(Addr(0x40_2000)),
        "libc.so.6!exit" => Some(Addr(0x7f00_0000_1000)),
        "std::io::print" => Some(Addr(0x40_3000)),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn intel(text: &str) -> String {
    match assemble(text, AT, Syntax::Intel, &symbols) {
        Ok(bytes) => hex(&bytes),
        Err(error) => panic!("{error}"),
    }
}

fn att(text: &str) -> String {
    match assemble(text, AT, Syntax::Att, &symbols) {
        Ok(bytes) => hex(&bytes),
        Err(error) => panic!("{error}"),
    }
}

fn error(text: &str) -> String {
    assemble(text, AT, Syntax::Intel, &symbols).expect_err(text).to_string()
}

#[test]
fn the_shortest_encoding_is_taken() {
    for (text, bytes) in [
        ("mov eax, 1", "b8 01 00 00 00"),
        ("mov rax, 1", "48 c7 c0 01 00 00 00"),
        ("mov rax, 0x80000000", "48 b8 00 00 00 80 00 00 00 00"),
        ("add rsp, 8", "48 83 c4 08"),
        ("and rsp, 0xfffffffffffffff0", "48 83 e4 f0"),
        ("and rsp, -16", "48 83 e4 f0"),
        ("mov dword ptr [rbp-4], 0", "c7 45 fc 00 00 00 00"),
        ("push 5", "6a 05"),
        ("push 0x1234", "68 34 12 00 00"),
        ("call [rax]", "ff 10"),
        ("shl eax", "d1 e0"),
        ("imul eax, 5", "6b c0 05"),
        ("xchg eax, eax", "87 c0"),
        ("nop", "90"),
        ("ret", "c3"),
        ("rep movsb", "f3 a4"),
        ("lock inc qword ptr [rdi+r8*8+0x100]", "f0 4a ff 84 c7 00 01 00 00"),
        ("mov rax, fs:[0x28]", "64 48 8b 04 25 28 00 00 00"),
        ("vaddps xmm0, xmm1, xmm2", "c5 f0 58 c2"),
        ("{evex} vaddps xmm0, xmm1, xmm2", "62 f1 74 08 58 c2"),
        ("vaddps zmm1{k1}{z}, zmm2, dword ptr [rax]{1to16}", "62 f1 6c d9 58 08"),
        ("notrack jmp rax", "3e ff e0"),
        ("mov [rsp+rax], al", "88 04 04"),
        ("mov [rax+rsp], al", "88 04 04"),
        ("jz 0x401000", "74 fe"),
        ("faddp", "de c1"),
    ] {
        assert_eq!(intel(text), bytes, "{text}");
    }
}

#[test]
fn att_says_the_same_the_other_way_round() {
    for (text, bytes) in [
        ("mov $1, %eax", "b8 01 00 00 00"),
        ("movl $0, -4(%rbp)", "c7 45 fc 00 00 00 00"),
        ("movzbl (%rdi), %eax", "0f b6 07"),
        ("movslq %edi, %rax", "48 63 c7"),
        ("cltq", "48 98"),
        ("lock incq 0x100(%rdi,%r8,8)", "f0 4a ff 84 c7 00 01 00 00"),
        ("mov %fs:0x28, %rax", "64 48 8b 04 25 28 00 00 00"),
        ("call *8(%rax)", "ff 50 08"),
        ("callq puts", "e8 fb 0f 00 00"),
        ("lea puts(%rip), %rdi", "48 8d 3d f9 0f 00 00"),
        ("lea 0xff9(%rip), %rdi", "48 8d 3d f9 0f 00 00"),
        ("retq", "c3"),
        ("pushq $5", "6a 05"),
        ("jmp 0x401000", "eb fe"),
        ("movabs $0x1122334455667788, %rax", "48 b8 88 77 66 55 44 33 22 11"),
        ("cmpl $0x0, -0x4(%rbp) # argc", "83 7d fc 00"),
    ] {
        assert_eq!(att(text), bytes, "{text}");
    }
}

#[test]
fn names_and_labels_are_addresses() {
    assert_eq!(intel("call puts"), "e8 fb 0f 00 00");
    assert_eq!(intel("lea rdi, [puts]"), "48 8d 3d f9 0f 00 00");
    assert_eq!(intel("lea rdi, [rip+puts]"), "48 8d 3d f9 0f 00 00");
    assert_eq!(intel("mov edi, offset puts+1"), "bf 01 20 40 00");
    assert_eq!(intel("mov rax, libc.so.6!exit"), "48 b8 00 10 00 00 00 7f 00 00");
    assert_eq!(intel("call std::io::print"), "e8 fb 1f 00 00");
    assert_eq!(intel("1: dec eax; jnz 1b; jmp 1f; nop; 1: ret"), "ff c8 75 fc eb 01 90 c3");
    assert_eq!(intel("loop: jmp loop"), "eb fe");
    assert_eq!(intel("jmp ."), "eb fe");
}

#[test]
fn branches_grow_until_they_reach() {
    let text = format!("jmp out\n{}out: ret", "nop\n".repeat(127));
    assert!(intel(&text).starts_with("eb 7f 90"));
    let text = format!("jmp out\n{}out: ret", "nop\n".repeat(128));
    assert!(intel(&text).starts_with("e9 80 00 00 00 90"));
    // One branch that grows takes the other out of reach.
    let text = format!("jmp a\n{}jmp b\na: nop\n{}b: ret", "nop\n".repeat(125), "nop\n".repeat(200));
    let bytes = assemble(&text, AT, Syntax::Intel, &symbols).expect("code");
    let first = decode(&bytes, AT).expect("a jump");
    assert_eq!(first.len(), 5);
    assert_eq!(first.flow().target(), Some(AT + 5 + 125 + 5));
}

#[test]
fn data_stands_between_instructions() {
    assert_eq!(
        intel("lea rdi, [text]; ret; text: .asciz \"Hi;\\n\""),
        "48 8d 3d 01 00 00 00 c3 48 69 3b 0a 00"
    );
    assert_eq!(intel(".byte 1, -1, 'a'; .word 0x1234; .quad puts"), "01 ff 61 34 12 00 20 40 00 00 00 00 00");
}

#[test]
fn errors_show_the_place_and_what_would_fit() {
    assert_eq!(
        error("nop\nmvo eax, 1"),
        "there is no instruction `mvo`\n  mvo eax, 1\n  ^^^\n  did you mean mov?"
    );
    let text = error("mov eax, xmm0");
    assert!(
        text.starts_with("`mov` does not take xmm0 here\n  mov eax, xmm0\n           ^^^^\n  it can be:"),
        "{text}"
    );
    let text = error("inc [rax]");
    assert!(text.contains("how many bytes") && text.contains("dword ptr"), "{text}");
    let text = error("add al, 0x1234");
    assert!(
        text.starts_with("0x1234 does not fit 8 bits here\n  add al, 0x1234\n          ^^^^^^"),
        "{text}"
    );
    assert!(error("jmp nowhere").starts_with("nothing is called `nowhere`"));
    assert!(error("jmp 0x7f0000000000").contains("out of reach"));
    assert!(error("mov eax, [rax").contains("`]` is missing"));
    assert!(error("lock mov eax, ebx").contains("`lock`"));
    assert!(error("a: nop; a: nop").contains("twice"));
    assert!(error("mov eax, 12zz").contains("not a number"));
}

#[test]
fn nonsense_is_refused_and_never_panics() {
    let words = [
        "mov",
        "rax",
        ",",
        "[",
        "]",
        "(",
        ")",
        "%",
        "$",
        "-",
        "*",
        "+",
        "0x",
        "9999999999999999999999",
        "{",
        "}",
        "k1",
        "1to8",
        "é",
        "\"",
        "'",
        "\\",
        ":",
        "1b",
        ".byte",
        "lock",
        "rep",
        "st",
        "fs",
        "rip",
        "dword",
        "ptr",
        "rel",
        ";",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(words[(state >> 33) as usize % words.len()]);
            text.push(' ');
        }
        for syntax in [Syntax::Intel, Syntax::Att] {
            drop(assemble(&text, AT, syntax, &symbols).map_err(|error| error.to_string()));
        }
    }
}
