//! Where the list of packages of one system comes from.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use be_btrfs::Root;
use be_portage::diff::{PackageDiff, diff_by};
use be_portage::vdb::{self, Installed};

use super::Manager;
use super::list::{self, List, MOST};
use super::profile::{Packages, Profile};
use crate::chroot::{Bind, Job, Output, capture, exit_code};
use crate::record::Record;
use crate::session::Session;
use crate::upgrade::fd_path;

/// The subvolumes of a system, by their paths from the top level.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// The root.
    pub root: PathBuf,
    /// The others: where each is mounted, and which it is.
    pub volumes: Vec<(PathBuf, PathBuf)>,
}

/// Where the packages of a system are found.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Who installed them.
    pub manager: Manager,
    /// A device of the filesystem, for a manager that has to be asked.
    device: PathBuf,
    places: Places,
}

impl Source {
    /// The packages of the system, of which `tree` is all as one.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(&self, tree: &Root) -> Result<Installed> {
        let Manager::Profile(profile) = &self.manager else {
            return vdb::load_root(&fd_path(tree));
        };
        let list = match &profile.packages {
            Packages::Dpkg { file } => {
                let text = tree.read(inside(file), MOST)?;
                list::dpkg(&String::from_utf8_lossy(&text))
            }
            Packages::Pacman { directory } => list::pacman(tree, inside(directory))?,
            Packages::Lines { command } => self.ask(profile, &command.0)?,
        };
        Ok(list.installed(self.manager.order()))
    }

    /// Run the command in the system, where it can write nothing.
    fn ask(&self, profile: &Profile, command: &[String]) -> Result<List> {
        let mut job = Job::new(&self.device, &self.places.root, command.to_vec());
        job.read_only = true;
        let volumes = self.places.volumes.iter().cloned();
        job.volumes = volumes
            .map(|(target, source)| Bind { source, target })
            .collect();
        job.env.extend(profile.variables());
        let kept = capture::memory()?;
        let mut child = job.start(Output::Log(kept.try_clone()?))?;
        let code = exit_code(child.wait().context("cannot wait for a child")?);
        let output = capture::read(kept, MOST)?;
        if code != 0 {
            let last = output.lines().last().unwrap_or_default();
            bail!("{}: exit {code}: {last}", command.join(" "));
        }
        Ok(list::lines(&output))
    }
}

/// A path of a profile, as one in a root.
pub(super) fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

impl Session {
    /// Where the packages of a system are, of which `tree` is all as one.
    ///
    /// # Errors
    /// As [`Session::manager_of`].
    pub(crate) fn source(&self, tree: &Root, places: Places) -> Result<Source> {
        let manager = self.manager_of(tree)?.unwrap_or_default();
        let device = match manager.is_asked() {
            true => self.observe()?.fs.device,
            false => PathBuf::new(),
        };
        Ok(Source {
            manager,
            device,
            places,
        })
    }

    /// The packages of an environment in the store.
    pub(crate) fn packages_of(&self, record: &Record) -> Result<Installed> {
        let tree = self.whole_of(record)?;
        let source = self.source(&tree, Self::places_of(record))?;
        source.load(&tree).context("cannot read the packages")
    }

    /// As [`Session::packages_of`], as they were when it was cloned.
    pub(crate) fn packages_of_base(&self, record: &Record) -> Result<Installed> {
        let tree = self.whole_base(record)?;
        let source = self.source(&tree, Self::places_of_base(record))?;
        let packages = source.load(&tree);
        packages.context("cannot read the packages from before")
    }

    /// What has become of them since.
    pub(crate) fn packages_changed(&self, record: &Record) -> Result<PackageDiff> {
        let (before, after) = (self.packages_of_base(record)?, self.packages_of(record)?);
        let manager = self.manager_of(&*self.whole_of(record)?)?;
        Ok(diff_by(
            &before,
            &after,
            manager.unwrap_or_default().order(),
        ))
    }
}
