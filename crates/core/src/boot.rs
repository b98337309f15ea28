//! Whether an environment boots, and with what: read from the environment itself.

use std::path::{Path, PathBuf};

use be_btrfs::Root;
use be_grub::cmdline::{RootSpec, environment_args, split_args};
use be_grub::default_grub::parse_default_grub;
use be_grub::kernel::{BootFiles, image_version, pair};
use serde::{Deserialize, Serialize};

use crate::bootfs::BootDir;
use crate::config::Config;
use crate::fstab;
use crate::observe::MAX_TEXT;

/// A kernel of an environment with all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// What `uname -r` will say.
    pub version: String,
    /// The filesystem that its files lie on, by UUID; none for the environment's root.
    #[serde(default)]
    pub fs: Option<String>,
    /// The image: from the environment's root, or from the top of that filesystem.
    pub linux: PathBuf,
    /// Microcode and initramfs, likewise.
    pub initrd: Vec<PathBuf>,
    /// All kernel arguments.
    pub arguments: Vec<String>,
}

/// What the examination of an environment came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examination {
    /// The kernels that boot, newest first.
    pub kernels: Vec<Kernel>,
    /// Why it would not boot, a sentence each; empty if it would.
    pub problems: Vec<String>,
    /// What is odd, and does not keep it from booting.
    pub warnings: Vec<String>,
    /// What was proven, a sentence each.
    pub proven: Vec<String>,
}

/// Facts about the filesystem that the environment's own files do not tell.
#[derive(Debug, Clone)]
pub struct Ground {
    /// UUID of the filesystem.
    pub fs_uuid: String,
    /// PARTUUID of its only device, if it has one.
    pub partuuid: Option<String>,
    /// The environment's root subvolume, as a value for `subvol=`.
    pub subvol: String,
    /// Its number.
    pub subvolid: u64,
    /// The root subvolume is what is mounted without `subvol=`.
    pub is_default: bool,
    /// Its other subvolumes, each with the place where it has to be mounted; none that the
    /// kernel's arguments and not fstab would mount.
    pub volumes: Vec<(PathBuf, PathBuf)>,
    /// Whether its fstab counts.
    pub fstab: Fstab,
}

/// Whether the fstab of an environment is as it will be at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fstab {
    /// It is.
    Final,
    /// It is that of the origin, to be rewritten for the clone.
    ToBeRewritten,
}

/// Where the kernels of an environment are.
struct Kernels<'a> {
    /// A root for their paths.
    root: &'a Root,
    /// Their directory in it.
    dir: &'a Path,
    /// A /boot of its own.
    apart: Option<&'a BootDir>,
}

impl<'a> Kernels<'a> {
    fn of(root: &'a Root, apart: Option<&'a BootDir>) -> Self {
        match apart {
            Some(boot) => Self {
                root: &boot.root,
                dir: Path::new(""),
                apart,
            },
            None => Self {
                root,
                dir: Path::new("boot"),
                apart,
            },
        }
    }

    /// A path in the directory, for the entry.
    fn named(&self, file: &str) -> PathBuf {
        match self.apart {
            Some(boot) => boot.path.join(file),
            None => self.dir.join(file),
        }
    }
}

/// Examine an environment through its root.
pub fn examine(
    root: &Root,
    apart: Option<&BootDir>,
    ground: &Ground,
    config: &Config,
) -> Examination {
    let kernels = Kernels::of(root, apart);
    let mut found = Examination::default();
    let user = match user_arguments(root, config) {
        Ok((user, warning)) => {
            found.warnings.extend(warning);
            user
        }
        Err(problem) => {
            found.problems.push(problem);
            Vec::new()
        }
    };
    let mut rejected = Vec::new();
    if apart.is_none() && root.is_dir("boot").unwrap_or(false) && root.mount_point("boot").is_err()
    {
        rejected.push("/boot is a link, which GRUB would follow elsewhere".to_owned());
    }
    for files in boot_files(&kernels) {
        match prove(root, &kernels, ground, &user, &files) {
            Ok(kernel) => found.kernels.push(kernel),
            Err(why) => rejected.push(why),
        }
    }
    match found.kernels.first() {
        Some(kernel) => found.proven.push(format!(
            "kernel {} with its modules{}",
            kernel.version,
            if kernel.initrd.is_empty() {
                ""
            } else {
                " and initramfs"
            }
        )),
        None if rejected.is_empty() => found.problems.push("there is no kernel in /boot".into()),
        None => found.problems.append(&mut rejected),
    }
    found.warnings.append(&mut rejected);
    match init_program(root, &user) {
        Ok(path) => found.proven.push(format!("init at {path}")),
        Err(problem) => found.problems.push(problem),
    }
    if ground.fstab == Fstab::Final {
        match fstab_agrees(root, ground) {
            Ok(fact) => found.proven.push(fact),
            Err(problem) => found.problems.push(problem),
        }
    }
    found
}

