//! Functions of many shapes, each with a call whose result is known: what the probes are put into.
//!
//! # Safety
//! The functions are assembled below and keep the C ABI; those that take pointers get memory of the caller.

use std::arch::global_asm;
use std::ffi::{c_char, c_int, c_void};
use std::hint::black_box;

/// A function and a way to see that it works.
#[derive(Clone, Copy)]
pub struct Shape {
    pub name: &'static str,
    /// Where it begins.
    pub entry: usize,
    /// Calls it with an input made from a number, and asserts that the result is right.
    pub check: fn(u64),
}

// Handwritten shapes. Each is a C function.
global_asm!(
    ".pushsection .text.incise_shapes, \"ax\", @progbits",
    // A leaf that keeps its values in the red zone and its loop in short instructions.
    ".balign 16",
    ".hidden shape_red_zone",
    ".globl shape_red_zone",
    ".type shape_red_zone, @function",
    "shape_red_zone:",
    "mov [rsp - 8], rdi",
    "mov [rsp - 128], rsi",
    "mov qword ptr [rsp - 64], 0",
    "mov ecx, 16",
    "2: mov rax, [rsp - 8]",
    "xor rax, [rsp - 128]",
    "add [rsp - 64], rax",
    "rol qword ptr [rsp - 8], 3",
    "dec ecx",
    "jnz 2b",
    "mov rax, [rsp - 64]",
    "ret",
    ".size shape_red_zone, . - shape_red_zone",
    // Flags that live across many instructions.
    ".balign 16",
    ".hidden shape_carry",
    ".globl shape_carry",
    ".type shape_carry, @function",
    "shape_carry:",
    "xor eax, eax",
    "mov ecx, 8",
    "clc",
    "2: rcl rdi, 1",
    "adc rax, rsi",
    "seto dl",
    "movzx edx, dl",
    "lea rax, [rax + rdx]",
    "lea rsi, [rsi + 1]",
    "loop 2b",
    "adc rax, 0",
    "ret",
    ".size shape_carry, . - shape_carry",
    // One-byte instructions, a jump into the middle of them.
    ".balign 16",
    ".hidden shape_tiny",
    ".globl shape_tiny",
    ".type shape_tiny, @function",
    "shape_tiny:",
    "push rbx",
    "push rbp",
    "push r12",
    "mov ebx, edi",
    "and ebx, 3",
    "lea rax, [rip + 3f]",
    "movsxd rbx, dword ptr [rax + rbx * 4]",
    "add rax, rbx",
    "xor edx, edx",
    "jmp rax",
    "4: inc edx",
    "cld",
    "5: inc edx",
    "clc",
    "cmc",
    "6: inc edx",
    "nop",
    "7: inc edx",
    "mov eax, edx",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    ".balign 4",
    "3: .long 4b - 3b, 5b - 3b, 6b - 3b, 7b - 3b",
    ".size shape_tiny, 3b - shape_tiny",
    // String instructions, backwards.
    ".balign 16",
    ".hidden shape_backwards",
    ".globl shape_backwards",
    ".type shape_backwards, @function",
    "shape_backwards:",
    "push rdi",
    "lea rdi, [rdi + 31]",
    "lea rsi, [rsi + 31]",
    "mov ecx, 32",
    "std",
    "rep movsb",
    "cld",
    "pop rdi",
    "mov rax, [rdi]",
    "xor rax, [rdi + 24]",
    "ret",
    ".size shape_backwards, . - shape_backwards",
    // The x87 stack and the vector registers, filled at entry and folded together at the end.
    ".balign 16",
    ".hidden shape_floating",
    ".globl shape_floating",
    ".type shape_floating, @function",
    "shape_floating:",
    "movq xmm0, rdi",
    "pshufd xmm1, xmm0, 0x4e",
    "paddq xmm1, xmm0",
    "movdqa xmm15, xmm1",
    "fild qword ptr [rsi]",
    "fld1",
    "fld st(1)",
    "faddp",
    "fmulp",
    "pxor xmm1, xmm0",
    "paddq xmm15, xmm1",
    "fistp qword ptr [rsp - 16]",
    "movq rax, xmm15",
    "add rax, [rsp - 16]",
    "ret",
    ".size shape_floating, . - shape_floating",
    // Calls and tail jumps, direct and through a register, of one another.
    ".balign 16",
    ".hidden shape_calls",
    ".globl shape_calls",
    ".type shape_calls, @function",
    "shape_calls:",
    "push rbx",
    "mov rbx, rdi",
    "call 8f",
    "add rbx, rax",
    "lea rax, [rip + 8f]",
    "mov rdi, rbx",
    "call rax",
    "add rax, rbx",
    "pop rbx",
    "mov rdi, rax",
    "jmp 8f",
    "8: lea rax, [rdi + rdi * 2]",
    "test dil, 1",
    "jz 9f",
    "xor rax, rdi",
    "9: ret",
    ".size shape_calls, . - shape_calls",
    // Frames that an exception passes through, with a register to give back.
    ".balign 16",
    ".hidden shape_passes",
    ".globl shape_passes",
    ".type shape_passes, @function",
    "shape_passes:",
    ".cfi_startproc",
    "push rbx",
    ".cfi_adjust_cfa_offset 8",
    ".cfi_rel_offset rbx, 0",
    "mov rbx, rdi",
    "test edi, edi",
    "jz 10f",
    "lea rdi, [rdi - 1]",
    "call shape_passes",
    "jmp 11f",
    "10: call {throw}",
    "11: add rax, rbx",
    "pop rbx",
    ".cfi_adjust_cfa_offset -8",
    ".cfi_restore rbx",
    "ret",
    ".cfi_endproc",
    ".size shape_passes, . - shape_passes",
    ".popsection",
    throw = sym throw,
);

