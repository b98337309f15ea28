//! The spellings of beadm(8) of illumos and bectl(8) of FreeBSD that are not those of `be`:
//! put right where that costs nothing, answered with be's own way where it does not.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use be_core::refusal::Refusal;

/// The name that `be` was called by, through a symlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// Its own.
    Be,
    /// `beadm`: `list -H` has the fields of illumos, and no verb means `list`.
    Beadm,
    /// `bectl`: `destroy` does not ask, and its `-F` unmounts.
    Bectl,
}

/// Verbs of others, and what to do instead.
const VERBS: [(&str, &str); 9] = [
    (
        "jail",
        "be shell ENV, or be exec ENV -- CMD: a chroot with private mounts",
    ),
    ("ujail", "nothing stays when be shell ends: leave the shell"),
    (
        "unjail",
        "nothing stays when be shell ends: leave the shell",
    ),
    (
        "export",
        "be create ENV@SNAP, be mount ENV@SNAP, then btrfs send what it prints",
    ),
    (
        "import",
        "be create NAME, then fill it where be mount NAME says; be manages only what it made",
    ),
    ("snapshot", "be create ENV@SNAP"),
    ("get", "be status, and be.toml(5)"),
    (
        "set",
        "be.toml(5) has what can be set; be describe ENV TEXT",
    ),
    ("version", "be --version"),
];

/// Options of others by verb, and what to do instead.
const OPTIONS: [(&str, char, &str); 7] = [
    (
        "create",
        'o',
        "subvolumes have no properties; mount options stand in /etc/fstab: be shell NAME",
    ),
    (
        "create",
        'p',
        "environments lie on the filesystem of their system: be --sysroot DIR names another",
    ),
    (
        "create",
        'E',
        "be create NAME, then empty it: be shell NAME",
    ),
    (
        "destroy",
        'o',
        "an origin is no part of its clones: be destroy ORIGIN, if it is to go as well",
    ),
    (
        "list",
        'D',
        "be list --json has \"referenced\" in \"space\", where it is known",
    ),
    (
        "mount",
        's',
        "only the root is mounted, writable; all that is shared as well: be shell ENV",
    ),
    ("mount", 'o', "mount it, then: mount -o remount,OPTION DIR"),
];

/// Short options of `be` that take a value: what follows in a cluster is that value.
const VALUED: &str = "dekKcC";

/// The arguments in be's own spelling, and by which name it was called.
///
/// # Errors
/// [`Refusal::LeftOut`] for a verb or an option that be has not.
pub fn translate(mut arguments: Vec<OsString>) -> Result<(Vec<OsString>, Spelling), Refusal> {
    let called = arguments.first().map(|a| Path::new(a).file_name());
    let spelling = match called.flatten().and_then(OsStr::to_str) {
        Some("beadm") => Spelling::Beadm,
        Some("bectl") => Spelling::Bectl,
        _ => Spelling::Be,
    };
    if let Some(first) = arguments.first_mut() {
        *first = "be".into();
    }
    let found = verb(&arguments)?;
    if let Some(at) = found {
        let verb = arguments[at].to_string_lossy().into_owned();
        left_out(&verb, &arguments[at + 1..])?;
        if spelling == Spelling::Bectl && verb == "destroy" {
            as_bectl_destroys(&mut arguments, at);
        }
    } else if spelling == Spelling::Beadm && !arguments.iter().skip(1).any(|a| asks_for_help(a)) {
        arguments.push("list".into());
    }
    Ok((arguments, spelling))
}

fn asks_for_help(argument: &OsStr) -> bool {
    ["-h", "--help", "-V", "--version"]
        .iter()
        .any(|a| argument == *a)
}

/// Where the verb is: the first argument that is neither an option nor the value of one.
fn verb(arguments: &[OsString]) -> Result<Option<usize>, Refusal> {
    let mut at = 1;
    while let Some(argument) = arguments.get(at) {
        match argument.to_str() {
            Some("--sysroot" | "--progress-fd") => at += 1,
            Some("-r") => {
                return Err(Refusal::LeftOut {
                    what: "-r".to_owned(),
                    instead: "be --sysroot DIR manages the system that is mounted at DIR",
                });
            }
            Some("--") => return Ok(None),
            Some(option) if option.starts_with('-') => {}
            _ => return Ok(Some(at)),
        }
        at += 1;
    }
    Ok(None)
}

