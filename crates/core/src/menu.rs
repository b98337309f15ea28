//! Writing the menu: every environment that is proven to boot, and what boots by default.
//! The rename of the menu file is the switch.

use std::path::Path;

use anyhow::{Context, Result};
use be_btrfs::Root;
use be_grub::menu::{Entry, Menu, unchecked};
use be_grub::selection::{Place, Selection};
use be_grub::validate::Checker;

use crate::block;
use crate::boot::{Examination, Kernel};
use crate::entries::{self, Entries};
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::packages;
use crate::plan::Proofs;
use crate::proven::Proven;
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::Paths;

/// What a kernel is told that boots once or on trial, unless its owner has told it already:
/// to reboot 10 seconds after a panic.
pub(crate) const COMES_BACK: &str = "panic=10";

/// What was written, and what was left out.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Environments with an entry, in the order of the menu.
    pub entries: Vec<String>,
    /// Environments without one, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// The environment that was to boot by default, and has no entry to do so.
    pub lost_default: Option<String>,
    /// The text of the menu.
    pub text: String,
}

impl Written {
    /// What is worth saying of it, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let left_out = self.left_out.iter();
        let mut notes: Vec<_> = left_out
            .map(|(name, why)| format!("{name} has no entry in the menu: {why}"))
            .collect();
        if let Some(name) = &self.lost_default {
            notes.push(format!(
                "{name} does not boot next any more; mend it, then: be activate {name}"
            ));
        }
        notes
    }
}

/// A menu that is being checked, not yet written.
#[derive(Debug)]
pub(crate) struct Prepared {
    written: Written,
    proven: Proven,
    checker: Checker,
    /// The rename changes what boots, or takes entries away.
    switches: bool,
}

/// A clone that is not published yet, with the read-only snapshot that equals it.
#[derive(Clone, Copy)]
pub(crate) struct Unborn<'a> {
    /// As it will be.
    pub(crate) env: &'a Environment,
    /// Where its files can be read already.
    pub(crate) base: &'a Root,
}

impl Unborn<'_> {
    /// The environment that it was cloned from, as long as nothing was written there since:
    /// what was found out of that is true of the clone.
    fn origin<'i>(&self, inv: &'i Inventory) -> Result<Option<&'i Environment>> {
        let base = be_btrfs::subvolume_info(self.base)?;
        let Some(parent) = base.parent_uuid.map(|uuid| uuid.to_string()) else {
            return Ok(None);
        };
        Ok(inv.environments.iter().find(|env| {
            let root = env.root.as_ref();
            root.is_some_and(|r| r.uuid == parent && r.generation <= base.otransid)
        }))
    }
}

/// How many packages the titles are to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packages {
    /// As many as there are.
    Counted,
    /// As many as the menu says that is there.
    AsShown,
}

/// What the menu is to show.
pub(crate) struct Request<'a> {
    /// The environment that boots by default.
    pub(crate) default: &'a EnvName,
    /// Environments that get no entry.
    pub(crate) without: &'a [EnvName],
    /// Whether to believe earlier proofs.
    pub(crate) proofs: Proofs,
    /// One more environment.
    pub(crate) unborn: Option<Unborn<'a>>,
    /// The environment that becomes the default again once the default has come up.
    pub(crate) back: Option<&'a EnvName>,
}

/// Whether the environment block may be made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Making {
    Allowed,
    No,
}

/// Render the menu, without checking or writing it.
///
/// # Errors
/// When the menu cannot be rendered.
pub fn render(
    session: &Session,
    inv: &Inventory,
    default: &EnvName,
    packages: Packages,
) -> Result<Written> {
    let request = Request {
        default,
        without: &[],
        proofs: Proofs::Anew,
        unborn: None,
        back: None,
    };
    render_with(session, inv, &request, packages, Making::No).map(|(written, _)| written)
}

