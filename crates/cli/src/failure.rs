//! What a person sees of an error: one message, one hint, one exit code.

use std::io;

use be_core::refusal::{NothingToDo, Refusal, exit};
use be_core::upgrade::build::BuildFailed;
use be_core::upgrade::{LiveFailed, SyncFailed, UpgradeFailed};

/// An error on its way out.
#[derive(Debug)]
pub struct Failure(anyhow::Error);

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl Failure {
    fn find<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.0.chain().find_map(|e| e.downcast_ref::<T>())
    }

    fn io_kind(&self) -> Option<io::ErrorKind> {
        self.0.chain().find_map(|e| {
            let btrfs = e.downcast_ref::<be_core::BtrfsError>().map(|e| e.io_kind());
            btrfs.or_else(|| e.downcast_ref::<io::Error>().map(io::Error::kind))
        })
    }

    /// The exit code of the contract.
    pub fn code(&self) -> u8 {
        if let Some(refusal) = self.find::<Refusal>() {
            return refusal.exit_code();
        }
        if self.find::<NothingToDo>().is_some() {
            return exit::NOTHING;
        }
        if let Some(failed) = self.find::<UpgradeFailed>() {
            return match failed.gates.is_empty() {
                true => exit::UPGRADE_FAILED,
                false => exit::NOT_BOOTABLE,
            };
        }
        if let Some(failed) = self.find::<BuildFailed>() {
            return match failed.full {
                true => exit::NO_SPACE,
                false => exit::UPGRADE_FAILED,
            };
        }
        if self.find::<LiveFailed>().is_some() {
            return exit::UPGRADE_FAILED;
        }
        match self.io_kind() {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => exit::NO_SPACE,
            Some(io::ErrorKind::ReadOnlyFilesystem) => exit::REFUSED,
            _ => exit::FAILED,
        }
    }

    /// One word for scripts.
    pub fn kind(&self) -> &'static str {
        match self.code() {
            exit::REFUSED => "refused",
            exit::BUSY => "busy",
            exit::USAGE => "usage",
            exit::NO_SPACE => "no-space",
            exit::UPGRADE_FAILED => "upgrade-failed",
            exit::CONFLICTS => "conflicts",
            exit::NOT_BOOTABLE => "not-bootable",
            exit::NOTHING => "nothing-to-do",
            _ => "failed",
        }
    }

    /// What happened, in one line.
    pub fn message(&self) -> String {
        if let Some(refusal) = self.find::<Refusal>() {
            return refusal.to_string();
        }
        if let Some(failed) = self.find::<UpgradeFailed>() {
            return failed.to_string();
        }
        if let Some(failed) = self.find::<LiveFailed>() {
            return failed.to_string();
        }
        if let Some(failed) = self.find::<BuildFailed>() {
            return failed.to_string();
        }
        format!("{:#}", self.0).replace('\n', " ")
    }

    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        if self.0.is::<SyncFailed>() {
            return Some("nothing was kept; be upgrade tries again".into());
        }
        if let Some(refusal) = self.find::<Refusal>() {
            return Some(refusal.hint());
        }
        if let Some(failed) = self.find::<UpgradeFailed>() {
            return Some(failed.hint());
        }
        if let Some(failed) = self.find::<LiveFailed>() {
            return Some(failed.hint());
        }
        if let Some(failed) = self.find::<BuildFailed>() {
            return Some(failed.hint());
        }
        match self.code() {
            exit::NO_SPACE => Some("make room: be prune, or be list and be destroy NAME".into()),
            exit::NOTHING => None,
            _ => Some("be status".into()),
        }
    }

    /// There was nothing to do: no failure for a person.
    pub fn is_nothing(&self) -> bool {
        self.code() == exit::NOTHING
    }
}
