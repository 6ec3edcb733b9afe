//! Incise in another process.

use std::time::Instant;

use incise::space::remote::{ProcessId, Tracer};
use incise::{Query, Session};

use super::own::pattern;
use super::subjects::Subject;
use super::{Contender, Sample};
use crate::Error;
use crate::target::Target;

pub(super) const NAME: &str = "incise, other process";

pub(super) struct Remote {
    target: Target,
}

impl Remote {
    pub(super) fn start(subjects: &[Subject]) -> Result<Remote, Error> {
        Ok(Remote { target: loaded(subjects)? })
    }
}

/// A process that has the libraries of the subjects loaded.
pub(super) fn loaded(subjects: &[Subject]) -> Result<Target, Error> {
    let mut target = Target::start(&[])?;
    let mut files: Vec<&str> = subjects.iter().map(|subject| subject.file.as_str()).collect();
    files.dedup();
    for file in files {
        target.ask(&format!("load {file}"))?;
    }
    Ok(target)
}

impl Contender for Remote {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sample(&mut self, subject: &Subject) -> Result<Sample, Error> {
        let (mut tracer, pid) = Tracer::attach(ProcessId(self.target.pid()))?;
        let session = Session::over(tracer.space(pid)?, &pid.to_string())?;
        let start = Instant::now();
        let mut points = session.find(Query::functions(pattern(subject)))?;
        let find = start.elapsed();
        points.truncate(subject.sites);
        let start = Instant::now();
        let mut batch = session.batch().best_effort();
        for point in &points {
            batch.push_back(point, session.counter("").increment());
        }
        let report = batch.commit()?;
        let install = start.elapsed();
        let start = Instant::now();
        session.remove_all()?;
        let remove = start.elapsed();
        tracer.detach(pid)?;
        Ok(Sample {
            installed: report.installed(),
            trapped: report.trapped(),
            find: Some(find),
            install,
            stop: Some(report.stop),
            remove,
            memory: Some((report.trampoline_bytes, report.mappings)),
        })
    }
}
