//! Programs from text, at points of a session.
//!
//! ```
//! use incise::{Query, Session};
//!
//! let session = Session::own()?;
//! let mut language = session.language();
//! let mut batch = session.batch();
//! for point in &session.find(Query::functions("libc!malloc"))? {
//!     batch.push_back(point, &language.program("if (arg0 > 1000) @large = count();", point)?);
//! }
//! batch.commit()?;
//! let _more = Box::new([0u8; 4096]);
//! session.remove_all()?;
//! assert!(language.print("large").is_some_and(|text| text.starts_with("@large: ")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::cell::RefCell;

use incise_patch::Snippet;
use incise_snippet::data::tables::ring_layout;
use incise_snippet::data::{RingLayout, RingReader, walk};
use incise_snippet::language::{
    Action, Compiler, Diagnostic, Diagnostics, Span, parse_expression, parse_snippet,
};
use incise_snippet::show::{entries, print_map};
use incise_snippet::tree::{Block, Program as Tree};
use incise_space::AddressSpace;
use incise_space::remote::RemoteSpace;

use super::{Compiled, MapContents};
use crate::point::Point;
use crate::script::{Frames, Names, PointScope, ScriptError, Shared, Texts, place_of, shown};
use crate::session::{Error, Session};

/// What snippets in text have in common: maps, `static` variables, what they print. Made by [`Session::language`].
pub struct Language<S: AddressSpace> {
    session: Session<S>,
    compiler: Compiler,
    shared: Shared,
    reader: Option<(RingLayout, RingReader)>,
    symbols: Names,
    /// Texts that functions of the program are given.
    texts: RefCell<Option<Texts>>,
    frames: Frames,
}

/// Records each CPU has room for.
const RECORDS: usize = 1 << 10;
/// Keys each map has room for.
const KEYS: u32 = 1 << 12;

impl<S: AddressSpace> Session<S> {
    /// A compiler of snippets in text, with maps of its own.
    pub fn language(&self) -> Language<S> {
        Language {
            session: self.clone(),
            compiler: Compiler::default(),
            shared: Shared::new(RECORDS, KEYS),
            reader: None,
            symbols: Names::default(),
            texts: RefCell::new(None),
            frames: Frames::new(walk::SPARE),
        }
    }

    /// Compiles a snippet in text for a point: statements as between the braces of a script's clause.
    ///
    /// # Errors
    /// [`Error::Script`] with the place underlined, if the text is wrong; [`Error::Compile`].
    pub fn program_text(&self, text: &str, point: &Point) -> Result<Compiled, Error> {
        self.language().program(text, point)
    }
}

impl Language<RemoteSpace> {
    /// Makes room in the process for texts that its functions are given; it is gone when the space is left.
    pub(crate) fn make_room_for_texts(&mut self) -> Result<(), Error> {
        self.texts = RefCell::new(Some(self.session.with_space(Texts::new)?));
        Ok(())
    }
}

impl<S: AddressSpace> Language<S> {
    /// Compiles a snippet in text for a point.
    ///
    /// # Errors
    /// [`Error::Script`] with the place underlined, if the text is wrong; [`Error::Compile`].
    pub fn program(&mut self, text: &str, point: &Point) -> Result<Compiled, Error> {
        let tree = self.tree(text, point)?;
        self.session.program(&tree)
    }

    /// The snippet that runs `then` only where the condition `text` holds at a point.
    ///
    /// # Errors
    /// As for [`program`](Self::program); also if `then` cannot be guarded (see [`Compiled::guard`]).
    pub fn guard(&mut self, text: &str, point: &Point, then: impl Into<Snippet>) -> Result<Snippet, Error> {
        let syntax = parse_expression("condition", text).map_err(ScriptError::Source)?;
        let tree =
            self.at(point, false, |compiler, scope| compiler.condition("condition", text, &syntax, scope))?;
        let guarded = self.session.program(&tree)?.guard(then);
        guarded.ok_or_else(|| {
            let mut wrong = Diagnostics::new("condition", text);
            let whole = Span::new(0, text.len());
            wrong.push(Diagnostic::error(whole, "this kind of snippet cannot depend on a condition"));
            ScriptError::Source(wrong).into()
        })
    }

    /// The tree of a snippet in text.
    ///
    /// # Errors
    /// [`Error::Script`].
    pub fn tree(&mut self, text: &str, point: &Point) -> Result<Tree, Error> {
        self.statements(text, point, false)
    }

    fn statements(&mut self, text: &str, point: &Point, anywhere: bool) -> Result<Tree, Error> {
        let syntax = parse_snippet("snippet", text).map_err(ScriptError::Source)?;
        self.at(point, anywhere, |compiler, scope| compiler.snippet("snippet", text, &syntax, scope))
    }

