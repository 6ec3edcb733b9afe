//! Incise in its own process.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use incise::{Query, Session};

use super::subjects::Subject;
use super::{Contender, Sample};
use crate::Error;
use crate::library::Library;

pub(super) const NAME: &str = "incise, own process";

pub(super) struct Own {
    session: Session,
    loaded: HashSet<String>,
}

impl Own {
    pub(super) fn start() -> Result<Own, Error> {
        Ok(Own { session: Session::own()?, loaded: HashSet::new() })
    }
}

/// A pattern for the functions of a subject.
pub(super) fn pattern(subject: &Subject) -> String {
    let module = Path::new(&subject.file).file_name().unwrap_or_default().to_string_lossy();
    format!("{module}!{}", subject.pattern)
}

impl Contender for Own {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sample(&mut self, subject: &Subject) -> Result<Sample, Error> {
        if self.loaded.insert(subject.file.clone()) {
            Library::open(&subject.file)?;
            self.session.find(Query::functions(pattern(subject)))?;
        }
        let start = Instant::now();
        let mut points = self.session.find(Query::functions(pattern(subject)))?;
        let find = start.elapsed();
        points.truncate(subject.sites);
        let start = Instant::now();
        let mut batch = self.session.batch().best_effort();
        for point in &points {
            batch.push_back(point, self.session.counter("").increment());
        }
        let report = batch.commit()?;
        let install = start.elapsed();
        let start = Instant::now();
        self.session.remove_all()?;
        Ok(Sample {
            installed: report.installed(),
            trapped: report.trapped(),
            find: Some(find),
            install,
            stop: None,
            remove: start.elapsed(),
            memory: Some((report.trampoline_bytes, report.mappings)),
        })
    }
}
