//! What the serial line of the guest says about its boot.

use super::guest;

/// Why nothing can be said of the environment, if the boot failed.
const TORN: [&str; 5] = [
    "parent transid verify failed",
    "csum failed",
    "checksum verify failed",
    "bad tree block",
    "corrupt leaf",
];

/// The same of filesystems that no snapshot keeps as they are: all of these are in the line.
const LIVE: [&[&str]; 9] = [
    &["EXT4-fs error"],
    &["EXT4-fs (", "): error"],
    &["XFS (", "orruption"],
    &["XFS (", "Internal error"],
    &["XFS (", "failed"],
    &["FAT-fs ("],
    &["UNEXPECTED INCONSISTENCY"],
    &["systemd-fsck", "ailed"],
    &["File System Check", "Failed"],
];

/// What is always said of a FAT that is mounted elsewhere, and of how it is mounted.
const USUAL: [&str; 3] = ["not properly unmounted", "utf8", "codepage"];

/// The kernel of the guest met an instruction that the emulated processor has not, or the
/// emulator made a mistake.
const EMULATION: [&str; 2] = ["invalid opcode", " Oops: "];

/// Where init or initramfs ask somebody to come.
const EMERGENCY: [&str; 4] = [
    "You are in emergency mode",
    "Entering emergency mode",
    "Cannot open access to console, the root account is locked",
    "Give root password for maintenance",
];

/// How the boot ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Passed(&'static str),
    Failed(String),
    /// Nothing can be said of the environment.
    Unknown(String),
}

/// Reads the line.
#[derive(Debug)]
pub(super) struct Watch {
    word: String,
    /// The environment has a service that speaks when it has come up.
    judges: bool,
    /// Another filesystem than btrfs is being written.
    live: bool,
    heard: bool,
    /// Something that fails through no fault of the environment.
    torn: Option<&'static str>,
    prompt: bool,
    line: String,
    /// The last lines.
    last: Vec<String>,
}

/// How many lines of the end are kept.
const LAST: usize = 20;

impl Watch {
    pub(super) fn new(token: &str, judges: bool, live: bool) -> Self {
        Self {
            word: guest::word(token),
            judges,
            live,
            heard: false,
            torn: None,
            prompt: false,
            line: String::new(),
            last: Vec::new(),
        }
    }

    /// What came next; how the boot ended, if this says so.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<End> {
        self.heard |= !bytes.is_empty();
        for char in String::from_utf8_lossy(bytes).chars() {
            if char != '\n' {
                self.line.push(char);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            if let Some(end) = self.read(&plain(&line)) {
                return Some(end);
            }
        }
        // A prompt has no end of line.
        let line = plain(&self.line);
        if let Some(end) = emergency(&line) {
            return Some(end);
        }
        self.prompt |= line.trim_end().ends_with(" login:");
        (self.prompt && !self.judges).then_some(End::Passed("it asks for a login"))
    }

    fn read(&mut self, line: &str) -> Option<End> {
        if !line.trim().is_empty() {
            self.last.push(line.to_owned());
            if self.last.len() > LAST {
                self.last.remove(0);
            }
        }
        self.torn = torn(line, self.live).or(self.torn);
        // Somebody may have spoken after it.
        self.prompt |= line.trim_end().ends_with(" login:");
        if let Some((_, said)) = line.split_once(&self.word) {
            let (verdict, why) = said.split_once(' ').unwrap_or((said, ""));
            return match verdict {
                "pass" => Some(End::Passed("its health checks pass")),
                "fail" => Some(End::Failed(why.to_owned())),
                _ => None,
            };
        }
        if let Some((_, why)) = line.split_once("Kernel panic - not syncing: ") {
            return Some(End::Failed(format!("its kernel panicked: {why}")));
        }
        emergency(line)
    }

    /// Why a failure says nothing about the environment. `emulated` is without KVM.
    pub(super) fn excuse(&self, emulated: bool) -> Option<String> {
        if let Some(word) = self.torn {
            return Some(format!("the disk went on being written below it ({word})"));
        }
        let words = EMULATION.iter().find(|word| self.says(word));
        words.filter(|_| emulated).map(|word| {
            format!(
                "the emulated processor is not that of this machine ({})",
                word.trim()
            )
        })
    }

    /// Whether the disk was torn.
    pub(super) fn is_torn(&self) -> bool {
        self.torn.is_some()
    }

    fn says(&self, word: &str) -> bool {
        self.last.iter().any(|line| line.contains(word))
    }

    /// Whether it speaks at all.
    pub(super) fn heard(&self) -> bool {
        self.heard
    }

    /// Whether somebody could have logged in, although nothing was said.
    pub(super) fn asks(&self) -> bool {
        self.prompt
    }

