//! Patterns: how users name functions and addresses.

use incise_isa::Addr;

use crate::LinkAddr;
use crate::names::glob::Glob;
use crate::names::module_glob::ModuleGlob;
use crate::names::pattern_error::PatternError;

/// What a user writes to name functions or addresses.
///
/// | form | means |
/// |---|---|
/// | `GLOB` | functions whose name fits the shell pattern |
/// | `NAME@VERSION`, `NAME@@VERSION` | only that symbol version; only if it is the default one |
/// | `NAME+OFFSET` | an address inside a function; the offset is decimal or `0x` hexadecimal |
/// | `*0xADDRESS` | a run-time address |
/// | `NAME+FROM..NAME+TO`, `*0xFROM..*0xTO` | the instructions that begin from the first to before the second; `NAME+END` is the end of the function |
/// | `MODULE!…` | any of these in modules that fit only; with `*0x…` the address is a link address |
///
/// A pattern with `::`, `(` or `<` is compared with demangled names: as a whole, and, where the pattern
/// has no parameters, without them. Other names are compared with symbols, and with functions of C++ outside of all
/// namespaces and classes, without parameters. A module is named by a shell pattern on its file name, with or without
/// the version behind it: `libc` means `libc.so.6`. One with a `/` is compared with the path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    pub(crate) text: String,
    pub(crate) module: Option<ModuleGlob>,
    /// What is meant, or where a range begins.
    pub(crate) what: What,
    /// Where a range ends.
    pub(crate) until: Option<Until>,
}

/// Where a range ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Until {
    /// So many bytes behind the start of the function.
    Offset(u64),
    /// At the end of the function.
    End,
    /// At an address of the same kind as that of the start.
    Address(u64),
}

