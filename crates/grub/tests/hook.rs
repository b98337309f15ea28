//! The script in grub.d against what the library inserts, run by the real shell.

#![allow(clippy::print_stderr, reason = "a test that checks nothing says so")]

use std::process::{Command, Output};

use be_grub::hook;
use be_grub::validate::{ValidateError, validate};

const UUID: &str = "11111111-2222-3333-4444-555555555555";

fn run(environment: &[(&str, &str)]) -> Output {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../grub.d/45_be");
    Command::new("sh")
        .arg(script)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .envs(environment.iter().copied())
        .output()
        .expect("sh")
}

#[test]
fn the_script_prints_the_block() {
    let output = run(&[("GRUB_FS", "btrfs"), ("GRUB_DEVICE_UUID", UUID)]);
    assert!(output.status.success() && output.stderr.is_empty());
    let body = String::from_utf8(output.stdout).expect("text");
    let name = hook::SCRIPT_NAME;
    // What grub-mkconfig prints around it.
    let whole = format!("### BEGIN /etc/grub.d/{name} ###\n{body}### END /etc/grub.d/{name} ###\n");
    assert_eq!(whole, hook::block(UUID));
    match validate(&whole) {
        Err(ValidateError::NoChecker) => eprintln!("skipped: grub-script-check is not installed"),
        other => other.expect("the block is good GRUB"),
    }
}

#[test]
fn the_script_is_silent_where_it_has_no_business() {
    let cases: [&[(&str, &str)]; 6] = [
        &[],
        &[("GRUB_FS", "btrfs")],
        &[("GRUB_DEVICE_UUID", UUID)],
        &[("GRUB_FS", "ext2"), ("GRUB_DEVICE_UUID", UUID)],
        &[("GRUB_FS", "btrfs"), ("GRUB_DEVICE_UUID", "")],
        &[("GRUB_FS", "btrfs"), ("GRUB_DEVICE_UUID", "x; reboot")],
    ];
    for environment in cases {
        let output = run(environment);
        assert!(
            output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
            "{environment:?}"
        );
    }
}

/// It must not be hidden behind what makes entries, nor be one of the files that grub-mkconfig passes over.
#[test]
fn the_script_sorts_last_of_the_usual_ones() {
    for other in [
        "00_header",
        "10_linux",
        "20_linux_xen",
        "30_os-prober",
        "30_uefi-firmware",
        "40_custom",
        "41_custom",
    ] {
        assert!(hook::SCRIPT_NAME > other);
    }
    assert!(hook::SCRIPT.starts_with("#!/bin/sh\n"));
}
