//! Kernels in a `/boot`, by their file names, and the initramfs images that belong to them.

use std::cmp::Ordering;

/// Microcode images that are loaded before the initramfs, in this order: `GRUB_EARLY_INITRD_LINUX_STOCK` of
/// `grub-mkconfig`.
const MICROCODE: [&str; 6] = [
    "intel-uc.img",
    "intel-ucode.img",
    "amd-uc.img",
    "amd-ucode.img",
    "early_ucode.cpio",
    "microcode.cpio",
];

/// What kernel files start with.
const KERNELS: [&str; 5] = ["vmlinuz-", "kernel-", "bzImage-", "vmlinux-", "Image-"];

/// What is not a kernel although it starts like one: package managers' and editors' copies, signatures,
/// configurations.
const GARBAGE: [&str; 13] = [
    "~",
    ".bak",
    ".config",
    ".dpkg-dist",
    ".dpkg-new",
    ".dpkg-old",
    ".dpkg-tmp",
    ".efi.signed",
    ".hmac",
    ".rpmnew",
    ".rpmsave",
    ".sig",
    ".tmp",
];

/// A kernel in a `/boot` and the files to load with it; all are file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFiles {
    /// Its version, the name of its directory in `/lib/modules`; without `.old`.
    pub version: String,
    /// The kernel.
    pub linux: String,
    /// Its initramfs; `None` if there is none.
    pub initrd: Option<String>,
    /// Microcode images, in the order in which they are loaded.
    pub microcode: Vec<String>,
    /// A copy that `make install` or installkernel set aside (`.old`): never the newest.
    pub old: bool,
}

impl BootFiles {
    /// What `initrd` loads: the microcode, then the initramfs.
    pub fn initrds(&self) -> Vec<String> {
        self.microcode.iter().chain(&self.initrd).cloned().collect()
    }
}

/// The kernels among the file names of a `/boot`: newest first, those set aside (`.old`) behind all others.
pub fn pair(names: &[String]) -> Vec<BootFiles> {
    let has = |name: &str| names.iter().any(|n| n == name);
    let microcode: Vec<String> = MICROCODE
        .iter()
        .filter(|m| has(m))
        .map(|m| (*m).to_owned())
        .collect();
    let mut kernels: Vec<BootFiles> = names
        .iter()
        .filter_map(|name| {
            let kernel = Kernel::parse(name)?;
            Some(BootFiles {
                version: kernel.version.to_owned(),
                linux: name.clone(),
                initrd: kernel.initrds().into_iter().find(|initrd| has(initrd)),
                microcode: microcode.clone(),
                old: kernel.old,
            })
        })
        .collect();
    kernels.sort_by(|a, b| {
        let rank = |files: &BootFiles| {
            KERNELS
                .iter()
                .position(|prefix| files.linux.starts_with(prefix))
        };
        a.old
            .cmp(&b.old)
            .then_with(|| compare_versions(&b.version, &a.version))
            .then_with(|| rank(a).cmp(&rank(b)))
            .then_with(|| a.linux.cmp(&b.linux))
    });
    kernels
}

/// A kernel's file name, taken apart.
struct Kernel<'a> {
    version: &'a str,
    /// The architecture in genkernel's older names, `kernel-genkernel-x86_64-6.1`.
    arch: Option<&'a str>,
    genkernel: bool,
    old: bool,
}

impl<'a> Kernel<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        if GARBAGE.iter().any(|end| name.ends_with(end)) || name.contains(char::is_control) {
            return None;
        }
        let full = KERNELS
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))?;
        let (full, old) = full
            .strip_suffix(".old")
            .map_or((full, false), |version| (version, true));
        let (version, arch, genkernel) = match full.strip_prefix("genkernel-") {
            None => (full, None, false),
            Some(rest) if starts_with_digit(rest) => (rest, None, true),
            Some(rest) => {
                let (arch, version) = rest.split_once('-')?;
                (version, Some(arch), true)
            }
        };
        let known = !version.is_empty()
            && (starts_with_digit(version) || version.contains(|c: char| c.is_ascii_digit()));
        (known && !version.starts_with("config")).then_some(Self {
            version,
            arch,
            genkernel,
            old,
        })
    }

    /// The names that its initramfs may have, best first; the order is that of GRUB's 10_linux.
    fn initrds(&self) -> Vec<String> {
        let v = self.version;
        let mut names = Vec::new();
        if self.genkernel {
            names.extend(
                self.arch
                    .map(|arch| format!("initramfs-genkernel-{arch}-{v}")),
            );
            names.push(format!("initramfs-genkernel-{v}"));
        }
        names.extend([
            format!("initrd.img-{v}"),
            format!("initrd-{v}.img"),
            format!("initrd-{v}.gz"),
            format!("initrd-{v}"),
            format!("initramfs-{v}.img"),
            format!("initramfs-{v}"),
        ]);
        if !self.genkernel {
            names.push(format!("initramfs-genkernel-{v}"));
            names.push(format!(
                "initramfs-genkernel-{}-{v}",
                std::env::consts::ARCH
            ));
        }
        if self.old {
            // The initramfs set aside with the kernel; the current one of the same version if there is none.
            let set_aside: Vec<String> = names
                .iter()
                .flat_map(|name| {
                    let inside = name
                        .strip_suffix(".img")
                        .map(|stem| format!("{stem}.old.img"));
                    [Some(format!("{name}.old")), inside]
                })
                .flatten()
                .collect();
            names.splice(0..0, set_aside);
        }
        names
    }
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Compares kernel versions like `sort -V`, but a release candidate (`-rc1`, `_rc1`) comes before its release.
///
/// Runs of digits compare as numbers of any length; in between, the end comes before letters and letters before
/// all else. Versions that are equal so far (`6.01`, `6.1`) compare as text, so that the order is total.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    while !rest_a.is_empty() || !rest_b.is_empty() {
        let (text_a, number_a) = take_run(&mut rest_a);
        let (text_b, number_b) = take_run(&mut rest_b);
        let order = compare_text(text_a, text_b).then_with(|| compare_numbers(number_a, number_b));
        if order.is_ne() {
            return order;
        }
    }
    a.cmp(b)
}

