//! Names of types, and how they are told from expressions.

use super::{Parsed, Parser};
use crate::language::Diagnostic;
use crate::language::ast::{MemberDeclaration, StructDeclaration, Tag, TypeName};
use crate::language::lexer::Token;
use crate::language::types::Type;

/// Words that cannot be names.
const KEYWORDS: [&str; 32] = [
    "if", "else", "while", "for", "do", "switch", "case", "default", "break", "continue", "return", "static",
    "const", "volatile", "struct", "union", "enum", "class", "sizeof", "void", "bool", "char", "short",
    "int", "long", "signed", "unsigned", "float", "double", "_Bool", "unroll", "typedef",
];

/// Types that are known by name without a program: name, bytes, signed.
const FIXED: [(&str, u8, bool); 21] = [
    ("int8_t", 1, true),
    ("int16_t", 2, true),
    ("int32_t", 4, true),
    ("int64_t", 8, true),
    ("uint8_t", 1, false),
    ("uint16_t", 2, false),
    ("uint32_t", 4, false),
    ("uint64_t", 8, false),
    ("int8", 1, true),
    ("int16", 2, true),
    ("int32", 4, true),
    ("int64", 8, true),
    ("uint8", 1, false),
    ("uint16", 2, false),
    ("uint32", 4, false),
    ("uint64", 8, false),
    ("size_t", 8, false),
    ("ssize_t", 8, true),
    ("ptrdiff_t", 8, true),
    ("uintptr_t", 8, false),
    ("intptr_t", 8, true),
];

/// Most `*` in one type.
const POINTERS: u8 = 8;
/// Most dimensions of one array.
const DIMENSIONS: usize = 4;
/// Most members of one structure.
const MEMBERS: usize = 4096;

pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.contains(&word)
}

fn fixed(word: &str) -> Option<Type> {
    let (_, bytes, signed) = *FIXED.iter().find(|(name, ..)| *name == word)?;
    Some(Type::Int { bytes, signed })
}

/// Whether `word` begins a type wherever it stands.
pub(super) fn begins_type(word: &str) -> bool {
    let words = [
        "const", "volatile", "struct", "union", "enum", "class", "void", "bool", "_Bool", "char", "short",
        "int", "long", "signed", "unsigned", "float", "double",
    ];
    words.contains(&word) || fixed(word).is_some()
}

impl<'s> Parser<'s> {
    /// A type begins here, wherever the grammar allows either a type or an expression. The name of a type
    /// of the program is known by what follows it.
    pub(super) fn at_declaration(&mut self) -> bool {
        let Token::Word(word) = *self.peek() else { return false };
        if begins_type(word) || word == "static" {
            return !matches!(self.peek_at(1).0, Token::Punct("`" | "("));
        }
        if is_keyword(word) {
            return false;
        }
        let mut n = self.path_end(0);
        if matches!(self.peek_at(n).0, Token::Word(w) if !is_keyword(w)) {
            return true;
        }
        // `name *other;`, `name *other = …`: a product would do nothing.
        let stars = n;
        while matches!(self.peek_at(n).0, Token::Punct("*")) && n - stars <= POINTERS.into() {
            n += 1;
        }
        n > stars
            && matches!(self.peek_at(n).0, Token::Word(w) if !is_keyword(w))
            && matches!(self.peek_at(n + 1).0, Token::Punct(";" | "=" | "[" | ","))
    }

    /// Behind an open bracket: what follows is the type of a cast.
    pub(super) fn at_cast(&mut self) -> bool {
        let Token::Word(word) = self.peek_at(1).0 else { return false };
        if begins_type(word) {
            return !matches!(self.peek_at(2).0, Token::Punct("`"));
        }
        if is_keyword(word) {
            return false;
        }
        let end = self.path_end(1);
        let mut n = end;
        while matches!(self.peek_at(n).0, Token::Punct("*")) && n - end <= POINTERS.into() {
            n += 1;
        }
        if !matches!(self.peek_at(n).0, Token::Punct(")")) {
            return false;
        }
        let operand = match self.peek_at(n + 1).0 {
            Token::Word(word) => word == "sizeof" || !is_keyword(word),
            Token::Punct(punct) => matches!(punct, "!" | "~"),
            Token::End => false,
            _ => true,
        };
        // `(name)(x)`, `(name) - x` may be either.
        let either = matches!(self.peek_at(n + 1).0, Token::Punct("(" | "*" | "&" | "-" | "+" | "++" | "--"));
        operand || (either && (n > end || word.ends_with("_t")))
    }

    /// How many tokens ahead the path `A::B::C` ends that begins `n` tokens ahead.
    fn path_end(&mut self, n: usize) -> usize {
        let mut end = n + 1;
        while end < n + 32
            && matches!(self.peek_at(end).0, Token::Punct("::"))
            && matches!(self.peek_at(end + 1).0, Token::Word(_))
        {
            end += 2;
        }
        end
    }

    /// A type as in a cast: with its pointers, without arrays.
    pub(super) fn type_name(&mut self) -> Parsed<TypeName> {
        let start = self.span();
        let base = self.base_type()?;
        let pointers = self.pointers()?;
        Ok(TypeName { base, pointers, arrays: Vec::new(), span: self.since(start) })
    }

    pub(super) fn pointers(&mut self) -> Parsed<u8> {
        let mut pointers = 0;
        while self.is("*") {
            let span = self.take().1;
            pointers += 1;
            if pointers > POINTERS {
                return Err(Diagnostic::error(span, format!("more than {POINTERS} levels of pointers")));
            }
            while self.eat_word("const") || self.eat_word("volatile") {}
        }
        Ok(pointers)
    }

