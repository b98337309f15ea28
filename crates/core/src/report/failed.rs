//! A package that failed, with the end of its build log.

use std::path::Path;

use be_portage::failure;
use be_portage::version::split_cpv;
use chrono::{DateTime, Local};

use super::{Failure, Time, tail};
use crate::record::Record;
use crate::session::Session;

/// Where Portage builds.
const BUILD: &str = "/var/tmp/portage";

/// What is known of it; `now` where its log does not tell when it failed.
pub(crate) fn failed(
    session: &Session,
    record: &Record,
    failure: &failure::Failure,
    now: Time,
) -> Failure {
    let log = failure.log.clone().or_else(|| usual(&failure.package));
    let found = log.as_deref().and_then(|log| {
        let root = session.seen_by(record, Path::new(log)).ok()?;
        tail::of_file(&root, log).ok()
    });
    let (lines, written) = found.unwrap_or_default();
    let written = DateTime::from_timestamp(written, 0).filter(|_| written > 0);
    Failure {
        what: failure.package.clone(),
        stage: Some(failure.stage),
        at: written.map_or(now, |at| at.with_timezone(&Local).fixed_offset().min(now)),
        log: log.filter(|_| !lines.is_empty()),
        lines,
    }
}

fn usual(package: &str) -> Option<String> {
    let (category, name, version) = split_cpv(package)?;
    Some(format!(
        "{BUILD}/{category}/{name}-{version}/temp/build.log"
    ))
}