    /// The tree of an expression that is printed, or of statements, for a thread that stands at `point` by chance: names of the program
    /// come before those of a library it is in.
    ///
    /// # Errors
    /// [`Error::Script`].
    pub fn evaluation(&mut self, text: &str, point: &Point) -> Result<Tree, Error> {
        let Ok(syntax) = parse_expression("text", text) else { return self.statements(text, point, true) };
        let printed = self.at(point, true, |compiler, scope| compiler.print("text", text, &syntax, scope));
        // What has no value is a statement all the same.
        printed.or_else(|error| self.statements(&format!("{text};"), point, true).map_err(|_| error))
    }

    /// `anywhere`: the point is where a thread happens to be.
    fn at(
        &mut self,
        point: &Point,
        anywhere: bool,
        compile: impl FnOnce(&mut Compiler, &PointScope<'_>) -> Result<Tree, Diagnostics>,
    ) -> Result<Tree, Error> {
        self.follow_modules()?;
        let (compiler, shared, symbols) = (&mut self.compiler, &self.shared, &mut self.symbols);
        let texts = self.texts.borrow().is_some().then_some(&self.texts);
        let frames = &self.frames;
        self.session.with_program(|program, memory| {
            symbols.set(program.modules());
            let place = place_of(point);
            let scope = PointScope { shared, point, program, memory, place, frames, texts, anywhere };
            Ok(compile(compiler, &scope).map_err(ScriptError::Source)?)
        })
    }

    /// Lets stacks be walked through libraries that were loaded since the last snippet was compiled, which does the same.
    ///
    /// # Errors
    /// If the program cannot be looked at.
    pub fn follow_modules(&self) -> Result<(), Error> {
        let outdated = self.session.with_program(|program, _| Ok(self.frames.outdated(program)))?;
        if let Some((table, rows)) = outdated {
            // Those left out are of what came last: stacks end there.
            self.session.data(&table).with(|words| walk::refill(words, rows.into_iter()));
        }
        Ok(())
    }

    /// The table by which programs walk stacks ([`Expr::stack_by`](incise_snippet::tree::Expr::stack_by)).
    ///
    /// # Errors
    /// If the program cannot be looked at.
    pub fn stack_table(&self) -> Result<Block, Error> {
        self.follow_modules()?;
        self.session.with_program(|program, _| Ok(self.frames.table(program)))
    }

    /// What a map holds, by its name without `@`.
    pub fn map(&self, name: &str) -> Option<MapContents> {
        let info = self.compiler.output().maps.iter().find(|info| info.name == name)?;
        Some(self.session.map(&info.map))
    }

    /// Forgets what a map holds.
    pub fn clear(&self, name: &str) {
        if let Some(info) = self.compiler.output().maps.iter().find(|info| info.name == name) {
            self.session.clear_map(&info.map);
        }
    }

    /// A map as `print` shows it.
    pub fn print(&self, name: &str) -> Option<String> {
        let info = self.compiler.output().maps.iter().find(|info| info.name == name)?;
        let contents = self.session.map(&info.map);
        let entries = entries(info, contents.aggregate, &contents.words);
        let symbols = |at: u64| self.symbols.name(at);
        Some(print_map(info, contents.aggregate, &entries, None, None, &symbols))
    }

    /// Takes what snippets have printed so far, in the order of each CPU.
    pub fn printed(&mut self) -> Vec<String> {
        let mut texts = Vec::new();
        let Some(ring) = self.shared.ring.get() else { return texts };
        let data = self.session.data(ring.block());
        let Some(layout) = ring_layout(ring) else { return texts };
        let mut records: Vec<Box<[u64]>> = Vec::new();
        data.with(|words| {
            let (_, reader) = self.reader.get_or_insert_with(|| (layout, RingReader::new(layout, words)));
            reader.drain(words, 0, &mut |record| records.push(record.into()));
        });
        records.sort_by_key(|record| record[1]);
        let symbols = |at: u64| self.symbols.name(at);
        for record in records {
            let Some(info) = self.compiler.output().records.get(record[0] as u16 as usize) else { continue };
            if let (Some(text), _) = shown(info, &record[incise_snippet::data::tables::HEADER..], &symbols) {
                texts.push(text);
            } else if let Action::Print { map, .. } = &info.action
                && let Some(info) = self.compiler.output().maps.get(*map)
                && let Some(text) = self.print(&info.name)
            {
                texts.push(text);
            }
        }
        texts
    }

    /// How many records found no room.
    pub fn dropped(&self) -> u64 {
        let Some((ring, (_, reader))) = self.shared.ring.get().zip(self.reader.as_ref()) else { return 0 };
        self.session.data(ring.block()).with(|words| reader.dropped(words))
    }
}
