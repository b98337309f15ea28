//! Compilers' caches and other machines' compilers, where an environment is built: ccache,
//! sccache, distcc and icecream, as `[farm]` of be.toml says.
//!
//! The engines are those that are installed in the environment, with its compilers. What they
//! get of the running system is their caches, which are written to, and the socket of
//! icecream's daemon. All of it is told to Portage by its process environment, and by a file that
//! only its jobs see; so that what the owner says of one package in package.env counts for more.

mod cache;
mod profile;

use std::path::{Path, PathBuf};

use anyhow::Result;
use be_btrfs::Root;
use be_portage::conf::has_feature;
use be_portage::emerge::Emerge;

use super::Work;
use super::build::real;
use super::inputs::CONFIGURATION;
use crate::chroot::{Bind, Cover, Job, uncover};
use crate::config::{self, Wanted};
use crate::layout;
use crate::model::Environment;
use crate::name::EnvName;
use crate::record::State;
use crate::session::Session;

pub(crate) use cache::caches;
pub(super) use cache::make_conf;
use cache::{CCACHE, Cache, SCCACHE, directory, open, place};
use profile::Profile;

/// A program that compiles elsewhere, or remembers what was compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engine {
    /// Its name in /usr/bin.
    pub program: &'static str,
    /// Gentoo's package of it.
    pub package: &'static str,
}

impl Engine {
    const fn new(program: &'static str, package: &'static str) -> Self {
        Self { program, package }
    }

    fn is_in(&self, root: &Root) -> bool {
        let path = Path::new("usr/bin").join(self.program);
        root.is_file(path).unwrap_or(false)
    }
}

const DISTCC: Engine = Engine::new("distcc", "sys-devel/distcc");
const ICECREAM: Engine = Engine::new("icecc", "sys-devel/icecream");

/// Where icecream's daemon listens.
const SOCKETS: &str = "run/icecc";

/// Where the compilers are packed for icecream, in the root of the environment. It belongs to no
/// package, and is gone when the upgrade is.
const PACKED: &str = ".be-icecream";

/// Where sandbox(1) is told what may be written to.
const SANDBOX: &str = "etc/sandbox.d";
const SANDBOX_FILE: &str = "90be-sccache";

/// What the programs that build in an environment get of the engines.
#[derive(Debug, Default)]
pub struct Farm {
    binds: Vec<Bind>,
    covers: Vec<Cover>,
    features: Vec<&'static str>,
    /// What must be so, whatever the owner's configuration says.
    variables: Vec<(String, String)>,
    /// What is so unless that says otherwise.
    defaults: Vec<(&'static str, &'static str)>,
    /// Where the features and the defaults are put; without it they must be so, too.
    profile: Option<Profile>,
    /// The socket of the environment's server of sccache, as a path of the machine.
    socket: Option<PathBuf>,
    /// icecream gets the compilers of the environment.
    packs: bool,
    /// What a person should know, in sentences.
    pub notes: Vec<String>,
}

impl Farm {
    /// What be.toml asks for and can be had in this environment. What cannot be had is told
    /// in a note: nothing fails for it.
    pub fn of(session: &Session, name: &EnvName, env: &Root) -> Self {
        let mut farm = Self::default();
        let config = &session.config.farm;
        let wanted = wanted(config);
        let (there, missing): (Vec<_>, Vec<_>) = wanted.iter().partition(|e| e.is_in(env));
        farm.notes.extend(missing.iter().map(|engine| {
            let Engine { program, package } = engine;
            format!(
                "{program} is not installed in {name}, which is built without it; [farm] in \
                 be.toml asks for it: emerge {package}"
            )
        }));
        // Other mounts come before ours there, and not everything below them is the clone's.
        let shared = session.observe().map(|inv| layout::shared(&inv.system));
        let shared = shared.unwrap_or_default();
        let is_own = |path: &Path| {
            let absolute = Path::new("/").join(path);
            !shared.iter().any(|target| absolute.starts_with(target))
        };
        let conf = match is_own(Path::new(CONFIGURATION)) {
            true => make_conf(env),
            false => make_conf(&session.root),
        };
        let has = |engine| there.contains(&engine);
        if has(DISTCC) {
            farm.distcc(name, env, &config.distcc, &conf);
        }
        if has(ICECREAM) {
            farm.icecream(session, name);
        }
        if has(CCACHE.engine) {
            farm.ccache(session, &config.ccache, &conf);
        }
        if has(SCCACHE.engine) {
            farm.sccache(session, name, env, &config.sccache);
        }
        farm.profile = Profile::find(env).ok().filter(|p| is_own(&p.file));
        farm.covers.retain(|cover| is_own(&cover.path));
        farm
    }

