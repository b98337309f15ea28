//! Package moves and the real Portage: what it takes from a metadata cache with new names.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use be_portage::moves::cache::rewritten;
use be_portage::moves::map::Moves;
use be_portage::moves::packages::Stock;
use be_portage::moves::repository::Repository;
use be_portage::moves::updates::Updates;
use be_tests::system::System;
use xtask::image::{Layout, Tree};

const OVERLAY: &str = "/var/db/repos/overlay";

/// A dependency from an eclass, one of the ebuild, and a blocker.
const ECLASS: &str = "DEPEND=\"dev-libs/oldgreet\"\n";
const EBUILD: &str = "EAPI=8\ninherit greets\nDESCRIPTION=\"It has not noticed\"\nSLOT=0\n\
    LICENSE=MIT\nKEYWORDS=amd64\nS=\"${WORKDIR}\"\nRDEPEND=\">=dev-libs/oldgreet-1:= \
    !<dev-libs/oldgreet-0.5\"\nsrc_install() { :; }\n";

/// The lab with an overlay that still calls dev-libs/libgreet by an older name, whose cache
/// Portage has written.
fn with_overlay() -> Result<System> {
    let system = System::lab(Layout::AtSubvol)?;
    for (path, text) in [
        ("profiles/repo_name", "overlay\n"),
        (
            "metadata/layout.conf",
            "masters = gentoo\nthin-manifests = true\n",
        ),
        ("eclass/greets.eclass", ECLASS),
        ("app-misc/user/user-1.ebuild", EBUILD),
    ] {
        let path = system.path(&format!("{OVERLAY}/{path}"));
        fs::create_dir_all(path.parent().context("it is in a directory")?)?;
        fs::write(path, text)?;
    }
    system.write(
        "/etc/portage/repos.conf/overlay.conf",
        format!("[overlay]\nlocation = {OVERLAY}\nauto-sync = no\n"),
    )?;
    let updates = "/var/db/repos/gentoo/profiles/updates";
    fs::create_dir_all(system.path(updates))?;
    system.write(
        &format!("{updates}/1Q-2026"),
        "move dev-libs/oldgreet dev-libs/libgreet\n",
    )?;
    system
        .chroot()
        .run(&["egencache", "--update", "--repo", "overlay"])?;
    Ok(system)
}

/// Put new names into the cache of the overlay; gives how many atoms were changed.
fn put_new_names(system: &System) -> Result<usize> {
    let repositories = Repository::configured(&system.path("/"))?;
    let mut updates = Updates::default();
    for repository in &repositories {
        updates.append(repository.updates()?);
    }
    ensure!(updates.malformed.is_empty() && updates.unread.is_empty());
    let moves = Moves::new(updates.updates);
    let stock = Stock::new(&repositories);
    let mut count = 0;
    for repository in repositories.iter().filter(|r| r.name == "overlay") {
        for entry in rewritten(repository, &moves, &stock)?.entries {
            fs::write(repository.path.join(&entry.path), &entry.text)?;
            count += entry.changes.len();
        }
    }
    Ok(count)
}

/// The files of the overlay, but for its cache.
fn sources(system: &System) -> Result<BTreeMap<String, Vec<u8>>> {
    ["eclass/greets.eclass", "app-misc/user/user-1.ebuild"]
        .into_iter()
        .map(|file| {
            let path = system.path(&format!("{OVERLAY}/{file}"));
            Ok((file.to_owned(), fs::read(path)?))
        })
        .collect()
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn portage_merges_by_the_new_names_of_a_cache_and_records_them() -> Result<()> {
    let system = with_overlay()?;
    let before = sources(&system)?;
    let emerge = ["emerge", "--quiet", "--package-moves=n", "app-misc/user"];
    let refused = system.chroot().output(&emerge)?;
    let text = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        !refused.status.success() && text.contains("dev-libs/oldgreet"),
        "{text}"
    );

    ensure!(put_new_names(&system)? == 3);
    system.chroot().run(&emerge)?;
    for (field, value) in [
        ("DEPEND", "dev-libs/libgreet\n"),
        (
            "RDEPEND",
            ">=dev-libs/libgreet-1:0/1= !<dev-libs/libgreet-0.5\n",
        ),
    ] {
        let recorded = system.path(&format!("/var/db/pkg/app-misc/user-1/{field}"));
        let recorded = fs::read_to_string(&recorded).with_context(|| field.to_owned())?;
        ensure!(recorded == value, "{field}: {recorded}");
    }
    ensure!(sources(&system)? == before);
    ensure!(put_new_names(&system)? == 0);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn be_moves_finds_in_a_real_system_what_portage_leaves() -> Result<()> {
    let system = with_overlay()?;
    let found = system.be.run(&["--json", "moves"]).exits(1).json();
    let findings = found["findings"].as_array().context("no findings")?;
    let files: Vec<_> = findings.iter().map(|f| (&f["file"], &f["lines"])).collect();
    ensure!(
        serde_json::json!(files)
            == serde_json::json!([
                ["app-misc/user/user-1.ebuild", [8]],
                ["eclass/greets.eclass", [1]]
            ]),
        "{found}"
    );
    ensure!(findings[0]["variables"] == serde_json::json!(["DEPEND", "RDEPEND"]));
    Ok(())
}