/// As [`render`]; gives what is proven now, too.
fn render_with(
    session: &Session,
    inv: &Inventory,
    request: &Request<'_>,
    packages: Packages,
    making: Making,
) -> Result<(Written, Proven)> {
    let before = Proven::read(&session.store);
    let mut written = Written::default();
    let mut proven = Proven::default();
    let mut all = Entries::of(inv.menu.access);
    let mut add = |env: &Environment, proof: Result<Vec<Kernel>, String>, packages| match proof
        .and_then(|kernels| all.add(env, &kernels, packages))
    {
        Ok(()) => written.entries.push(env.name().to_string()),
        Err(why) => written.left_out.push((env.name().to_string(), why)),
    };
    let count = |env: &Environment, proven: &mut Proven| match packages {
        Packages::Counted => counted(session, env, &before, proven),
        Packages::AsShown => inv.menu.packages.get(env.name().as_str()).copied(),
    };
    if let Some(unborn) = &request.unborn {
        let found = session.examine_at(inv, unborn.env, unborn.base, None)?;
        let packages = match unborn.origin(inv)? {
            Some(origin) => count(origin, &mut proven),
            None => packages::count(unborn.base),
        };
        add(unborn.env, verdict(found), packages);
    }
    for env in inv.environments.iter().rev() {
        if request.without.contains(env.name()) {
            continue;
        }
        let known = before
            .get(env, &inv.fs, &session.config)
            .filter(|_| env.usable() && request.proofs == Proofs::Kept);
        let proof = match known {
            Some(kernels) => Ok(kernels.to_vec()),
            None => prove(session, inv, env)?,
        };
        let mut packages = None;
        if let Ok(kernels) = &proof {
            proven.put(env, &inv.fs, &session.config, kernels);
            packages = count(env, &mut proven);
        }
        add(env, proof, packages);
    }
    let default = request.default.as_str();
    let listed = written.entries.iter().any(|e| e == default);
    let was = inv.menu.default.as_deref() == Some(default);
    written.lost_default = (!listed && was).then(|| default.to_owned());
    // A choice for one boot ends with the default that it was about.
    let back = request.back.or(inv.menu.back.as_ref().filter(|_| was));
    let back = back.filter(|_| listed).map(ToString::to_string);
    let selection = match listed {
        true => selection(session, inv, &all.entries, making),
        false => None,
    };
    let menu = Menu {
        fs_uuid: inv.fs.uuid.clone(),
        // Without an entry of its own the default stays what the user's grub.cfg says.
        default: listed.then(|| default.to_owned()),
        entries: all.entries,
        left_out: written
            .left_out
            .iter()
            .map(|(name, _)| name.clone())
            .collect(),
        modules: Vec::new(),
        selection,
        back,
        more: all.more,
        packages: all.packages,
    };
    written.text = menu.render()?;
    Ok((written, proven))
}

/// How the menu chooses by itself, if GRUB can write somewhere.
fn selection(
    session: &Session,
    inv: &Inventory,
    entries: &[Entry],
    making: Making,
) -> Option<Selection> {
    let place = block::place(session, inv)
        .inspect_err(|none| tracing::debug!("the menu cannot choose: {none}"))
        .ok()?;
    let at = place.block(&inv.fs.uuid);
    let known = inv.menu.block.as_ref();
    let there = known.is_some_and(|b| b.at == at && b.choice.is_ok());
    if making == Making::Allowed
        && !there
        && let Err(e) = block::create(&session.store, &at)
    {
        tracing::warn!("the menu cannot boot once or on trial: {e:#}");
        return None;
    }
    let mut arguments = entries.iter().flat_map(|e| &e.args);
    let unattended = match arguments.any(|a| a.starts_with("panic=")) {
        true => Vec::new(),
        false => vec![COMES_BACK.to_owned()],
    };
    Some(Selection { place, unattended })
}

fn prove(
    session: &Session,
    inv: &Inventory,
    env: &Environment,
) -> Result<Result<Vec<Kernel>, String>> {
    if !env.usable() {
        return Ok(Err(format!("it is {}", env.state().as_str())));
    }
    if env.root.is_none() {
        return Ok(Err("its root subvolume is gone".to_owned()));
    }
    Ok(verdict(session.examine(inv, env)?))
}

fn verdict(found: Examination) -> Result<Vec<Kernel>, String> {
    if !found.problems.is_empty() {
        return Err(found.problems.join("; "));
    }
    match found.kernels.is_empty() {
        true => Err("it has no kernel".to_owned()),
        false => Ok(found.kernels),
    }
}

/// The number of packages of an environment, counted if it may have changed.
fn counted(
    session: &Session,
    env: &Environment,
    before: &Proven,
    proven: &mut Proven,
) -> Option<u32> {
    let subvolume = packages::subvolume(env)?;
    let known = proven.packages(subvolume);
    let packages = known
        .or_else(|| before.packages(subvolume))
        .unwrap_or_else(|| {
            let root = session.whole(env).ok()?;
            packages::count(&root)
        });
    proven.put_packages(subvolume, packages);
    packages
}

