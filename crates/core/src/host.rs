//! Where this process runs: on the machine itself, or in a chroot or container on it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `PROC_PID_INIT_INO` of the kernel: the PID namespace that sees every process.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Where the kernel shows what powers the machine (sysfs-class-power of its documentation).
pub const POWER: &str = "/sys/class/power_supply";

/// Whether the machine runs on battery: there is a supply from outside, none of them is
/// online, and a battery is being emptied. `dir` is [`POWER`].
pub fn is_on_battery(dir: &Path) -> bool {
    let (mut outside, mut online, mut emptied) = (false, false, false);
    for supply in fs::read_dir(dir).into_iter().flatten().flatten() {
        let says = |file: &str| {
            let text = fs::read_to_string(supply.path().join(file)).unwrap_or_default();
            text.trim().to_owned()
        };
        match says("type").as_str() {
            "Mains" | "USB" => {
                outside = true;
                online |= says("online") == "1";
            }
            // Not that of a mouse.
            "Battery" if says("scope") != "Device" => emptied |= says("status") == "Discharging",
            _ => {}
        }
    }
    emptied && !(outside && online)
}

/// Whether this process sees all that runs on the machine, and `/` is the root that was
/// booted. In `be shell` it does not: the processes of the machine are out of sight.
pub fn sees_the_machine() -> bool {
    let first =
        fs::read_link("/proc/self/ns/pid").is_ok_and(|ns| ns == Path::new(FIRST_PID_NAMESPACE));
    let identity = |path: &str| fs::metadata(path).map(|m| (m.dev(), m.ino()));
    let outside = match (identity("/"), identity("/proc/1/root/")) {
        (Ok(own), Ok(of_init)) => own == of_init,
        // Where an init has more rights than this root, as in some virtual machines, it
        // shows nothing; the PID 1 of our own namespaces has not.
        (Ok(_), Err(e)) => e.kind() == ErrorKind::PermissionDenied,
        (Err(_), _) => false,
    };
    first && outside
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_from_outside_goes_before_a_battery() {
        let dir = tempfile::tempdir().unwrap();
        let set = |supply: &str, file: &str, text: &str| {
            let dir = dir.path().join(supply);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(file), format!("{text}\n")).unwrap();
        };
        assert!(!is_on_battery(dir.path()));
        set("mouse", "type", "Battery");
        set("mouse", "scope", "Device");
        set("mouse", "status", "Discharging");
        assert!(!is_on_battery(dir.path()));
        set("BAT0", "type", "Battery");
        set("BAT0", "status", "Discharging");
        assert!(is_on_battery(dir.path()));
        set("AC", "type", "Mains");
        set("AC", "online", "0");
        assert!(is_on_battery(dir.path()));
        set("AC", "online", "1");
        assert!(!is_on_battery(dir.path()));
        assert!(!is_on_battery(&dir.path().join("none")));
    }
}
