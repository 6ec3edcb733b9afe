//! Where control comes in ways that code does not show: targets of jumps through tables, and where exceptions are caught.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use incise_cfg::{Cfg, EdgeKind};
use incise_image::{LinkAddr, Module};

use crate::flow::contents;
use crate::program::Program;
use crate::source::Binary;

/// From this many functions on, all of the file is parsed.
const MANY: usize = 16;

/// What is known about the file of one module. Clones share it, as files are read and parsed for it.
#[derive(Clone, Default)]
pub(crate) struct Leads(Arc<Known>);

#[derive(Default)]
struct Known {
    /// All of them, ascending, once all of the file was parsed.
    whole: OnceLock<Vec<LinkAddr>>,
    /// Those in functions that were parsed alone, by entry.
    alone: Mutex<BTreeMap<LinkAddr, Vec<LinkAddr>>>,
}

impl Leads {
    /// Takes over what the graph of the whole file tells.
    pub(crate) fn learn(&self, cfg: &Cfg) {
        self.0.whole.get_or_init(|| of(cfg));
    }

    /// Those in `range`. Files are only parsed if there are indirect `jumps`.
    pub(crate) fn within(
        &self,
        program: &Program,
        module: &Module,
        range: Range<LinkAddr>,
        jumps: bool,
    ) -> Vec<LinkAddr> {
        let part = |all: &[LinkAddr]| {
            let from = all.partition_point(|at| *at < range.start);
            all[from..].iter().take_while(|at| **at < range.end).copied().collect()
        };
        if let Some(all) = self.0.whole.get() {
            return part(all);
        }
        if !jumps {
            return Vec::new();
        }
        let entry = module.image.function_at(range.start).map_or(range.start, |function| function.addr);
        let mut alone = self.0.alone.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_function) = alone.get(&entry) {
            return part(of_function);
        }
        let Some(file) = contents(module, program.pid()) else { return Vec::new() };
        let binary = Binary { path: &module.path, image: &module.image, file: &file };
        let Ok(graphs) = program.cfg_source().open(binary) else { return Vec::new() };
        if alone.len() >= MANY {
            let cfg = graphs.whole().ok();
            return part(self.0.whole.get_or_init(|| cfg.as_deref().map(of).unwrap_or_default()));
        }
        let cfg = graphs.function(entry).ok().flatten();
        part(alone.entry(entry).or_insert(cfg.as_deref().map(of).unwrap_or_default()))
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
