//! A program as it is mapped: its modules, and what planning wants to know about its code.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use incise_cfg::Cfg;
use incise_image::{Function, Image, ImageError, LinkAddr, MemoryMap, MemoryReader, Module, modules};
use incise_isa::Addr;
use incise_patch::{Facts, Linkage};
use incise_space::{AddressSpace, SpaceError};

use crate::callback::is_machinery;
use crate::images::Images;
use crate::leads::{Asked, Leads};
use crate::source::{CfgSource, Stored};

/// No instruction of x86-64 is longer.
const LONGEST_INSN: u64 = 15;

/// The modules of a program and what is known about their code.
#[derive(Clone, Default)]
pub struct Program {
    modules: Vec<Module>,
    /// Executable ranges, ascending, with the module each belongs to.
    text: Vec<(Range<Addr>, usize)>,
    /// Ranges that must stay in place for rseq(2), ascending.
    restartable: Vec<Range<Addr>>,
    /// Where instructions begin that the dynamic linker writes to, and those that a springboard over one may rely on;
    /// ascending and apart.
    relocated: Vec<Range<Addr>>,
    /// Name of the process under /proc (`self` for the one this code runs in), if it is one.
    pid: Option<String>,
    /// By module, whether it carries the code that V8 copies; looked at when first asked.
    has_v8: Vec<OnceLock<bool>>,
    /// By module, where control comes in ways that code does not show.
    leads: Vec<Leads>,
    /// Where graphs come from.
    source: Source,
}

/// Where graphs come from; by default the user's store, or else the parser.
#[derive(Clone)]
struct Source(Arc<dyn CfgSource>);

impl Default for Source {
    fn default() -> Source {
        Source(Arc::new(Stored::by_user()))
    }
}

/// The file name by which process `pid` was executed, which may be a link's: what its user knows it by.
fn called(pid: &str, memory: &dyn MemoryReader) -> Option<String> {
    /// Of the file name, in the vector of the kernel (elf(5), linux/auxvec.h).
    const AT_EXECFN: u64 = 31;
    const LONGEST: usize = 4096;
    let process = Path::new("/proc").join(pid);
    let vector = std::fs::read(process.join("auxv")).ok()?;
    let (words, _) = vector.as_chunks::<8>();
    let (pairs, _) = words.as_chunks::<2>();
    let at = pairs.iter().find(|[kind, _]| u64::from_le_bytes(*kind) == AT_EXECFN)?[1];
    let at = Addr(u64::from_le_bytes(at));
    let mut name = Vec::new();
    let mut byte = [0];
    while name.len() < LONGEST && memory.read(at + name.len() as u64, &mut byte) && byte != [0] {
        name.extend(byte);
    }
    let name = Path::new(std::str::from_utf8(&name).ok()?);
    let place = match name.strip_prefix("/") {
        Ok(_) if name.starts_with("/proc") || name.starts_with("/dev") => return None,
        Ok(inside) => process.join("root").join(inside),
        Err(_) => process.join("cwd").join(name),
    };
    // A script is not what its interpreter is called, and the folder may be another one since.
    let file = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    (file(&place)? == file(&process.join("exe"))?).then(|| name.file_name()?.to_str().map(str::to_owned))?
}

