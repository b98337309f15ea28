//! GRUB's loader itself: `be` never installs it, and says how.

use std::fs;
use std::path::{Path, PathBuf};

use be_btrfs::Root;

use crate::layout::esp;
use crate::model::Inventory;
use crate::session::Session;

/// The command that installs GRUB on this machine as it is installed now, as far as that can
/// be seen; none for a system that is only mounted.
pub(crate) fn install_command(session: &Session, inv: &Inventory) -> Option<String> {
    if inv.sysroot != Path::new("/") || !crate::host::sees_the_machine() {
        return None;
    }
    let program = program(&session.root)?;
    if !Path::new("/sys/firmware/efi").exists() {
        let devices = session.store.top.devices().ok()?;
        let disks: Option<Vec<_>> = devices.iter().map(|device| disk_of(device)).collect();
        let one = |disk: PathBuf| format!("{program} {}", disk.display());
        let all: Vec<_> = disks?.into_iter().map(one).collect();
        return (!all.is_empty()).then(|| all.join(" && "));
    }
    let esp = esp(&inv.system)?;
    Some(efi(program, esp, &entries(&esp.join("EFI"))))
}

fn program(root: &Root) -> Option<&'static str> {
    let is_there = |name: &&str| {
        let mut dirs = ["usr/sbin", "usr/bin", "sbin"].iter();
        dirs.any(|dir| root.is_file(Path::new(dir).join(name)).unwrap_or(false))
    };
    ["grub-install", "grub2-install"].into_iter().find(is_there)
}

/// The whole disk that a partition is on, or the device itself
/// (Documentation/ABI/testing/sysfs-block: a partition has a file of this name).
fn disk_of(device: &Path) -> Option<PathBuf> {
    let name = device.canonicalize().ok()?.file_name()?.to_owned();
    let sys = Path::new("/sys/class/block")
        .join(&name)
        .canonicalize()
        .ok()?;
    let disk = match sys.join("partition").exists() {
        true => sys.parent()?.file_name()?.to_owned(),
        false => name,
    };
    Some(Path::new("/dev").join(disk))
}

/// The directories of boot loaders in which GRUB is, by name.
fn entries(dir: &Path) -> Vec<String> {
    let is_grub = |path: &Path| {
        let files = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names = files.map(|f| f.file_name().to_string_lossy().to_lowercase());
        names.any(|name| name.starts_with("grub") && name.ends_with(".efi"))
    };
    let dirs = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = dirs
        .filter(|d| is_grub(&d.path()))
        .filter_map(|d| d.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn efi(program: &str, esp: &Path, entries: &[String]) -> String {
    let base = format!("{program} --efi-directory={}", esp.display());
    match entries {
        [] => format!("{base} --removable"),
        [id, ..] => format!("{base} --bootloader-id={id}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loader_of_an_esp_is_named_as_it_is() {
        let esp = tempfile::tempdir().unwrap();
        let file = |path: &str| {
            let path = esp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        file("EFI/BOOT/BOOTX64.EFI");
        assert!(entries(&esp.path().join("EFI")).is_empty());
        file("EFI/gentoo/grubx64.efi");
        let found = entries(&esp.path().join("EFI"));
        assert_eq!(
            efi("grub-install", Path::new("/efi"), &found),
            "grub-install --efi-directory=/efi --bootloader-id=gentoo"
        );
        assert_eq!(
            efi("grub-install", Path::new("/efi"), &[]),
            "grub-install --efi-directory=/efi --removable"
        );
    }
}
