//! Where functions begin and end according to the unwind tables: all there is in stripped programs.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, CommonInformationEntry, EhFrame, EhFrameHdr, Encoding, EndianSlice,
    FrameDescriptionEntry, LittleEndian, Pointer, RegisterRule, UnwindContext, UnwindSection, UnwindTableRow,
    X86_64,
};

use crate::LinkAddr;
use crate::addr::find_range;
use crate::dwarf::{BinaryOp, Value, unwind_value};
use crate::elf::bytes::Bytes;
use crate::elf::layout::Layout;
use crate::elf::tables::Part;

type Table<'a> = EhFrame<EndianSlice<'a, LittleEndian>>;
type Described<'a> = FrameDescriptionEntry<EndianSlice<'a, LittleEndian>>;
type Row = UnwindTableRow<usize>;

/// How to find the caller of the code at some place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CallerRule {
    /// What the stack pointer is in the caller, behind its call: the canonical frame address.
    pub frame: Value,
    /// Where it goes on. [`Saved::Unknown`] in the outermost function of a thread.
    pub return_address: Saved,
    /// What `rbp` is there.
    pub rbp: Saved,
}

/// Where a register of the caller is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Saved {
    /// It is what it was.
    Unchanged,
    /// In memory, so many bytes from the canonical frame address.
    Beside(i64),
    /// In memory at this address.
    At(Value),
    /// It is not told.
    Unknown,
}

fn canonical(table: &Table<'_>, encoding: Encoding, row: &Row) -> Option<Value> {
    match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } if register.0 < 16 => Some(Value::Binary(
            BinaryOp::Plus,
            Value::Register(register.0 as u8).into(),
            Value::Constant(*offset as u64).into(),
        )),
        CfaRule::RegisterAndOffset { .. } => None,
        CfaRule::Expression(expression) => unwind_value(expression.get(table).ok()?, encoding),
    }
}

/// `.eh_frame`, read when first asked.
pub(crate) struct Unwind {
    eh_frame: Part,
    at: LinkAddr,
    text: Vec<Range<LinkAddr>>,
    plt: Vec<Range<LinkAddr>>,
    ranges: OnceLock<Vec<Range<LinkAddr>>>,
    /// Where the description of each range is in the table, ascending by where the range begins.
    offsets: OnceLock<Vec<(LinkAddr, usize)>>,
}

impl Unwind {
    /// Finds the table by its section, or else through the header that `PT_GNU_EH_FRAME` names.
    /// `part` keeps its bytes.
    pub(crate) fn find<'a>(layout: &Layout<'a>, part: &dyn Fn(Bytes<'a>) -> Part) -> Unwind {
        let section = layout.section(".eh_frame").filter(|s| s.bytes.len() > 0);
        let found = section.map(|s| (LinkAddr(s.addr), s.bytes)).or_else(|| {
            let at = eh_frame_of_header(layout)?;
            Some((at, layout.from(at)?))
        });
        let (at, bytes) = found.unwrap_or((LinkAddr(0), Bytes::empty()));
        let (text, plt) = (layout.text.clone(), layout.plt.clone());
        Unwind { eh_frame: part(bytes), at, text, plt, ranges: OnceLock::new(), offsets: OnceLock::new() }
    }

    fn bases(&self) -> BaseAddresses {
        let text = self.text.first().map_or(0, |r| r.start.0);
        BaseAddresses::default().set_eh_frame(self.at.0).set_text(text)
    }

    /// What the stack pointer was before the call of the function at `pc`: the canonical frame address.
    pub(crate) fn frame_address(&self, pc: LinkAddr) -> Option<Value> {
        self.row(pc, canonical)
    }

    /// How to find the caller of the code at `pc`.
    pub(crate) fn caller(&self, pc: LinkAddr) -> Option<CallerRule> {
        self.row(pc, |table, encoding, row| {
            let frame = canonical(table, encoding, row)?;
            let saved = |register| match row.register(register) {
                Some(RegisterRule::SameValue) => Saved::Unchanged,
                Some(RegisterRule::Offset(offset)) => Saved::Beside(offset),
                Some(RegisterRule::Expression(expression)) => {
                    let address = expression.get(table).ok().and_then(|text| unwind_value(text, encoding));
                    address.map_or(Saved::Unknown, Saved::At)
                }
                // Callees keep the register (psABI x86-64, 3.2.1).
                None if register == X86_64::RBP => Saved::Unchanged,
                _ => Saved::Unknown,
            };
            Some(CallerRule { frame, return_address: saved(X86_64::RA), rbp: saved(X86_64::RBP) })
        })
    }

