//! Environments that travel: `be send` writes one to a stream, `be receive` makes one of it,
//! over any pipe.
//!
//! A stream has a [`Header`], and for every subvolume the stream of `btrfs send`, followed by
//! a listing of all that this has written, by which the receiver looks at what has become of
//! it. What was sent stays as a snapshot of the environment (`ENV@sent`), and what was
//! received (`ENV@received`): a later stream can be relative to either of them, in both
//! directions.

mod adapt;
mod frame;
mod header;
mod kept;
mod listing;
mod receive;
mod send;
mod sweep;

pub use adapt::Identity;
pub use header::{Header, Sent};
pub use receive::{Coming, Decision, Incoming, Parents, Taken, decide};
pub use send::{Outgoing, Send, Sending, plan_send, prepare, tidy};
pub(crate) use sweep::sweep;

pub use crate::refusal::Travel;

/// How far it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes of the environment, so far.
    pub bytes: u64,
    /// Bytes of the stream, so far.
    pub stream: u64,
}

/// Somebody who is told how far it is.
pub type Watch<'a> = &'a mut dyn FnMut(Moved);
