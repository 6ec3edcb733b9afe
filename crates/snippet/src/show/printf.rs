//! Formats of printf(3).

use super::{Shown, Symbols};

/// Widest field, in characters.
const WIDEST: usize = 4096;

/// One conversion of a format.
#[derive(Default)]
struct Conversion {
    left: bool,
    zero: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// `values` in `format`, whose conversions the checker has compared with them.
pub fn printf(format: &str, values: &[Shown], symbols: &dyn Symbols) -> String {
    let mut out = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut conversion = Conversion::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            match flag {
                '-' => conversion.left = true,
                '0' => conversion.zero = true,
                '+' => conversion.plus = true,
                ' ' => conversion.space = true,
                _ => conversion.alternate = true,
            }
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut number = 0usize;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                number = (number * 10 + digit as usize - '0' as usize).min(WIDEST);
            }
            number
        };
        conversion.width = number(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            conversion.precision = Some(number(&mut chars));
        }
        while chars.next_if(|c| matches!(c, 'l' | 'h' | 'z' | 'j' | 't')).is_some() {}
        match chars.next() {
            Some('%') => out.push('%'),
            Some(letter) => match values.next() {
                Some(value) => conversion.show(letter, value, symbols, &mut out),
                None => out.push_str("(none)"),
            },
            None => break,
        }
    }
    out
}

impl Conversion {
    fn show(&self, letter: char, value: &Shown, symbols: &dyn Symbols, out: &mut String) {
        let bits = value.bits();
        let (sign, digits) = match letter {
            'd' | 'i' => {
                let value = bits as i64;
                (self.sign(value < 0), self.digits(value.unsigned_abs().to_string()))
            }
            'u' => ("", self.digits(bits.to_string())),
            'x' => (self.base("0x", bits), self.digits(format!("{bits:x}"))),
            'X' => (self.base("0X", bits), self.digits(format!("{bits:X}"))),
            'o' => (self.base("0", bits), self.digits(format!("{bits:o}"))),
            'p' => ("0x", format!("{bits:x}")),
            'f' | 'e' | 'g' => {
                let Shown::Float(value) = value else { return };
                let amount = value.abs();
                let precision = self.precision.unwrap_or(6);
                let digits = match letter {
                    'f' => format!("{amount:.precision$}"),
                    'e' => exponent(amount, precision),
                    _ => general(amount, precision),
                };
                (self.sign(value.is_sign_negative() && !value.is_nan()), digits)
            }
            'c' => ("", char::from(bits as u8).to_string()),
            _ => {
                let text = value.text(symbols);
                let cut = self.precision.unwrap_or(usize::MAX);
                ("", text.chars().take(cut).collect())
            }
        };
        let len = sign.len() + digits.chars().count();
        let room = self.width.saturating_sub(len);
        let numeric = !matches!(letter, 'c' | 's');
        match (self.left, self.zero && numeric && self.precision.is_none_or(|_| letter == 'f')) {
            (true, _) => out.extend([sign, &digits, &" ".repeat(room)]),
            (false, true) => out.extend([sign, &"0".repeat(room), &digits]),
            (false, false) => out.extend([&" ".repeat(room), sign, &digits]),
        }
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (false, true, _) => "+",
            (false, false, true) => " ",
            _ => "",
        }
    }

    fn base(&self, prefix: &'static str, bits: u64) -> &'static str {
        if self.alternate && bits != 0 { prefix } else { "" }
    }

    /// At least as many digits as the precision says.
    fn digits(&self, digits: String) -> String {
        let zeros = self.precision.unwrap_or(0).saturating_sub(digits.len());
        "0".repeat(zeros) + &digits
    }
}

/// As `%e`: the exponent has a sign and at least two digits.
fn exponent(value: f64, precision: usize) -> String {
    let text = format!("{value:.precision$e}");
    let Some((number, power)) = text.split_once('e') else { return text };
    let power: i32 = power.parse().unwrap_or(0);
    format!("{number}e{}{:02}", if power < 0 { '-' } else { '+' }, power.unsigned_abs())
}

/// As `%g`: the shorter of `%e` and `%f`, without zeros at the end.
fn general(value: f64, precision: usize) -> String {
    let precision = precision.max(1);
    if !value.is_finite() {
        return format!("{value}").to_lowercase();
    }
    let text = exponent(value, precision - 1);
    let power: i64 = text.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if power < -4 || power >= precision as i64 {
        let (number, power) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{power}", trimmed(number));
    }
    let digits = (precision as i64 - 1 - power).max(0) as usize;
    trimmed(&format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(format: &str, value: Shown) -> String {
        printf(format, &[value], &|at: u64| format!("function+{at:#x}"))
    }

    #[test]
    fn numbers_are_shown_as_c_does() {
        let of_c: &[(&str, i64, &str)] = &[
            ("%d", -5, "-5"),
            ("[%5d]", 42, "[   42]"),
            ("[%-5d]", 42, "[42   ]"),
            ("[%05d]", -42, "[-0042]"),
            ("[%+d]", 7, "[+7]"),
            ("[% d]", 7, "[ 7]"),
            ("%.3d", 7, "007"),
            ("%u", -1, "18446744073709551615"),
            ("%x", 255, "ff"),
            ("%#X", 255, "0XFF"),
            ("%#o", 8, "010"),
            ("%lld%%", 9, "9%"),
            ("%c", 65, "A"),
            ("%p", 4096, "0x1000"),
        ];
        for (format, value, wanted) in of_c {
            assert_eq!(shown(format, Shown::Signed(*value)), *wanted, "{format}");
        }
    }

    #[test]
    fn floats_are_shown_as_c_does() {
        let of_c: &[(&str, f64, &str)] = &[
            ("%f", 1.5, "1.500000"),
            ("%.2f", -0.126, "-0.13"),
            ("%e", 12345.678, "1.234568e+04"),
            ("%g", 0.0001, "0.0001"),
            ("%g", 1e-5, "1e-05"),
            ("%g", 1234567.0, "1.23457e+06"),
            ("%g", 2.5, "2.5"),
            ("%g", 0.0, "0"),
            ("[%8.1f]", 2.25, "[     2.2]"),
            ("[%08.3f]", -3.0, "[-003.000]"),
        ];
        for (format, value, wanted) in of_c {
            assert_eq!(shown(format, Shown::Float(*value)), *wanted, "{format}");
        }
    }

    #[test]
    fn texts_and_addresses() {
        assert_eq!(shown("<%-6s>", Shown::Text("abc".to_owned())), "<abc   >");
        assert_eq!(shown("<%.2s>", Shown::Text("abc".to_owned())), "<ab>");
        assert_eq!(shown("%s", Shown::Symbol(16)), "function+0x10");
        assert_eq!(printf("%d %d", &[Shown::Signed(1)], &|_: u64| String::new()), "1 (none)");
    }
}