    fn distcc(&mut self, name: &EnvName, env: &Root, wanted: &Wanted, conf: &str) {
        self.features.push("distcc");
        if let Some(hosts) = wanted.with() {
            self.set("DISTCC_HOSTS", hosts);
            return;
        }
        let listed = env.is_file("etc/distcc/hosts").unwrap_or(false);
        if !listed && !conf.contains("DISTCC_HOSTS=") {
            self.notes.push(format!(
                "distcc has no hosts in {name}: /etc/distcc/hosts is missing; name them there, or \
                 in [farm] distcc of be.toml"
            ));
        }
    }

    fn icecream(&mut self, session: &Session, name: &EnvName) {
        let socket = Path::new(SOCKETS).join("iceccd.socket");
        let dir = session
            .root
            .sub(SOCKETS)
            .ok()
            .and_then(|dir| real(&dir).ok());
        let (Some(source), true) = (dir, session.root.exists(socket).unwrap_or(false)) else {
            self.notes.push(format!(
                "iceccd does not run: /{SOCKETS} has no socket of it, and {name} is built without \
                 icecream; start it, or take it out of [farm] in be.toml"
            ));
            return;
        };
        let target = Path::new("/").join(SOCKETS);
        self.binds.push(Bind { source, target });
        // icecc asks the daemon which machine is to compile, and then that machine itself:
        // unlike distcc it cannot be sent out of the sandbox by Portage.
        self.features.extend(["icecream", "-network-sandbox"]);
        self.packs = true;
    }

    fn ccache(&mut self, session: &Session, wanted: &Wanted, conf: &str) {
        if !self.bind_cache(session, &CCACHE, wanted) {
            return;
        }
        // What ccache takes for the compiler is then a link to distcc or icecc, which stays as it
        // is when the compiler is upgraded: objects of the old one would be taken for its own.
        let others = ["distcc", "icecream"];
        let given = self.features.iter().any(|f| others.contains(f));
        if given || others.iter().any(|other| has_feature(conf, other)) {
            self.defaults
                .push(("CCACHE_COMPILERCHECK", "%compiler% -v"));
        }
        self.features.push("ccache");
    }

    fn sccache(&mut self, session: &Session, name: &EnvName, env: &Root, wanted: &Wanted) {
        if !self.bind_cache(session, &SCCACHE, wanted) {
            return;
        }
        self.defaults.push(("RUSTC_WRAPPER", "/usr/bin/sccache"));
        // A server compiles by itself, with the compilers that it sees, and runs what it is told:
        // each environment has its own, to which only those may connect who may write to the
        // cache. A socket in the abstract namespace would be open to everybody on the machine.
        let socket = format!(".be-{name}");
        self.socket = self.binds.last().map(|bind| bind.source.join(&socket));
        self.set(
            "SCCACHE_SERVER_UDS",
            &place(&SCCACHE).join(socket).to_string_lossy(),
        );
        // It ends with the phase of the ebuild that started it; another one that asks it compiles
        // without it then.
        self.set("SCCACHE_IGNORE_SERVER_IO_ERROR", "1");
        // Portage lets ccache write to its cache, and knows nothing of this one.
        if env.is_dir(SANDBOX).unwrap_or(false)
            && let Ok(dir) = env.canonicalize(SANDBOX)
        {
            self.covers.push(Cover {
                path: Path::new("/").join(dir).join(SANDBOX_FILE),
                text: format!("SANDBOX_WRITE=\"{}/\"\n", place(&SCCACHE).display()),
            });
        }
    }

