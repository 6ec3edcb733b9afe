//! An address space made of bytes, which can be told to fail.
//!
//! # Safety
//! The data mappings it hands out are leaked boxes: valid for ever.

#![allow(unsafe_code, reason = "DataMapping takes over a raw view")]
#![allow(dead_code, reason = "each test uses its part")]

pub mod function;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use incise_image::MemoryMap;
use incise_isa::Addr;
use incise_space::{AddressSpace, Applied, DataMapping, Edit, Features, Landing, SpaceError};

/// Bytes at addresses.
#[derive(Default)]
pub struct FakeSpace {
    pub memory: BTreeMap<u64, u8>,
    pub text: Vec<Range<Addr>>,
    pub mapped: Vec<Range<Addr>>,
    pub landings: Vec<Landing>,
    /// The call that fails, counted from 0 at the next one.
    pub fail: Option<usize>,
    pub calls: usize,
    /// More bytes than this are not mapped at once, if it is not 0.
    pub bound: u64,
    pub shadow_stack: bool,
    /// Trampolines cannot be changed byte by byte.
    pub fixed: bool,
    /// Nothing can be read for now.
    pub unreadable: bool,
    /// Trampolines shall lie close together.
    pub packed: bool,
    /// The program may write to its code.
    pub writable: bool,
    pub busy: BTreeSet<Addr>,
    /// So often the program maps a page of its own where code was to go, just before it does.
    pub meanwhile: usize,
    /// The first quadword of every data mapping.
    pub data: Vec<&'static AtomicU64>,
}

impl FakeSpace {
    pub fn new(at: u64, code: &[u8]) -> FakeSpace {
        let mut space = FakeSpace::default();
        space.add_text(at, code);
        space
    }

    pub fn add_text(&mut self, at: u64, code: &[u8]) {
        for (i, &byte) in code.iter().enumerate() {
            self.memory.insert(at + i as u64, byte);
        }
        let end = Addr(at + code.len() as u64).align_up(4096);
        for byte in at + code.len() as u64..end.0 {
            self.memory.insert(byte, 0);
        }
        self.text.push(Addr(at).align_down(4096)..end);
    }

    pub fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        (at..at + len as u64).map(|a| self.memory.get(&a).copied().unwrap_or(0xEE)).collect()
    }

    pub fn landing(&self, at: u64) -> Option<u64> {
        self.landings.iter().find(|l| l.trap == Addr(at)).map(|l| l.landing.0)
    }

    /// As the system answers where the size of the address space is bounded.
    fn within_bound(&self, len: u64) -> Result<(), SpaceError> {
        match self.bound != 0 && len > self.bound {
            true => Err(SpaceError::system("mapping memory", io::Error::from_raw_os_error(12))),
            false => Ok(()),
        }
    }

    fn step(&mut self) -> Result<(), SpaceError> {
        self.calls += 1;
        if self.fail == Some(self.calls - 1) {
            return Err(SpaceError::system("injected fault", io::Error::from_raw_os_error(5)));
        }
        Ok(())
    }
}

fn release(_: NonNull<u8>, _: u64) {}

impl AddressSpace for FakeSpace {
    fn read(&self, at: Addr, into: &mut [u8]) -> Result<(), SpaceError> {
        if self.unreadable {
            return Err(SpaceError::Unreadable { at, len: into.len() });
        }
        for (i, byte) in into.iter_mut().enumerate() {
            *byte = *self
                .memory
                .get(&(at.0 + i as u64))
                .ok_or(SpaceError::Unreadable { at: at + i as u64, len: 1 })?;
        }
        Ok(())
    }

    fn mappings(&self) -> Result<MemoryMap, SpaceError> {
        let write = if self.writable { 'w' } else { '-' };
        let text =
            self.text.iter().map(|range| (range, write)).chain(self.mapped.iter().map(|range| (range, '-')));
        let lines =
            text.map(|(r, write)| format!("{:x}-{:x} r{write}xp 00000000 00:00 0 \n", r.start.0, r.end.0));
        Ok(MemoryMap::parse(&lines.collect::<String>()))
    }

