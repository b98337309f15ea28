//! A repository of the test's own in the lab.

use anyhow::Result;
use xtask::image::Tree;

use crate::system::System;

const PLACE: &str = "/var/db/repos/work";

/// The beginning of every ebuild.
const HEAD: &str = "EAPI=8\nDESCRIPTION=\"Work\"\nHOMEPAGE=\"https://localhost/\"\n\
    S=\"${WORKDIR}\"\nLICENSE=\"MIT\"\nSLOT=\"0\"\nKEYWORDS=\"amd64\"\n";

/// The repository `work`.
pub struct Overlay<'a>(&'a System);

impl<'a> Overlay<'a> {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(system: &'a System) -> Result<Self> {
        let files = [
            ("profiles/repo_name", "work\n"),
            ("metadata/layout.conf", "masters =\nthin-manifests = true\n"),
        ];
        for (path, text) in files {
            system.write(&format!("{PLACE}/{path}"), text)?;
        }
        let conf = format!("[work]\nlocation = {PLACE}\nauto-sync = no\n");
        system.write("/etc/portage/repos.conf/work.conf", conf)?;
        Ok(Self(system))
    }

    /// A package in the category app-misc.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn ebuild(&self, name: &str, version: &str, phases: &str) -> Result<()> {
        let path = format!("{PLACE}/app-misc/{name}/{name}-{version}.ebuild");
        self.0.write(&path, format!("{HEAD}{phases}"))
    }
}