/// Takes the leading non-digits and the digits behind them.
fn take_run<'a>(rest: &mut &'a str) -> (&'a str, &'a str) {
    let digits = rest
        .find(|c: char| c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (text, tail) = rest.split_at(digits);
    let end = tail
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(tail.len());
    let (number, tail) = tail.split_at(end);
    *rest = tail;
    (text, number)
}

fn compare_text(a: &str, b: &str) -> Ordering {
    let is_release = |text: &str| !matches!(text, "-rc" | "_rc" | ".rc");
    let class = |c: Option<char>| match c {
        Some('~') => (0, '~'),
        None => (1, ' '),
        Some(c) if c.is_ascii_alphabetic() => (2, c),
        Some(c) => (3, c),
    };
    is_release(a).cmp(&is_release(b)).then_with(|| {
        let (mut chars_a, mut chars_b) = (a.chars(), b.chars());
        loop {
            let (next_a, next_b) = (chars_a.next(), chars_b.next());
            let order = class(next_a).cmp(&class(next_b));
            if order.is_ne() || (next_a.is_none() && next_b.is_none()) {
                return order;
            }
        }
    })
}

fn compare_numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// The version inside an x86 kernel image: `header` is its beginning, 64 KiB are plenty. It is what `uname -r` says,
/// and the name of the directory of its modules.
pub fn image_version(header: &[u8]) -> Option<String> {
    let version = image_text(header)?.split_ascii_whitespace().next()?;
    version
        .chars()
        .all(|c| c.is_ascii_graphic() && c != '/')
        .then(|| version.to_owned())
}

/// Whether an image, of which `header` is the beginning, is the very build that runs: `release` and `version` are
/// what `uname -r` and `uname -v` say. The text in an image is both of them, with its builder between.
pub fn is_build(header: &[u8], release: &str, version: &str) -> bool {
    let rest = image_text(header).and_then(|text| text.strip_prefix(release));
    let builder = rest.and_then(|rest| rest.trim_end().strip_suffix(version));
    builder.is_some_and(|between| between.starts_with(" (") && between.ends_with(") "))
}

/// Linux' boot protocol (Documentation/arch/x86/boot.rst): the magic `HdrS` at 0x202, the protocol's version at
/// 0x206, and at 0x20e the offset, less 0x200, of a text ended by NUL that says who built which version when.
fn image_text(header: &[u8]) -> Option<&str> {
    let word = |at: usize| Some(u16::from_le_bytes(header.get(at..at + 2)?.try_into().ok()?));
    if header.get(0x202..0x206)? != b"HdrS" || word(0x1fe)? != 0xaa55 || word(0x206)? < 0x200 {
        return None;
    }
    let offset = word(0x20e)?;
    if offset == 0 {
        return None;
    }
    let text = header.get(usize::from(offset) + 0x200..)?;
    let end = text.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&text[..end]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn pairs_the_names_that_distributions_use() {
        for (linux, initrd, version) in [
            (
                "vmlinuz-6.1.0-9-amd64",
                "initrd.img-6.1.0-9-amd64",
                "6.1.0-9-amd64",
            ),
            (
                "vmlinuz-6.6.13-gentoo-dist",
                "initramfs-6.6.13-gentoo-dist.img",
                "6.6.13-gentoo-dist",
            ),
            (
                "kernel-6.6.13-gentoo-x86_64",
                "initramfs-6.6.13-gentoo-x86_64.img",
                "6.6.13-gentoo-x86_64",
            ),
            (
                "kernel-genkernel-x86_64-6.1.12-gentoo",
                "initramfs-genkernel-x86_64-6.1.12-gentoo",
                "6.1.12-gentoo",
            ),
            ("vmlinux-6.6.1", "initrd-6.6.1.gz", "6.6.1"),
            ("bzImage-6.6.1", "initrd-6.6.1", "6.6.1"),
            ("Image-6.6.1", "initramfs-6.6.1", "6.6.1"),
        ] {
            let found = pair(&names(&[initrd, linux]));
            assert_eq!(found.len(), 1, "{linux}");
            assert_eq!(
                (found[0].version.as_str(), found[0].initrd.as_deref()),
                (version, Some(initrd)),
                "{linux}"
            );
        }
    }

    #[test]
    fn newest_first_and_old_ones_last() {
        let found = pair(&names(&[
            "System.map-6.9.1",
            "config-6.9.1",
            "kernel-config-6.9.1",
            "vmlinuz",
            "vmlinuz-6.9.1.sig",
            "vmlinuz-6.10.0~",
            "vmlinuz-6.9.1",
            "vmlinuz-6.10.0-rc3",
            "vmlinuz-6.10.0",
            "vmlinuz-6.10.0.old",
            "initramfs-6.10.0.img",
            "initramfs-6.10.0.img.old",
            "amd-uc.img",
            "intel-uc.img",
            "vmlinuz-6.11.0.old",
        ]));
        let linux: Vec<&str> = found.iter().map(|f| f.linux.as_str()).collect();
        assert_eq!(
            linux,
            [
                "vmlinuz-6.10.0",
                "vmlinuz-6.10.0-rc3",
                "vmlinuz-6.9.1",
                "vmlinuz-6.11.0.old",
                "vmlinuz-6.10.0.old"
            ]
        );
        assert_eq!(
            found[0].initrds(),
            ["intel-uc.img", "amd-uc.img", "initramfs-6.10.0.img"]
        );
        assert_eq!(found[1].initrd, None);
        assert_eq!(found[4].initrd.as_deref(), Some("initramfs-6.10.0.img.old"));
        assert_eq!((found[4].version.as_str(), found[4].old), ("6.10.0", true));
    }

    #[test]
    fn an_old_kernel_may_share_the_initramfs() {
        let found = pair(&names(&["vmlinuz-6.1.old", "initramfs-6.1.img"]));
        assert_eq!(found[0].initrd.as_deref(), Some("initramfs-6.1.img"));
    }

    #[test]
    fn versions_in_order() {
        let sorted = [
            "5.15.0",
            "6.1.0-rc1",
            "6.1.0_rc2",
            "6.1.0_rc10-gentoo",
            "6.1.0",
            "6.1.0-9-amd64",
            "6.1.0-10-amd64",
            "6.1.0-gentoo",
            "6.1.0-gentoo-r1",
            "6.1.1",
            "6.1.9",
            "6.1.12",
            "6.10.0",
        ];
        for (i, a) in sorted.iter().enumerate() {
            for (j, b) in sorted.iter().enumerate() {
                // `-rc` and `_rc` of one release are no pair that occurs.
                if !(a.contains("-rc") && b.contains("_rc")
                    || a.contains("_rc") && b.contains("-rc"))
                {
                    assert_eq!(compare_versions(a, b), i.cmp(&j), "{a} {b}");
                }
            }
        }
        assert_eq!(
            compare_versions("99999999999999999999999", "100000000000000000000000"),
            Ordering::Less
        );
    }

    #[test]
    fn reads_the_version_in_an_image() {
        let mut image = vec![0_u8; 0x1000];
        image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x20e..0x210].copy_from_slice(&0x300_u16.to_le_bytes());
        let text = b"6.6.13-gentoo-dist (root@host) #1 SMP\0";
        image[0x500..0x500 + text.len()].copy_from_slice(text);
        assert_eq!(image_version(&image).as_deref(), Some("6.6.13-gentoo-dist"));
        assert!(is_build(&image, "6.6.13-gentoo-dist", "#1 SMP"));
        for (release, version) in [
            ("6.6.13-gentoo-dist", "#2 SMP"),
            ("6.6.13-gentoo", "#1 SMP"),
            ("6.6.13-gentoo-dist", "SMP"),
            ("6.6.1", "#1 SMP"),
        ] {
            assert!(!is_build(&image, release, version), "{release} {version}");
        }
        assert_eq!(image_version(&image[..0x508]), None);
        for length in 0..image.len() {
            let _ = image_version(&image[..length]);
        }
        image[0x202] = 0;
        assert_eq!(image_version(&image), None);
    }
}
