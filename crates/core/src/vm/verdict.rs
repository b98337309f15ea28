//! What is known of an environment when its test has ended.

use std::fs::File;
use std::io::{self, Read};
use std::time::Duration;

use be_btrfs::Root;

use super::guest;
use super::serial::End;
use crate::name::EnvName;

/// What is known of the environment then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It came up.
    Passed,
    /// It did not.
    Failed,
    /// Something went wrong that is not its fault.
    Unknown,
}

impl Verdict {
    /// The word for scripts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    /// Of a boot that ended so; with an excuse a failure says nothing.
    pub(super) fn of(end: End, excuse: Option<String>) -> (Self, String) {
        match (end, excuse) {
            (End::Passed(why), _) => (Self::Passed, why.to_owned()),
            (End::Failed(why), None) => (Self::Failed, why),
            (End::Failed(why) | End::Unknown(why), Some(excuse)) => {
                (Self::Unknown, format!("{why}; but {excuse}"))
            }
            (End::Unknown(why), None) => (Self::Unknown, why),
        }
    }
}

/// What in the environment would say that it has come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judge {
    /// A service of a `be` that knows what a test is.
    Service,
    /// A service; nothing proves that its `be` knows that.
    Unproven,
    /// None: a prompt for a login.
    Prompt,
}

/// Where an init looks for programs, in this order.
const PROGRAMS: [&str; 4] = [
    "usr/local/sbin/be",
    "usr/local/bin/be",
    "usr/sbin/be",
    "usr/bin/be",
];

impl Judge {
    /// In the environment with this root; `judges` if it has the service.
    pub(super) fn of(root: &Root, judges: bool) -> Self {
        let program = PROGRAMS.iter().find_map(|path| root.file(path).ok());
        let knows = |file: File| has(file, guest::ARGUMENT.as_bytes()).unwrap_or(false);
        match (judges, program.is_some_and(knows)) {
            (false, _) => Self::Prompt,
            (true, true) => Self::Service,
            (true, false) => Self::Unproven,
        }
    }
}

/// Whether these bytes are in it.
fn has(mut file: impl Read, wanted: &[u8]) -> io::Result<bool> {
    let mut bytes = Vec::new();
    loop {
        let read = file.by_ref().take(1 << 20).read_to_end(&mut bytes)?;
        if bytes.windows(wanted.len()).any(|part| part == wanted) {
            return Ok(true);
        }
        if read == 0 {
            return Ok(false);
        }
        // They may begin in this part and end in the next.
        bytes.drain(..bytes.len().saturating_sub(wanted.len() - 1));
    }
}

/// A boot of which the time is over, and neither good nor bad was said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Silence<'a> {
    pub(super) name: &'a EnvName,
    pub(super) limit: Duration,
    pub(super) kvm: bool,
    /// Something came over the serial line.
    pub(super) heard: bool,
    /// Somebody could have logged in.
    pub(super) asks: bool,
    pub(super) judge: Judge,
}

impl Silence<'_> {
    /// A failure only where it would have been said that it has come up, and in time.
    pub(super) fn end(self) -> End {
        let (name, limit) = (self.name, self.limit.as_secs());
        let late = format!("it has not come up within {limit} s");
        let longer = format!("be test {name} --timeout {}", limit.saturating_mul(4));
        let why = match self.judge {
            _ if !self.heard => format!(
                "not one byte came from it within {limit} s: its kernel does not speak on a serial \
                 line (CONFIG_SERIAL_8250_CONSOLE=y)"
            ),
            _ if self.asks => format!(
                "it asks for a login, and its health service said nothing within {limit} s: \
                 {longer}, or an older be is in it"
            ),
            _ if !self.kvm => format!("{late}, which means little without KVM: {longer}"),
            Judge::Unproven => format!(
                "{late}, and nothing proves that the be in it knows what a test is: put this be \
                 into it (be shell {name})"
            ),
            Judge::Prompt => format!(
                "no prompt for a login came within {limit} s, and no health service is in it to say \
                 more: let it have a getty on ttyS0, or be init put the service into it"
            ),
            Judge::Service => return End::Failed(late),
        };
        End::Unknown(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(change: impl FnOnce(&mut Silence<'_>)) -> (Verdict, String) {
        let name = EnvName::parse("new").unwrap();
        let mut silence = Silence {
            name: &name,
            limit: Duration::from_secs(600),
            kvm: true,
            heard: true,
            asks: false,
            judge: Judge::Service,
        };
        change(&mut silence);
        Verdict::of(silence.end(), None)
    }

    #[test]
    fn silence_is_a_failure_only_where_somebody_would_speak() {
        let (verdict, said) = why(|_| {});
        assert_eq!(verdict, Verdict::Failed, "{said}");
        type Change = fn(&mut Silence<'_>);
        let unknown: [(Change, &str); 5] = [
            (|s| s.kvm = false, "be test new --timeout 2400"),
            (|s| s.heard = false, "CONFIG_SERIAL_8250_CONSOLE"),
            (|s| s.asks = true, "asks for a login"),
            (|s| s.judge = Judge::Unproven, "be shell new"),
            (|s| s.judge = Judge::Prompt, "ttyS0"),
        ];
        for (change, word) in unknown {
            let (verdict, said) = why(change);
            assert_eq!(verdict, Verdict::Unknown, "{said}");
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn an_excuse_makes_a_failure_unknown_and_a_pass_stays() {
        let excuse = || Some("the disk was torn".to_owned());
        let (verdict, said) = Verdict::of(End::Failed("it panicked".into()), excuse());
        assert_eq!(verdict, Verdict::Unknown);
        assert_eq!(said, "it panicked; but the disk was torn");
        assert_eq!(Verdict::of(End::Passed("x"), excuse()).0, Verdict::Passed);
        let failed = Verdict::of(End::Failed("x".into()), None);
        assert_eq!(failed.0, Verdict::Failed);
    }

    #[test]
    fn a_be_that_knows_a_test_is_known_by_its_word() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(Judge::of(&root, false), Judge::Prompt);
        assert_eq!(Judge::of(&root, true), Judge::Unproven);
        std::fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        let program = dir.path().join("usr/bin/be");
        std::fs::write(&program, vec![b'b'; 3 << 20]).unwrap();
        assert_eq!(Judge::of(&root, true), Judge::Unproven);
        // Across two parts.
        let mut bytes = vec![b'b'; 3 << 20];
        bytes[(1 << 20) - 3..][..8].copy_from_slice(b"be.test=");
        std::fs::write(&program, bytes).unwrap();
        assert_eq!(Judge::of(&root, true), Judge::Service);
        // This program has it, as be has.
        let this = File::open(std::env::current_exe().unwrap()).unwrap();
        assert!(has(this, guest::ARGUMENT.as_bytes()).unwrap());
    }
}
