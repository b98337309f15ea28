//! What the machine lacks for building, the lab and the tests.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::unistd::Uid;

use crate::run::{cmd, have, run};

/// One thing that is needed.
struct Tool {
    /// A program in the search path, or an absolute path: any of these will do.
    any_of: &'static [&'static str],
    debian: &'static str,
    gentoo: &'static str,
}

const fn tool(any_of: &'static [&'static str], debian: &'static str, gentoo: &'static str) -> Tool {
    Tool {
        any_of,
        debian,
        gentoo,
    }
}

/// What building `be` takes.
const BUILD: &[Tool] = &[
    tool(&["cc"], "gcc", "sys-devel/gcc"),
    tool(&["pkg-config"], "pkg-config", "virtual/pkgconfig"),
    tool(
        &["/usr/include/btrfsutil.h"],
        "libbtrfsutil-dev",
        "sys-fs/btrfs-progs",
    ),
    tool(
        &["/usr/include/clang-c/Index.h", "libclang"],
        "libclang-dev",
        "llvm-core/clang",
    ),
];

/// What the lab and the tests take beyond that.
const LAB: &[Tool] = &[
    tool(
        &["mmdebstrap"],
        "mmdebstrap",
        "mmdebstrap (with app-arch/dpkg and apt; not in ::gentoo)",
    ),
    tool(&["apt-get"], "apt", "apt (not in ::gentoo)"),
    tool(&["dpkg-deb"], "dpkg", "app-arch/dpkg"),
    tool(
        &["/usr/share/keyrings/debian-archive-keyring.gpg"],
        "debian-archive-keyring",
        "app-crypt/debian-archive-keyring",
    ),
    tool(&["mkfs.btrfs"], "btrfs-progs", "sys-fs/btrfs-progs"),
    tool(&["losetup"], "mount", "sys-apps/util-linux"),
    tool(&["sgdisk"], "gdisk", "sys-apps/gptfdisk"),
    tool(&["mkfs.ext4"], "e2fsprogs", "sys-fs/e2fsprogs"),
    tool(&["chattr"], "e2fsprogs", "sys-fs/e2fsprogs"),
    tool(&["mkfs.vfat"], "dosfstools", "sys-fs/dosfstools"),
    tool(&["mcopy"], "mtools", "sys-fs/mtools"),
    tool(
        &["/bin/busybox", "/usr/bin/busybox"],
        "busybox-static",
        "sys-apps/busybox[static]",
    ),
    tool(&["cpio"], "cpio", "app-alternatives/cpio"),
    tool(&["zstd"], "zstd", "app-arch/zstd"),
    tool(&["xz"], "xz-utils", "app-arch/xz-utils"),
    tool(&["depmod"], "kmod", "sys-apps/kmod"),
    tool(&["meson"], "meson", "dev-build/meson"),
    tool(&["ninja"], "ninja-build", "app-alternatives/ninja"),
    tool(&["pip", "pip3"], "python3-pip", "dev-python/pip"),
    tool(&["grub-script-check"], "grub-common", "sys-boot/grub"),
    tool(&["shellcheck"], "shellcheck", "dev-util/shellcheck-bin"),
    tool(
        &["qemu-system-x86_64"],
        "qemu-system-x86",
        "app-emulation/qemu",
    ),
    tool(
        &[
            "/usr/share/OVMF/OVMF_CODE_4M.fd",
            "/usr/share/OVMF/OVMF_CODE.fd",
            "/usr/share/edk2/OvmfX64/OVMF_CODE.fd",
            "/usr/share/edk2-ovmf/OVMF_CODE.fd",
        ],
        "ovmf",
        "sys-firmware/edk2-bin",
    ),
];

/// Sees to it that everything is there: installs it on Debian and its like,
/// says what to install elsewhere.
///
/// # Errors
/// Something is missing and cannot be installed from here.
pub fn ensure_host_tools() -> Result<()> {
    let missing: Vec<&Tool> = BUILD
        .iter()
        .chain(LAB)
        .filter(|tool| !tool.is_here())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if is_like(&os, "debian") {
        return apt_install(&missing);
    }
    bail!("{}", advice(&missing, is_like(&os, "gentoo")));
}

impl Tool {
    fn is_here(&self) -> bool {
        self.any_of.iter().any(|name| match *name {
            "libclang" => has_libclang(),
            path if path.starts_with('/') => Path::new(path).exists(),
            program => have(program),
        })
    }
}

/// Debian and Gentoo keep libclang in a directory of its LLVM version.
fn has_libclang() -> bool {
    ["/usr/lib", "/usr/lib/llvm"].into_iter().any(|parent| {
        fs::read_dir(parent).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                ["lib", "lib64"].into_iter().any(|lib| {
                    entry.file_name().as_encoded_bytes().first() != Some(&b'x')
                        && entry.path().join(lib).join("libclang.so").exists()
                })
            })
        })
    })
}

fn is_like(os_release: &str, name: &str) -> bool {
    os_release.lines().any(|line| {
        line.strip_prefix("ID=")
            .or_else(|| line.strip_prefix("ID_LIKE="))
            .is_some_and(|value| value.trim_matches('"').split(' ').any(|word| word == name))
    })
}

fn apt_install(missing: &[&Tool]) -> Result<()> {
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.debian).collect();
    packages.dedup();
    crate::say(&format!("installing {}", packages.join(" ")));
    let apt = |args: &[&str]| {
        let mut command = if Uid::effective().is_root() {
            cmd("env", ["DEBIAN_FRONTEND=noninteractive"])
        } else {
            cmd("sudo", ["env", "DEBIAN_FRONTEND=noninteractive"])
        };
        run(command.arg("apt-get").args(args))
    };
    let mut install = vec!["install", "-y", "-q", "--no-install-recommends"];
    install.extend(&packages);
    // The lists may be old or not be there at all.
    if apt(&install).is_err() {
        apt(&["update", "-q"]).context("update the package lists")?;
        apt(&install).context("install what the lab needs")?;
    }
    let still: Vec<&str> = missing
        .iter()
        .filter(|tool| !tool.is_here())
        .map(|tool| tool.any_of[0])
        .collect();
    if !still.is_empty() {
        bail!("still missing after the installation: {}", still.join(", "));
    }
    Ok(())
}

fn advice(missing: &[&Tool], is_gentoo: bool) -> String {
    let mut lines = vec!["the lab and the tests need what this machine lacks:".to_owned()];
    for tool in missing {
        let name = if is_gentoo { tool.gentoo } else { tool.debian };
        lines.push(format!("  {:<28} in {name}", tool.any_of[0]));
    }
    if !is_gentoo {
        lines.push("(package names as in Debian)".to_owned());
    }
    lines.push("install these and run the same command again".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions_are_recognised() {
        assert!(is_like("NAME=x\nID=debian\n", "debian"));
        assert!(is_like(
            "ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
            "debian"
        ));
        assert!(is_like("ID='gentoo'\nID=gentoo\n", "gentoo"));
        assert!(!is_like("VERSION_ID=debian\n", "debian"));
    }

    #[test]
    fn the_advice_names_program_and_package() {
        let cpio = tool(&["cpio"], "cpio", "app-alternatives/cpio");
        let text = advice(&[&cpio], true);
        assert!(
            text.contains("cpio") && text.contains("app-alternatives/cpio"),
            "{text}"
        );
        assert!(advice(&[&cpio], false).contains("as in Debian"));
    }
}
