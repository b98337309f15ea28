//! Upgrades by other package managers than Portage, on real parts.

mod apt;
mod dnf;
mod pacman;
