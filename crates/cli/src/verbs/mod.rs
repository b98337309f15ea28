//! One file a verb, named as it is typed: its arguments and one short function.

pub mod activate;
pub mod check;
pub mod completions;
pub mod create;
pub mod destroy;
pub mod diff;
pub mod exec;
pub mod init;
pub mod list;
pub mod log;
pub mod menu;
pub mod mount;
pub mod rollback;
pub mod shell;
pub mod status;
pub mod umount;
pub mod upgrade;
