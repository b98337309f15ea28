//! Where this process runs: on the machine itself, or in a chroot or container on it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `PROC_PID_INIT_INO` of the kernel: the PID namespace that sees every process.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

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