impl Program {
    /// Reads the memory map of process `pid` (`self` for this one) and the files in it.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn read(space: &dyn AddressSpace, pid: &str, images: &mut Images) -> Result<Program, SpaceError> {
        let memory = |at: Addr, into: &mut [u8]| space.read(at, into).is_ok();
        Ok(Program::of_map(&space.mappings()?, pid, images, &memory))
    }

    /// The process, as it is called under /proc, if it is one.
    pub(crate) fn process(&self) -> Option<&str> {
        self.pid.as_deref()
    }

    /// The modules in a memory map of process `pid`.
    pub fn of_map(map: &MemoryMap, pid: &str, images: &mut Images, memory: &dyn MemoryReader) -> Program {
        let mut modules = modules(map, &mut |mapping| images.of(pid, mapping, memory));
        modules.iter_mut().for_each(|module| module.find_main(memory));
        if let Some(main) = modules.first_mut().filter(|module| module.main)
            && let Some(name) = called(pid, memory)
        {
            main.name = name;
        }
        let program = Program::new(modules);
        Program { pid: Some(pid.to_owned()), ..program }
    }

    /// A file, as if it were mapped where it is linked.
    ///
    /// # Errors
    /// If it is not an x86-64 ELF program or library.
    pub fn of_file(path: &Path, bytes: &[u8]) -> Result<Program, ImageError> {
        let image = Arc::new(Image::parse(bytes)?);
        let mut program = Program::of_image(path, Arc::clone(&image), 0);
        let read = |at: Addr, into: &mut [u8]| image.read_file(bytes, at, into);
        program.modules.iter_mut().for_each(|module| module.find_main(&read));
        Ok(program)
    }

    /// The program `image` from the file `path`, mapped `bias` behind its link addresses.
    pub fn of_image(path: &Path, image: Arc<Image>, bias: u64) -> Program {
        let at = |link: LinkAddr| Addr(link.0.wrapping_add(bias));
        let text: Vec<_> = image.text_segments().map(|r| at(r.start)..at(r.end)).collect();
        let ends = image.segments().iter().map(|s| at(s.range().start)..at(s.range().end));
        let range = ends.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or_default();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let path = path.to_string_lossy().into_owned();
        Program::new(vec![Module {
            name,
            path,
            deleted: false,
            bias,
            image,
            range,
            text,
            main: true,
            unnamed_main: None,
        }])
    }

    fn new(modules: Vec<Module>) -> Program {
        let mut text: Vec<(Range<Addr>, usize)> = Vec::new();
        let mut restartable = Vec::new();
        let mut relocated: Vec<Range<Addr>> = Vec::new();
        for (index, module) in modules.iter().enumerate() {
            text.extend(module.text.iter().map(|range| (range.clone(), index)));
            for section in module.image.critical_sections() {
                for range in [section.range.clone(), section.signature()] {
                    restartable.push(module.to_addr(range.start)..module.to_addr(range.end));
                }
            }
        }
        // The loader has perhaps not run when the code is read, and does not know of the patches when it does.
        let fields = modules.iter().flat_map(|module| {
            module.image.text_relocations().iter().map(|field| module.to_addr(field.start))
        });
        for field in fields {
            let range = field - LONGEST_INSN..field + 8;
            match relocated.last_mut() {
                Some(last) if last.start <= range.start && range.start <= last.end => last.end = range.end,
                _ => relocated.push(range),
            }
        }
        relocated.sort_by_key(|range| range.start);
        text.sort_by_key(|(range, _)| range.start);
        restartable.sort_by_key(|range| range.start);
        let has_v8 = modules.iter().map(|_| OnceLock::new()).collect();
        let leads = modules.iter().map(|_| Leads::default()).collect();
        let source = Source::default();
        Program { modules, text, restartable, relocated, pid: None, has_v8, leads, source }
    }

    /// Takes over what `earlier` found out about files that are still mapped.
    pub(crate) fn learn_from(&mut self, earlier: &Program) {
        self.source = earlier.source.clone();
        for (index, module) in self.modules.iter().enumerate() {
            let known = earlier.modules.iter().position(|old| Arc::ptr_eq(&old.image, &module.image));
            if let Some(known) = known {
                self.has_v8[index] = earlier.has_v8[known].clone();
                self.leads[index] = earlier.leads[known].clone();
            }
        }
    }

    /// From now on, graphs come from `source`. What is known of where control comes in is forgotten.
    pub fn set_cfg_source(&mut self, source: impl CfgSource + 'static) {
        self.source = Source(Arc::new(source));
        self.leads.fill_with(Leads::default);
    }

    /// Where graphs come from.
    pub(crate) fn cfg_source(&self) -> &dyn CfgSource {
        &*self.source.0
    }

    /// Notes what the graph of a whole module tells.
    pub(crate) fn learn_leads(&self, module: usize, cfg: &Cfg, file: &[u8]) {
        if let (Some(leads), Some(module)) = (self.leads.get(module), self.modules.get(module)) {
            leads.learn(cfg, &module.image, file);
        }
    }

    /// Name of the process under /proc, if it is one.
    pub(crate) fn pid(&self) -> Option<&str> {
        self.pid.as_deref()
    }

    /// The modules: the program first, then by address.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The modules of `self` that are not in `later` any more.
    pub(crate) fn gone_in<'a>(&'a self, later: &'a Program) -> impl Iterator<Item = &'a Module> {
        let stays =
            |old: &Module| later.modules.iter().any(|new| new.path == old.path && new.bias == old.bias);
        self.modules.iter().filter(move |old| !stays(old))
    }

    /// The module whose code holds `at`.
    pub fn module_at(&self, at: Addr) -> Option<&Module> {
        let index = self.text.partition_point(|(range, _)| range.end <= at);
        let (range, module) = self.text.get(index)?;
        range.contains(&at).then(|| &self.modules[*module])
    }
}

impl Facts for Program {
    fn function(&self, at: Addr) -> Option<Range<Addr>> {
        let module = self.module_at(at)?;
        let link = module.to_link(at)?;
        let range = match module.image.function_at(link) {
            Some(function) => function.addr..function.addr + function.size,
            None => {
                let ranges = module.image.unwind_functions();
                let index = ranges.partition_point(|range| range.end <= link);
                ranges.get(index).filter(|range| range.contains(&link))?.clone()
            }
        };
        Some(module.to_addr(range.start)..module.to_addr(range.end))
    }

    fn function_before(&self, at: Addr) -> Option<Range<Addr>> {
        let module = self.module_at(at)?;
        let link = module.to_link(at)?;
        let ranges = module.image.unwind_functions();
        let before = ranges.partition_point(|range| range.end <= link).checked_sub(1)?;
        let range = &ranges[before];
        let inside = |function: &Function| function.addr >= range.end && function.addr < link;
        let next = module.image.next_function_start(LinkAddr(range.end.0 - 1));
        let hidden = next.and_then(|next| module.image.function_starting_at(next)).is_some_and(inside);
        (!hidden).then(|| module.to_addr(range.start)..module.to_addr(range.end))
    }