extern "C-unwind" fn throw(_: u64, payload: u64) -> u64 {
    std::panic::resume_unwind(Box::new(payload))
}

unsafe extern "C-unwind" {
    fn shape_passes(depth: u64, payload: u64) -> u64;
}

unsafe extern "C" {
    fn shape_red_zone(a: u64, b: u64) -> u64;
    fn shape_carry(a: u64, b: u64) -> u64;
    fn shape_tiny(n: u64) -> u32;
    fn shape_backwards(to: *mut u8, from: *const u8) -> u64;
    fn shape_floating(a: u64, b: &i64) -> u64;
    fn shape_calls(a: u64) -> u64;
    fn qsort(
        base: *mut c_void,
        n: usize,
        size: usize,
        order: extern "C" fn(*const c_void, *const c_void) -> c_int,
    );
    fn strlen(text: *const c_char) -> usize;
    fn snprintf(to: *mut c_char, size: usize, format: *const c_char, ...) -> c_int;
    fn malloc(size: usize) -> *mut c_void;
    fn free(at: *mut c_void);
}

fn check_red_zone(n: u64) {
    let (a, b) = (n.wrapping_mul(0x1234_5679), !n);
    let sum = (0..16).fold(0u64, |sum, i| sum.wrapping_add(a.rotate_left(3 * i) ^ b));
    // SAFETY: takes two numbers.
    assert_eq!(unsafe { shape_red_zone(a, b) }, sum);
}

fn check_carry(n: u64) {
    let (a, b) = (n.wrapping_mul(0x9E37_79B9_7F4A_7C15), n.rotate_left(47));
    let (mut value, mut sum, mut addend, mut carry) = (a, 0u64, b, false);
    for _ in 0..8 {
        let out = value >> 63 != 0;
        value = value << 1 | u64::from(carry);
        let (first, wrapped) = sum.overflowing_add(addend);
        let (second, wrapped_too) = first.overflowing_add(u64::from(out));
        carry = wrapped || wrapped_too;
        let overflow = (sum ^ second) & (addend ^ second) & 1 << 63 != 0;
        sum = second.wrapping_add(u64::from(overflow));
        addend = addend.wrapping_add(1);
    }
    // SAFETY: takes two numbers.
    assert_eq!(unsafe { shape_carry(a, b) }, sum.wrapping_add(u64::from(carry)));
}

