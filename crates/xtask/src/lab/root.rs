//! The installed root: version 1 of our packages, by the real emerge.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Key, artifact};
use crate::chroot::Chroot;
use crate::lab::{base, kernel::Kernels, recipes};
use crate::run::{cmd, run};
use crate::temp;

/// The tar of the installed root.
pub fn ensure(base: &Path, kernels: &Kernels) -> Result<PathBuf> {
    let mut key = Key::new("root")
        .with(include_str!("root.rs"))
        .with(parent_name(base)?);
    key = key.with(
        kernels
            .dir
            .file_name()
            .context("a cache without a name")?
            .as_encoded_bytes(),
    );
    for part in ["repo", "root", "install.sh"] {
        key = key.with_tree(&recipes().join(part))?;
    }
    Ok(artifact("root", key, |out| build(out, base, kernels))?.join("root.tar.zst"))
}

/// The name of the artifact that a file belongs to.
pub fn parent_name(file: &Path) -> Result<&[u8]> {
    let parent = file.parent().and_then(Path::file_name);
    Ok(parent
        .context("a cached file without a directory")?
        .as_encoded_bytes())
}

fn build(out: &Path, tar: &Path, kernels: &Kernels) -> Result<()> {
    let temp = temp::dir(base::ROOM)?;
    let root = temp.path().join("root");
    fs::create_dir(&root)?;
    base::unpack(tar, &root)?;
    base::overlay(&root)?;
    let lab = root.join("srv/lab");
    let profile = "/var/db/repos/gentoo/profiles/lab";
    std::os::unix::fs::symlink(profile, root.join("etc/portage/make.profile"))?;
    fs::create_dir_all(lab.join("kernels"))?;
    fs::create_dir_all(root.join("var/db/repos"))?;
    for kernel in &kernels.versions {
        run(cmd("cp", ["-a", "--no-preserve=ownership"])
            .arg(kernels.dir.join(&kernel.package))
            .arg(lab.join("kernels")))?;
    }
    run(cmd("cp", ["-r", "--no-preserve=ownership"])
        .arg(recipes().join("repo"))
        .arg(lab.join("work")))?;
    let script = root.join("srv/lab/install.sh");
    fs::copy(recipes().join("install.sh"), &script).context("copy install.sh")?;
    let [old, new] = &kernels.versions;
    Chroot::new(&root).run(&["bash", "/srv/lab/install.sh", &old.package, &new.package])?;
    fs::remove_file(&script)?;
    base::pack(&root, &out.join("root.tar.zst"), "zstd")
}