/// The kernels in /boot. Links are left out, also if /boot is one: GRUB follows them from
/// the top level of the filesystem, where they lead elsewhere.
fn boot_files(kernels: &Kernels<'_>) -> Vec<BootFiles> {
    if kernels.root.mount_point(kernels.dir).is_err() {
        return Vec::new();
    }
    let names: Vec<String> = kernels
        .root
        .list(kernels.dir)
        .unwrap_or_default()
        .into_iter()
        .filter(|(_, kind)| kind.is_file())
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    pair(&names)
}

/// The kernels in the /boot of a root, or in one of its own, newest first, by their file
/// names.
pub(crate) fn boot_files_in(root: &Root, apart: Option<&BootDir>) -> Vec<BootFiles> {
    boot_files(&Kernels::of(root, apart))
}

/// The version of the newest kernel in a directory by its file name, not proven to boot.
pub(crate) fn newest_in(root: &Root, dir: &Path) -> Option<String> {
    let apart = None;
    boot_files(&Kernels { root, dir, apart })
        .into_iter()
        .next()
        .map(|files| files.version)
}

fn prove(
    root: &Root,
    kernels: &Kernels<'_>,
    ground: &Ground,
    user: &[String],
    files: &BootFiles,
) -> Result<Kernel, String> {
    let header = head(kernels.root, &kernels.dir.join(&files.linux))
        .map_err(|e| format!("/boot/{}: {e}", files.linux))?;
    if header.is_empty() {
        return Err(format!("/boot/{} is empty", files.linux));
    }
    let version = image_version(&header).unwrap_or_else(|| files.version.clone());
    let modules = Path::new("lib/modules").join(&version);
    if !root.is_file(modules.join("modules.dep")).unwrap_or(false) {
        return Err(format!(
            "kernel {version} has no modules in /{}",
            modules.display()
        ));
    }
    for file in files.initrds() {
        let path = kernels.dir.join(&file);
        if kernels.root.metadata(path).map_or(0, |m| m.size) == 0 {
            return Err(format!("/boot/{file} is empty"));
        }
    }
    let spec = match &files.initrd {
        Some(_) => RootSpec::Uuid(ground.fs_uuid.clone()),
        None => RootSpec::PartUuid(without_initramfs(root, ground, &version, &modules)?),
    };
    let arguments = environment_args(user, &spec, &ground.subvol).map_err(|e| e.to_string())?;
    Ok(Kernel {
        version,
        fs: kernels.apart.map(|boot| boot.fs_uuid.clone()),
        linux: kernels.named(&files.linux),
        initrd: files.initrds().iter().map(|f| kernels.named(f)).collect(),
        arguments,
    })
}

/// A kernel boots without an initramfs if btrfs is built in and its partition has a name
/// that the kernel itself understands.
fn without_initramfs(
    root: &Root,
    ground: &Ground,
    version: &str,
    modules: &Path,
) -> Result<String, String> {
    let builtin = root
        .read_to_string(modules.join("modules.builtin"), MAX_TEXT)
        .unwrap_or_default();
    if !builtin.lines().any(|l| l.ends_with("/btrfs.ko")) {
        return Err(format!(
            "kernel {version} has no initramfs in /boot, and btrfs is not built into it"
        ));
    }
    ground.partuuid.clone().ok_or_else(|| {
        format!("kernel {version} has no initramfs in /boot, and the filesystem no PARTUUID")
    })
}

