//! One file a verb, named as it is typed: its arguments and one short function.

pub mod activate;
pub mod build;
pub mod carry;
pub mod check;
pub mod completions;
pub mod config;
pub mod confirm;
pub mod create;
pub mod describe;
pub mod destroy;
pub mod diff;
pub mod doctor;
pub mod exec;
pub mod init;
pub mod layout;
pub mod list;
pub mod lock;
pub mod log;
pub mod menu;
pub mod mount;
pub mod moves;
pub mod pause;
pub mod pin;
pub mod prune;
pub mod receive;
pub mod rename;
pub mod resume;
pub mod rollback;
pub mod send;
pub mod shell;
pub mod status;
pub mod test;
pub mod umount;
pub mod unpin;
pub mod upgrade;

use be_core::name::{EnvName, Named};
use be_core::refusal::Refusal;

/// The environment that is named; `what` says what a snapshot cannot be.
fn environment(name: &Named, what: &'static str) -> Result<EnvName, Refusal> {
    match name.snapshot {
        None => Ok(name.env.clone()),
        Some(_) => Err(Refusal::IsSnapshot {
            name: name.clone(),
            what,
        }),
    }
}
