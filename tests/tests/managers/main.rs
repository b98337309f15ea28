//! Upgrades by other package managers than Portage, on real parts.

mod apt;
mod apt_config;
mod dnf;
mod pacman;