fn left_out(verb: &str, rest: &[OsString]) -> Result<(), Refusal> {
    if let Some((_, instead)) = VERBS.iter().find(|(name, _)| *name == verb) {
        let what = verb.to_owned();
        return Err(Refusal::LeftOut { what, instead });
    }
    let mut is_value = false;
    for argument in rest.iter().map(|a| a.to_string_lossy()) {
        let cluster = argument.strip_prefix('-').filter(|c| !c.starts_with('-'));
        if argument == "--" {
            break;
        }
        let Some(cluster) = cluster.filter(|_| !std::mem::take(&mut is_value)) else {
            continue;
        };
        for (place, option) in cluster.char_indices() {
            let mut known = OPTIONS
                .iter()
                .filter(|(of, name, _)| *of == verb && *name == option);
            if let Some((_, _, instead)) = known.next() {
                let what = format!("{verb} -{option}");
                return Err(Refusal::LeftOut { what, instead });
            }
            if VALUED.contains(option) {
                is_value = place + 1 == cluster.len();
                break;
            }
        }
    }
    Ok(())
}

/// It does not ask, and `-F` means what `-f` means here.
fn as_bectl_destroys(arguments: &mut Vec<OsString>, at: usize) {
    for argument in &mut arguments[at + 1..] {
        match argument.to_str() {
            Some("--") => break,
            Some(text) if text.starts_with('-') && !text.starts_with("--") => {
                *argument = text.replace('F', "f").into();
            }
            _ => {}
        }
    }
    arguments.insert(at + 1, "-y".into());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<(String, Spelling), Refusal> {
        let arguments = line.split(' ').map(OsString::from).collect();
        let (arguments, spelling) = translate(arguments)?;
        let words: Vec<_> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
        Ok((words.join(" "), spelling))
    }

    #[test]
    fn symlinks_speak_as_those_whose_names_they_have() {
        for (line, expected, spelling) in [
            ("be list -H", "be list -H", Spelling::Be),
            ("/usr/sbin/beadm list -H", "be list -H", Spelling::Beadm),
            ("beadm", "be list", Spelling::Beadm),
            (
                "beadm --sysroot /mnt",
                "be --sysroot /mnt list",
                Spelling::Beadm,
            ),
            ("beadm --help", "be --help", Spelling::Beadm),
            ("bectl", "be", Spelling::Bectl),
            ("bectl destroy -F x", "be destroy -y -f x", Spelling::Bectl),
            ("bectl -q destroy x", "be -q destroy -y x", Spelling::Bectl),
            ("beadm destroy -F x", "be destroy -F x", Spelling::Beadm),
            (
                "bectl create -r -e a@b F",
                "be create -r -e a@b F",
                Spelling::Bectl,
            ),
        ] {
            assert_eq!(of(line), Ok((expected.to_owned(), spelling)), "{line}");
        }
    }

    #[test]
    fn what_is_left_out_is_answered_with_the_way_of_be() {
        for (line, what) in [
            ("beadm create -o compression=on x", "create -o"),
            ("beadm create -ocompression=on x", "create -o"),
            ("be create -ap pool x", "create -p"),
            ("bectl create -E x", "create -E"),
            ("beadm mount -s ro x /mnt", "mount -s"),
            ("bectl list -aD", "list -D"),
            ("bectl destroy -Fo x", "destroy -o"),
            ("bectl -r zroot/ROOT list", "-r"),
            ("bectl jail x", "jail"),
            ("bectl export x", "export"),
            ("zectl snapshot x@y", "snapshot"),
            ("zectl set bootloader=x", "set"),
        ] {
            let refusal = of(line).unwrap_err();
            assert_eq!(refusal.exit_code(), 2);
            assert!(
                refusal.to_string().starts_with(&format!("{what} ")),
                "{refusal}"
            );
            assert!(!refusal.hint().is_empty());
        }
    }

    #[test]
    fn what_is_left_out_is_in_the_manual() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../man/be-beadm.7");
        let manual = std::fs::read_to_string(path).unwrap();
        for (verb, _) in VERBS {
            assert!(manual.contains(verb), "{verb}");
        }
        for (verb, option, _) in OPTIONS {
            // `mount -o` is what others say to mount(8).
            let option = format!("{verb} -{option}");
            assert!(option == "mount -o" || manual.contains(&option), "{option}");
        }
    }

    #[test]
    fn values_and_names_are_no_options() {
        for line in [
            "be create -d -o x",
            "be create -do x",
            "be create -d snapshot jail",
            "be exec x -- sh -s -o",
            "be exec x -- create -o",
            "be destroy -sfF x",
            "be list -dsH",
            "be -- jail",
            "be --json list -kname",
        ] {
            assert_eq!(of(line).map(|(words, _)| words), Ok(line.to_owned()));
        }
    }
}
