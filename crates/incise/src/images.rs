//! The files that processes map.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use incise_cfg::import_of_stub;
use incise_image::{Contents, Image, LinkAddr, Mapping, MemoryReader, Module, SlotTarget, outline};
use incise_isa::Addr;
use incise_isa::native::{decode, uses_gs_base};
use incise_space::MappedFile;

/// Parsed files, kept so that a file is parsed once however many processes map it.
#[derive(Default)]
pub struct Images {
    parsed: HashMap<FileId, Option<Parsed>>,
}

#[derive(PartialEq, Eq, Hash)]
struct FileId {
    device: (u32, u32),
    inode: u64,
    name: Arc<str>,
}

struct Parsed {
    image: Arc<Image>,
    /// Code included.
    contents: Option<Contents>,
    /// Looked at when first asked.
    uses_gs: Option<bool>,
}

impl Images {
    /// The image of a mapped file of process `pid` (`self` for this one). Files that are not ELF programs give
    /// nothing.
    pub(crate) fn of(
        &mut self,
        pid: &str,
        mapping: &Mapping,
        memory: &dyn MemoryReader,
    ) -> Option<Arc<Image>> {
        let id = FileId { device: mapping.device, inode: mapping.inode, name: mapping.name.clone() };
        let parsed = self.parsed.entry(id).or_insert_with(|| {
            let contents =
                if *mapping.name == *"[vdso]" { in_memory(memory, mapping) } else { file(pid, mapping) }?;
            let image = Arc::new(Image::open(Arc::clone(&contents)).ok()?);
            // Of this process only what images are made from was read.
            Some(Parsed { image, contents: Some(contents).filter(|_| pid != SELF), uses_gs: None })
        });
        parsed.as_ref().map(|parsed| parsed.image.clone())
    }

    /// Whether code of `module` sets or reads the base of gs, as far as its file tells.
    pub(crate) fn use_gs(&mut self, module: &Module) -> bool {
        let known = self.parsed.values_mut().flatten();
        let parsed = known.into_iter().find(|parsed| Arc::ptr_eq(&parsed.image, &module.image));
        let Some(Parsed { image, contents: Some(contents), uses_gs }) = parsed else { return true };
        // A program has the function because it uses it.
        *uses_gs.get_or_insert_with(|| uses_gs_in(image, (**contents).as_ref()))
            || (module.main && module.image.function(ARCH_PRCTL).is_some())
    }
}

/// Name under /proc of the process this code runs in.
const SELF: &str = "self";

const ARCH_PRCTL: &str = "arch_prctl";

fn uses_gs_in(image: &Image, file: &[u8]) -> bool {
    // The C library has it for those that import it.
    let wrapper = image.function(ARCH_PRCTL).is_some();
    let mut code = image.segments().iter().filter(|segment| segment.permissions.execute);
    image.import_indices(ARCH_PRCTL).next().is_some()
        || code.any(|segment| {
            let code = image.bytes_at(file, segment.link, segment.file_size).unwrap_or(&[]);
            uses_gs_base(code, wrapper, &|at| may_call_syscall(image, file, segment.link + at as u64))
        })
}

/// Whether the call at `at`, if it is one, may make any system call it is told to: that of `syscall(3)`, or of code that makes
/// one as soon as it does.
fn may_call_syscall(image: &Image, file: &[u8], at: LinkAddr) -> bool {
    const SYSCALL: &str = "syscall";
    const SOON: u64 = 64;
    let Some(call) = image.bytes_at(file, at, 15).and_then(|bytes| decode(bytes, Addr(at.0)).ok()) else {
        return true;
    };
    if let Some(target) = call.flow().target() {
        let target = LinkAddr(target.0);
        if image.plt().iter().any(|stubs| stubs.contains(&target)) {
            return import_of_stub(image, file, target).is_none_or(|name| name == SYSCALL);
        }
        return image
            .bytes_at(file, target, SOON)
            .is_some_and(|code| code.windows(2).any(|insn| insn == [0x0F, 0x05]));
    }
    let Some(slot) = call.ip_relative_target() else { return true };
    let slot = image.slots().iter().find(|known| known.at.0 == slot.0);
    let import = slot.and_then(|slot| match slot.target {
        SlotTarget::Import(index) => image.imports().nth(index as usize),
        SlotTarget::Resolver(_) => None,
    });
    import.is_none_or(|name| name == SYSCALL)
}

fn in_memory(memory: &dyn MemoryReader, mapping: &Mapping) -> Option<Contents> {
    let mut bytes = vec![0; mapping.range.end.offset_from(mapping.range.start) as usize];
    memory.read(mapping.range.start, &mut bytes).then(|| Arc::new(bytes) as Contents)
}

/// What an image is made from of a mapped file: by the mapping itself, which also works when the file was deleted or replaced, else by its path as the process
/// sees it.
fn file(pid: &str, mapping: &Mapping) -> Option<Contents> {
    if !mapping.name.starts_with('/') {
        return None;
    }
    let Range { start, end } = &mapping.range;
    let linked = format!("/proc/{pid}/map_files/{:x}-{:x}", start.0, end.0);
    let rooted = format!("/proc/{pid}/root{}", mapping.name);
    let by_path = [rooted, mapping.name.to_string()].into_iter().filter(|_| !mapping.deleted);
    std::iter::once(linked).chain(by_path).map(PathBuf::from).find_map(|path| {
        // In this process a library that was unloaded would still be mapped, and what makes it shorter would end us.
        if pid == SELF {
            outlined(&path)
        } else {
            MappedFile::open(&path).ok().map(|file| Arc::new(file) as _)
        }
    })
}

fn outlined(path: &Path) -> Option<Contents> {
    let file = File::open(path).ok()?;
    let len = file.metadata().ok().filter(Metadata::is_file)?.len();
    outline(len, &|at, into| file.read_exact_at(into, at).is_ok()).map(|bytes| Arc::new(bytes) as _)
}
