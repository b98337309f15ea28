//! The steps of `be rename`; the plan tells their order, and why.

use std::path::Path;

use anyhow::{Result, bail};

use crate::fstab::Fstab;
use crate::name::EnvName;
use crate::observe::MAX_TEXT;
use crate::plan::Renaming;
use crate::session::Session;
use crate::store::Paths;

const FSTAB: &str = "etc/fstab";

/// The new name becomes a link to the old one; then the record says so.
pub(super) fn announce(session: &Session, names: &Renaming) -> Result<()> {
    let store = &session.store;
    let link = Paths::environment(&names.to);
    let target = Path::new(names.from.as_str());
    match store.dir.readlink(&link) {
        Ok(there) if there == target => {}
        _ => store.dir.symlink(target, &link)?,
    }
    // A record that says so lets menus be written with the new name: it must be there.
    store.top.commit()?;
    let mut record = session.store.record_of(&names.from)?;
    record.renaming = Some(names.to.clone());
    store.write_record(&Paths::environment(&names.from), &record)
}

/// Write the new name into the fstab of the environment. Both names lead there by now.
pub(super) fn rewrite_fstab(session: &Session, names: &Renaming) -> Result<()> {
    write_fstab(session, &names.from, &names.to)
}

/// In the fstab of the environment in the directory `at`, let it be called `name`.
fn write_fstab(session: &Session, at: &EnvName, name: &EnvName) -> Result<()> {
    let root = session.store.dir.sub(Paths::environment(at).join("root"))?;
    let text = match root.read_to_string(FSTAB, MAX_TEXT) {
        Ok(text) => text,
        Err(e) if e.is_not_found() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let old = Fstab::parse(&text);
    let new = old.with_environment(name);
    if Fstab::parse(&new.to_text()).entries().count() != old.entries().count() {
        bail!("the fstab of {at} could not be rewritten");
    }
    if new != old {
        root.write_atomic(FSTAB, new.to_text().as_bytes(), 0o644)?;
    }
    Ok(())
}

/// Exchange the directory and the link: the moment of the rename.
pub(super) fn exchange(session: &Session, names: &Renaming) -> Result<()> {
    let store = &session.store;
    // GRUB sees what was committed, and neither a log nor a cache: the menu that it reads
    // must have the new name before the old one is gone.
    store.top.commit()?;
    let (from, to) = (
        Paths::environment(&names.from),
        Paths::environment(&names.to),
    );
    store.dir.exchange(&from, &to)?;
    Ok(store.top.commit()?)
}

/// The record gets the new name, and the old one goes.
pub(super) fn end(session: &Session, names: &Renaming) -> Result<()> {
    let store = &session.store;
    let mut record = session.store.record_of(&names.to)?;
    record.renaming = None;
    store.write_record(&Paths::environment(&names.to), &record)?;
    remove_link(session, &names.from)
}

/// Undo what was done before the menu had the new name. What cannot be undone is finished
/// by the next be.
pub(super) fn undo(session: &Session, names: &Renaming) {
    // It may have had it before this run, which then was to finish another one.
    let menu = session.store.dir.read_to_string(Paths::MENU, MAX_TEXT);
    let header = menu
        .ok()
        .and_then(|text| be_grub::menu::parse_header(&text).ok());
    let old = header.is_some_and(|h| !h.environments.iter().any(|e| e == names.to.as_str()));
    let undo = || -> Result<()> {
        if !old {
            bail!("the menu may have the new name");
        }
        let mut record = session.store.record_of(&names.from)?;
        if !record.adopted {
            write_fstab(session, &names.from, &names.from)?;
        }
        record.renaming = None;
        let dir = Paths::environment(&names.from);
        session.store.write_record(&dir, &record)?;
        remove_link(session, &names.to)
    };
    if let Err(e) = undo() {
        tracing::warn!("the next be finishes the rename of {}: {e:#}", names.from);
    }
}

/// Remove a second name; what is no link stays.
pub(super) fn remove_link(session: &Session, name: &EnvName) -> Result<()> {
    let dir = &session.store.dir;
    let path = Paths::environment(name);
    match dir.readlink(&path) {
        Ok(_) => Ok(dir.remove_file(&path)?),
        Err(_) => Ok(()),
    }
}
