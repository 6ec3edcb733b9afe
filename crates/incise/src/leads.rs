//! Where control comes in ways that code does not show: targets of jumps through tables, and where exceptions are caught.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use incise_cfg::{Cfg, EdgeKind};
use incise_image::{LinkAddr, Module};

use crate::flow::contents;
use crate::program::Program;
use crate::source::Binary;

/// From this many functions on, all of the file is parsed.
const MANY: usize = 16;

/// What is known about one module.
#[derive(Default)]
pub(crate) struct Leads {
    /// All of them, ascending, once all of the file was parsed.
    whole: OnceLock<Arc<[LinkAddr]>>,
    /// How many functions were parsed alone.
    alone: Mutex<usize>,
}

impl Clone for Leads {
    fn clone(&self) -> Leads {
        Leads { whole: self.whole.clone(), alone: Mutex::default() }
    }
}

impl Leads {
    /// Takes over what the graph of the whole file tells.
    pub(crate) fn learn(&self, cfg: &Cfg) {
        self.whole.get_or_init(|| of(cfg).into());
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
        if let Some(all) = self.whole.get() {
            return part(all);
        }
        if !jumps {
            return Vec::new();
        }
        let Some(file) = contents(module, program.pid()) else { return Vec::new() };
        let binary = Binary { path: &module.path, image: &module.image, file: &file };
        let Ok(graphs) = program.cfg_source().open(binary) else { return Vec::new() };
        let mut alone = self.alone.lock().unwrap_or_else(PoisonError::into_inner);
        *alone += 1;
        if *alone > MANY {
            let cfg = graphs.whole().ok();
            return part(self.whole.get_or_init(|| cfg.as_deref().map(of).unwrap_or_default().into()));
        }
        let entry = module.image.function_at(range.start).map_or(range.start, |function| function.addr);
        let cfg = graphs.function(entry).ok().flatten();
        cfg.as_deref().map(|cfg| part(&of(cfg))).unwrap_or_default()
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
