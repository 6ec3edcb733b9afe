//! Where control comes in ways that code does not show: targets of jumps through tables, and where exceptions are caught; and whether
//! flags are handed over with it.

use std::fs;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use incise_cfg::{Cfg, EdgeKind, hands_flags_over};
use incise_image::{Image, LinkAddr, Module};
use rustc_hash::FxHashMap;

use crate::flow::contents;
use crate::program::Program;
use crate::source::Binary;

/// The largest file, in bytes, that is read to find out whether flags are handed over in it, if it was not parsed.
const LOOKED_THROUGH: u64 = 8 << 20;

/// So often files are read for some of their functions; then all is parsed.
const READINGS: usize = 16;

/// All is parsed where more than one in so many functions would be.
const SHARE: usize = 4;

/// Where code lies, and whether there are indirect jumps in it.
pub(crate) type Asked = (Range<LinkAddr>, bool);

/// What is known about the file of one module. Clones share it, as files are read and parsed for it.
#[derive(Clone, Default)]
pub(crate) struct Leads(Arc<Known>);

#[derive(Default)]
struct Known {
    /// All of them, ascending, once all of the file was parsed.
    whole: OnceLock<Vec<LinkAddr>>,
    alone: Mutex<Alone>,
    /// Whether calls and returns hand flags over, once it was looked at.
    flags: OnceLock<bool>,
}

#[derive(Default)]
struct Alone {
    /// Those in functions that were parsed alone, by entry.
    by_entry: FxHashMap<LinkAddr, Vec<LinkAddr>>,
    /// How often the file was read for them.
    readings: usize,
}

impl Leads {
    /// Takes over what the graph of the whole file tells.
    pub(crate) fn learn(&self, cfg: &Cfg, image: &Image, file: &[u8]) {
        self.0.whole.get_or_init(|| of(cfg));
        self.0.flags.get_or_init(|| hands_flags_over(Some(cfg), image, file));
    }

    /// Whether calls and returns in the file may hand flags over.
    pub(crate) fn hands_flags_over(&self, program: &Program, module: &Module) -> bool {
        let look = || {
            let is_small = fs::metadata(&module.path).is_ok_and(|file| file.len() <= LOOKED_THROUGH);
            let file = is_small.then(|| contents(module, program.pid())).flatten();
            file.is_none_or(|file| hands_flags_over(None, &module.image, &file))
        };
        *self.0.flags.get_or_init(look)
    }

    /// Those in each range that is asked for. The file is only read for ranges with indirect jumps, once for all of them.
    pub(crate) fn within(&self, program: &Program, module: &Module, asked: &[Asked]) -> Vec<Vec<LinkAddr>> {
        let entry = |at| module.image.function_at(at).map_or(at, |function| function.addr);
        let mut alone = self.0.alone.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.whole.get().is_none() {
            let with_jumps = asked.iter().filter(|(_, jumps)| *jumps).map(|(range, _)| entry(range.start));
            let mut new: Vec<LinkAddr> =
                with_jumps.filter(|entry| !alone.by_entry.contains_key(entry)).collect();
            new.sort_unstable();
            new.dedup();
            self.find(program, module, &mut alone, &new);
        }
        let part = |all: &[LinkAddr], range: &Range<LinkAddr>| {
            let from = all.partition_point(|at| *at < range.start);
            all[from..].iter().take_while(|at| **at < range.end).copied().collect()
        };
        let whole = self.0.whole.get();
        let of = |(range, jumps): &Asked| match whole {
            Some(whole) => part(whole, range),
            None if *jumps => {
                alone.by_entry.get(&entry(range.start)).map(|all| part(all, range)).unwrap_or_default()
            }
            None => Vec::new(),
        };
        asked.iter().map(of).collect()
    }

    /// Looks at the functions that begin at `new`.
    fn find(&self, program: &Program, module: &Module, alone: &mut Alone, new: &[LinkAddr]) {
        if new.is_empty() {
            return;
        }
        alone.readings += 1;
        let Some(file) = contents(module, program.pid()) else { return };
        let binary = Binary { path: &module.path, image: &module.image, file: &file };
        let Ok(graphs) = program.cfg_source().open(binary) else { return };
        let share = (alone.by_entry.len() + new.len()) * SHARE;
        if alone.readings > READINGS || share > module.image.functions().len().max(READINGS * SHARE) {
            let cfg = graphs.whole().ok();
            self.0.whole.get_or_init(|| cfg.as_deref().map(of).unwrap_or_default());
            return;
        }
        for &entry in new {
            let cfg = graphs.function_alone(entry).ok().flatten();
            alone.by_entry.insert(entry, cfg.as_deref().map(of).unwrap_or_default());
        }
    }
}

fn of(cfg: &Cfg) -> Vec<LinkAddr> {
    let hidden = |kind| matches!(kind, EdgeKind::Indirect | EdgeKind::Catch);
    let blocks = cfg.blocks().filter(|block| block.incoming().any(|edge| hidden(edge.kind())));
    let mut leads: Vec<LinkAddr> = blocks.map(|block| block.start()).collect();
    leads.sort_unstable();
    leads.dedup();
    leads
}
