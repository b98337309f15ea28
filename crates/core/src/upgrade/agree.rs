//! Whether a host of binary packages has the configuration of the environment that takes them.
//! One that `be build` publishes tells it in a lock beside its index; others say nothing.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use be_portage::binhost::{self, header};
use be_portage::conf::plain_value;
use be_portage::emerge;
use be_portage::pretend::Planned;
use chrono::{DateTime, FixedOffset};

use super::binhost::is_remote;
use super::build::{Binhost, LOCK_FILE};
use super::farm::make_conf;
use super::inputs::{CONFIGURATION, files};
use super::report::later;
use super::{Request, Work};
use crate::config::OtherHost;
use crate::lock::{
    BINHOSTS, Difference, INDEX, Lock, MAX_INDEX, MAX_LOCK, Made, Part, Repository, Sha256,
    configuration_differences,
};
use crate::log;
use crate::observe::MAX_TEXT;
use crate::refusal::Refusal;

/// Exit code of wget(1) for what the server answers with an error: it has no lock.
const NOT_THERE: i32 = 8;

/// What a host says that it builds with.
struct Theirs {
    lock: Lock,
    /// The digest of the document.
    digest: String,
}

impl Work<'_> {
    /// Publish what the packages are built with, for those who want to take them.
    pub(super) fn publish_lock(
        &mut self,
        host: &Binhost,
        now: DateTime<FixedOffset>,
    ) -> Result<()> {
        let mut lock = self.own_lock(now)?.for_others();
        // A build that goes on may have merged another compiler: what counts is what the clients
        // have before they take anything, as this builder had.
        if let Some(before) = self.told_before(host) {
            lock.toolchain = before.toolchain;
        }
        let text = lock.to_text()?;
        host.packages
            .write_atomic(LOCK_FILE, text.as_bytes(), 0o644)
            .context("cannot write the lock of the packages")
    }

    /// What this builder has told in an earlier attempt.
    pub(super) fn told_before(&self, host: &Binhost) -> Option<Lock> {
        let text = host.packages.read_to_string(LOCK_FILE, MAX_LOCK).ok()?;
        let told = Lock::parse(&text).ok()?;
        let is_own = told.environment == self.record.name && told.created >= self.record.created;
        is_own.then_some(told)
    }

    /// Go by be.toml where a host that gives packages has another configuration; what would be
    /// merged then.
    ///
    /// # Errors
    /// [`Refusal::OtherHost`].
    pub(super) fn agree_with_hosts(
        &mut self,
        planned: Vec<Planned>,
        request: &Request,
    ) -> Result<Vec<Planned>> {
        let policy = self.session.config.upgrade.binhost_differs;
        // Whose repositories are behind those of the host finds nothing in it.
        if policy != OtherHost::Rebase && !planned.iter().any(is_remote) {
            return Ok(planned);
        }
        let (mut planned, mut rebased) = (planned, false);
        for host in self.hosts()? {
            let mut theirs = match self.lock_of(&host) {
                Ok(Some(theirs)) => theirs,
                Ok(None) => continue,
                Err(why) if policy == OtherHost::Refuse => {
                    return Err(self.other_host(host, vec![why]));
                }
                Err(why) => {
                    self.watch.note(&why);
                    continue;
                }
            };
            if !self.is_of_index(&theirs)? {
                // It publishes in this very moment.
                planned = self.preview(&emerge::pretend(&self.options))?;
                theirs = self.lock_of(&host).ok().flatten().unwrap_or(theirs);
            }
            let Theirs { lock: theirs, .. } = theirs;
            let mut found = self.differences(&theirs, request)?;
            if policy == OtherHost::Rebase && self.rebase(&theirs, &found, request.now)? {
                rebased = true;
                found = self.differences(&theirs, request)?;
            }
            self.told_of(&host, &found)?;
            if !found.is_empty() && policy != OtherHost::GoOn {
                let differences = found.iter().map(ToString::to_string).collect();
                return Err(self.other_host(host, differences));
            }
        }
        match rebased {
            true => self.preview(&emerge::pretend(&self.options)),
            false => Ok(planned),
        }
    }

    fn other_host(&self, host: String, differences: Vec<String>) -> anyhow::Error {
        let name = self.record.name.clone();
        Refusal::OtherHost {
            name,
            host,
            differences,
        }
        .into()
    }

    /// Whether one of the indexes that Portage has fetched is the one that this lock was published
    /// with, as far as they tell.
    fn is_of_index(&self, theirs: &Theirs) -> Result<bool> {
        let root = self.root()?;
        let mut named = Vec::new();
        for file in files(&root, Path::new(BINHOSTS))? {
            if file.file_name().is_some_and(|name| name == INDEX) {
                let text = root.read_to_string(&file, MAX_INDEX)?;
                named.extend(header(&text, binhost::LOCK).map(str::to_owned));
            }
        }
        Ok(named.is_empty() || named.contains(&theirs.digest))
    }

    /// What this environment has.
    fn own_lock(&self, now: DateTime<FixedOffset>) -> Result<Lock> {
        self.scene_of(|scene| Made::take(scene)?.into_lock(scene, later(now)))
    }

    fn differences(&self, theirs: &Lock, request: &Request) -> Result<Vec<Difference>> {
        Ok(configuration_differences(
            theirs,
            &self.own_lock(request.now)?,
        ))
    }

    /// Bring the repositories to the commits that the host builds from; whether one was. Where a
    /// repository is, and whom it is fetched from, is what this environment says: the host is
    /// asked for nothing but which of its commits.
    fn rebase(
        &mut self,
        theirs: &Lock,
        found: &[Difference],
        now: DateTime<FixedOffset>,
    ) -> Result<bool> {
        let differs = |name: &str| {
            let mut all = found.iter().filter(|d| d.part == Part::Repository);
            all.any(|d| d.what == name)
        };
        let mut rebased = false;
        let (own, root) = (self.own_lock(now)?.repositories, self.root()?);
        for theirs in theirs.repositories.iter().filter(|r| differs(&r.name)) {
            let Some(one) = own.iter().find(|own| own.name == theirs.name) else {
                continue;
            };
            let one = &Repository {
                state: theirs.state.clone(),
                ..one.clone()
            };
            self.is_own(&root, &one.location)?;
            let name = self.record.name.clone();
            let what = format!(
                "{name}: repository {} goes to the state of the host",
                &*one.name
            );
            self.watch.note(&what);
            self.pin_repository(one)?;
            rebased = true;
        }
        Ok(rebased)
    }

    /// Each difference in a line, where it is seen and where it is looked up later.
    fn told_of(&mut self, host: &str, found: &[Difference]) -> Result<()> {
        let name = self.record.name.clone();
        let mut lines = vec![match found.is_empty() {
            true => format!("{host} has the configuration of {name}"),
            false => format!("{host} has another configuration than {name}:"),
        }];
        lines.extend(found.iter().map(|difference| format!("  {difference}")));
        let mut out = log::append(&self.session.store, &name)?;
        for line in lines {
            self.watch.note(&line);
            writeln!(out, "{line}").context("cannot write the log")?;
        }
        Ok(())
    }

    /// Where binary packages come from (binrepos.conf of portage(5)).
    fn hosts(&self) -> Result<Vec<String>> {
        let root = self.root()?;
        let conf = Path::new(CONFIGURATION).join("binrepos.conf");
        let mut hosts = Vec::new();
        for file in files(&root, &conf)?.into_iter().chain([conf]) {
            let text = root.read_to_string(&file, MAX_TEXT).unwrap_or_default();
            let values = text.lines().filter_map(|line| line.split_once('='));
            let values = values.filter(|(key, _)| key.trim() == "sync-uri");
            hosts.extend(values.map(|(_, uri)| uri.trim().trim_end_matches('/').to_owned()));
        }
        // The way of old, in make.conf.
        let made = make_conf(&root);
        let old = plain_value(&made, "PORTAGE_BINHOST").unwrap_or_default();
        let old = old.split_whitespace();
        hosts.extend(old.map(|uri| uri.trim_end_matches('/').to_owned()));
        hosts.sort();
        hosts.dedup();
        Ok(hosts)
    }

    /// What a host says that it builds with; none if it says nothing. Or why that is not known.
    fn lock_of(&self, host: &str) -> Result<Option<Theirs>, String> {
        let uri = format!("{host}/{LOCK_FILE}");
        // What it answers has an end, and comes within a while.
        let size = format!("--fsize={MAX_LOCK}");
        let limits = ["timeout", "120", "prlimit", &size];
        let wget = ["wget", "-q", "-T", "20", "-t", "2", "-O", "-", &uri];
        let args = [&limits[..], &wget[..]].concat().into_iter();
        let asked = self.scene_of(|scene| scene.run(args.map(str::to_owned).collect()));
        let why = match asked {
            Ok(said) if said.code == 0 => match Lock::parse(&said.out) {
                Ok(lock) => {
                    let digest = Sha256::new(said.out.as_bytes()).to_string();
                    return Ok(Some(Theirs { lock, digest }));
                }
                Err(bad) => format!("{bad}"),
            },
            Ok(said) if said.code == NOT_THERE => return Ok(None),
            Ok(said) => format!("wget: exit {}", said.code),
            Err(e) => format!("{e:#}"),
        };
        Err(format!("what {host} builds with is not known: {why}"))
    }
}
