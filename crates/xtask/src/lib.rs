//! Developer tasks of `be` and the lab that its tests run in.
//!
//! The lab is a Debian-based root in which the real Portage manages a small
//! ebuild repository of ours, real kernels and the real GRUB; [`image`] puts it
//! on loop devices and disks, [`vm`] boots those.

pub mod cache;
pub mod chroot;
pub mod demo;
mod fill;
pub mod fingerprint;
pub mod host;
pub mod image;
pub mod lab;
mod layout;
pub mod loopdev;
pub mod packages;
pub mod process;
pub mod run;
pub mod temp;
pub mod test;
pub mod vm;
pub mod volumes;
pub mod writes;

/// Shows a line of a demonstration, as it is.
#[expect(clippy::print_stderr, reason = "what a demonstration is for")]
pub fn tell(line: &str) {
    eprintln!("{line}");
}

/// Tells the developer what is going on.
#[expect(
    clippy::print_stderr,
    reason = "the one place where xtask reports progress"
)]
pub fn say(line: &str) {
    eprintln!("xtask: {line}");
}
