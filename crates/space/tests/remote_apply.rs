//! Changes the code of other processes.

mod remote_support;

use std::time::Duration;

use incise_isa::Addr;
use incise_space::remote::{Event, Left, Tracer};
use incise_space::{AddressSpace, Bytes, Edit, SpaceError};
use remote_support::*;

fn probe_and_remove(source: &str, flags: &[&str], springboard: Springboard) {
    let mut program = Program::start(source, flags);
    assert_eq!(program.ask(), "1");
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let before = mappings(&space);
    let probe = Probe::prepare(&mut space, program.answer, springboard);
    assert_eq!(program.ask_traced(&mut tracer), "1");
    probe.install(&mut space);
    for _ in 0..3 {
        assert_eq!(program.ask_traced(&mut tracer), "2", "{springboard:?}");
    }
    assert!(probe.hits() >= 3);
    assert_eq!(space.remove().expect("removed"), Left::default());
    assert_eq!(mappings(&space), before, "nothing is left behind");
    assert_eq!(program.ask_traced(&mut tracer), "1");
    tracer.detach(pid).expect("traced");
    assert_eq!(program.ask(), "1");
    assert_eq!(program.finish().code(), Some(7));
}

#[test]
fn a_jump_counts_and_goes_without_a_trace() {
    probe_and_remove(ECHO, &[], Springboard::Jump);
}

#[test]
fn a_trap_counts_and_goes_without_a_trace() {
    probe_and_remove(ECHO, &[], Springboard::Trap);
}

#[test]
fn an_illegal_byte_counts_and_goes_without_a_trace() {
    probe_and_remove(ECHO, &[], Springboard::Illegal);
}

#[test]
fn every_kind_of_executable() {
    for flags in
        [&["-static"][..], &["-static-pie"], &["-no-pie"], &["-pie", "-fPIE"], &["-s"], &["-no-pie", "-s"]]
    {
        println!("{flags:?}");
        probe_and_remove(ECHO, flags, Springboard::Jump);
        probe_and_remove(ECHO, flags, Springboard::Trap);
    }
}

#[test]
fn threads_run_the_code_while_it_changes() {
    for springboard in [Springboard::Jump, Springboard::Trap] {
        let mut program = Program::start(STORM, &[]);
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        let mut space = tracer.space(pid).expect("traced");
        let probe = Probe::prepare(&mut space, program.answer, springboard);
        for _ in 0..200 {
            probe.install(&mut space);
            pump(&mut tracer, Duration::from_millis(1));
            probe.uninstall(&mut space);
        }
        assert!(probe.hits() > 0);
        assert_eq!(space.remove().expect("removed"), Left::default());
        tracer.detach(pid).expect("traced");
        assert_eq!(program.ask(), "1");
        assert_eq!(program.finish().code(), Some(7));
    }
}

#[test]
fn traps_work_after_the_tracer_is_gone() {
    for springboard in [Springboard::Trap, Springboard::Illegal] {
        let mut program = Program::start(STORM, &[]);
        let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
        let mut space = tracer.space(pid).expect("traced");
        let probe = Probe::prepare(&mut space, program.answer, springboard);
        probe.install(&mut space);
        tracer.detach(pid).expect("traced");
        let hits = probe.hits();
        assert_eq!(program.ask(), "2");
        assert!(probe.hits() > hits);
        assert_eq!(program.finish().code(), Some(7));
    }
}

#[test]
fn an_edit_of_other_bytes_changes_nothing() {
    let mut program = Program::start(ECHO, &[]);
    let (mut tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let wrong =
        Edit { at: program.answer, old: Bytes::new(&[0xB8, 9]), new: Bytes::new(&[0xB8, 3]), heads: 1 };
    let right = Edit { at: program.answer + 5, old: Bytes::new(&[0xC3]), new: Bytes::new(&[0xCC]), heads: 1 };
    let error = space.apply(&[wrong, right], &|_| None).expect_err("refused");
    assert!(matches!(error, SpaceError::Changed { at, .. } if at == program.answer), "{error}");
    assert_eq!(program.ask_traced(&mut tracer), "1");
    let unmapped = Edit { at: Addr(0x10), ..right };
    let error = space.apply(&[unmapped, right], &|_| None).expect_err("refused");
    assert!(matches!(error, SpaceError::Unreadable { .. }), "{error}");
    assert_eq!(program.ask_traced(&mut tracer), "1");
    assert_eq!(program.finish_traced(&mut tracer), Event::Exited { pid, code: 7 });
}

#[test]
fn taken_places_are_refused() {
    let program = Program::start(ECHO, &[]);
    let (tracer, pid) = Tracer::attach(program.pid).expect("permitted");
    let mut space = tracer.space(pid).expect("traced");
    let at = program.answer.align_down(PAGE);
    let files = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("readable").count();
    let before = files();
    let error = space.map_code(at, PAGE).expect_err("taken");
    assert!(matches!(error, SpaceError::Occupied { .. }), "{error}");
    let error = space.map_data(at, PAGE).map(drop).expect_err("taken");
    assert!(matches!(error, SpaceError::Occupied { .. }), "{error}");
    let error = space.write_code(&[(at, &[0xCC])]).expect_err("not ours");
    assert!(matches!(error, SpaceError::NotReserved { .. }), "{error}");
    assert_eq!(files(), before, "no file is left open in the target");
}