fn head(root: &Root, path: &Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    root.file(path)?.take(64 << 10).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What GRUB's tools are told.
const FILE: &str = "etc/default/grub";

/// The user's own kernel arguments, from be.toml or else from /etc/default/grub.
fn user_arguments(root: &Root, config: &Config) -> Result<(Vec<String>, Option<String>), String> {
    if let Some(line) = &config.menu.kernel_arguments {
        return Ok((split_args(line), None));
    }
    let text = match root.read_to_string(FILE, MAX_TEXT) {
        Ok(text) => text,
        Err(e) if e.is_not_found() => {
            let warning = format!("/{FILE} is missing: no kernel arguments but root=");
            return Ok((Vec::new(), Some(warning)));
        }
        Err(e) => return Err(e.to_string()),
    };
    let text = text + &debian_snippets(root);
    let way_out = "or set menu.kernel_arguments in /etc/be/be.toml";
    let grub =
        parse_default_grub(&text).map_err(|e| format!("/{FILE}: {e}; mend it, {way_out}"))?;
    let arguments = grub
        .arguments()
        .map_err(|e| format!("/{FILE}: {e}; mend it, {way_out}"))?;
    Ok((arguments, None))
}

/// What GRUB's tools are told, all of it; none where it cannot be read.
pub(crate) fn default_grub_text(root: &Root) -> Option<String> {
    Some(root.read_to_string(FILE, MAX_TEXT).ok()? + &debian_snippets(root))
}

/// Debian's grub-mkconfig also reads /etc/default/grub.d/*.cfg, after the file itself.
fn debian_snippets(root: &Root) -> String {
    const DIR: &str = "etc/default/grub.d";
    let mut names: Vec<_> = root
        .list(DIR)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.ends_with(".cfg"))
        .collect();
    names.sort();
    names
        .iter()
        .filter_map(|name| {
            root.read_to_string(Path::new(DIR).join(name), MAX_TEXT)
                .ok()
        })
        .map(|text| format!("\n{text}"))
        .collect()
}

fn init_program(root: &Root, arguments: &[String]) -> Result<String, String> {
    let wanted = arguments.iter().rev().find_map(|a| a.strip_prefix("init="));
    // The order of the kernel itself, init/main.c.
    let candidates = match wanted {
        Some(path) => vec![path],
        None => vec!["/sbin/init", "/etc/init", "/bin/init"],
    };
    let runs = |path: &&str| {
        root.metadata(path.trim_start_matches('/'))
            .is_ok_and(|m| m.kind.is_file() && m.mode & 0o111 != 0 && m.size > 0)
    };
    match candidates.iter().copied().find(runs) {
        Some(path) => Ok(path.to_owned()),
        None => Err(format!("there is no init at {}", candidates.join(", "))),
    }
}