fn check_tiny(n: u64) {
    // SAFETY: takes a number.
    assert_eq!(u64::from(unsafe { shape_tiny(n) }), 4 - n % 4);
}

fn check_backwards(n: u64) {
    let mut from = [0u8; 32];
    from.iter_mut().zip(0..).for_each(|(byte, i)| *byte = n.wrapping_add(i) as u8);
    let mut to = [0u8; 32];
    // SAFETY: both have 32 bytes.
    let word = unsafe { shape_backwards(to.as_mut_ptr(), from.as_ptr()) };
    assert_eq!(to, from);
    let quadword = |at: usize| from[at..at + 8].iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
    assert_eq!(word, quadword(0) ^ quadword(24));
}

fn check_floating(n: u64) {
    let m = (n % 1000) as i64;
    // SAFETY: takes a number and a reference.
    let result = unsafe { shape_floating(n, &m) };
    let product = (m * (m + 1)) as u64;
    assert_eq!(result, n.wrapping_add(product), "{n} {m}");
}

fn check_calls(n: u64) {
    let step = |n: u64| n.wrapping_mul(3) ^ if n % 2 == 1 { n } else { 0 };
    let first = n.wrapping_add(step(n));
    // SAFETY: takes a number.
    assert_eq!(unsafe { shape_calls(n) }, step(step(first).wrapping_add(first)));
}

fn check_passes(n: u64) {
    // SAFETY: takes two numbers, and unwinds.
    let caught = std::panic::catch_unwind(|| unsafe { shape_passes(n % 5, n) });
    assert_eq!(caught.err().and_then(|payload| payload.downcast_ref::<u64>().copied()), Some(n));
}

#[inline(never)]
pub extern "C" fn shape_switch(n: u64, x: u64) -> u64 {
    match n % 9 {
        0 => x.wrapping_mul(3),
        1 => x ^ 0x55,
        2 => x.rotate_left(7),
        3 => x.wrapping_sub(n),
        4 => !x,
        5 => x / (n + 1),
        6 => x.count_ones().into(),
        7 => x >> (n % 64),
        _ => x,
    }
}

fn check_switch(n: u64) {
    let x = n.wrapping_mul(0xABCD_EF01);
    let expected = match n % 9 {
        0 => x.wrapping_add(x).wrapping_add(x),
        1 => (x | 0x55) & !(x & 0x55),
        2 => x.rotate_left(7),
        3 => x.wrapping_add(n.wrapping_neg()),
        4 => u64::MAX - x,
        5 => (x - x % (n + 1)) / (n + 1),
        6 => (0..64).map(|bit| x >> bit & 1).sum(),
        7 => x / (1u64 << (n % 64)),
        _ => x,
    };
    assert_eq!(shape_switch(black_box(n), x), expected, "{n}");
}

#[inline(never)]
pub extern "C" fn shape_recursion(n: u64) -> u64 {
    if n < 2 { n } else { shape_recursion(black_box(n - 1)).wrapping_add(shape_recursion(n - 2)) }
}

fn check_recursion(n: u64) {
    let n = n % 9;
    let (expected, _) = (0..n).fold((0u64, 1u64), |(a, b), _| (b, a + b));
    assert_eq!(shape_recursion(n), expected);
}

#[inline(never)]
pub extern "C" fn shape_loop(mut n: u64) -> u64 {
    let mut steps = 0;
    while n != 1 {
        n = if n.is_multiple_of(2) { n / 2 } else { 3 * n + 1 };
        steps += 1;
    }
    black_box(steps)
}

fn check_loop(n: u64) {
    let known = [0, 1, 7, 2, 5, 8, 16, 3, 19, 6, 14, 9, 9, 17, 17, 4];
    assert_eq!(shape_loop(n % 16 + 1), known[n as usize % 16]);
}

