//! Numbers as people read them.

/// A value that may be a number or an address.
pub(super) fn value(value: u64) -> String {
    match value as i64 {
        small @ -65_536..=9_999_999 => small.to_string(),
        _ => format!("{value:#x}"),
    }
}

/// A time in nanoseconds.
pub(crate) fn duration(nanos: u64) -> String {
    let of = |unit: f64, name: &str| {
        let number = nanos as f64 / unit;
        if number < 10.0 { format!("{number:.2} {name}") } else { format!("{number:.1} {name}") }
    };
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => of(1e3, "us"),
        1_000_000..1_000_000_000 => of(1e6, "ms"),
        _ => of(1e9, "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_addresses() {
        assert_eq!([0, 24, u64::MAX].map(value), ["0", "24", "-1"]);
        assert_eq!(value(0x7fff_1234_5678), "0x7fff12345678");
    }

    #[test]
    fn times_have_units() {
        let times = [0, 999, 1_000, 12_345, 1_234_567, 60_000_000_000].map(duration);
        assert_eq!(times, ["0 ns", "999 ns", "1.00 us", "12.3 us", "1.23 ms", "60.0 s"]);
    }
}
