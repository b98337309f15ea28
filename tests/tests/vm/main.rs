//! From power-on: GRUB's menu, its keys, and what boots.

mod blackout;
mod boots;
mod distribution;
mod fallback;
mod home;
mod inits;
mod laid_out;
mod luks;
mod matrix;
mod menu;
mod nightly;
mod rename;
mod shutdown;
mod split;
mod trial;
mod writes;
