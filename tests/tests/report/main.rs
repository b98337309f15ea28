//! The report of an upgrade: against the facts, and as a page.

mod browser;
mod facts;
mod page;
mod scene;
