//! A program and its arguments in one word, as `-c` takes them.

/// Splits at spaces, as a shell does: quotes keep a word together, a backslash the letter behind it. Nothing is expanded.
///
/// # Errors
/// What is not closed.
pub(super) fn words(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(letters.next()),
            (None, _) if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    if let Some(open) = quote {
        return Err(format!("-c: the quote {open} has no end in {text}"));
    }
    words.extend(word);
    if words.is_empty() { Err("-c: a program is expected".to_owned()) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_those_of_a_shell() {
        let of = |text: &str| words(text).expect("words").join("|");
        assert_eq!(of("  ls -l /usr  "), "ls|-l|/usr");
        assert_eq!(of(r#"sh -c "echo 'a b'; exit \"1\"" '' x\ y"#), r#"sh|-c|echo 'a b'; exit "1"||x y"#);
        assert!(words("sh 'a").is_err() && words(" ").is_err());
    }
}
