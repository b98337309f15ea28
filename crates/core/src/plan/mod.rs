//! Decisions: from an [`Inventory`](crate::model::Inventory) and a request to a refusal or
//! to an ordered list of steps. Pure: no file, no process, no clock.

mod activate;
mod confirm;
mod create;
mod destroy;
mod init;
mod layout;
mod note;
mod prune;
mod rename;
mod restore;
mod snapshot;
mod split;
mod step;

pub use activate::{Activate, How, Left, Switch, Way, activate, rollback_target, undo_once};
pub(crate) use activate::{clone_late, switch};
pub use confirm::{confirm, note_failed};
pub use create::{Create, MIN_FREE, create, default};
pub(crate) use destroy::removal_list;
pub use destroy::{Destroy, Use, destroy};
pub use init::{Init, init};
pub use layout::set_policy;
pub use note::{describe, pin};
pub use prune::{Reason, judge, prune, superseded};
pub use rename::{Rename, rename, unfinished};
pub use restore::{Restore, restore};
pub use snapshot::{Snapshot, snapshot};
pub use split::{Found, Split, SplitSpec, holder, may_split, split};
pub use step::{
    CloneSpec, Member, Plan, Proofs, Removal, Renaming, RestoreSpec, SnapshotRemoval, SnapshotSpec,
    Step,
};

#[cfg(test)]
pub(crate) mod fixture;