    pub(super) fn arrays(&mut self) -> Parsed<Vec<Option<crate::language::ast::Expr>>> {
        let mut arrays = Vec::new();
        while self.is("[") {
            let open = self.take().1;
            if arrays.len() == DIMENSIONS {
                return Err(Diagnostic::error(open, format!("more than {DIMENSIONS} dimensions")));
            }
            let length = if self.is("]") { None } else { Some(self.deeper(|p| p.assignment())?) };
            self.close("]", open)?;
            arrays.push(length);
        }
        Ok(arrays)
    }

    /// A type without pointers: words of C in any order, a tag and a name, or the name of a type.
    pub(super) fn base_type(&mut self) -> Parsed<Type> {
        let start = self.span();
        while self.eat_word("const") || self.eat_word("volatile") {}
        let (word, _) = self.word("a type")?;
        let base = match word {
            "struct" | "class" => named(Some(Tag::Struct), &self.type_path()?),
            "union" => named(Some(Tag::Union), &self.type_path()?),
            "enum" => named(Some(Tag::Enum), &self.type_path()?),
            word if fixed(word).is_some() => fixed(word).unwrap_or(Type::Void),
            word if begins_type(word) => {
                let mut words = vec![word];
                while let Token::Word(next) = *self.peek() {
                    if !begins_type(next) || fixed(next).is_some() {
                        break;
                    }
                    self.take();
                    words.push(next);
                }
                words.retain(|word| !matches!(*word, "const" | "volatile"));
                let Some(base) = of_words(&words) else {
                    let message = format!("`{}` is no type", words.join(" "));
                    return Err(Diagnostic::error(self.since(start), message));
                };
                base
            }
            word if is_keyword(word) => {
                return Err(Diagnostic::error(start, format!("a type is expected here, not `{word}`")));
            }
            word => named(None, &self.rest_of_path(word)?),
        };
        while self.eat_word("const") || self.eat_word("volatile") {}
        Ok(base)
    }

    /// A name behind `struct`; between quotes if it is no plain one: `struct "std::vector<int>"`.
    fn type_path(&mut self) -> Parsed<String> {
        if let Token::Str(text) = self.peek() {
            let text = String::from_utf8_lossy(text).into_owned();
            self.take();
            return Ok(text);
        }
        let (word, _) = self.name("the name of a type")?;
        self.rest_of_path(word)
    }

    pub(super) fn rest_of_path(&mut self, first: &str) -> Parsed<String> {
        let mut path = first.to_owned();
        while self.eat("::") {
            let (word, _) = self.word("a name")?;
            path.push_str("::");
            path.push_str(word);
        }
        Ok(path)
    }

    /// `struct NAME { TYPE MEMBER; … };` of a script.
    pub(super) fn struct_declaration(&mut self) -> Parsed<StructDeclaration> {
        let start = self.span();
        let union = self.is_word("union");
        self.take();
        let (name, _) = self.name("the name of the structure")?;
        let open = self.expect("{")?;
        let mut members = Vec::new();
        while !self.is("}") {
            let base_start = self.span();
            let base = self.base_type()?;
            loop {
                let pointers = self.pointers()?;
                let (member, span) = self.name("the name of a member")?;
                let arrays = self.arrays()?;
                let bits = if self.eat(":") {
                    let width = self.take();
                    match width {
                        (Token::Int(bits @ 1..=64, ..), _) => Some(bits as u32),
                        (_, span) => {
                            return Err(Diagnostic::error(span, "a width of 1 to 64 bits is expected here"));
                        }
                    }
                } else {
                    None
                };
                let ty = TypeName { base: base.clone(), pointers, arrays, span: base_start };
                members.push(MemberDeclaration { ty, name: member.to_owned(), bits, span });
                if members.len() > MEMBERS {
                    return Err(Diagnostic::error(span, format!("more than {MEMBERS} members")));
                }
                if !self.eat(",") {
                    break;
                }
            }
            self.expect(";")?;
        }
        self.close("}", open)?;
        self.eat(";");
        Ok(StructDeclaration { name: name.to_owned(), union, members, span: self.since(start) })
    }
}

/// A type that is looked up by its name.
fn named(tag: Option<Tag>, name: &str) -> Type {
    Type::Named(tag, name.into())
}

/// The type that words of C mean, in any order.
fn of_words(words: &[&str]) -> Option<Type> {
    let count = |word: &str| words.iter().filter(|w| **w == word).count();
    let only = |allowed: &[&str]| words.iter().all(|word| allowed.contains(word));
    let unsigned = count("unsigned") > 0;
    if count("unsigned") + count("signed") > 1 {
        return None;
    }
    let int = |bytes| Some(Type::Int { bytes, signed: !unsigned });
    match words {
        ["void"] => Some(Type::Void),
        ["bool" | "_Bool"] => Some(Type::Bool),
        ["float"] => Some(Type::Float),
        ["double"] => Some(Type::Double),
        _ if count("char") == 1 && only(&["char", "signed", "unsigned"]) => int(1),
        _ if count("short") == 1 && count("int") <= 1 && only(&["short", "int", "signed", "unsigned"]) => {
            int(2)
        }
        _ if matches!(count("long"), 1 | 2)
            && count("int") <= 1
            && only(&["long", "int", "signed", "unsigned"]) =>
        {
            int(8)
        }
        _ if count("int") <= 1 && !words.is_empty() && only(&["int", "signed", "unsigned"]) => int(4),
        _ => None,
    }
}