    /// Shows `look` the row of the table for `pc`.
    fn row<T>(&self, pc: LinkAddr, look: impl FnOnce(&Table<'_>, Encoding, &Row) -> Option<T>) -> Option<T> {
        let offsets = self.offsets.get_or_init(|| self.find_offsets());
        let index = offsets.partition_point(|(start, _)| *start <= pc).checked_sub(1)?;
        let (table, bases) = (self.table(), self.bases());
        let entry = table.fde_from_offset(&bases, offsets[index].1.into(), EhFrame::cie_from_offset).ok()?;
        if !entry.contains(pc.0) {
            return None;
        }
        let mut context = UnwindContext::new();
        let row = entry.unwind_info_for_address(&table, &bases, &mut context, pc.0).ok()?;
        look(&table, entry.cie().encoding(), row)
    }

    fn table(&self) -> Table<'_> {
        EhFrame::new(self.eh_frame.bytes(), LittleEndian)
    }

    /// Shows `look` the table and each description in it.
    pub(crate) fn each<'a>(&'a self, mut look: impl FnMut(&Table<'a>, &BaseAddresses, &Described<'a>)) {
        let (table, bases) = (self.table(), self.bases());
        // Each common entry is parsed once: a long one that many refer to would cost quadratic time.
        let mut common: HashMap<usize, gimli::Result<CommonInformationEntry<_>>> = HashMap::new();
        let mut entries = table.entries(&bases);
        // A malformed entry ends the table; what came before it stands.
        while let Ok(Some(entry)) = entries.next() {
            let CieOrFde::Fde(partial) = entry else { continue };
            let parsed = partial.parse(|section, bases, offset| {
                common.entry(offset.0).or_insert_with(|| section.cie_from_offset(bases, offset)).clone()
            });
            if let Ok(entry) = parsed {
                look(&table, &bases, &entry);
            }
        }
    }

    fn find_offsets(&self) -> Vec<(LinkAddr, usize)> {
        let mut found = Vec::new();
        self.each(|_, _, entry| found.push((LinkAddr(entry.initial_address()), entry.offset())));
        found.sort_unstable();
        found
    }

    /// The ranges of code that have an unwind description, ascending; linkage stubs left out.
    pub(crate) fn ranges(&self) -> &[Range<LinkAddr>] {
        self.ranges.get_or_init(|| self.read())
    }

    fn read(&self) -> Vec<Range<LinkAddr>> {
        let mut found: Vec<Range<LinkAddr>> = Vec::new();
        self.each(|_, _, entry| {
            // That of the way back from signal handlers begins a byte early, for unwinders that look one before the
            // address they return to (glibc, sigaction.c): in the middle of some other instruction.
            if entry.is_signal_trampoline() {
                return;
            }
            let start = LinkAddr(entry.initial_address());
            let Some(hull) = find_range(&self.text, start) else { return };
            if entry.len() != 0 && find_range(&self.plt, start).is_none() {
                let end = start.span(entry.len()).end.min(hull.end);
                found.push(start..end);
            }
        });
        found.sort_unstable_by_key(|r| (r.start, r.end));
        found.dedup_by_key(|r| r.start);
        found
    }
}

fn eh_frame_of_header(layout: &Layout<'_>) -> Option<LinkAddr> {
    let at = layout.eh_frame_hdr?;
    let bytes = layout.from(at)?;
    let bases = BaseAddresses::default().set_eh_frame_hdr(at.0);
    let header: EhFrameHdr<EndianSlice<'_, LittleEndian>> = EhFrameHdr::new(bytes.data(), LittleEndian);
    match header.parse(&bases, 8).ok()?.eh_frame_ptr() {
        Pointer::Direct(address) => Some(LinkAddr(address)),
        Pointer::Indirect(_) => None,
    }
}