/// What a pattern names inside its modules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Name(NamePattern),
    Address(Addr),
    Link(LinkAddr),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NamePattern {
    pub glob: Glob,
    pub version: Option<VersionPattern>,
    /// Bytes behind the start of the function.
    pub offset: u64,
    /// Compare with demangled names; then this is an identifier that must be in the mangled name.
    pub demangled: Option<Option<String>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct VersionPattern {
    pub glob: Glob,
    pub only_default: bool,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError::Malformed`] says what is wrong.
    pub fn parse(text: &str) -> Result<Pattern, PatternError> {
        let malformed = |what| PatternError::Malformed { pattern: text.to_owned(), what };
        let (module, rest) = match split_module(text) {
            Some((module, rest)) => (Some(ModuleGlob::new(module)), rest),
            None => (None, text),
        };
        if rest.is_empty() {
            return Err(malformed("a function name is missing"));
        }
        let (start, end) = match split_range(rest) {
            Some((start, end)) => (start, Some(end)),
            None => (rest, None),
        };
        let what = match start.strip_prefix("*0x") {
            Some(digits) => {
                let address = hexadecimal(digits).ok_or_else(|| malformed(NO_ADDRESS))?;
                if module.is_some() { What::Link(LinkAddr(address)) } else { What::Address(Addr(address)) }
            }
            None => What::Name(NamePattern::parse(start).map_err(malformed)?),
        };
        let until = end.map(|end| Until::parse(start, end, &what)).transpose().map_err(malformed)?;
        Ok(Pattern { text: text.to_owned(), module, what, until })
    }

    /// The text it was made from.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(text)
    }
}

const NO_ADDRESS: &str = "the address is not a hexadecimal number";

impl Until {
    /// Reads the end of the range that begins with `start`, which is `what`.
    fn parse(start: &str, end: &str, what: &What) -> Result<Until, &'static str> {
        let (from, until) = match what {
            What::Address(Addr(from)) | What::Link(LinkAddr(from)) => {
                let digits = end.strip_prefix("*0x").ok_or("a range of addresses ends with an address")?;
                (*from, Until::Address(hexadecimal(digits).ok_or(NO_ADDRESS)?))
            }
            What::Name(name) => {
                let function =
                    |text: &str| text.rsplit_once('+').map_or(String::new(), |(name, _)| name.to_owned());
                if function(start) != function(end) {
                    return Err("both ends of a range name the same function");
                }
                let until = match end.rsplit_once('+') {
                    Some((_, "END")) => Until::End,
                    _ => Until::Offset(split_offset(end)?.1),
                };
                (name.offset, until)
            }
        };
        match until {
            Until::Offset(to) | Until::Address(to) if to <= from => Err("the range is empty"),
            until => Ok(until),
        }
    }
}

impl NamePattern {
    fn parse(text: &str) -> Result<NamePattern, &'static str> {
        let (name, offset) = split_offset(text)?;
        let is_source_name = name.contains("::") || name.contains('(') || name.contains('<');
        if is_source_name {
            let glob = Glob::new(&squeeze(name));
            return Ok(NamePattern {
                glob,
                version: None,
                offset,
                demangled: Some(required_identifier(name)),
            });
        }
        let (name, version) = match name.split_once('@') {
            Some(("", _)) => return Err("a function name is missing before `@`"),
            Some((name, version)) => (name, Some(version)),
            None => (name, None),
        };
        let version = version.map(|text| {
            let (only_default, text) = text.strip_prefix('@').map_or((false, text), |text| (true, text));
            VersionPattern { glob: Glob::new(text), only_default }
        });
        Ok(NamePattern { glob: Glob::new(name), version, offset, demangled: None })
    }
}

/// Parts `MODULE!REST`. C++ operators (`operator!=`) and types have a `!` of their own.
fn split_module(text: &str) -> Option<(&str, &str)> {
    let (module, rest) = text.split_once('!')?;
    let is_path = module.starts_with('/');
    let is_name =
        is_path || (!module.is_empty() && !module.contains(['(', '<', ' ']) && !module.contains("::"));
    // `[!a-z]` is a shell pattern's negation.
    let in_class = module.ends_with('[');
    (is_name && !in_class && !module.ends_with("operator")).then_some((module, rest))
}

/// Parts `START..END`. The start of a range has an offset, or is an address; three dots are C++'s.
fn split_range(text: &str) -> Option<(&str, &str)> {
    let (start, end) = text.split_once("..").filter(|(_, end)| !end.starts_with('.'))?;
    let offset = start
        .rsplit_once('+')
        .is_some_and(|(name, digits)| !name.is_empty() && digits.starts_with(|c: char| c.is_ascii_digit()));
    (offset || start.starts_with("*0x")).then_some((start, end))
}

/// Parts `NAME+OFFSET`. What follows the last `+` is an offset if it begins with a digit.
fn split_offset(text: &str) -> Result<(&str, u64), &'static str> {
    let Some((name, digits)) = text.rsplit_once('+') else { return Ok((text, 0)) };
    if name.is_empty() || name.ends_with("operator") || !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok((text, 0));
    }
    let offset = match digits.strip_prefix("0x") {
        Some(digits) => hexadecimal(digits),
        None if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
        None => None,
    };
    Ok((name, offset.ok_or("the offset is not a number")?))
}

fn hexadecimal(digits: &str) -> Option<u64> {
    // `from_str_radix` would take a sign.
    let valid = digits.bytes().all(|b| b.is_ascii_hexdigit());
    valid.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Takes out blanks that only style puts in: behind commas and between closing brackets.
pub(crate) fn squeeze(name: &str) -> String {
    name.replace(", ", ",").replace("> >", ">>")
}

/// The longest identifier of a source name that its mangled name spells out too, to sort out most symbols
/// without demangling them. Identifiers beside `::` are spelled, except the abbreviated ones of `std`
/// (Itanium C++ ABI, 5.1.10).
fn required_identifier(name: &str) -> Option<String> {
    const ABBREVIATED: [&str; 11] = [
        "std",
        "allocator",
        "basic_string",
        "string",
        "basic_istream",
        "istream",
        "basic_ostream",
        "ostream",
        "basic_iostream",
        "iostream",
        "char_traits",
    ];
    // Other scripts are encoded, and classes of a shell pattern spell nothing.
    if !name.is_ascii() || name.contains(['[', '\\']) {
        return None;
    }
    let scope = &name[..name.find(['(', '<']).unwrap_or(name.len())];
    let is_part = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = scope.as_bytes();
    let mut best: Option<&str> = None;
    let mut start = 0;
    while start < bytes.len() {
        let len = bytes[start..].iter().take_while(|&&b| is_part(b)).count();
        let word = &scope[start..start + len];
        let qualified = scope[..start].ends_with("::") || scope[start + len..].starts_with("::");
        // A piece of an identifier (beside a `*`) might be a piece of an abbreviated one.
        let whole = !scope[..start].ends_with(['*', '?']) && !scope[start + len..].starts_with(['*', '?']);
        let spelled = qualified && whole && word != "operator" && !ABBREVIATED.contains(&word);
        if spelled && word.len() > best.map_or(0, str::len) {
            best = Some(word);
        }
        start += len.max(1);
    }
    best.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NamePattern {
        match Pattern::parse(text).map(|p| p.what) {
            Ok(What::Name(name)) => name,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(Pattern::parse("*0x4010f0").map(|p| p.what), Ok(What::Address(Addr(0x4010f0))));
        let inside = Pattern::parse("libc!*0x1000").expect("a link address");
        assert_eq!(inside.what, What::Link(LinkAddr(0x1000)));
        assert_eq!(inside.module.map(|m| m.text).as_deref(), Some("libc"));
    }

    #[test]
    fn paths_of_modules_may_have_any_letters() {
        let of = |text: &str| Pattern::parse(text).map(|pattern| pattern.module.map(|module| module.text));
        assert_eq!(of("/lib/my (new) lib.so!f"), Ok(Some("/lib/my (new) lib.so".to_owned())));
        assert_eq!(of("std::vector<int>::operator!=(int)"), Ok(None));
    }

    #[test]
    fn offsets_are_decimal_or_hexadecimal() {
        assert_eq!(name("main+16").offset, 16);
        assert_eq!(name("prog!main+0x1f").offset, 0x1f);
        assert_eq!(name("ns::operator+").offset, 0);
        assert!(name("operator+").glob.matches("operator+"));
    }

    #[test]
    fn ranges_have_two_ends_of_the_same_kind() {
        let until = |text: &str| Pattern::parse(text).map(|pattern| pattern.until);
        assert_eq!(until("main+0..main+END"), Ok(Some(Until::End)));
        assert_eq!(until("libc!str*+4..str*+0x20"), Ok(Some(Until::Offset(0x20))));
        assert_eq!(until("ns::f(int)+0..ns::f(int)+8"), Ok(Some(Until::Offset(8))));
        assert_eq!(until("*0x1000..*0x1040"), Ok(Some(Until::Address(0x1040))));
        assert_eq!(until("libc!*0x1000..*0x1040"), Ok(Some(Until::Address(0x1040))));
        assert_eq!(until("printf(char const*, ...)"), Ok(None));
        for text in [
            "main+4..main+4",
            "main+8..main+4",
            "main+0..other+9",
            "main+0..main",
            "main+0..",
            "main+0..*0x1000",
            "*0x1000..*0x1000",
            "*0x1000..0x2000",
            "*0x1000..",
        ] {
            assert!(matches!(Pattern::parse(text), Err(PatternError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        for text in [
            "",
            "libc!",
            "*0x",
            "*0xzz",
            "*0x+5",
            "*0x11112222333344445",
            "main+0x",
            "main+9z",
            "@V",
            "main+99999999999999999999",
        ] {
            assert!(matches!(Pattern::parse(text), Err(PatternError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn an_exclamation_mark_of_cpp_is_no_module() {
        assert!(Pattern::parse("operator!=").is_ok_and(|p| p.module.is_none()));
        assert!(Pattern::parse("ns::operator!").is_ok_and(|p| p.module.is_none()));
        assert!(Pattern::parse("str[!a]*").is_ok_and(|p| p.module.is_none()));
    }

    #[test]
    fn the_identifier_to_look_for_is_one_that_is_spelled_out() {
        assert_eq!(required_identifier("std::vector*::push_back").as_deref(), Some("push_back"));
        assert_eq!(required_identifier("std::string::size()").as_deref(), Some("size"));
        assert_eq!(required_identifier("llvm::Module*::*(int)").as_deref(), Some("llvm"));
        assert_eq!(required_identifier("std::*"), None);
    }
}
