//! Two real kernels, each with a few modules and a tiny initramfs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::cache::{Key, artifact};
use crate::lab::debian::Apt;
use crate::lab::recipes;
use crate::run::{cmd, run, run_with_input};
use crate::temp;

/// Old and new: each suite's own kernel.
const SUITES: [&str; 2] = ["bookworm", "trixie"];
const PACKAGE: &str = "linux-image-cloud-amd64";
/// In the installed tree, for what the running lab may want.
const MODULES: &[&str] = &[
    "btrfs",
    "ext4",
    "virtio_blk",
    "virtio_pci",
    "virtio_rng",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_iso8859-1",
    "nls_utf8",
    "loop",
    "overlay",
    "efivarfs",
    "softdog",
];
/// In the initramfs: the root's disk and file system.
const EARLY: &[&str] = &["virtio_pci", "virtio_blk", "btrfs"];

/// What a kernel of its own has beside what every kernel of the lab has.
#[derive(Default)]
pub(super) struct More<'a> {
    /// Modules, in the initramfs as well.
    pub modules: &'a [&'a str],
    /// A directory that is copied into the initramfs.
    pub files: Option<&'a Path>,
}

/// One kernel of the lab.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The version of its package, as in `lab-kernel-6.1.176`.
    pub package: String,
    /// What `uname -r` says.
    pub release: String,
}

/// The built kernels.
pub struct Kernels {
    /// A directory with one installable tree per package version.
    pub dir: PathBuf,
    /// The old one and the new one.
    pub versions: [Kernel; 2],
}

/// The kernels, fetched and reduced if need be.
pub fn ensure() -> Result<Kernels> {
    let key = Key::new("kernels")
        .with(include_str!("kernel.rs"))
        .with_tree(&recipes().join("initrd"))?;
    let dir = artifact("kernels", key, build)?;
    let [old, new] = SUITES.map(|suite| read(&dir.join(format!("{suite}.version"))));
    Ok(Kernels {
        versions: [old?, new?],
        dir,
    })
}

fn read(path: &Path) -> Result<Kernel> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let (package, release) = text
        .trim()
        .split_once(' ')
        .with_context(|| format!("{}: not two words", path.display()))?;
    Ok(Kernel {
        package: package.to_owned(),
        release: release.to_owned(),
    })
}

fn build(out: &Path) -> Result<()> {
    let temp = temp::dir(1 << 29)?;
    for suite in SUITES {
        let work = temp.path().join(suite);
        fs::create_dir(&work).with_context(|| format!("make {}", work.display()))?;
        let (full, package) = fetch(suite, &work)?;
        let kernel = reduce(&full, package, &More::default(), out, &work)
            .with_context(|| format!("kernel of {suite}"))?;
        fs::write(
            out.join(format!("{suite}.version")),
            format!("{} {}\n", kernel.package, kernel.release),
        )?;
    }
    Ok(())
}

/// Downloads and unpacks the kernel package of a suite.
pub(super) fn fetch(suite: &str, work: &Path) -> Result<(PathBuf, String)> {
    let apt = Apt::new(suite, work)?;
    let meta = apt.show(PACKAGE)?;
    let field = |name: &str, end: [char; 3]| {
        meta.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split(end).next())
            .with_context(|| format!("no {name} in {PACKAGE} of {suite}"))
    };
    let name = field("Depends: linux-image-", [' ', ',', '('])?;
    let version = field("Version: ", ['-', '+', '~'])?.to_owned();
    let full = work.join("full");
    apt.unpack(&format!("linux-image-{name}"), &full)?;
    // The kernel's tools look in /lib/modules, newer packages have only /usr/lib.
    if !full.join("lib").exists() {
        symlink("usr/lib", full.join("lib"))?;
    }
    Ok((full, version))
}