    /// Let the environment see the cache; whether that can be done.
    fn bind_cache(&mut self, session: &Session, cache: &Cache, wanted: &Wanted) -> bool {
        // No environment names a directory of the running system that it gets.
        let path = directory(cache, wanted, &make_conf(&session.root));
        match open(session, &path) {
            Ok(source) => {
                let target = place(cache);
                self.set(cache.variable, &target.to_string_lossy());
                self.binds.push(Bind { source, target });
                true
            }
            Err(e) => {
                let name = cache.engine.program;
                self.notes.push(format!(
                    "{name} is not used: its cache {path} cannot be: {e:#}; mend [farm] in be.toml"
                ));
                false
            }
        }
    }

    fn set(&mut self, variable: &str, value: &str) {
        self.variables.retain(|(known, _)| known != variable);
        self.variables.push((variable.to_owned(), value.to_owned()));
    }

    fn without_icecream(&mut self) {
        let ours = ["icecream", "-network-sandbox"];
        self.features.retain(|feature| !ours.contains(feature));
        self.binds.retain(|bind| !bind.target.ends_with(SOCKETS));
        self.packs = false;
    }

    /// Give it to a program.
    pub fn give(&self, job: &mut Job) {
        job.binds.extend(self.binds.iter().cloned());
        job.covers.extend(self.all_covers());
        let mut variables = self.variables.clone();
        let mut features = String::new();
        if self.profile.is_none() {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            variables.extend(self.defaults.iter().map(own));
            features = self.features.join(" ");
        }
        job.env
            .retain(|(name, _)| !variables.iter().any(|(own, _)| own == name));
        job.env.extend(variables);
        match job.env.iter_mut().find(|(name, _)| name == "FEATURES") {
            _ if features.is_empty() => {}
            Some((_, value)) => *value = format!("{value} {features}"),
            None => job.env.push(("FEATURES".to_owned(), features)),
        }
    }

    fn all_covers(&self) -> Vec<Cover> {
        let mut covers = self.covers.clone();
        let given = !self.features.is_empty() || !self.defaults.is_empty();
        if let Some(profile) = self.profile.as_ref().filter(|_| given) {
            let mut text = format!("{}\n", profile.text);
            for (name, value) in &self.defaults {
                text.push_str(&format!("{name}=\"{value}\"\n"));
            }
            let features = self.features.join(" ");
            text.push_str(&format!("FEATURES=\"${{FEATURES}} {features}\"\n"));
            let path = Path::new("/").join(&profile.file);
            covers.push(Cover { path, text });
        }
        covers
    }

    /// Take away what was made in the environment to mount at.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn clear(&self, session: &Session, env: &Environment) -> Result<()> {
        self.drop_socket();
        match self.all_covers().is_empty() {
            true => Ok(()),
            false => self.clear_in(&*session.whole(env)?),
        }
    }

    /// Take away what a job that was killed has left to mount at: it would count as a change of
    /// the configuration, for which what was built is not good.
    ///
    /// # Errors
    /// It cannot be removed.
    fn sweep(env: &Root) -> Result<()> {
        let Ok(profile) = Profile::find(env) else {
            return Ok(());
        };
        let files = [profile.file.clone(), Path::new(SANDBOX).join(SANDBOX_FILE)];
        let before = env.exists(&profile.file)?;
        let cover = |path| Cover {
            path,
            text: String::new(),
        };
        uncover(env, &files.map(cover))?;
        match profile.file.parent() {
            Some(dir) if before && !env.exists(&profile.file)? && env.list(dir)?.is_empty() => {
                Ok(env.rmdir(dir)?)
            }
            _ => Ok(()),
        }
    }

    /// A socket that nobody listens to any more.
    fn drop_socket(&self) {
        if let Some(socket) = &self.socket
            && let Err(e) = std::fs::remove_file(socket)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("{} stays: {e}", socket.display());
        }
    }

    fn clear_in(&self, env: &Root) -> Result<()> {
        uncover(env, &self.all_covers())?;
        let made = self.profile.as_ref().and_then(|p| p.made.as_ref());
        match made {
            Some(dir) if env.is_dir(dir)? && env.list(dir)?.is_empty() => Ok(env.rmdir(dir)?),
            _ => Ok(()),
        }
    }
}

