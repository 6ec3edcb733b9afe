//! The variables of a file that symbols name.

use crate::LinkAddr;

/// A variable that a symbol names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataObject<'a> {
    /// Its name, without a version.
    pub name: &'a str,
    /// Address of the first byte.
    pub addr: LinkAddr,
    /// Size in bytes, as the symbol says.
    pub size: u64,
}

/// One name of a variable.
#[derive(Clone, Copy)]
struct Entry {
    addr: u64,
    size: u64,
    start: usize,
    len: usize,
}

/// The variables and their names.
#[derive(Clone, Default)]
pub(crate) struct Objects {
    names: String,
    entries: Vec<Entry>,
}

impl Objects {
    pub(crate) fn push(&mut self, addr: LinkAddr, size: u64, name: &str) {
        let (start, len) = (self.names.len(), name.len());
        self.names.push_str(name);
        self.entries.push(Entry { addr: addr.0, size, start, len });
    }

    /// Puts them in order; a name that both symbol tables have counts once.
    pub(crate) fn order(&mut self) {
        let text = |entry: &Entry| self.names.get(entry.start..entry.start + entry.len).unwrap_or("");
        self.entries.sort_by(|a, b| (a.addr, a.size, text(a)).cmp(&(b.addr, b.size, text(b))));
        self.entries.dedup_by(|a, b| (a.addr, a.size, text(a)) == (b.addr, b.size, text(b)));
    }

    /// All names in one text.
    pub(crate) fn names(&self) -> &str {
        &self.names
    }

    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = DataObject<'_>> {
        self.entries.iter().map(|entry| self.object(entry))
    }

    /// The variable that covers `at`: of several, the one that begins last.
    pub(crate) fn at(&self, at: LinkAddr) -> Option<DataObject<'_>> {
        /// Variables inside a large one are passed over, up to so many.
        const INSIDE: usize = 64;
        let behind = self.entries.partition_point(|entry| entry.addr <= at.0);
        let covers = |entry: &&Entry| at.0 - entry.addr < entry.size.max(1);
        self.entries[..behind].iter().rev().take(INSIDE).find(covers).map(|entry| self.object(entry))
    }

    fn object(&self, entry: &Entry) -> DataObject<'_> {
        let name = self.names.get(entry.start..entry.start + entry.len).unwrap_or("");
        DataObject { name, addr: LinkAddr(entry.addr), size: entry.size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_variable_covers() {
        let mut objects = Objects::default();
        objects.push(LinkAddr(0x100), 0x40, "table");
        objects.push(LinkAddr(0x110), 4, "entry");
        objects.push(LinkAddr(0x100), 0x40, "table");
        objects.push(LinkAddr(0x150), 0, "end");
        objects.order();
        let at = |at| objects.at(LinkAddr(at)).map(|object| object.name);
        assert_eq!(objects.all().count(), 3);
        assert_eq!([at(0x100), at(0x112), at(0x114)], [Some("table"), Some("entry"), Some("table")]);
        assert_eq!([at(0xFF), at(0x140), at(0x150), at(0x151)], [None, None, Some("end"), None]);
    }
}