    fn map_code(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.step()?;
        self.within_bound(len)?;
        if self.meanwhile > 0 {
            self.meanwhile -= 1;
            self.mapped.push(at.span(4096));
            return Err(SpaceError::Occupied { at, len });
        }
        assert!(self.mappings()?.is_free(&at.span(len)));
        self.mapped.push(at.span(len));
        Ok(())
    }

    fn map_data(&mut self, at: Addr, len: u64) -> Result<DataMapping, SpaceError> {
        self.step()?;
        self.within_bound(len)?;
        self.mapped.push(at.span(len));
        let view = Box::leak(vec![0u64; len as usize / 8].into_boxed_slice());
        let view = NonNull::new(view.as_mut_ptr().cast::<u8>()).expect("a box");
        // SAFETY: leaked, aligned for quadwords, only used atomically.
        self.data.push(unsafe { AtomicU64::from_ptr(view.as_ptr().cast()) });
        // SAFETY: as above.
        Ok(unsafe { DataMapping::new(at, len, view, release) })
    }

    fn unmap(&mut self, at: Addr, len: u64) -> Result<(), SpaceError> {
        self.step()?;
        assert!(self.mapped.contains(&at.span(len)), "{at} is not mapped");
        self.mapped.retain(|range| *range != at.span(len));
        self.memory.retain(|&a, _| !at.span(len).contains(&Addr(a)));
        Ok(())
    }

    fn write_code(&mut self, runs: &[(Addr, &[u8])]) -> Result<(), SpaceError> {
        self.step()?;
        for (at, bytes) in runs {
            assert!(self.mapped.iter().any(|r| r.contains(at)), "{at} is not ours");
            for (i, &byte) in bytes.iter().enumerate() {
                self.memory.insert(at.0 + i as u64, byte);
            }
        }
        Ok(())
    }

    fn write_byte(&mut self, at: Addr, byte: u8) -> Result<(), SpaceError> {
        self.step()?;
        assert!(self.mapped.iter().any(|r| r.contains(&at)), "{at} is not ours");
        self.memory.insert(at.0, byte);
        Ok(())
    }

    fn publish_landings(&mut self, landings: &[Landing]) -> Result<(), SpaceError> {
        self.step()?;
        assert!(landings.windows(2).all(|w| w[0].trap < w[1].trap), "sorted, no duplicates");
        self.landings = landings.to_vec();
        Ok(())
    }

    fn apply(&mut self, edits: &[Edit], _: &dyn Fn(Addr) -> Option<Addr>) -> Result<Applied, SpaceError> {
        self.step()?;
        for pair in edits.windows(2) {
            assert!(pair[0].at + pair[0].old.len() as u64 <= pair[1].at, "edits overlap: {pair:?}");
        }
        for edit in edits {
            let found = self.bytes(edit.at.0, edit.old.len());
            if found != *edit.old {
                return Err(SpaceError::Changed { at: edit.at, expected: edit.old.to_vec(), found });
            }
            for offset in edit.head_offsets() {
                let at = edit.at.0 + offset as u64;
                assert!(self.landing(at).is_some(), "no landing for the head at {at:#x}");
            }
        }
        for edit in edits {
            for (i, &byte) in edit.new.iter().enumerate() {
                self.memory.insert(edit.at.0 + i as u64, byte);
            }
        }
        Ok(Applied::default())
    }

    fn quiescent(&mut self, ranges: &[Range<Addr>]) -> Result<Vec<bool>, SpaceError> {
        self.step()?;
        let busy = |r: &Range<Addr>| self.busy.iter().any(|at| r.contains(at));
        // What the published landings lead to is never idle.
        let reachable =
            |r: &Range<Addr>| self.landings.iter().any(|l| !l.is_fault() && r.contains(&l.landing));
        Ok(ranges.iter().map(|r| !busy(r) && !reachable(r)).collect())
    }

    fn features(&self) -> Features {
        let FakeSpace { shadow_stack, fixed, packed, .. } = *self;
        Features { shadow_stack, packed, still: true, bytes: !fixed, ..Features::default() }
    }
}