    /// The last lines, what is not ended yet included.
    pub(super) fn last(&self) -> Vec<String> {
        let mut last = self.last.clone();
        let rest = plain(&self.line);
        if !rest.trim().is_empty() {
            last.push(rest);
        }
        last.split_off(last.len().saturating_sub(LAST))
    }
}

/// What in this line says that a disk was torn.
fn torn(line: &str, live: bool) -> Option<&'static str> {
    if line.contains("BTRFS") {
        return TORN.into_iter().find(|word| line.contains(word));
    }
    let says = |words: &&&[&str]| words.iter().all(|word| line.contains(word));
    let found = LIVE.iter().find(says).filter(|_| live)?;
    let usual = USUAL.iter().any(|word| line.contains(word));
    (!usual).then(|| found[0].trim_end_matches(" ("))
}

fn emergency(line: &str) -> Option<End> {
    let found = EMERGENCY.iter().any(|word| line.contains(word));
    found.then(|| End::Failed("it ends in emergency mode".into()))
}

/// Without what moves and colours.
fn plain(line: &str) -> String {
    let line = be_portage::pretend::strip_ansi(line);
    line.chars()
        .filter(|c| !c.is_control() || *c == '\t')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(judges: bool, text: &str) -> Option<End> {
        // In pieces, as it comes.
        let mut watch = Watch::new("t1", judges, false);
        text.as_bytes().chunks(7).find_map(|part| watch.feed(part))
    }

    #[test]
    fn the_service_has_the_word_where_there_is_one() {
        let passed = Some(End::Passed("its health checks pass"));
        assert_eq!(
            end(true, "x\nhost login: \n[ 3.1] be-test t1 pass\r\n"),
            passed
        );
        let failed = Some(End::Failed("not mounted: /home".into()));
        assert_eq!(end(true, "be-test t1 fail not mounted: /home\n"), failed);
        assert_eq!(end(true, "be-test t2 pass\nbe-test t1 p\n"), None);
        assert_eq!(end(true, "host login: "), None);
        assert!(end(false, "host login: \n[ 9.1] x\n").is_some());
        assert_eq!(
            end(false, "\x1b[0mhost login: "),
            Some(End::Passed("it asks for a login"))
        );
    }

    #[test]
    fn what_does_not_come_up_says_why() {
        let panic = "[    3.1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x1\n";
        let Some(End::Failed(why)) = end(true, panic) else {
            panic!();
        };
        assert!(why.contains("Attempted to kill init"), "{why}");
        assert!(end(true, "You are in emergency mode. After\n").is_some());
        assert!(end(true, "Give root password for maintenance\n(or").is_some());
    }

    #[test]
    fn a_filesystem_that_is_written_here_may_be_torn() {
        for line in [
            "[ 2.1] EXT4-fs error (device vda2): ext4_lookup:1855: inode #12: comm systemd: x",
            "[ 2.1] EXT4-fs (vda2): error loading journal",
            "[ 2.1] XFS (vda2): Metadata corruption detected at xfs_agf_verify+0x1, block 0x1",
            "[ 2.1] FAT-fs (vda1): error, invalid access to FAT (entry 0x1)",
            "/dev/vda2: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.",
            "[FAILED] Failed to start systemd-fsck@d\\x2d1.service - File System Check on /dev/d",
            "[FAILED] Failed to start File System Check on /dev/disk/by-uuid/1.",
        ] {
            assert!(torn(line, true).is_some(), "{line}");
            assert_eq!(torn(line, false), None, "nobody writes to it: {line}");
        }
        for line in [
            "FAT-fs (vda1): Volume was not properly unmounted. Some data may be corrupt.",
            "FAT-fs (vda1): utf8 is not a recommended IO charset for FAT filesystems",
            "EXT4-fs (vda2): mounted filesystem with ordered data mode. Opts: errors=remount-ro",
            "EXT4-fs (vda2): recovery complete",
            "systemd[1]: Finished systemd-fsck@x.service - File System Check on /dev/x.",
        ] {
            assert_eq!(torn(line, true), None, "{line}");
        }
        let mut watch = Watch::new("t", true, true);
        assert!(!watch.heard());
        watch.feed(b"/dev/vda2: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.\n");
        assert!(watch.heard() && watch.is_torn() && watch.excuse(false).is_some());
    }

    #[test]
    fn a_failure_of_ours_is_no_failure_of_the_environment() {
        let mut watch = Watch::new("t", true, false);
        watch.feed(b"invalid opcode: 0000\n");
        assert!(watch.excuse(true).is_some() && watch.excuse(false).is_none());
        watch.feed(b"BTRFS error (device vda): parent transid verify failed on logical 1\n");
        assert!(watch.excuse(false).unwrap().contains("transid"));
        for number in 0..30 {
            watch.feed(format!("line {number}\n").as_bytes());
        }
        let last = watch.last();
        assert_eq!((last.len(), last[19].as_str()), (20, "line 29"));
        assert!(watch.excuse(false).is_some(), "however long ago");
    }
}
