//! The side of the guest: the service that judges a boot says it on the console.

use std::fs::{self, File};
use std::io::Write;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};

/// What names the test on the kernel's command line.
pub(super) const ARGUMENT: &str = "be.test=";

/// How often it is said: the kernel may speak in between.
const TIMES: usize = 3;

/// Starts the line with the verdict.
pub(super) fn word(token: &str) -> String {
    format!("be-test {token} ")
}

/// The test that this machine was booted for, if it was.
pub fn token() -> Option<String> {
    token_in(&fs::read_to_string("/proc/cmdline").ok()?)
}

fn token_in(cmdline: &str) -> Option<String> {
    let mut words = cmdline.split_whitespace();
    let token = words.find_map(|word| word.strip_prefix(ARGUMENT))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (!token.is_empty() && token.chars().all(plain)).then(|| token.to_owned())
}

/// Tell who watches the console what was found: why it is not well, or nothing if it is.
///
/// # Errors
/// When there is no console.
pub fn tell(token: &str, failures: &[String]) -> Result<()> {
    let said = match failures.is_empty() {
        true => "pass".to_owned(),
        false => format!("fail {}", failures.join("; ").replace('\n', " ")),
    };
    let line = format!("\n{}{said}\n", word(token));
    for _ in 0..TIMES {
        let mut console = File::options()
            .write(true)
            .open("/dev/console")
            .context("cannot open /dev/console")?;
        console
            .write_all(line.as_bytes())
            .context("cannot write to /dev/console")?;
        sleep(Duration::from_secs(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_word_names_a_test() {
        assert_eq!(token_in("ro be.test=a1-b quiet").as_deref(), Some("a1-b"));
        for line in ["ro quiet", "be.test=", "xbe.test=1", "be.test=a;b"] {
            assert_eq!(token_in(line), None, "{line}");
        }
    }
}
