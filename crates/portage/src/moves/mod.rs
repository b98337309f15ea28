//! Package moves: names and slots that a repository has given up, and what to say instead.
//!
//! [`updates`] reads a repository's `profiles/updates`; [`map`] says what became of an
//! [`atom`], given what the repositories have ([`packages`]); [`depend`] puts that into
//! dependency strings and [`cache`] into the entries of a metadata cache; [`scan`] finds
//! everything on a system that still has an old name, and [`patch`] mends what is a
//! repository's own. [`stand_in`] says what has to stand in for the cache of a repository, and
//! [`query`] what for the functions of ebuilds that ask for installed packages.
//!
//! Nothing is written here. Moves that a repository has dropped are not known: names come
//! back to life.

pub mod atom;
pub mod cache;
pub mod depend;
pub mod map;
pub mod packages;
pub mod patch;
pub mod probe;
pub mod query;
pub mod range;
pub mod repository;
pub mod scan;
mod source;
pub mod stand_in;
mod tree;
pub mod updates;
