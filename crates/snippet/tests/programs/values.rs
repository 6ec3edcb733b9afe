//! Variables of Rust, for a comparison with a debugger.

use std::hint::black_box;

struct Pair {
    first: u32,
    second: i64,
}

struct Wide {
    words: [u64; 5],
    flag: bool,
}

static LEVEL: i32 = -12;

#[inline(never)]
fn combine(number: i16, pair: &Pair, wide: Wide, text: &str, ratio: f64, flag: bool) -> i64 {
    let sum = i64::from(number) + pair.second + i64::from(pair.first);
    let length = text.len() as i64;
    let scaled = (ratio * 2.0) as i64;
    black_box(sum + length + scaled + wide.words[4] as i64 + i64::from(wide.flag) + i64::from(flag))
}

fn main() {
    let pair = Pair { first: 4_000_000_000, second: -5 };
    let wide = Wide { words: [1, 2, 3, 4, 5], flag: true };
    let result = combine(black_box(-300), &pair, wide, black_box("hello"), black_box(1.25), black_box(true));
    println!("{result} {}", black_box(&LEVEL));
}
