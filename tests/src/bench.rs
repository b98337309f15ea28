//! What the benchmarks have in common.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// How long these commands take, one after the other.
///
/// # Errors
/// One of them fails.
pub fn timed(commands: &mut [Command]) -> Result<Duration> {
    let start = Instant::now();
    for command in &mut *commands {
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {output:?}");
    }
    Ok(start.elapsed())
}

/// The median.
///
/// # Panics
/// There is none.
#[must_use]
pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// In milliseconds.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
