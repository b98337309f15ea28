//! What the tests on loop devices share: `be` as a program, the systems that it
//! works on, and ways to look at both without its help.

pub mod be;
pub mod bench;
pub mod binhost;
pub mod came;
pub mod cuts;
pub mod disk;
pub mod engines;
pub mod forged;
pub mod grub;
pub mod looped;
pub mod overlay;
pub mod played;
pub mod small;
pub mod store;
pub mod system;
pub mod terminal;
pub mod travel;
pub mod upstream;
pub mod user;
pub mod vm;

/// Evenly spread numbers that are the same in every run (xorshift64).
#[derive(Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// A sequence that begins with this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
