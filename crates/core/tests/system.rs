//! The texts in system/: what a shell and its checker say of them.

#![allow(clippy::print_stderr, reason = "a test that checks nothing says so")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

const SYSTEM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system");

#[test]
fn the_scripts_are_clean() {
    for script in ["kernel-hook", "be-confirm.initd", "be-carry.initd"] {
        let path = Path::new(SYSTEM).join(script);
        let Ok(output) = Command::new("shellcheck").arg(&path).output() else {
            eprintln!("skipped: shellcheck is not installed");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

/// Runs the hook with a `be` that ends with this code; gives what that was called with.
fn hook(arguments: &[&str], code: i32) -> String {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::write(&log, "").unwrap();
    let be = dir.path().join("be");
    let text = format!("#!/bin/sh\necho \"$@\" >>{}\nexit {code}\n", log.display());
    fs::write(&be, text).unwrap();
    fs::set_permissions(&be, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("/bin/sh")
        .arg(Path::new(SYSTEM).join("kernel-hook"))
        .args(arguments)
        .env_clear()
        .env("PATH", dir.path())
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    fs::read_to_string(log).unwrap()
}

#[test]
fn a_hook_writes_the_menu_and_keeps_no_kernel_out() {
    let called = "--quiet menu --hook\n";
    for arguments in [
        // Debian's and Gentoo's, then kernel-install's two.
        &["6.6.6", "/boot/vmlinuz-6.6.6"][..],
        &["add", "6.6.6", "/boot/x", "/boot/vmlinuz-6.6.6"],
        &["remove", "6.6.6", "/boot/x"],
    ] {
        for code in [0, 1, 4] {
            assert_eq!(hook(arguments, code), called);
        }
    }
    assert_eq!(hook(&["inspect"], 0), "");
}
