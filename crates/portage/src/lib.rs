//! What `be` knows about Portage: what is installed ([`vdb`]), what changed between two
//! systems ([`diff`]), which commands are run ([`emerge`]) and what they say ([`pretend`],
//! [`binhost`], [`log`], [`jobs`], [`builds`], [`eta`], [`failure`], [`elog`]), what an upgrade leaves for a person
//! ([`state`]), what becomes of configuration files that wait ([`config_files`]), and of packages
//! that have another name now ([`moves`]).
//!
//! No process is started here and nothing is written: the commands are data, the parsers
//! take text, and the loaders only read, below a directory that the caller has opened.
//! What lies below that directory is not trusted: no symbolic link leads out of it.
//!
//! Formats come from the Package Manager Specification (PMS) and from the source of
//! Portage 3.0.83; each module names its own.

pub mod binhost;
pub mod builds;
pub mod chores;
pub mod conf;
pub mod config_files;
pub mod diff;
pub mod elog;
pub mod emerge;
pub mod eta;
pub mod failure;
mod files;
pub mod jobs;
pub mod log;
pub mod moves;
pub mod portageq;
pub mod pretend;
pub mod state;
pub mod vdb;
pub mod version;