/// Makes the installable tree `out/VERSION` from an unpacked package.
pub(super) fn reduce(
    full: &Path,
    package: String,
    more: &More<'_>,
    out: &Path,
    work: &Path,
) -> Result<Kernel> {
    let modules = full.join("lib/modules");
    let release = fs::read_dir(&modules)
        .with_context(|| format!("read {}", modules.display()))?
        .next()
        .context("no modules")??
        .file_name()
        .into_string()
        .ok()
        .context("a strange release")?;
    let kernel = Kernel { package, release };
    let release = &kernel.release;
    let tree = out.join(&kernel.package);
    let target = tree.join("lib/modules").join(release);
    fs::create_dir_all(tree.join("boot"))?;
    fs::create_dir_all(&target)?;
    run(cmd("depmod", ["--basedir"]).arg(full).arg(release))?;
    for file in [
        "modules.order",
        "modules.builtin",
        "modules.builtin.modinfo",
    ] {
        fs::copy(modules.join(release).join(file), target.join(file))
            .with_context(|| format!("copy {file}"))?;
    }
    for path in with_dependencies(full, release, &[MODULES, more.modules].concat())? {
        let relative = path.strip_prefix(modules.join(release))?;
        plain_copy(&path, &target.join(plain_name(relative)))?;
    }
    run(cmd("depmod", ["--basedir"]).arg(&tree).arg(release))?;
    fs::copy(
        full.join(format!("boot/vmlinuz-{release}")),
        tree.join(format!("boot/vmlinuz-{release}")),
    )
    .context("copy the kernel")?;
    let early = with_dependencies(&tree, release, &[EARLY, more.modules].concat())?;
    initramfs(
        &early,
        more.files,
        &tree.join(format!("boot/initramfs-{release}.img")),
        work,
    )?;
    Ok(kernel)
}

/// The files of these modules and of what they need, in loading order.
fn with_dependencies(base: &Path, release: &str, names: &[&str]) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for name in names {
        let listing = run(
            cmd("modprobe", ["--show-depends", "--set-version", release])
                .arg("--dirname")
                .arg(base)
                .arg(name),
        )?;
        for line in listing.lines() {
            if let Some(path) = line.strip_prefix("insmod ") {
                let path = PathBuf::from(path.trim());
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
        }
    }
    Ok(paths)
}

fn plain_name(path: &Path) -> PathBuf {
    match path.extension() {
        Some(ext) if ext == "xz" || ext == "zst" || ext == "gz" => path.with_extension(""),
        _ => path.to_path_buf(),
    }
}

/// Copies a module without its compression, which busybox cannot always read.
fn plain_copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    }
    let program = match from.extension().and_then(|ext| ext.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => "cat",
    };
    let mut command = cmd(program, [] as [&str; 0]);
    if program != "cat" {
        command.arg("-dc");
    }
    let file = File::create(to).with_context(|| format!("make {}", to.display()))?;
    let status = command
        .arg(from)
        .stdout(file)
        .stdin(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("{program} -dc {}: {status}", from.display());
    }
    Ok(())
}

fn initramfs(modules: &[PathBuf], files: Option<&Path>, image: &Path, work: &Path) -> Result<()> {
    let tree = work.join("initramfs");
    for dir in ["bin", "dev", "proc", "sys", "modules", "newroot"] {
        fs::create_dir_all(tree.join(dir))?;
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("there is no busybox")?;
    run(cmd("cp", ["-L", busybox]).arg(tree.join("bin/busybox")))?;
    run(cmd("cp", ["--preserve=mode"])
        .arg(recipes().join("initrd/init"))
        .arg(tree.join("init")))?;
    let mut order = File::create(tree.join("modules/order"))?;
    for module in modules {
        let name = module.file_name().context("a module without a name")?;
        fs::copy(module, tree.join("modules").join(name))
            .with_context(|| format!("copy {}", module.display()))?;
        writeln!(order, "{}", name.to_string_lossy())?;
    }
    if let Some(files) = files {
        run(cmd("cp", ["-a"]).arg(files.join(".")).arg(&tree))?;
    }
    let cpio = work.join("initramfs.cpio");
    let names = run(cmd("find", ["."]).current_dir(&tree))?;
    run_with_input(
        cmd(
            "cpio",
            [
                "--create",
                "--format=newc",
                "--quiet",
                "--owner=0:0",
                "--reproducible",
            ],
        )
        .arg("-O")
        .arg(&cpio)
        .current_dir(&tree),
        names.as_bytes(),
    )?;
    run(cmd("zstd", ["-q", "-19", "--rm"])
        .arg(&cpio)
        .arg("-o")
        .arg(image))?;
    Ok(())
}