#[inline(never)]
pub extern "C" fn shape_float(a: f64, b: f64, n: u64) -> f64 {
    (0..n % 8).fold(a, |sum, i| sum.mul_add(0.5, b * i as f64))
}

fn check_float(n: u64) {
    // Multiples of small powers of two: every step is exact, in whatever order.
    let (a, b) = ((n % 64) as f64, (n % 7) as f64);
    let mut expected = a;
    for i in 0..n % 8 {
        expected = expected / 2.0 + b * i as f64;
    }
    assert_eq!(shape_float(a, b, n), expected);
}

extern "C" fn ascending(a: *const c_void, b: *const c_void) -> c_int {
    // SAFETY: qsort gives pointers to two elements.
    let (a, b) = unsafe { (*a.cast::<u32>(), *b.cast::<u32>()) };
    a.cmp(&b) as c_int
}

fn check_qsort(n: u64) {
    let mut list = [0u32; 24];
    let mut x = n as u32;
    for element in &mut list {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *element = x;
    }
    let sum = list.iter().fold(0u32, |sum, &x| sum.wrapping_add(x));
    // SAFETY: as many elements as said, of that size.
    unsafe { qsort(list.as_mut_ptr().cast(), list.len(), 4, ascending) };
    assert!(list.is_sorted());
    assert_eq!(list.iter().fold(0u32, |sum, &x| sum.wrapping_add(x)), sum);
}

fn check_strlen(n: u64) {
    let mut text = [b'x'; 96];
    let (start, len) = ((n % 17) as usize, (n % 71) as usize);
    text[start + len] = 0;
    // SAFETY: there is a zero byte.
    assert_eq!(unsafe { strlen(black_box(text.as_ptr().add(start)).cast()) }, len);
}

fn check_snprintf(n: u64) {
    let mut text = [0u8; 80];
    let half = (n % 100) as f64 / 2.0;
    // SAFETY: the arguments are those of the format.
    let len = unsafe {
        snprintf(
            text.as_mut_ptr().cast(),
            text.len(),
            c"%llx|%-6d|%.1f|%s".as_ptr(),
            n,
            n as c_int % 1000,
            half,
            c"end".as_ptr(),
        )
    };
    let expected = format!("{n:x}|{:<6}|{half:.1}|end", n as c_int % 1000);
    assert_eq!(&text[..len as usize], expected.as_bytes());
}

fn check_malloc(n: u64) {
    let size = 8 + (n % 3000) as usize;
    // SAFETY: the memory is ours, `size` bytes of it, and freed once.
    unsafe {
        let at = malloc(size).cast::<u8>();
        assert!(!at.is_null() && at.addr().is_multiple_of(16));
        at.write_bytes(n as u8, size);
        assert!(at.read() == n as u8 && at.add(size - 1).read() == n as u8);
        free(black_box(at).cast());
    }
}

macro_rules! shape {
    ($function:expr, $check:expr) => {
        Shape { name: stringify!($function), entry: $function as *const () as usize, check: $check }
    };
}

/// The functions of this program.
pub fn own() -> Vec<Shape> {
    vec![
        shape!(shape_red_zone, check_red_zone),
        shape!(shape_carry, check_carry),
        shape!(shape_tiny, check_tiny),
        shape!(shape_backwards, check_backwards),
        shape!(shape_floating, check_floating),
        shape!(shape_calls, check_calls),
        shape!(shape_switch, check_switch),
        shape!(shape_recursion, check_recursion),
        shape!(shape_loop, check_loop),
        shape!(shape_float, check_float),
    ]
}

/// Functions that end by an exception, which is nothing for a signal handler.
pub fn throwing() -> Vec<Shape> {
    vec![shape!(shape_passes, check_passes)]
}

/// Functions of the C library.
pub fn library() -> Vec<Shape> {
    vec![
        shape!(qsort, check_qsort),
        shape!(strlen, check_strlen),
        shape!(snprintf, check_snprintf),
        shape!(malloc, check_malloc),
        shape!(free, check_malloc),
    ]
}
