//! Commands in the guest's root shell.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Vm;

/// The prompt of the lab's shell.
pub(super) const PROMPT: &str = "lab# ";
/// The terminal takes lines of at most 4096 bytes.
const CHUNK: usize = 3000;
/// How long the shell may take to answer a line; a guest on a busy machine has
/// stood still for half a minute.
const ECHO: Duration = Duration::from_secs(180);

impl Vm {
    /// Runs a bash command, of any length and with any characters, and returns
    /// its exit status (of a subshell) and what it wrote to both of its outputs.
    ///
    /// # Errors
    /// It does not end in time, or the machine ends.
    pub fn shell(&mut self, command: &str, limit: Duration) -> Result<(i32, String)> {
        self.commands += 1;
        let mark = format!("@@be-lab-{}", self.commands);
        let encoded = base64(command.as_bytes());
        self.send("B=\n")?;
        for chunk in encoded.as_bytes().chunks(CHUNK) {
            let chunk = String::from_utf8_lossy(chunk);
            self.expect(PROMPT, ECHO)?;
            self.send(&format!("B=${{B}}{chunk}\n"))?;
        }
        self.expect(PROMPT, ECHO)?;
        // The marks are put together by the shell so that an echo of this line
        // is not taken for them.
        let (head, tail) = mark.split_at(2);
        self.send(&format!(
            "M={head}; echo ${{M}}{tail}; (eval \"$(echo $B | base64 -d)\") </dev/null 2>&1; echo ${{M}}{tail} $?\n"
        ))?;
        self.expect(&format!("{mark}\n"), ECHO)?;
        let output = self
            .expect(&format!("{mark} "), limit)
            .with_context(|| format!("in the guest: {command}"))?;
        let status = self.expect("\n", ECHO)?;
        self.expect(PROMPT, ECHO)?;
        let output = output.strip_suffix(&format!("{mark} ")).unwrap_or(&output);
        let status = status.trim().parse().context("read a status")?;
        Ok((status, output.to_owned()))
    }

    /// As [`Vm::shell`], for a command that has to succeed; returns its output.
    ///
    /// # Errors
    /// It fails; the message carries its output.
    pub fn check(&mut self, command: &str, limit: Duration) -> Result<String> {
        let (status, output) = self.shell(command, limit)?;
        anyhow::ensure!(
            status == 0,
            "in the guest: {command}: status {status}\n{output}"
        );
        Ok(output)
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut three = [0; 3];
        three[..group.len()].copy_from_slice(group);
        let number = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for place in 0..4 {
            let digit = (number >> (18 - 6 * place)) & 63;
            let used = place <= group.len();
            text.push(if used {
                char::from(DIGITS[digit as usize])
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
