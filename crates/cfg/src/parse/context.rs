//! What is known before any code is read: entries, unwind ranges, linkage stubs.

use rustc_hash::FxHashMap;

use incise_image::{Image, LinkAddr, SlotTarget};

use crate::ParseError;
use crate::parse::code::{Code, NONE, Off};
use crate::parse::go;
use crate::parse::noreturn;
use crate::parse::unwind::Unwind;

/// Why an address is taken for a function's entry.
pub(crate) mod source {
    /// A symbol.
    pub const SYMBOL: u8 = 1;
    /// An unwind description.
    pub const UNWIND: u8 = 2;
    /// The file's header or its table of initialisers.
    pub const FILE: u8 = 4;
    /// It is called, or jumped to as a function is.
    pub const CALLED: u8 = 8;
    /// It lies where nothing else is, and looks like one.
    pub const GAP: u8 = 16;
    /// An entry of a procedure linkage table.
    pub const STUB: u8 = 32;
}

/// The facts a traversal needs about the program around it.
pub(crate) struct Context<'a> {
    pub code: Code<'a>,
    pub unwind: Unwind,
    /// Slots that the loader fills with an imported function, by link address.
    slots: FxHashMap<u64, (u32, Option<Off>)>,
    plt: Vec<std::ops::Range<Off>>,
    /// The functions that Go's runtime knows.
    go: Vec<Off>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(image: &'a Image, file: &'a [u8]) -> Result<Context<'a>, ParseError> {
        let code = Code::new(image, file)?;
        let unwind = Unwind::read(&code);
        let mut slots = FxHashMap::default();
        for slot in image.slots() {
            if let SlotTarget::Import(index) = slot.target {
                // Bound lazily, it leads back into its own linkage stub first.
                let stub = image.plt().iter().any(|r| r.contains(&LinkAddr(slot.initial)));
                slots.insert(slot.at.0, (index, code.offset(slot.initial).filter(|_| stub)));
            }
        }
        let plt = image
            .plt()
            .iter()
            .filter_map(|r| Some(code.offset(r.start.0)?..code.offset(r.end.0.checked_sub(1)?)? + 1))
            .collect();
        let go = go::functions(&code);
        Ok(Context { code, unwind, slots, plt, go })
    }

    /// The import whose address the loader writes to `slot`, and where the slot leads before. The import is
    /// [`NONE`] for a function that is defined here, but bound by name.
    pub(crate) fn import_at(&self, slot: u64) -> Option<(u32, Option<Off>)> {
        if let Some(&known) = self.slots.get(&slot) {
            return Some(known);
        }
        let initial = self.code.data(slot, 8)?.first_chunk::<8>().map(|b| u64::from_le_bytes(*b))?;
        let first = self.code.offset(initial).filter(|&at| self.in_plt(at))?;
        Some((NONE, Some(first)))
    }

    /// For each import, whether it may return.
    pub(crate) fn imports_that_return(&self) -> Vec<bool> {
        self.code.image.imports().map(|name| !noreturn::by_name(name)).collect()
    }

    pub(crate) fn in_plt(&self, at: Off) -> bool {
        self.plt.iter().any(|r| r.contains(&at))
    }

    /// Whether `at` is the entry of a procedure linkage table that hands over to the dynamic linker: it
    /// begins with a `push` of a slot.
    pub(crate) fn is_lazy_entry(&self, at: Off) -> bool {
        self.in_plt(at) && self.code.bytes(at).starts_with(&[0xff, 0x35])
    }

    /// Whether the file tells all its functions, so that code outside of them is none.
    pub(crate) fn is_told(&self) -> bool {
        !self.go.is_empty()
    }

    /// Whether it is a program of Go.
    pub(crate) fn is_go(&self) -> bool {
        self.code.image.sections().iter().any(|s| matches!(&*s.name, ".gopclntab" | ".go.buildinfo"))
    }

    /// The entries the file itself names, ascending, with their [`source`].
    pub(crate) fn entries(&self) -> Vec<(Off, u8)> {
        let (code, image) = (&self.code, self.code.image);
        let mut found: Vec<(Off, u8)> = Vec::new();
        let mut parts: Vec<Off> = Vec::new();
        for function in image.functions() {
            let Some(at) = code.offset(function.addr.0) else { continue };
            if function.label {
                continue;
            }
            // `f.cold` is the rarely run part of `f`, not a function.
            if image.names(function).all(|name| is_part(name.text)) {
                parts.push(at);
            } else {
                found.push((at, source::SYMBOL));
            }
        }
        parts.sort_unstable();
        for fde in self.unwind.all() {
            if !fde.part && parts.binary_search(&fde.start).is_err() && !self.in_plt(fde.start) {
                found.push((fde.start, source::UNWIND));
            }
        }
        found.extend(self.go.iter().map(|&at| (at, source::FILE)));
        found.extend(self.initialisers().into_iter().map(|at| (at, source::FILE)));
        found.extend(self.stubs().into_iter().map(|at| (at, source::STUB)));
        found.sort_unstable();
        found.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 |= next.1;
            }
            same
        });
        found
    }

    /// The entry point, `.init` and `.fini`, and what the tables of initialisers point to.
    fn initialisers(&self) -> Vec<Off> {
        let image = self.code.image;
        let mut found: Vec<u64> = image.entry().map(|at| at.0).into_iter().collect();
        for section in image.sections() {
            match &*section.name {
                ".init" | ".fini" => found.push(section.link.0),
                ".init_array" | ".fini_array" | ".preinit_array" => {
                    let slots = (0..section.size / 8).map(|index| section.link + index * 8);
                    found.extend(slots.filter_map(|LinkAddr(at)| self.code.pointer(at)));
                }
                _ => {}
            }
        }
        found.into_iter().filter_map(|at| self.code.offset(at)).collect()
    }

    /// Entries of procedure linkage tables, which are 16 bytes each but for `.plt.got` without `endbr64`.
    fn stubs(&self) -> Vec<Off> {
        let mut found = Vec::new();
        for range in &self.plt {
            let mut at = range.start;
            while at < range.end {
                let step = if self.code.bytes(at).starts_with(&[0xff, 0x25])
                    && self.code.bytes(at).get(6..8) == Some(&[0x66, 0x90])
                {
                    8
                } else {
                    16
                };
                found.push(at);
                at += step;
            }
        }
        found
    }
}

/// Whether a symbol names a part of a function that a compiler split off.
fn is_part(name: &str) -> bool {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let stem = stem.strip_suffix('.').filter(|_| stem.len() < name.len()).unwrap_or(name);
    stem.ends_with(".cold") || stem.ends_with(".cold.part")
}
