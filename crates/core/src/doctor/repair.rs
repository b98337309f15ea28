//! Mending what is safe to mend. Each repair can be done again, and after each the system is
//! as it was or mended.

use std::path::Path;

use anyhow::{Context, Result, bail};
use be_btrfs::Root;

use super::Repair;
use crate::execute::{execute, install_script, sweep};
use crate::files;
use crate::fstab::{Change, Fstab};
use crate::menu::Written;
use crate::model::Inventory;
use crate::observe::MAX_TEXT;
use crate::plan::{self, Plan, Proofs, Step};
use crate::session::Session;
use crate::store::Lock;

/// Do one repair. Gives sentences for a person, beside that it was done.
///
/// # Errors
/// When it fails; nothing is half done then.
pub fn repair(session: &Session, repair: &Repair, lock: &Lock) -> Result<Vec<String>> {
    let done = match repair {
        Repair::Permissions { path, mode } => {
            let dir = &session.store.dir;
            let now = dir.lstat(path)?;
            if now.kind.is_symlink() {
                bail!("/{} is a link by now", path.display());
            }
            // First nobody else's, then closed: a chown drops bits and never adds any.
            dir.chown(path, 0, 0)?;
            dir.chmod(path, *mode).map(|()| Vec::new())?
        }
        Repair::Sweep => sweep(session, lock)?,
        Repair::Fstab {
            root,
            subvol,
            target,
            ..
        } => fstab(&session.store.root_of(root)?, target, subvol).map(|()| Vec::new())?,
        Repair::Script { of: None } => install_script(&session.root).map(|()| Vec::new())?,
        Repair::Script {
            of: Some((_, root)),
        } => install_script(&session.store.root_of(root)?).map(|()| Vec::new())?,
        Repair::Files { of: None } => install_files(&session.root)?,
        Repair::Files {
            of: Some((_, root)),
        } => install_files(&session.store.root_of(root)?)?,
        Repair::GrubHome { name, home } => {
            let inv = session.observe()?;
            let mut record = inv.get(name)?.record.clone();
            record.grub_home = Some(home.clone());
            steps(session, inv, vec![Step::Update(Box::new(record))], lock)?
        }
        Repair::Menu => {
            let inv = session.observe()?;
            let step = Step::WriteMenu {
                default: plan::default(&inv, inv.running()?.name()),
                without: Vec::new(),
                proofs: Proofs::Anew,
            };
            steps(session, inv, vec![step], lock)?
        }
        Repair::Hook => {
            let inv = session.observe()?;
            let config = inv.menu.config.clone().context("there is no grub.cfg")?;
            steps(session, inv, vec![Step::HookConfig { config }], lock)?
        }
    };
    session.store.top.sync()?;
    Ok(done)
}

fn install_files(root: &Root) -> Result<Vec<String>> {
    let facts = files::look(root, files::Asked::default());
    let install = |file: files::File| {
        files::install(root, &file).with_context(|| format!("could not {file}"))?;
        Ok(file.to_string())
    };
    files::missing(&facts).map(install).collect()
}

fn steps(session: &Session, inv: Inventory, steps: Vec<Step>, lock: &Lock) -> Result<Vec<String>> {
    let plan = Plan {
        steps,
        notes: Vec::new(),
    };
    let done = execute(session, inv, &plan, lock)?;
    let menu = done.menu.iter().flat_map(Written::notes);
    Ok(done.notes.into_iter().chain(menu).collect())
}

fn fstab(root: &Root, target: &Path, subvol: &str) -> Result<()> {
    const FSTAB: &str = "etc/fstab";
    let old = Fstab::parse(&root.read_to_string(FSTAB, MAX_TEXT)?);
    let new = old.changed(&[Change::Subvol {
        target: target.to_owned(),
        source: None,
        subvol: subvol.to_owned(),
    }]);
    let again = Fstab::parse(&new.to_text());
    let wanted = subvol.trim_matches('/');
    let wrong = again
        .entries()
        .filter(|e| e.target == target && e.is_btrfs())
        .any(|e| e.subvol() != Some(wanted) || e.subvolid().is_some());
    if wrong || again.entries().count() != old.entries().count() {
        bail!("the fstab could not be rewritten, and stays as it was");
    }
    Ok(root.write_atomic(FSTAB, new.to_text().as_bytes(), 0o644)?)
}
