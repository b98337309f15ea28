//! Boot environments on btrfs: complete, bootable copies of one system.
//!
//! A command goes one way: arguments, request, [`observe`](observe::observe) (one
//! immutable [`Inventory`](model::Inventory)), [`plan`] (a [`Refusal`](refusal::Refusal)
//! or steps), [`execute`](execute::execute), report. Nothing here prints.

pub mod block;
pub mod boot;
pub mod bootfs;
pub mod carry;
pub mod chroot;
pub mod config;
pub mod config_files;
pub mod crypt;
pub mod diff;
pub mod doctor;
mod entries;
pub mod execute;
pub mod files;
pub mod fstab;
pub mod gates;
pub mod glob;
pub mod health;
pub mod hook;
pub mod host;
pub mod idle;
pub mod layout;
mod loader;
pub mod lock;
pub mod log;
pub mod manager;
pub mod menu;
pub mod model;
pub mod mount;
pub mod mountinfo;
pub mod name;
pub mod observe;
pub mod old_code;
mod packages;
mod parallel;
pub mod plan;
pub mod policy;
pub mod processes;
mod proven;
pub mod prune;
pub mod reboot;
pub mod record;
pub mod refusal;
pub mod report;
pub mod session;
pub mod shutdown;
pub mod space;
pub mod stale;
pub mod status;
pub mod store;
pub mod travel;
pub mod upgrade;
pub mod vm;
pub mod whole;

pub use be_btrfs::Error as BtrfsError;
pub use be_grub::selection;
pub use be_portage as portage;

/// The id of an environment's entry in GRUB's menu.
pub fn entry_id(name: &name::EnvName) -> String {
    be_grub::menu::entry_id(name.as_str())
}
