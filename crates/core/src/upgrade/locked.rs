//! An environment that is made as a lock says: repositories at its commits, its configuration and
//! its world, then exactly its packages.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use be_portage::emerge::{self, Step};
use be_portage::pretend::Planned;
use be_portage::{portageq, vdb};

use super::{Kind, Request, Work};
use crate::layout;
use crate::lock::{self, CONFIGURATION, Difference, Lock, MAX_LOCK, Package, Repository, State};
use crate::model::Inventory;
use crate::record::Phase;
use crate::refusal::{NoLock, Refusal};
use crate::store::Paths;

/// Where Portage keeps what is wanted.
pub(super) const WORLD: &str = "/var/lib/portage";

/// What `--reinstall-atoms=` gets is one argument of a program, of which Linux takes 128 KiB.
const MOST: usize = 100 << 10;

/// What can be seen of a lock before anything is done: what forbids to build from it.
pub(super) fn check(inv: &Inventory, lock: &Lock) -> Result<(), Refusal> {
    if lock.is_for_others() {
        let name = lock.environment.clone();
        return Err(Refusal::NoLock(NoLock::ForOthers { name }));
    }
    let shared = layout::shared(&inv.system);
    let places = lock.repositories.iter().map(|one| &*one.location);
    for place in places.chain([CONFIGURATION, WORLD]) {
        if let Some(target) = shared
            .iter()
            .find(|target| Path::new(place).starts_with(target))
        {
            let path = target.display().to_string();
            return Err(Refusal::NoLock(NoLock::Outside { path }));
        }
    }
    for one in &lock.repositories {
        if let State::Git {
            modified: Some(true),
            ..
        } = one.state
        {
            let repository = one.name.to_string();
            return Err(Refusal::NoLock(NoLock::WithChanges { repository }));
        }
    }
    Ok(())
}

