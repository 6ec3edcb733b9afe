//! A program with a few names, and what snippets become in it.

use std::cell::RefCell;

use incise_isa::Addr;
use incise_snippet::language::ast::{Domain, Place, Tag};
use incise_snippet::language::{
    Compiler, Function, Home, Member, PointInfo, ProgramVariable, Scope, Structure, Type, parse_snippet,
};
use incise_snippet::tree::{self, Aggregate, Block, Callee, Constant, Map, Program, Ring};

/// A program with a few names.
pub(crate) struct Names {
    place: Option<Place>,
    texts: RefCell<u64>,
    ring: Ring,
}

pub(crate) fn names(place: Option<Place>) -> Names {
    Names { place, texts: RefCell::new(0x5000), ring: Ring::new(4096, Block::new(4096, 64, Vec::new())) }
}

fn pointer(address: u64) -> tree::Expr {
    Constant::new(tree::Type::Pointer, address).into()
}

fn node() -> Type {
    let next = Type::Named(Some(Tag::Struct), "node".into()).pointer();
    let member = |name: &str, ty, offset, bits| Member { name: name.to_owned(), ty, offset, bits };
    let members = vec![
        member("value", Type::INT, 0, None),
        member("flag", Type::Int { bytes: 4, signed: false }, 4, Some((3, 2))),
        member("next", next, 8, None),
        member("name", Type::Array(Type::CHAR.into(), 16), 16, None),
    ];
    Type::Structure(Structure { name: "node".to_owned(), tag: Tag::Struct, size: 32, members }.into())
}

impl Scope for Names {
    fn point(&self) -> Option<PointInfo> {
        let place = self.place?;
        let (function, module, probe) =
            ("step".to_owned(), "prog".to_owned(), "function:prog:step".to_owned());
        Some(PointInfo { function, module, probe, place })
    }

    fn function(&self, name: &str) -> Option<Function> {
        let at = match name {
            "printf" => 0x1000,
            "strlen" => 0x2000,
            _ => return None,
        };
        let mut callee = Callee::new(name, Addr(at));
        callee.variadic = name == "printf";
        Some(Function { callee, returns: if name == "printf" { Type::INT } else { Type::UNSIGNED_LONG } })
    }

    fn variable(&self, domain: Domain, name: &str) -> Result<Option<ProgramVariable>, String> {
        let memory = |ty, at| Ok(Some(ProgramVariable { ty, home: Home::Memory(pointer(at)) }));
        match (domain, name) {
            (Domain::Global, "x") => memory(Type::INT, 0x100),
            (Domain::Global, "head") => {
                memory(Type::Named(Some(Tag::Struct), "node".into()).pointer(), 0x108)
            }
            (Domain::Global, "table") => memory(Type::Array(Type::LONG.into(), 4), 0x200),
            (Domain::Default, "lost") => Err("it is optimized out".to_owned()),
            _ => Ok(None),
        }
    }

    fn named_type(&self, tag: Option<Tag>, name: &str) -> Option<Type> {
        (name == "node" && tag != Some(Tag::Union)).then(node)
    }

    fn suggest(&self, name: &str) -> Vec<String> {
        if name == "haed" { vec!["head".to_owned()] } else { Vec::new() }
    }

    fn text(&self, text: &[u8]) -> Option<tree::Expr> {
        let at = self.texts.replace_with(|at| *at + text.len() as u64 + 1);
        Some(pointer(at))
    }

    fn map(&self, name: &str, keys: &[tree::Type], aggregate: &Aggregate) -> Option<Map> {
        Some(Map::new(name, keys.to_vec(), aggregate.clone(), 1024, Block::new(4096, 64, Vec::new())))
    }

    fn ring(&self) -> Option<Ring> {
        Some(self.ring.clone())
    }
}

pub(crate) fn try_snippet(source: &str, place: Place) -> Result<Program, String> {
    let body = parse_snippet("test", source).map_err(|errors| errors.to_string())?;
    let scope = names(Some(place));
    Compiler::default().snippet("test", source, &body, &scope).map_err(|errors| errors.to_string())
}

pub(crate) fn snippet(source: &str) -> String {
    try_snippet(source, Place::Entry).unwrap_or_else(|error| panic!("{source}\n{error}")).to_string()
}

pub(crate) fn refused(source: &str) -> String {
    match try_snippet(source, Place::Entry) {
        Ok(program) => panic!("{source}\nwas taken:\n{program}"),
        Err(error) => error,
    }
}