    fn entries(&self, range: Range<Addr>) -> Vec<Addr> {
        let mut entries = Vec::new();
        let from = self.text.partition_point(|(text, _)| text.end <= range.start);
        for (text, module) in self.text[from..].iter().take_while(|(text, _)| text.start < range.end) {
            let module = &self.modules[*module];
            let link = |at: Addr| LinkAddr(at.0.wrapping_sub(module.bias));
            let (start, end) = (link(range.start.max(text.start)), link(range.end.min(text.end)));
            let functions = module.image.functions();
            let functions = &functions[functions.partition_point(|function| function.addr < start)..];
            let functions = functions.iter().take_while(|function| function.addr < end);
            let named = functions.filter(|function| !function.label).map(|function| function.addr);
            let unwind = module.image.unwind_functions();
            let unwind = &unwind[unwind.partition_point(|range| range.start < start)..];
            let unwound = unwind.iter().map(|range| range.start).take_while(|at| *at < end);
            entries.extend(named.chain(unwound).map(|at| module.to_addr(at)));
        }
        entries
    }

    /// Compilers tell unwinders where functions begin.
    fn begins(&self, at: Addr) -> bool {
        let Some(module) = self.module_at(at) else { return false };
        let ranges = module.image.unwind_functions();
        module.to_link(at).is_some_and(|link| ranges.binary_search_by_key(&link, |range| range.start).is_ok())
    }

    fn leads(&self, asked: &[(Range<Addr>, bool)]) -> Vec<Vec<Addr>> {
        let module_of = |range: &Range<Addr>| {
            self.text.get(self.text.partition_point(|(text, _)| text.end <= range.start)).map(|(_, m)| *m)
        };
        let mut found = vec![Vec::new(); asked.len()];
        let mut by_module: BTreeMap<usize, (Vec<usize>, Vec<Asked>)> = BTreeMap::new();
        for (index, (range, jumps)) in asked.iter().enumerate() {
            let Some(module) = module_of(range) else { continue };
            let link = |at: Addr| LinkAddr(at.0.wrapping_sub(self.modules[module].bias));
            let (indices, asked) = by_module.entry(module).or_default();
            indices.push(index);
            asked.push((link(range.start)..link(range.end), *jumps));
        }
        for (index, (indices, asked)) in by_module {
            let module = &self.modules[index];
            for (index, leads) in indices.into_iter().zip(self.leads[index].within(self, module, &asked)) {
                found[index] = leads.into_iter().map(|at| module.to_addr(at)).collect();
            }
        }
        found
    }

    fn linkage(&self, stub: Addr) -> Option<Linkage> {
        let module = self.module_at(stub)?;
        let found = module.image.linkage_of(module.to_link(stub)?)?;
        Some(Linkage { slot: module.to_addr(found.slot), function: module.to_addr(found.function) })
    }

    fn linkage_to(&self, function: Addr) -> Option<Addr> {
        let module = self.module_at(function)?;
        let found = module.image.linkage_to(module.to_link(function)?)?;
        Some(module.to_addr(found.slot))
    }

    fn is_linkage_stub(&self, at: Addr) -> bool {
        let Some(module) = self.module_at(at) else { return false };
        let stubs = module.image.plt();
        module.to_link(at).is_some_and(|link| stubs.iter().any(|stubs| stubs.contains(&link)))
    }

    fn hands_flags_over(&self, at: Addr) -> bool {
        let index = self.text.partition_point(|(range, _)| range.end <= at);
        let inside = self.text.get(index).filter(|(range, _)| range.contains(&at));
        inside.is_none_or(|(_, module)| self.leads[*module].hands_flags_over(self, &self.modules[*module]))
    }

    fn is_machinery(&self, at: Addr) -> bool {
        self.pid() == Some("self") && is_machinery(at)
    }

    /// V8 carries its built-in functions in a program's text and remaps or copies them next to the code it
    /// generates.
    fn is_copied(&self, at: Addr) -> bool {
        const PREFIX: &str = "Builtins_";
        const ALWAYS_THERE: &str = "Builtins_DeoptimizationEntry_Eager";
        let index = self.text.partition_point(|(range, _)| range.end <= at);
        let Some((_, index)) = self.text.get(index).filter(|(range, _)| range.contains(&at)) else {
            return false;
        };
        let (module, has_v8) = (&self.modules[*index], &self.has_v8[*index]);
        let image = &module.image;
        let find = || image.function(ALWAYS_THERE).is_some();
        *has_v8.get_or_init(find)
            && module.function_at(at).is_some_and(|(function, _)| image.name(function).starts_with(PREFIX))
    }

    fn is_relocated(&self, at: Addr) -> bool {
        let index = self.relocated.partition_point(|range| range.end <= at);
        self.relocated.get(index).is_some_and(|range| range.contains(&at))
    }

    fn is_restartable(&self, at: Addr) -> bool {
        let index = self.restartable.partition_point(|range| range.end <= at);
        self.restartable[index..]
            .iter()
            .take_while(|range| range.start <= at)
            .any(|range| range.contains(&at))
    }
}
