//! be.
fn main() {}