impl Work<'_> {
    /// Have the lock at hand that this environment is built from, also when that goes on.
    pub(super) fn recall(&mut self, request: &Request) -> Result<()> {
        if self.upgrade().lock.is_none() {
            return Ok(());
        }
        let path = Paths::environment(&self.record.name).join("log/wanted.json");
        let dir = &self.session.store.dir;
        if let Some(lock) = &request.lock {
            dir.write_atomic(&path, lock.to_text()?.as_bytes(), 0o600)?;
            self.wanted = Some(lock.clone());
            return Ok(());
        }
        let text = dir.read_to_string(&path, MAX_LOCK).ok();
        let lock = text.and_then(|text| Lock::parse(&text).ok());
        let name = self.record.name.clone();
        let lock = lock.ok_or(Refusal::NoLock(NoLock::Forgotten { name }))?;
        self.wanted = Some(Box::new(lock));
        Ok(())
    }

    /// All phases up to the check; what would be merged, if only that is wanted.
    pub(super) fn by_lock(
        &mut self,
        lock: &Lock,
        request: &Request,
    ) -> Result<Option<Vec<Planned>>> {
        if !matches!(request.kind, Kind::New { .. }) {
            self.keep_built()?;
            self.note_unfinished()?;
        }
        if self.upgrade().phase <= Phase::Sync {
            self.enter(Phase::Sync)?;
            self.pin(lock)?;
        }
        self.enter(Phase::Preview)?;
        self.moves()?;
        self.keep_built()?;
        self.take_inputs()?;
        self.is_known(request)?;
        let mut atoms = self.lacking(lock, &lock.packages, Tell::All)?;
        let mut planned = self.planned(&atoms)?;
        if request.pretend {
            return Ok(Some(planned));
        }
        self.take_made();
        self.enter(Phase::Fetch)?;
        if !atoms.is_empty() {
            let fetch = emerge::exactly(&self.options, &atoms, Step::Fetch);
            self.fetch_by(&fetch, &[0], "emerge --fetchonly")?;
        }
        self.enter(Phase::Merge)?;
        if self.use_compilers(lock)? {
            atoms = self.lacking(lock, &lock.packages, Tell::Nothing)?;
            // What is not as the lock says now will not be the next time.
            let done: Vec<String> = lock.toolchain.packages.iter().map(atom).collect();
            atoms.retain(|atom| !done.contains(atom));
            planned = self.planned(&atoms)?;
        }
        self.merge(
            &planned,
            &emerge::exactly(&self.options, &atoms, Step::Merge),
        )?;
        self.remove_others(lock)?;
        let otherwise = self.lacking(lock, &lock.packages, Tell::Nothing)?;
        self.enter(Phase::Chores)?;
        self.chores()?;
        // They build again what depends on what was merged, and take the newest of it.
        let mut atoms = self.lacking(lock, &lock.packages, Tell::Nothing)?;
        atoms.retain(|atom| !otherwise.contains(atom));
        if !atoms.is_empty() {
            self.exactly(&atoms)?;
            self.remove_others(lock)?;
        }
        self.enter(Phase::Configuration)?;
        self.configuration()?;
        Ok(None)
    }

    /// What would be merged for these.
    fn planned(&mut self, atoms: &[String]) -> Result<Vec<Planned>> {
        match atoms.is_empty() {
            true => Ok(Vec::new()),
            false => self.preview(&emerge::exactly(&self.options, atoms, Step::Pretend)),
        }
    }

    /// Merge exactly these, from the beginning.
    pub(super) fn exactly(&mut self, atoms: &[String]) -> Result<()> {
        let planned = self.planned(atoms)?;
        let fetch = emerge::exactly(&self.options, atoms, Step::Fetch);
        self.fetch_by(&fetch, &[0], "emerge --fetchonly")?;
        let merge = emerge::exactly(&self.options, atoms, Step::Merge);
        self.merge(&planned, &merge)
    }

    /// What is installed here and not, or not so, where the lock is from: `category/name:slot`.
    /// None if that is too much for one argument.
    pub(super) fn unlike(&self, lock: &Lock) -> Result<Option<Vec<String>>> {
        let installed = self.installed()?.packages.into_iter();
        let unlike = installed.filter(|i| !lock.packages.iter().any(|p| is_as(i, p)));
        let unlike: Vec<String> = unlike
            .map(|p| format!("{}/{}:{}", p.category, p.name, p.slot))
            .collect();
        let length: usize = unlike.iter().map(|atom| atom.len() + 1).sum();
        Ok((length <= MOST).then_some(unlike))
    }

    /// What is to be merged, as atoms: those packages of the lock that are not there as it says.
    /// One that cannot be had is no reason to have none of the others.
    pub(super) fn lacking(
        &mut self,
        lock: &Lock,
        packages: &[Package],
        tell: Tell,
    ) -> Result<Vec<String>> {
        let installed = self.installed()?.packages;
        let missing = packages
            .iter()
            .filter(|p| !installed.iter().any(|i| is_as(i, p)));
        let mut atoms = Vec::new();
        let mut gone = Vec::new();
        for package in missing {
            match self.has_ebuild(lock, package)? {
                true => atoms.push(atom(package)),
                false => gone.push(package.cpv.to_string()),
            }
        }
        let masked = self.take_masked(&mut atoms)?;
        let name = |atom: &String| atom[1..].split(':').next().unwrap_or_default().to_owned();
        let masked = masked.iter().map(name).collect();
        let told = [
            (gone, "in none of its repositories any more"),
            (masked, "masked by its own configuration"),
        ];
        for (packages, what) in told {
            if tell == Tell::All && !packages.is_empty() {
                let packages = packages.join(", ");
                self.watch
                    .note(&format!("in the lock, and {what}: {packages}"));
            }
        }
        Ok(atoms)
    }

    /// Take those out of the atoms that may not be installed: emerge does nothing at all where
    /// one of its arguments is masked.
    fn take_masked(&self, atoms: &mut Vec<String>) -> Result<Vec<String>> {
        if atoms.is_empty() {
            return Ok(Vec::new());
        }
        let ask = portageq::ask_visible(atoms);
        let said = self.scene_of(|scene| scene.run(ask))?.out;
        let (masked, good) = std::mem::take(atoms)
            .into_iter()
            .partition(|atom| portageq::is_masked(&said, atom));
        *atoms = good;
        Ok(masked)
    }

    /// Whether a repository of the lock still has this version.
    fn has_ebuild(&self, lock: &Lock, package: &Package) -> Result<bool> {
        let root = self.root()?;
        let (category, name, version) = package.cpv.parts();
        let file = format!("{category}/{name}/{name}-{version}.ebuild");
        let known = |one: &&Repository| package.repository.as_ref().is_none_or(|r| *r == one.name);
        let mut places = lock.repositories.iter().filter(known);
        Ok(places.any(|one| {
            let place = Path::new(one.location.trim_start_matches('/'));
            root.is_file(place.join(&file)).unwrap_or(false)
        }))
    }

    /// Remove what the lock does not have. What something still needs stays, and is named in the
    /// end.
    fn remove_others(&mut self, lock: &Lock) -> Result<()> {
        let wanted: BTreeSet<&str> = lock.packages.iter().map(|p| &*p.cpv).collect();
        let others: Vec<String> = self
            .installed()?
            .packages
            .iter()
            .map(vdb::Package::cpv)
            .filter(|cpv| !wanted.contains(cpv.as_str()))
            .collect();
        if others.is_empty() {
            return Ok(());
        }
        self.watch.note(&format!(
            "not in the lock, to be removed: {}",
            others.join(", ")
        ));
        let code = self.emerge(&emerge::remove(&others), |_| ())?;
        if code != 0 {
            self.watch.note(&format!(
                "not all of it could be removed (emerge: exit {code})"
            ));
        }
        Ok(())
    }

    /// How the environment is not as its lock says; nothing without one.
    pub(super) fn deviations(&self) -> Result<Vec<Difference>> {
        let Some(wanted) = &self.wanted else {
            return Ok(Vec::new());
        };
        let now = chrono::Local::now().fixed_offset();
        let inv = self.session.observe()?;
        let found = lock::current(self.session, &inv, inv.get(&self.record.name)?, now)?;
        Ok(lock::deviations(wanted, &found))
    }
}

/// Whether somebody is to hear of what cannot be had.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tell {
    All,
    Nothing,
}

/// Whether an installed package is as a lock says.
fn is_as(installed: &vdb::Package, package: &Package) -> bool {
    let slot = match &installed.subslot {
        Some(subslot) => format!("{}/{subslot}", installed.slot),
        None => installed.slot.clone(),
    };
    let repository = package.repository.as_deref();
    installed.cpv() == *package.cpv
        && slot == *package.slot
        && (repository.is_none() || installed.repository.as_deref() == repository)
        && installed
            .use_flags
            .iter()
            .map(String::as_str)
            .eq(package.use_flags.each())
}

/// Exactly this package, for emerge.
fn atom(package: &Package) -> String {
    let repository = package.repository.as_ref();
    let repository = repository
        .map(|name| format!("::{name}"))
        .unwrap_or_default();
    format!("={}:{}{repository}", package.cpv, package.slot.main())
}
