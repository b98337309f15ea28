//! Decisions: from an [`Inventory`](crate::model::Inventory) and a request to a refusal or
//! to an ordered list of steps. Pure: no file, no process, no clock.

mod activate;
mod create;
mod destroy;
mod init;
mod prune;
mod step;

pub use activate::{Activate, activate, rollback_target};
pub use create::{Create, MIN_FREE, create, default};
pub(crate) use destroy::removal_list;
pub use destroy::{Destroy, Use, destroy};
pub use init::{Init, init};
pub use prune::{Reason, judge, prune};
pub use step::{CloneSpec, Member, Plan, Proofs, Removal, Step};

#[cfg(test)]
pub(crate) mod fixture;
