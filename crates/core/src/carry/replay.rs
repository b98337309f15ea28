//! Packages that were installed or removed on the running system are installed or removed in the
//! environment, too: from what is installed, by the environment's own Portage, if what they
//! depend on is there. Nothing is built.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use be_btrfs::{Mode, Root};
use be_portage::diff::PackageDiff;
use be_portage::emerge::{self, Emerge};
use be_portage::pretend::{self, Kind};
use be_portage::vdb::{Installed, Package};
use be_portage::version::version_cmp;

use super::over::{BEFORE, Terms};
use super::route::Route;
use crate::chroot::{Bind, Job, Output, exit_code, wait};
use crate::execute::make_snapshot;
use crate::log;
use crate::record::place;
use crate::session::Session;
use crate::store::Paths;
use crate::upgrade;

/// Where the packages are seen, when they are packed and when they are installed.
const TARGET: &str = "/run/be/packages";

/// Of whose category nothing is removed: an environment may boot it.
const KERNELS: &str = "sys-kernel/";

/// What became of the packages.
#[derive(Debug, Default)]
pub struct Replayed {
    /// `+` or `-` and `category/name-version`: they are in the environment, or gone from it.
    pub done: Vec<String>,
    /// The same of those that could not be had, with the reason.
    pub left: Vec<(String, &'static str)>,
}

/// What is to be done in the environment.
#[derive(Debug, Default)]
struct Wanted {
    install: Vec<String>,
    remove: Vec<String>,
    /// Not to be done, with the reason.
    left: Vec<(String, &'static str)>,
}

fn wanted(diff: &PackageDiff, there: &Installed) -> Wanted {
    let mut wanted = Wanted::default();
    let added = diff.added.iter().map(|e| (&e.package, &e.version));
    let changes = diff.upgraded.iter().chain(&diff.downgraded);
    for (package, version) in added.chain(changes.map(|c| (&c.package, &c.to))) {
        let cpv = format!("{package}-{version}");
        let newer = |p: &Package| p.cp() == *package && version_cmp(&p.version, version).is_gt();
        match there.find(&cpv) {
            Some(_) => {}
            None if there.packages.iter().any(newer) => {
                let why = "the environment has a newer version";
                wanted.left.push((format!("+{cpv}"), why));
            }
            None => wanted.install.push(cpv),
        }
    }
    for entry in &diff.removed {
        let cpv = format!("{}-{}", entry.package, entry.version);
        let other = |p: &Package| p.cp() == entry.package;
        match there.find(&cpv) {
            Some(_) if !cpv.starts_with(KERNELS) => wanted.remove.push(cpv),
            Some(_) => wanted.left.push((format!("-{cpv}"), "kernels stay")),
            None if there.packages.iter().any(other) => {
                let why = "the environment has another version";
                wanted.left.push((format!("-{cpv}"), why));
            }
            None => {}
        }
    }
    let again = diff
        .rebuilt
        .iter()
        .map(|c| format!("+{}-{}", c.package, c.to));
    let why = "built again; the environment keeps the build that it has";
    wanted.left.extend(again.map(|cpv| (cpv, why)));
    wanted
}

/// Do it.
///
/// # Errors
/// When a program cannot be run, or somebody interrupts. That a package cannot be had is none.
pub(super) fn replay(
    session: &Session,
    route: &Route,
    diff: &PackageDiff,
    terms: &Terms<'_>,
) -> Result<Replayed> {
    let record = session.store.record_of(&route.to)?;
    let wanted = wanted(diff, &session.packages_of(&record)?);
    let at_work = AtWork {
        session,
        route,
        terms,
    };
    let mut replayed = Replayed {
        done: Vec::new(),
        left: wanted.left,
    };
    if !wanted.install.is_empty() {
        let (done, left) = at_work.install(&wanted.install)?;
        replayed
            .done
            .extend(done.iter().map(|cpv| format!("+{cpv}")));
        let why = "what it depends on is not there, or it cannot be packed";
        replayed
            .left
            .extend(left.iter().map(|cpv| (format!("+{cpv}"), why)));
    }
    for cpv in wanted.remove {
        at_work.run_there(&emerge::remove(std::slice::from_ref(&cpv)), None)?;
        match session.packages_of(&record)?.find(&cpv) {
            None => replayed.done.push(format!("-{cpv}")),
            Some(_) => replayed
                .left
                .push((format!("-{cpv}"), "something there needs it")),
        }
    }
    Ok(replayed)
}

fn see(packed: &Path) -> Bind {
    Bind {
        source: packed.to_owned(),
        target: TARGET.into(),
    }
}

struct AtWork<'a> {
    session: &'a Session,
    route: &'a Route,
    terms: &'a Terms<'a>,
}

impl AtWork<'_> {
    /// Install what can be installed; gives what was, and what was not.
    fn install(&self, packages: &[String]) -> Result<(Vec<String>, Vec<String>)> {
        let packed = upgrade::make_packed(self.session)?;
        let found = self.pack(packages, &packed);
        let found = found.and_then(|()| self.install_packed(packages, &packed));
        upgrade::drop_packed(self.session)?;
        found
    }