/// The entry of an environment, or why GRUB cannot be given it: one bad entry must not
/// cost the others theirs.
pub(crate) fn entry(env: &Environment, kernel: &Kernel) -> Result<Entry, String> {
    let root = env
        .root
        .as_ref()
        .map(|r| Path::new("/").join(&r.path))
        .unwrap_or_default();
    let from_top = |path: &Path| match &kernel.fs {
        Some(_) => path.to_string_lossy().into_owned(),
        None => root.join(path).to_string_lossy().into_owned(),
    };
    let entry = Entry {
        name: env.name().to_string(),
        title: entries::title(env, kernel, None),
        fs_uuid: kernel.fs.clone(),
        linux: from_top(&kernel.linux),
        initrd: kernel.initrd.iter().map(|p| from_top(p)).collect(),
        args: kernel.arguments.clone(),
        unrestricted: false,
    };
    // With what a menu that chooses by itself adds, whether this one does or not.
    let longest = Selection {
        place: Place::Header,
        unattended: vec![COMES_BACK.to_owned()],
    };
    entry
        .check_for(Some(&longest))
        .map_err(|e| format!("{e:#}"))?;
    Ok(entry)
}

/// Render the menu and start its check.
///
/// # Errors
/// When the menu cannot be rendered, or there is nothing to check it with.
pub(crate) fn prepare(
    session: &Session,
    inv: &Inventory,
    request: &Request<'_>,
) -> Result<Prepared> {
    if inv.environments.iter().any(|e| e.record.renaming.is_some()) {
        // Both names lead to it by now, and soon only the new one does.
        let back = request.back.map(|n| inv.new_name(n));
        let request = Request {
            default: &inv.new_name(request.default),
            without: &request
                .without
                .iter()
                .map(|n| inv.new_name(n))
                .collect::<Vec<_>>(),
            proofs: request.proofs,
            unborn: request.unborn,
            back: back.as_ref(),
        };
        return prepare(session, &inv.clone().renamed(), &request);
    }
    let (written, proven) = render_with(session, inv, request, Packages::Counted, Making::Allowed)?;
    let default = request.default.as_str();
    let switches = inv
        .menu
        .default
        .as_deref()
        .is_some_and(|was| was != default);
    if switches && !written.entries.iter().any(|name| name == default) {
        let mut left_out = written.left_out.iter();
        let why = left_out.find(|(name, _)| name == default);
        return Err(Refusal::NotBootable {
            name: request.default.clone().into(),
            problems: why.map(|(_, why)| why.clone()).into_iter().collect(),
        }
        .into());
    }
    let passed = session.store.dir.read_to_string(Paths::MENU, MAX_TEXT);
    let text = unchecked(&written.text, passed.as_deref().unwrap_or_default());
    let checker = Checker::spawn(&text).context("cannot check the menu")?;
    let same =
        inv.menu.default.as_deref() == Some(request.default.as_str()) && request.back.is_none();
    Ok(Prepared {
        written,
        proven,
        checker,
        switches: !same || !request.without.is_empty(),
    })
}

impl Prepared {
    /// Write the menu. Everything is brought to the disk before the rename: GRUB does not
    /// replay the log tree, so that a pointer could else be newer than what it points to.
    /// When the rename changes what boots, it is on the disk on return; an entry alone is
    /// there with the next commit of the filesystem.
    ///
    /// # Errors
    /// When the menu does not pass grub-script-check, or cannot be written. The old menu
    /// stays then.
    pub(crate) fn write(self, session: &Session) -> Result<Written> {
        let text = self.written.text.as_bytes();
        let staged = session
            .store
            .dir
            .stage(Paths::MENU, text, 0o644)
            .context("cannot write the menu")?;
        if let Err(e) = self.proven.write(&session.store) {
            // It only saves time.
            tracing::debug!("what was proven is not kept: {e:#}");
        }
        session.store.top.sync()?;
        self.checker.finish().context("the menu was not written")?;
        staged.publish().context("cannot write the menu")?;
        if self.switches
            && let Err(e) = session.store.top.commit()
        {
            // It is switched, and the disk will have it with the next commit.
            tracing::warn!("the menu is written, but not yet on the disk: {e}");
        }
        Ok(self.written)
    }
}
