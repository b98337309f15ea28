//! Why an environment is not sent, or not received.

use std::fmt;

use crate::name::{EnvName, Named};

/// The rule that forbids it, or what is wrong with a stream. Whatever it is: nothing of the
/// environment is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Travel {
    /// The stream would go to a terminal.
    ToTerminal,
    /// A stream is to be read from a terminal.
    FromTerminal,
    /// The file is there already.
    FileExists {
        /// Its path.
        path: String,
    },
    /// What comes is no stream of be.
    NoStream,
    /// It was written by a later be.
    Newer {
        /// The version that it has.
        version: u32,
    },
    /// It ends too early.
    Cut,
    /// Something in it is wrong.
    Damaged {
        /// What.
        why: String,
    },
    /// What it has written is not what was sent.
    Differs {
        /// Where it is mounted, and the path there.
        path: String,
        /// What is different.
        why: String,
    },
    /// Of this environment nothing was sent or received to its end that a stream could be
    /// relative to.
    NeverTravelled {
        /// It, or a snapshot of it.
        name: Named,
        /// What was to be sent.
        send: EnvName,
    },
    /// What a stream is relative to is not what it was.
    ParentChanged {
        /// The snapshot.
        name: Named,
        /// What is different.
        why: String,
    },
    /// What a stream is relative to is not here.
    ParentMissing {
        /// What is sent.
        send: EnvName,
        /// The environment that it is relative to, as it is called where it comes from.
        since: Option<EnvName>,
        /// The UUID of the snapshot.
        uuid: String,
    },
    /// The name of what comes is taken here.
    NameTaken {
        /// It.
        name: EnvName,
    },
    /// The kernels of the environment are not in its root.
    BootApart {
        /// It.
        name: EnvName,
    },
}

impl Travel {
    /// Something in a stream is wrong.
    pub(crate) fn damaged(why: &str) -> Self {
        Self::Damaged {
            why: why.to_owned(),
        }
    }

    /// What to do next.
    pub(super) fn hint(&self) -> String {
        match self {
            Self::ToTerminal => "be send ENV | ssh HOST be receive; or to a file: -o FILE".into(),
            Self::FromTerminal => {
                "ssh HOST be send ENV | be receive; or: be receive NAME FILE".into()
            }
            Self::FileExists { .. } => "name another one, or remove it".into(),
            Self::NoStream => "it has to come from: be send ENV".into(),
            Self::Newer { .. } => "a later be reads it".into(),
            Self::Cut | Self::Damaged { .. } | Self::Differs { .. } => {
                "send it once more: be send ENV | be receive; nothing was kept of it".into()
            }
            Self::NeverTravelled { send, .. } => {
                format!("be send {send} sends all of it, once; --since works after that")
            }
            Self::ParentChanged { name, .. } => format!(
                "be destroy {name}, and send all of the environment: be send without --since"
            ),
            Self::ParentMissing {
                send,
                since: Some(since),
                ..
            } => format!(
                "where it comes from: be send {send} --since {since}@SNAP, with one that came here \
                 (be list -s {since} shows them), or all of it: be send {send} without --since"
            ),
            Self::ParentMissing { send, .. } => {
                format!("send all of it, where it comes from: be send {send} without --since")
            }
            Self::NameTaken { .. } => "give it another one: be receive NAME".into(),
            Self::BootApart { name } => {
                format!("send a clone of it, which has its kernels: be create -e {name} NAME")
            }
        }
    }
}

impl fmt::Display for Travel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ToTerminal => {
                f.write_str("the stream of an environment is nothing for a terminal")
            }
            Self::FromTerminal => f.write_str("a stream cannot be read from a terminal"),
            Self::FileExists { path } => write!(f, "{path} is there already"),
            Self::NoStream => f.write_str("this is no stream of be send"),
            Self::Newer { version } => {
                write!(f, "the stream has the version {version}, of a later be")
            }
            Self::Cut => f.write_str("the stream ends before it is complete"),
            Self::Damaged { why } => write!(f, "the stream is damaged: {why}"),
            Self::Differs { path, why } => {
                write!(f, "{path} is not as it was sent: {why}")
            }
            Self::NeverTravelled { name, .. } => write!(
                f,
                "nothing is kept of {name} that was sent or received before"
            ),
            Self::ParentChanged { name, why } => write!(
                f,
                "{name}, which the stream is relative to, is not as it was sent: {why}"
            ),
            Self::ParentMissing { since, uuid, .. } => {
                f.write_str("what the stream is relative to is not here: ")?;
                match since {
                    Some(since) => write!(f, "{since}, as it was sent ({uuid})"),
                    None => write!(f, "the subvolume {uuid}"),
                }
            }
            Self::NameTaken { name } => write!(f, "there is an environment {name} here already"),
            Self::BootApart { name } => write!(
                f,
                "the kernels of {name} are in a /boot of their own, which does not travel"
            ),
        }
    }
}

impl From<Travel> for anyhow::Error {
    fn from(travel: Travel) -> Self {
        super::Refusal::Travel(travel).into()
    }
}
