//! From power-on: GRUB's menu, its keys, and what boots.

mod blackout;
mod boots;
mod fallback;
mod home;
mod inits;
mod laid_out;
mod menu;
mod rename;
mod split;
mod trial;
mod writes;