    fn install_packed(
        &self,
        packages: &[String],
        packed: &Path,
    ) -> Result<(Vec<String>, Vec<String>)> {
        let mut done = Vec::new();
        let mut left = packages.to_vec();
        // One may need another one of them.
        while !left.is_empty() {
            let mut still = Vec::new();
            for cpv in left.clone() {
                match self.install_one(&cpv, packed)? {
                    true => done.push(cpv),
                    false => still.push(cpv),
                }
            }
            if still.len() == left.len() {
                break;
            }
            left = still;
        }
        Ok((done, left))
    }

    /// Pack what is installed, in a copy of the running system: Portage locks what it reads.
    fn pack(&self, packages: &[String], packed: &Path) -> Result<()> {
        let work = Path::new(Paths::NEW)
            .join(self.route.to.as_str())
            .join("packing");
        let store = &self.session.store;
        store.dir.mkdir_all(&work, 0o700)?;
        let dir: Root = store.dir.sub(&work)?;
        for leg in &self.route.legs {
            let from = store.root_of(&leg.here.path)?;
            make_snapshot(
                self.session,
                &dir,
                &place(&leg.mount),
                &from,
                Mode::Writable,
            )?;
        }
        let inv = self.session.observe()?;
        let command = emerge::quickpkg(packages, TARGET);
        let mut job = self
            .session
            .job(&inv, inv.running()?, command.args.clone())?;
        job.root = work.join("root");
        let others = self.route.legs.iter().filter(|leg| leg.mount != "/");
        job.volumes = others
            .map(|leg| Bind {
                source: work.join(place(&leg.mount)),
                target: leg.mount.clone().into(),
            })
            .collect();
        job.boot = None;
        job.built = Some(see(packed));
        // What could not be packed is missed when it is to be installed.
        self.run(job, &command)?;
        Ok(())
    }

    /// Whether it could be installed without anything else.
    fn install_one(&self, cpv: &str, packed: &Path) -> Result<bool> {
        let log = log::path(&self.route.to);
        let length = || self.session.store.dir.metadata(&log).map_or(0, |m| m.size);
        let from = length();
        let code = self.run_there(&emerge::packed(cpv, TARGET, true), Some(packed))?;
        let shown = log::tail(&self.session.store, &log, length().saturating_sub(from))?;
        let shown = String::from_utf8_lossy(&shown.unwrap_or_default()).into_owned();
        let planned = pretend::parse(&shown);
        let alone = matches!(&planned[..], [one] if one.package == cpv && one.kind == Kind::Binary);
        if code != 0 || !alone {
            return Ok(false);
        }
        let code = self.run_there(&emerge::packed(cpv, TARGET, false), Some(packed))?;
        Ok(code == 0)
    }

    /// Run it in the environment, which sees the packages.
    fn run_there(&self, command: &Emerge, packed: Option<&Path>) -> Result<i32> {
        let inv = self.session.observe()?;
        let env = inv.get(&self.route.to)?;
        let mut job = self.session.job(&inv, env, command.args.clone())?;
        job.built = packed.map(see);
        self.run(job, command)
    }

    fn run(&self, mut job: Job, command: &Emerge) -> Result<i32> {
        if self.terms.interrupted.came() {
            bail!("it was interrupted");
        }
        upgrade::give_variables(&mut job, command, &self.route.to);
        let mut out = log::append(&self.session.store, &self.route.to)?;
        let now = chrono::Local::now().format("%Y-%m-%d %H:%M:%S");
        writeln!(out, ">>> {now} {}", command.args.join(" ")).context("cannot write the log")?;
        let mut child = job.start(Output::Log(out))?;
        let status = wait(&mut child, self.terms.interrupted, || ())?;
        if self.terms.interrupted.came() {
            let to = &self.route.to;
            bail!("it was interrupted; {to}@{BEFORE} is as {to} was before");
        }
        Ok(exit_code(status))
    }
}