/// What a person who mends an environment gets: as much as what is mended there.
pub fn of_mended(session: &Session, env: &Environment) -> Result<Farm> {
    let built = env.record.builder.is_some() || env.record.upgrade.is_some();
    match built && env.state() == State::Failed {
        true => {
            let mut farm = Farm::of(session, env.name(), &*session.whole(env)?);
            // Nobody packs its compilers there.
            farm.without_icecream();
            // What is written there is to stay.
            farm.profile = None;
            Ok(farm)
        }
        false => Ok(Farm::default()),
    }
}

/// What be.toml asks for.
fn wanted(config: &config::Farm) -> Vec<Engine> {
    let all = [
        (config.distcc.is_on(), DISTCC),
        (config.icecream, ICECREAM),
        (config.ccache.is_on(), CCACHE.engine),
        (config.sccache.is_on(), SCCACHE.engine),
    ];
    let wanted = all.into_iter().filter(|(on, _)| *on);
    wanted.map(|(_, engine)| engine).collect()
}

/// What be.toml asks for and the running system has not.
pub(crate) fn missing(session: &Session) -> Vec<Engine> {
    let mut engines = wanted(&session.config.farm);
    engines.retain(|engine| !engine.is_in(&session.root));
    engines
}

impl Work<'_> {
    /// Build with the engines from now on.
    pub(super) fn use_farm(&mut self) -> Result<()> {
        // What builds for others by their configuration runs their programs: what these would put
        // into the caches would come out here.
        if self.record.builder.is_some() && self.wanted.is_some() {
            return Ok(());
        }
        let farm = Farm::of(self.session, &self.record.name, &*self.root()?);
        // An upgrade may merge several times.
        for note in farm.notes.iter().filter(|n| !self.farm.notes.contains(n)) {
            self.watch.note(note);
        }
        self.farm = farm;
        Ok(())
    }

    /// Pack the compilers that the environment has now for icecream: its daemon would pack those
    /// of the running system.
    pub(super) fn pack_compilers(&mut self) -> Result<()> {
        if !self.farm.packs {
            return Ok(());
        }
        self.forget_compilers()?;
        let root = self.root()?;
        root.mkdir_all(PACKED, 0o755)?;
        let dir = Path::new("/").join(PACKED);
        let args = [
            "env",
            "--chdir",
            &dir.to_string_lossy(),
            "icecc-create-env",
            "/usr/bin/gcc",
        ];
        let pack = Emerge {
            args: args.map(str::to_owned).to_vec(),
            env: Vec::new(),
        };
        let code = self.emerge(&pack, |_| ())?;
        let made = self.root()?.list(PACKED)?.into_iter().map(|(name, _)| name);
        let mut made = made.filter(|name| name.to_string_lossy().contains(".tar"));
        match made.next().filter(|_| code == 0) {
            Some(name) => {
                let path = dir.join(name);
                self.farm.set("ICECC_VERSION", &path.to_string_lossy());
            }
            None => {
                self.watch.note(&format!(
                    "icecream is not used: the compilers cannot be packed for it \
                     (icecc-create-env: exit {code}); be log tells more"
                ));
                self.farm.without_icecream();
            }
        }
        Ok(())
    }

    /// Take away what one that was killed has left.
    pub(super) fn sweep_farm(&mut self) -> Result<()> {
        self.forget_compilers()?;
        Farm::sweep(&*self.root()?)
    }

    /// Take away what was packed and what was made to mount at.
    pub(super) fn leave_farm(&mut self) -> Result<()> {
        self.forget_compilers()?;
        let farm = std::mem::take(&mut self.farm);
        farm.drop_socket();
        farm.clear_in(&*self.root()?)
    }

    fn forget_compilers(&mut self) -> Result<()> {
        let root = self.root()?;
        match root.exists(PACKED)? {
            true => Ok(root.remove_tree(PACKED)?),
            false => Ok(()),
        }
    }
}
