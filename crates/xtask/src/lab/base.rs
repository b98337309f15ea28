//! The root without any package of ours: Debian's smallest, with real Portage.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::{Key, artifact};
use crate::lab::recipes;
use crate::run::{cmd, run};
use crate::temp;

/// The suite: newer than most hosts, so that a `be` that was built and linked
/// on the host finds a C library that is new enough inside.
pub const SUITE: &str = "trixie";
const MIRROR: &str = "http://deb.debian.org/debian";
const PORTAGE: &str = "3.0.83";
const INCLUDE: &str = "python3,bzip2,mount,git,kmod,zstd,btrfs-progs,libbtrfsutil1,\
    grub-common,grub2-common,grub-pc-bin,grub-efi-amd64-bin";
/// Nothing in the lab reads these; half of the tar otherwise.
const TRIM: &[&str] = &[
    "usr/lib/grub/x86_64-efi/monolithic",
    "usr/lib/x86_64-linux-gnu/gconv",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/zoneinfo",
    "usr/share/debconf",
    "usr/lib/python3.13/test",
    "usr/lib/python3.13/pydoc_data",
    "usr/lib/python3.13/idlelib",
    "usr/lib/python3.13/ensurepip",
    "var/lib/dpkg",
    "var/cache/debconf",
    "var/lib/apt",
    "var/log",
    "etc/kernel",
    "usr/sbin/installkernel",
];
/// Bytes that the unpacked root takes at most.
pub const ROOM: u64 = 1 << 30;

/// The tar of the base root.
pub fn ensure() -> Result<PathBuf> {
    let key = Key::new("base").with(include_str!("base.rs"));
    Ok(artifact("base", key, build)?.join("root.tar"))
}

fn build(out: &Path) -> Result<()> {
    let temp = temp::dir(ROOM)?;
    let root = temp.path().join("root");
    run(cmd(
        "mmdebstrap",
        ["--variant=essential", "--quiet", "--format=directory"],
    )
    .arg(format!("--include={INCLUDE}"))
    .arg("--dpkgopt=path-exclude=/usr/share/doc/*")
    .arg("--dpkgopt=path-exclude=/usr/share/man/*")
    .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
    .args([SUITE.as_ref(), root.as_os_str(), MIRROR.as_ref()])
    .env("TMPDIR", temp.path()))?;
    for path in TRIM {
        remove(&root.join(path))?;
    }
    shrink_git(&root)?;
    portage(temp.path(), &root)?;
    accounts(&root)?;
    pack(&root, &out.join("root.tar"), "none")
}

/// Git's programs for mail, http and the rest; what is left serves file URLs.
fn shrink_git(root: &Path) -> Result<()> {
    let dir = root.join("usr/lib/git-core");
    for entry in fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let own = fs::symlink_metadata(&path)?.is_file();
        if own && !matches!(&*name, "git-sh-setup" | "git-submodule") && name != "git" {
            remove(&path)?;
        }
    }
    // The hard-linked copy of /usr/bin/git went with the rest.
    let git = dir.join("git");
    if fs::symlink_metadata(&git).is_err() {
        symlink("../../bin/git", &git).with_context(|| format!("make {}", git.display()))?;
    }
    Ok(())
}

/// As the Gentoo package installs it; a plain `pip install` would make a
/// Portage with a prefix of its own.
fn portage(temp: &Path, root: &Path) -> Result<()> {
    run(
        cmd("python3", ["-m", "pip", "download", "--quiet", "--no-deps"])
            .args(["--no-binary", "portage", "--dest"])
            .arg(temp)
            .arg(format!("portage=={PORTAGE}")),
    )
    .context("fetch Portage from PyPI")?;
    let name = format!("portage-{PORTAGE}");
    run(cmd("tar", ["-xzf"])
        .arg(temp.join(format!("{name}.tar.gz")))
        .arg("-C")
        .arg(temp))?;
    let build = temp.join("build");
    run(
        cmd("meson", ["setup", "--prefix=/usr", "--sysconfdir=/etc"])
            .args([
                "-Dsystem-wide=true",
                "-Dnative-extensions=false",
                "-Drsync-verify=false",
            ])
            .arg("-Dpython.purelibdir=/usr/lib/python3/dist-packages")
            .arg("-Dpython.platlibdir=/usr/lib/python3/dist-packages")
            .args([build.as_path(), &temp.join(&name)]),
    )?;
    run(cmd("meson", ["install", "--quiet", "--destdir"])
        .arg(root)
        .arg("-C")
        .arg(&build))?;
    remove(&root.join("usr/share/doc"))
}

fn accounts(root: &Path) -> Result<()> {
    for (file, line) in [
        ("etc/group", "portage:x:250:portage\n"),
        (
            "etc/passwd",
            "portage:x:250:250:portage:/var/tmp/portage:/bin/false\n",
        ),
    ] {
        let path = root.join(file);
        File::options()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("append to {}", path.display()))?;
    }
    for dir in ["var/log", "var/log/portage", "efi", "var/lib/portage"] {
        let path = root.join(dir);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
    }
    symlink("python3", root.join("usr/bin/python")).context("make /usr/bin/python")?;
    for path in [
        "etc/os-release",
        "etc/hostname",
        "etc/resolv.conf",
        "etc/apt",
        "etc/cron.d",
    ] {
        remove(&root.join(path))?;
    }
    Ok(())
}

/// Copies the recipe's own files over a root.
pub fn overlay(root: &Path) -> Result<()> {
    run(cmd("cp", ["-r", "--no-preserve=ownership"])
        .arg(recipes().join("root/."))
        .arg(root))?;
    Ok(())
}

/// Packs a root; `compress` is a tar option's name, or "none".
pub fn pack(root: &Path, tar: &Path, compress: &str) -> Result<()> {
    let mut command = cmd(
        "tar",
        ["--create", "--numeric-owner", "--xattrs", "--sort=name"],
    );
    if compress != "none" {
        command.arg(format!("--{compress}"));
    }
    run(command.arg("--file").arg(tar).arg("-C").arg(root).arg("."))?;
    Ok(())
}

/// Unpacks a root.
pub fn unpack(tar: &Path, root: &Path) -> Result<()> {
    run(cmd(
        "tar",
        [
            "--extract",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "-p",
        ],
    )
    .arg("--file")
    .arg(tar)
    .arg("-C")
    .arg(root))?;
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    if meta.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
    .with_context(|| format!("remove {}", path.display()))
}