fn fstab_agrees(root: &Root, ground: &Ground) -> Result<String, String> {
    let text = match root.read_to_string("etc/fstab", MAX_TEXT) {
        Ok(text) => text,
        Err(e) if e.is_not_found() => String::new(),
        Err(e) => return Err(format!("/etc/fstab: {e}")),
    };
    let tab = fstab::Fstab::parse(&text);
    for (mount, path) in &ground.volumes {
        let entry = tab.at(mount);
        let is = path.to_string_lossy();
        match entry.and_then(fstab::Entry::subvol) {
            Some(theirs) if theirs == is => {}
            Some(theirs) => {
                return Err(format!(
                    "/etc/fstab mounts {} from subvol=/{theirs}, and it is /{is}",
                    mount.display()
                ));
            }
            None => {
                return Err(format!(
                    "/etc/fstab does not mount {} from subvol=/{is}",
                    mount.display()
                ));
            }
        }
    }
    if let Some(uuid) = tab
        .at(Path::new("/"))
        .and_then(|e| e.source.strip_prefix("UUID="))
        .map(|uuid| uuid.trim_matches('"'))
        .filter(|uuid| !uuid.eq_ignore_ascii_case(&ground.fs_uuid))
    {
        return Err(format!(
            "/etc/fstab mounts the root from UUID={uuid}, and it is on {}",
            ground.fs_uuid
        ));
    }
    let Some(entry) = tab.at(Path::new("/")) else {
        return Ok("fstab leaves the root to the kernel's arguments".into());
    };
    let subvol = ground.subvol.trim_matches('/');
    match (entry.subvol(), entry.subvolid()) {
        (Some(theirs), _) if theirs != subvol => Err(format!(
            "/etc/fstab mounts the root from subvol=/{theirs}, and it is /{subvol}"
        )),
        (_, Some(id)) if id != ground.subvolid.to_string() => Err(format!(
            "/etc/fstab mounts the root from subvolid={id}, and it is {}",
            ground.subvolid
        )),
        (None, None) if !ground.is_default => Err(format!(
            "/etc/fstab mounts the default subvolume as root, and it is /{subvol}"
        )),
        _ => Ok("fstab agrees with the root subvolume".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn ground() -> Ground {
        Ground {
            fs_uuid: "01234567-89ab-cdef-0123-456789abcdef".into(),
            partuuid: None,
            subvol: "/@be/x/root".into(),
            subvolid: 300,
            is_default: false,
            volumes: Vec::new(),
            fstab: Fstab::Final,
        }
    }

    /// A root that boots; `change` then breaks it.
    fn root(change: impl FnOnce(&Path)) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path();
        for d in ["boot", "lib/modules/6.1.0", "sbin", "etc/default"] {
            fs::create_dir_all(p.join(d)).unwrap();
        }
        fs::write(p.join("boot/vmlinuz-6.1.0"), "kernel").unwrap();
        fs::write(p.join("boot/initramfs-6.1.0.img"), "initramfs").unwrap();
        fs::write(p.join("lib/modules/6.1.0/modules.dep"), "").unwrap();
        fs::write(p.join("sbin/init"), "#!/bin/sh\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(p.join("sbin/init"), mode).unwrap();
        fs::write(
            p.join("etc/fstab"),
            "LABEL=x / btrfs subvol=/@be/x/root 0 0\n",
        )
        .unwrap();
        fs::write(
            p.join("etc/default/grub"),
            "GRUB_CMDLINE_LINUX=\"console=ttyS0\"\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\n",
        )
        .unwrap();
        change(p);
        let root = Root::open(p).unwrap();
        (dir, root)
    }

    fn problems(change: impl FnOnce(&Path)) -> Vec<String> {
        let (_dir, root) = root(change);
        examine(&root, None, &ground(), &Config::default()).problems
    }

    #[test]
    fn a_good_one() {
        let (_dir, root) = root(|_| ());
        let found = examine(&root, None, &ground(), &Config::default());
        assert_eq!(found.problems, Vec::<String>::new());
        assert_eq!(found.kernels.len(), 1);
        assert_eq!(
            found.kernels[0].arguments.join(" "),
            "root=UUID=01234567-89ab-cdef-0123-456789abcdef ro \
             rootflags=subvol=/@be/x/root console=ttyS0 quiet"
        );
    }

    #[test]
    fn each_missing_part_is_named() {
        let remove = |file: &'static str| move |p: &Path| fs::remove_file(p.join(file)).unwrap();
        for (problem, word) in [
            (problems(remove("boot/vmlinuz-6.1.0")), "no kernel"),
            (problems(remove("boot/initramfs-6.1.0.img")), "no initramfs"),
            (
                problems(remove("lib/modules/6.1.0/modules.dep")),
                "no modules",
            ),
            (problems(remove("sbin/init")), "no init"),
            (
                problems(|p| fs::write(p.join("boot/initramfs-6.1.0.img"), "").unwrap()),
                "is empty",
            ),
            (
                problems(|p| fs::write(p.join("etc/fstab"), "LABEL=x / btrfs subvol=@\n").unwrap()),
                "/etc/fstab",
            ),
            (
                problems(|p| {
                    fs::write(p.join("etc/fstab"), "LABEL=x / btrfs subvolid=7\n").unwrap()
                }),
                "subvolid=7",
            ),
            (
                problems(|p| fs::write(p.join("etc/fstab"), "LABEL=x / btrfs\n").unwrap()),
                "default subvolume",
            ),
            (
                problems(|p| {
                    fs::write(p.join("etc/default/grub"), "GRUB_CMDLINE_LINUX=$(id)\n").unwrap()
                }),
                "be.toml",
            ),
        ] {
            assert_eq!(problem.len(), 1, "{word}: {problem:?}");
            assert!(problem[0].contains(word), "{word}: {problem:?}");
        }
    }

    #[test]
    fn a_broken_newest_kernel_does_not_hide_a_good_one() {
        let (_dir, root) = root(|p| fs::write(p.join("boot/vmlinuz-6.9.0"), "k").unwrap());
        let found = examine(&root, None, &ground(), &Config::default());
        assert_eq!(found.kernels[0].version, "6.1.0");
        assert!(found.problems.is_empty());
        assert!(found.warnings[0].contains("6.9.0"), "{:?}", found.warnings);
    }

    #[test]
    fn built_in_btrfs_needs_no_initramfs_but_a_partuuid() {
        let (_dir, root) = root(|p| {
            fs::remove_file(p.join("boot/initramfs-6.1.0.img")).unwrap();
            fs::write(
                p.join("lib/modules/6.1.0/modules.builtin"),
                "kernel/fs/btrfs/btrfs.ko\n",
            )
            .unwrap();
        });
        let mut ground = ground();
        assert!(
            !examine(&root, None, &ground, &Config::default())
                .problems
                .is_empty()
        );
        ground.partuuid = Some("abcd-01".into());
        let found = examine(&root, None, &ground, &Config::default());
        assert!(
            found.kernels[0].arguments[0].contains("PARTUUID=abcd-01"),
            "{found:?}"
        );
    }
}
