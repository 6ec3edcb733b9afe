//! Names as the programmer wrote them: C++ (Itanium ABI) and Rust (both schemes).

use std::fmt;

use cpp_demangle::{DemangleOptions, Symbol};

/// Longest demangled name made, in bytes; substitutions can make a short symbol exponentially long.
const LIMIT: usize = 1 << 16;

/// The source form of a mangled symbol, with parameters; `None` if it is not mangled.
pub fn demangle(symbol: &str) -> Option<String> {
    rust(symbol).or_else(|| cpp(symbol, DemangleOptions::new()))
}

/// The forms of a mangled symbol that a pattern may mean: with parameters, without, and without the
/// template arguments at the end.
pub fn forms(symbol: &str) -> Vec<String> {
    if let Some(name) = rust(symbol) {
        return vec![name];
    }
    let Some(full) = cpp(symbol, DemangleOptions::new()) else { return Vec::new() };
    let mut forms = vec![full];
    if let Some(bare) = cpp(symbol, DemangleOptions::new().no_params().no_return_type()) {
        let plain = without_template_arguments(&bare).map(str::to_owned);
        forms.push(bare);
        forms.extend(plain);
    }
    forms
}

/// The name of a C++ function that is in no namespace or class, without parameters and template arguments: what stands behind its
/// length at the beginning of the symbol (Itanium C++ ABI, 5.1.4.1), behind an `L` if it is `static`.
pub fn outside_namespaces(symbol: &str) -> Option<&str> {
    let rest = symbol.strip_prefix("_Z")?;
    let rest = rest.strip_prefix('L').unwrap_or(rest);
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let len: usize = rest[..digits].parse().ok()?;
    rest[digits..].get(..len)
}

fn rust(symbol: &str) -> Option<String> {
    let name = rustc_demangle::try_demangle(symbol).ok()?;
    let mut text = Bounded(String::new());
    // The alternate form leaves out the hash.
    fmt::write(&mut text, format_args!("{name:#}")).ok().map(|()| text.0)
}

fn cpp(symbol: &str, options: DemangleOptions) -> Option<String> {
    if !symbol.starts_with("_Z") {
        return None;
    }
    let mut text = Bounded(String::new());
    Symbol::new(symbol).ok()?.structured_demangle(&mut text, &options).ok().map(|()| text.0)
}

/// A string that refuses to grow beyond [`LIMIT`].
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LIMIT {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// `name` without the `<…>` it ends in.
fn without_template_arguments(name: &str) -> Option<&str> {
    let mut depth = 0usize;
    for (index, byte) in name.bytes().enumerate().rev() {
        match byte {
            b'>' => depth += 1,
            b'<' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            let bare = &name[..index];
            return (byte == b'<' && !bare.ends_with("operator")).then_some(bare);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{demangle, forms, outside_namespaces};

    #[test]
    fn symbols_become_source_names() {
        assert_eq!(
            demangle("_ZNSt6vectorIiSaIiEE9push_backERKi").as_deref(),
            Some("std::vector<int, std::allocator<int> >::push_back(int const&)")
        );
        assert_eq!(demangle("_ZN4core3fmt5write17h0123456789abcdefE").as_deref(), Some("core::fmt::write"));
        assert_eq!(demangle("_RNvC7mycrate4main").as_deref(), Some("mycrate::main"));
        assert_eq!(demangle("malloc"), None);
    }

    #[test]
    fn plain_names_of_cpp_are_in_their_symbols() {
        assert_eq!(outside_namespaces("_Z5totalRKSt6vectorIiSaIiEE"), Some("total"));
        assert_eq!(outside_namespaces("_ZL4helpv"), Some("help"));
        assert_eq!(outside_namespaces("_Z3maxIiET_S0_S0_"), Some("max"));
        for other in ["_ZN2ns5totalEv", "total", "_Z", "_Z9short", "_ZStlsIcE", "_Z99999999999999999999a"] {
            assert_eq!(outside_namespaces(other), None, "{other}");
        }
    }

    #[test]
    fn a_template_is_found_by_its_bare_name() {
        assert_eq!(
            forms("_ZN2ns3maxIiEET_S1_S1_"),
            ["int ns::max<int>(int, int)", "ns::max<int>", "ns::max"]
        );
    }

    #[test]
    fn exponential_names_are_refused() {
        // Each parameter is a pair of the one before: 2^n types of `int`.
        let nested = |levels: usize| {
            let mut symbol = String::from("_Z1fSt4pairIiiE");
            for level in 0..levels {
                // S_ is std::pair, S0_ the first parameter, S1_ the next.
                let id = char::from_digit(level as u32, 36).map(|c| c.to_ascii_uppercase()).unwrap_or('Z');
                symbol.push_str(&format!("S_IS{id}_S{id}_E"));
            }
            demangle(&symbol)
        };
        assert!(nested(5).is_some_and(|name| name.matches("int").count() > 64));
        assert_eq!(nested(18), None);
    }
}
