//! Writing the menu: every environment that is proven to boot, and what boots by default.
//! The rename of the menu file is the switch.

use std::path::Path;

use anyhow::{Context, Result};
use be_grub::menu::{Entry, Menu};
use be_grub::validate::Checker;

use crate::boot::Kernel;
use crate::model::{Environment, Inventory};
use crate::name::EnvName;
use crate::plan::Proofs;
use crate::proven::Proven;
use crate::session::Session;
use crate::store::Paths;

/// What was written, and what was left out.
#[derive(Debug, Clone, Default)]
pub struct Written {
    /// Environments with an entry, in the order of the menu.
    pub entries: Vec<String>,
    /// Environments without one, each with the reason.
    pub left_out: Vec<(String, String)>,
    /// The text of the menu.
    pub text: String,
}

/// Render the menu, without checking or writing it.
///
/// # Errors
/// When the menu cannot be rendered.
pub fn render(
    session: &Session,
    inv: &Inventory,
    default: &EnvName,
    without: &[EnvName],
) -> Result<Written> {
    render_with(session, inv, default, without, &Proven::default()).map(|(written, _)| written)
}

/// As [`render`], believing what `before` proves; gives what is proven now.
fn render_with(
    session: &Session,
    inv: &Inventory,
    default: &EnvName,
    without: &[EnvName],
    before: &Proven,
) -> Result<(Written, Proven)> {
    let mut written = Written::default();
    let mut proven = Proven::default();
    let mut menu = Menu {
        fs_uuid: inv.fs.uuid.clone(),
        default: None,
        entries: Vec::new(),
        modules: Vec::new(),
    };
    for env in inv.environments.iter().rev() {
        if without.contains(env.name()) {
            continue;
        }
        let known = before
            .get(env, &inv.fs, &session.config)
            .filter(|_| env.usable());
        let proof = match known {
            Some(kernel) => Ok(kernel),
            None => prove(session, inv, env)?,
        };
        match proof {
            Ok(kernel) => {
                proven.put(env, &inv.fs, &session.config, &kernel);
                menu.entries.push(entry(env, &kernel));
                written.entries.push(env.name().to_string());
            }
            Err(why) => written.left_out.push((env.name().to_string(), why)),
        }
    }
    // Without an entry of its own the default stays what the user's grub.cfg says.
    if written.entries.iter().any(|e| e == default.as_str()) {
        menu.default = Some(default.to_string());
    }
    written.text = menu.render()?;
    Ok((written, proven))
}

fn prove(session: &Session, inv: &Inventory, env: &Environment) -> Result<Result<Kernel, String>> {
    if !env.usable() {
        return Ok(Err(format!("it is {}", env.state().as_str())));
    }
    if env.root.is_none() {
        return Ok(Err("its root subvolume is gone".to_owned()));
    }
    let found = session.examine(inv, env)?;
    if !found.problems.is_empty() {
        return Ok(Err(found.problems.join("; ")));
    }
    let kernel = found.kernels.into_iter().next();
    Ok(kernel.ok_or_else(|| "it has no kernel".to_owned()))
}

fn entry(env: &Environment, kernel: &Kernel) -> Entry {
    let root = env
        .root
        .as_ref()
        .map(|r| Path::new("/").join(&r.path))
        .unwrap_or_default();
    let from_top = |path: &Path| root.join(path).to_string_lossy().into_owned();
    let created = env.record.created.format("%Y-%m-%d %H:%M");
    let mut title = format!("{}: Linux {}, {created}", env.name(), kernel.version);
    if !env.record.description.is_empty() {
        title = format!("{title}, {}", env.record.description);
    }
    Entry {
        name: env.name().to_string(),
        title,
        linux: from_top(&kernel.linux),
        initrd: kernel.initrd.iter().map(|p| from_top(p)).collect(),
        args: kernel.arguments.clone(),
        unrestricted: false,
    }
}

/// Write the menu of `inv`. Everything is brought to the disk before the rename: GRUB does
/// not replay the log tree, so that a pointer could else be newer than what it points to.
/// When the rename changes what boots, it is on the disk on return; an entry alone is there
/// with the next commit of the filesystem.
///
/// # Errors
/// When the menu does not pass grub-script-check, or cannot be written. The old menu
/// stays then.
pub fn write(
    session: &Session,
    inv: &Inventory,
    default: &EnvName,
    without: &[EnvName],
    how: Proofs,
) -> Result<Written> {
    let before = match how {
        Proofs::Kept => Proven::read(&session.store),
        Proofs::Anew => Proven::default(),
    };
    let (written, proven) = render_with(session, inv, default, without, &before)?;
    let checker = Checker::spawn(&written.text).context("cannot check the menu")?;
    let staged = session
        .store
        .dir
        .stage(Paths::MENU, written.text.as_bytes(), 0o644)
        .context("cannot write the menu")?;
    proven.write(&session.store)?;
    session.store.top.sync()?;
    checker.finish().context("the menu was not written")?;
    staged.publish().context("cannot write the menu")?;
    if inv.menu.default.as_deref() != Some(default.as_str()) || !without.is_empty() {
        session.store.top.commit()?;
    }
    Ok(written)
}
