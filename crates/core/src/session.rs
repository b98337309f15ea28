//! One run of `be`: the system it manages, held open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use be_btrfs::Root;

use crate::block;
use crate::boot::{self, Examination, Fstab, Ground};
use crate::bootfs::{self, BootDir};
use crate::carry;
use crate::chroot::{Bind, Job};
use crate::config::{self, Config};
use crate::files;
use crate::layout::{self, Layout};
use crate::manager::Places;
use crate::menu;
use crate::model::{Environment, Inventory, STORE, Subvolume, volumes};
use crate::name::{EnvName, Named};
use crate::observe::{self, MAX_TEXT};
use crate::parallel;
use crate::plan::{How, Left, Switch, Use};
use crate::proven::Proven;
use crate::record::{Member, Record};
use crate::refusal::Refusal;
use crate::shutdown;
use crate::store::{Paths, Store};
use crate::whole::Whole;

/// The system and its store.
#[derive(Debug)]
pub struct Session {
    /// Where the system is mounted, absolute and without links.
    pub sysroot: PathBuf,
    /// The system as a root for paths, across its mounts.
    pub root: Root,
    /// Its store.
    pub store: Store,
    /// Its be.toml.
    pub config: Config,
}

impl Session {
    /// Open the system mounted at `sysroot`.
    ///
    /// # Errors
    /// [`Refusal::NotRoot`], [`Refusal::NotBtrfs`], [`Refusal::NotASystem`],
    /// [`Refusal::BadConfig`].
    pub fn open(sysroot: &Path) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Refusal::NotRoot.into());
        }
        let sysroot = sysroot.canonicalize().map_err(|e| Refusal::NotASystem {
            path: sysroot.to_owned(),
            why: e.to_string(),
        })?;
        let root = Root::open(&sysroot).map_err(|e| Refusal::NotASystem {
            path: sysroot.clone(),
            why: e.to_string(),
        })?;
        if !be_btrfs::is_btrfs(&root)? {
            return Err(Refusal::NotBtrfs { path: sysroot }.into());
        }
        let config = read_config(&root)?;
        let store = Store::open(&sysroot)?;
        Ok(Self {
            sysroot,
            root,
            store,
            config,
        })
    }

    /// Read the system and its environments.
    pub fn observe(&self) -> Result<Inventory> {
        observe::observe(&self.store, &self.sysroot)
    }

    /// Every mount of the filesystem in any mount namespace.
    ///
    /// A process that makes a namespace of its own holds, for a moment, all that its parent
    /// sees; what another namespace holds is therefore looked at twice.
    pub fn uses(&self, inv: &Inventory) -> Result<Vec<Use>> {
        const MOMENT: Duration = Duration::from_millis(50);
        let running = &inv.system.root.path;
        let passing =
            |u: &Use| !u.here && u.subvolume.starts_with(STORE) && u.subvolume != *running;
        let mut uses = observe::uses(&inv.fs.number)?;
        if uses.iter().any(passing) {
            std::thread::sleep(MOMENT);
            let again = observe::uses(&inv.fs.number)?;
            uses.retain(|u| !passing(u) || again.contains(u));
            // What came meanwhile counts.
            uses.extend(again.into_iter().filter(|u| !passing(u)));
        }
        Ok(uses)
    }

    /// What lies in the directory of an environment and is not `be`'s.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn strangers(&self, name: &EnvName) -> Result<Vec<PathBuf>> {
        const OURS: [&str; 6] = ["be.json", "root", "vol", "base", "snap", "log"];
        let list = self.store.dir.list(Paths::environment(name))?.into_iter();
        let names = list.map(|(name, _)| PathBuf::from(name));
        let temporary = |name: &Path| name.to_string_lossy().starts_with(".be-");
        Ok(names
            .filter(|name| !OURS.iter().any(|o| name == Path::new(o)) && !temporary(name))
            .collect())
    }

    /// Find out whether an environment would boot.
    ///
    /// # Errors
    /// [`Refusal::RootMissing`].
    pub fn examine(&self, inv: &Inventory, env: &Environment) -> Result<Examination> {
        let subvolume = env.root.as_ref().ok_or_else(|| Refusal::RootMissing {
            name: env.name().clone(),
        })?;
        // What is wrong with one environment keeps no other from booting.
        let broken = |e: anyhow::Error| Examination {
            problems: vec![format!("{e:#}")],
            ..Examination::default()
        };
        let root = match self.whole(env) {
            Ok(root) => root,
            Err(e) => return Ok(broken(e)),
        };
        let boot = match self.boot_of(env) {
            Ok(boot) => boot,
            Err(e) => return Ok(broken(e)),
        };
        let ground = ground(inv, subvolume, env.volumes_in_store(), Fstab::Final);
        let mut found = boot::examine(&root, boot.as_ref(), &ground, &self.config);
        // Of an adopted system the fstab counts, and not what its record says.
        for member in env.missing().filter(|_| !env.record.adopted) {
            found
                .problems
                .push(format!("the subvolume for {} is gone", member.mount));
        }
        if let Some(kernel) = found.kernels.first()
            && let Err(why) = menu::entry(env, kernel)
        {
            found.problems.push(why);
        }
        Ok(found)
    }

    /// How to switch to an environment, or to a clone of it, with what this machine can do and
    /// what be.toml says.
    pub fn switch(&self, inv: &Inventory, env: &Environment, how: How) -> Switch {
        let how = match (how, self.config.trial.enabled) {
            (How::Auto, false) => How::Default,
            (how, _) => how,
        };
        let root = env.root.as_ref();
        let root = root.and_then(|root| self.store.root_of(&root.path).ok());
        let by_itself = shutdown::is_armed(self, inv) && carry::goes_by_itself(self, inv, env);
        Switch {
            how,
            judged: root.is_some_and(|root| files::judges(&root)),
            left: match by_itself {
                true => Left::Switch,
                false => Left::Nothing,
            },
            tries: self.config.trial.tries,
            no_place: match how {
                How::Default => None,
                How::Auto | How::Trial | How::Once => block::place(self, inv).err(),
            },
        }
    }

    /// The /boot of an environment, if that is not in its root.
    ///
    /// # Errors
    /// When its filesystem is not there, or cannot be mounted.
    pub fn boot_of(&self, env: &Environment) -> Result<Option<BootDir>> {
        let place = env.record.boot.as_ref();
        place
            .map(|place| bootfs::open(&self.store, place, false))
            .transpose()
    }

    /// All of an environment as one tree: its root, with its other subvolumes in their places.
    ///
    /// # Errors
    /// [`Refusal::RootMissing`], or when a subvolume of it is gone.
    pub fn whole(&self, env: &Environment) -> Result<Whole> {
        let root = env.root.as_ref().ok_or_else(|| Refusal::RootMissing {
            name: env.name().clone(),
        })?;
        Whole::open(&self.store, &root.path, env.volumes())
    }

    /// As [`Session::whole`], of an environment in the store, by its record alone.
    pub(crate) fn whole_of(&self, record: &Record) -> Result<Whole> {
        self.whole_at(Self::places_of(record))
    }

    fn whole_at(&self, places: Places) -> Result<Whole> {
        Whole::open(&self.store, &places.root, places.volumes)
    }

    /// Where an environment in the store is.
    pub(crate) fn places_of(record: &Record) -> Places {
        let home = Paths::environment(&record.name);
        let others = record.subvolumes.iter().filter(|m| m.mount != "/");
        Places {
            root: home.join("root"),
            volumes: others
                .map(|m| (m.mount.clone().into(), home.join(m.place())))
                .collect(),
        }
    }

    /// Where its base is.
    pub(crate) fn places_of_base(record: &Record) -> Places {
        let base = Paths::environment(&record.name).join("base");
        let members = record.subvolumes.iter();
        let others = members.filter(|m| m.mount != "/" && m.base.is_some());
        Places {
            root: base.join("root"),
            volumes: others
                .map(|m| (m.mount.clone().into(), base.join(m.place())))
                .collect(),
        }
    }

    /// Where an environment sees an absolute path: in itself, or in a mount that all share.
    pub(crate) fn seen_by(&self, record: &Record, path: &Path) -> Result<Whole> {
        let inv = self.observe()?;
        let shared = layout::shared(&inv.system);
        match shared.iter().any(|target| path.starts_with(target)) {
            true => Ok(self.root.try_clone()?.into()),
            false => self.whole_of(record),
        }
    }

    /// As [`Session::whole`], the system as it was when the environment was cloned.
    ///
    /// # Errors
    /// When the base is gone.
    pub fn whole_base(&self, record: &Record) -> Result<Whole> {
        self.whole_at(Self::places_of_base(record))
    }

    /// The rule for what is to be cloned and booted: what keeps the origin (the running
    /// environment if none is named) from booting would keep the clone from it, too.
    ///
    /// # Errors
    /// [`Refusal::NotBootable`].
    pub fn bootable(&self, inv: &Inventory, origin: Option<&Named>) -> Result<()> {
        let env = inv.origin(origin.map(|n| &n.env))?;
        let (name, found) = match origin.and_then(|n| Some((n, n.snapshot.as_ref()?))) {
            Some((name, snapshot)) => {
                let (taken, found) = env.snapshot(snapshot)?;
                let gone = || Refusal::SnapshotGone { name: name.clone() };
                let root = &found.root().ok_or_else(gone)?.path;
                let mounts = taken.subvolumes.iter().map(|m| m.mount.as_str());
                let volumes = volumes(mounts.zip(&found.subvolumes));
                let root = Whole::open(&self.store, root, volumes)?;
                // A clone of it gets the kernels that are there now.
                let boot = self.boot_of(env)?;
                let found = self.examine_at(inv, env, &root, boot.as_ref())?;
                (name.clone(), found)
            }
            None => (env.name().clone().into(), self.examine(inv, env)?),
        };
        let problems = found.problems;
        match problems.is_empty() {
            true => Ok(()),
            false => Err(Refusal::NotBootable { name, problems }.into()),
        }
    }

    /// Find out whether a clone will boot, from the base that it equals; its fstab is
    /// about to be rewritten and not looked at.
    pub(crate) fn examine_at(
        &self,
        inv: &Inventory,
        env: &Environment,
        base: &Root,
        boot: Option<&BootDir>,
    ) -> Result<Examination> {
        let subvolume = env.root.as_ref().context("a clone has a root")?;
        Ok(boot::examine(
            base,
            boot,
            &ground(inv, subvolume, Vec::new(), Fstab::ToBeRewritten),
            &self.config,
        ))
    }

    /// The kernels of these environments, for a list: what was proven, else the newest by
    /// its file name.
    pub fn kernels(&self, inv: &Inventory, environments: &[&Environment]) -> Vec<Option<String>> {
        let proven = Proven::read(&self.store);
        parallel::map(environments, |env| {
            if let Some(kernels) = proven.get(env, &inv.fs, &self.config) {
                return Some(kernels.first()?.version.clone());
            }
            match &env.record.boot {
                Some(place) => {
                    let boot = bootfs::open(&self.store, place, false).ok()?;
                    boot::newest_in(&boot.root, Path::new(""))
                }
                None => {
                    let root = self.store.root_of(&env.root.as_ref()?.path).ok()?;
                    boot::newest_in(&root, Path::new("boot"))
                }
            }
        })
    }

    /// What an environment consists of, with the size of the kernels that a clone of it gets.
    ///
    /// # Errors
    /// [`Refusal::RootMissing`].
    pub fn layout(&self, inv: &Inventory, origin: Option<&Named>) -> Result<Layout> {
        let env = inv.origin(origin.map(|n| &n.env))?;
        match origin.and_then(|n| n.snapshot.as_ref()) {
            Some(snapshot) => observe::layout_of_snapshot(&self.store, inv, env, snapshot),
            None => observe::layout(&self.store, inv, env),
        }
    }

    /// A file by which a GRUB that was installed from an environment finds it by its name,
    /// as a path in it. grub-install writes one wherever GRUB has to search for its files.
    pub fn grub_installed(&self, env: &Environment) -> Option<String> {
        let root = self.store.root_of(&env.root.as_ref()?.path).ok()?;
        let own = format!("/@be/{}/", env.name());
        observe::GRUB_HOMES.into_iter().find_map(|home| {
            let names = root.list(home).unwrap_or_default();
            let mut files = names.into_iter().filter(|(_, kind)| kind.is_dir());
            files.find_map(|(name, _)| {
                let path = Path::new(home).join(name).join("load.cfg");
                let text = root.read_to_string(&path, MAX_TEXT).ok()?;
                text.contains(&own).then(|| path.display().to_string())
            })
        })
    }

    /// A program to be run in an environment, with what fstab shares among them.
    ///
    /// # Errors
    /// [`Refusal::RootMissing`].
    pub fn job(&self, inv: &Inventory, env: &Environment, argv: Vec<String>) -> Result<Job> {
        let subvolume = env.root.as_ref().ok_or_else(|| Refusal::RootMissing {
            name: env.name().clone(),
        })?;
        let mut job = Job::new(&inv.fs.device, &subvolume.path, argv);
        job.binds = layout::shared(&inv.system)
            .into_iter()
            .map(|target| Bind {
                source: inv
                    .sysroot
                    .join(target.strip_prefix("/").unwrap_or(&target)),
                target,
            })
            .collect();
        // What lies in another comes after it.
        let volumes = env.volumes().into_iter();
        job.volumes = volumes
            .map(|(target, source)| Bind { source, target })
            .collect();
        // What was split and is not mounted yet: it works in what it will have.
        let fstab = self.store.root_of(&subvolume.path)?;
        let fstab = fstab.read_to_string("etc/fstab", MAX_TEXT);
        let fstab = crate::fstab::Fstab::parse(&fstab.unwrap_or_default());
        for part in layout::waiting(self, inv)? {
            let line = fstab.at(&part.mount).and_then(|e| e.subvol());
            if !part.is_own() && line.map(Path::new) == Some(&part.subvolume.path) {
                job.volumes.push(Bind {
                    source: part.subvolume.path.clone(),
                    target: part.mount.clone(),
                });
            }
        }
        // A kernel that is installed there must not end up below the mount.
        if let Some(boot) = &env.record.boot {
            match &boot.subvolume {
                Some(source) => job.volumes.push(Bind {
                    source: source.clone(),
                    target: "/boot".into(),
                }),
                None => job.boot = Some(boot.clone()),
            }
        }
        // Two mounts at one place are none of ours.
        job.binds.retain(|bind| {
            let own = |m: &Member| Path::new(&m.mount) == bind.target;
            !env.record.subvolumes.iter().any(own)
        });
        job.resolv_conf = std::fs::read_to_string("/etc/resolv.conf").ok();
        Ok(job)
    }
}

fn ground(
    inv: &Inventory,
    subvolume: &Subvolume,
    volumes: Vec<(PathBuf, PathBuf)>,
    fstab: Fstab,
) -> Ground {
    Ground {
        fs_uuid: inv.fs.uuid.clone(),
        partuuid: inv.fs.partuuid.clone(),
        subvol: subvolume.option(),
        subvolid: subvolume.id,
        is_default: subvolume.id == inv.fs.default_subvolume,
        volumes,
        fstab,
    }
}

fn read_config(root: &Root) -> Result<Config> {
    let text = match root.read_to_string(config::PATH, MAX_TEXT) {
        Ok(text) => text,
        Err(e) if e.is_not_found() => return Ok(Config::default()),
        Err(e) => return Err(e).context("cannot read the configuration"),
    };
    Config::parse(&text).map_err(|why| Refusal::BadConfig { why }.into())
}
