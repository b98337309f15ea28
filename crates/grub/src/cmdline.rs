//! Kernel arguments: splitting a command line, making that of an environment, and getting it through GRUB.
//!
//! # Spelling
//! An argument is kept as the kernel spells it (`lib/cmdline.c`, `next_arg`): blanks separate, double quotes keep
//! blanks together, nothing else is special. `foo="a b"` and `"foo=a b"` mean the same.
//!
//! GRUB's `linux` command (`grub-core/lib/cmdline.c`) puts double quotes around a word with a blank, and a
//! backslash before each `\`, `'` and `"`. Hence:
//! - quotes around a value are not given to GRUB; it adds them again: `foo="a b"` is given as the word `foo=a b`
//!   and arrives as `"foo=a b"`. That is what a `grub.cfg` of `grub-mkconfig` does too.
//! - a double quote anywhere else cannot be passed on and is an error: the backslash means nothing to the kernel,
//!   and the quote would join or split arguments.
//! - `\` and `'` arrive with a backslash before them, as from any GRUB menu; systemd takes it off again.

use std::fmt;

use crate::quote;

/// How the kernel is told the root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootSpec {
    /// UUID of the filesystem. Needs an initramfs: the kernel alone does not know it.
    Uuid(String),
    /// UUID of the partition, for a kernel that mounts the root without an initramfs. One device only.
    PartUuid(String),
}

/// Why arguments cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CmdlineError {
    /// A comma in the path of a subvolume: mount options cannot contain one.
    CommaInSubvolume(String),
    /// A character that neither GRUB nor the kernel can be given.
    NotPlain {
        /// The text.
        text: String,
        /// What is wrong with it.
        why: quote::NotPlain,
    },
    /// A double quote that GRUB would change.
    Quote(String),
    /// Something of GRUB's language, such as a variable, in the value from `/etc/default/grub`.
    GrubSyntax {
        /// The value.
        text: String,
        /// The character.
        found: char,
    },
}

impl fmt::Display for CmdlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommaInSubvolume(path) => {
                write!(
                    f,
                    "the subvolume `{}` has a comma in its path, which rootflags= cannot hold",
                    quote::shown(path)
                )
            }
            Self::NotPlain { text, why } => write!(f, "`{}` {why}", quote::shown(text)),
            Self::Quote(text) => {
                write!(
                    f,
                    "`{}` has a double quote where GRUB cannot pass it on to the kernel",
                    quote::shown(text)
                )
            }
            Self::GrubSyntax { text, found } => {
                write!(
                    f,
                    "the kernel arguments `{}` use `{found}` of GRUB's language",
                    quote::shown(text)
                )
            }
        }
    }
}

impl std::error::Error for CmdlineError {}

/// Splits a kernel command line as the kernel does; each argument stays as typed, with its quotes.
pub fn split_args(line: &str) -> Vec<String> {
    let mut args = Vec::new();
    let mut arg = String::new();
    let mut quoted = false;
    for c in line.chars() {
        if !quoted && is_blank(c) {
            if !arg.is_empty() {
                args.push(std::mem::take(&mut arg));
            }
            continue;
        }
        quoted ^= c == '"';
        arg.push(c);
    }
    if !arg.is_empty() {
        args.push(arg);
    }
    args
}

/// The subvolume that a kernel command line wants for the root, without slashes around it: the last one counts.
pub fn subvolume(line: &str) -> Option<String> {
    let words = split_args(line);
    let flags = words
        .iter()
        .rev()
        .filter_map(|word| word.strip_prefix("rootflags="));
    let mut paths = flags.filter_map(|flags| {
        flags
            .split(',')
            .rev()
            .find_map(|o| o.strip_prefix("subvol="))
    });
    paths.next().map(|path| path.trim_matches('/').to_owned())
}

/// Splits a value from `/etc/default/grub` into kernel arguments as GRUB would.
///
/// `grub-mkconfig` copies the value into a `linux` line of `grub.cfg`, where GRUB's lexer takes the quotes and
/// backslashes off; both quotes keep blanks together there. The result is in the kernel's spelling.
///
/// # Errors
/// [`CmdlineError::GrubSyntax`] for a variable or an operator outside of quotes, [`CmdlineError::Quote`] for a
/// double quote that is meant literally or never closed.
pub fn split_grub(value: &str) -> Result<Vec<String>, CmdlineError> {
    let syntax = |found| CmdlineError::GrubSyntax {
        text: value.to_owned(),
        found,
    };
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            c if is_blank(c) => words.extend(word.take()),
            '#' if word.is_none() => break,
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err(CmdlineError::Quote(value.to_owned())),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('$') => return Err(syntax('$')),
                        Some('\\') => match chars.next() {
                            Some(c @ ('$' | '\\' | '"')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err(CmdlineError::Quote(value.to_owned())),
                        },
                        Some(c) => word.push(c),
                        None => return Err(CmdlineError::Quote(value.to_owned())),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            '$' | ';' | '&' | '|' | '<' | '>' | '{' | '}' => return Err(syntax(c)),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words.retain(|word| !word.is_empty());
    words
        .into_iter()
        .map(|word| kernel_spelling(&word))
        .collect()
}

/// The word to give GRUB so that the kernel gets `arg`. See the module's description.
///
/// # Errors
/// [`CmdlineError::NotPlain`], [`CmdlineError::Quote`].
pub fn grub_word(arg: &str) -> Result<String, CmdlineError> {
    quote::plain(arg).map_err(|why| CmdlineError::NotPlain {
        text: arg.to_owned(),
        why,
    })?;
    let inner = |text: &str| text.strip_suffix('"').map(str::to_owned);
    let word = if let Some(rest) = arg.strip_prefix('"') {
        inner(rest)
    } else if let Some((name, value)) = arg.split_once('=')
        && !name.is_empty()
        && let Some(value) = value.strip_prefix('"')
    {
        inner(value).map(|value| format!("{name}={value}"))
    } else {
        Some(arg.to_owned())
    };
    match word {
        Some(word) if !word.contains('"') && !word.trim().is_empty() => Ok(word),
        _ => Err(CmdlineError::Quote(arg.to_owned())),
    }
}

/// The arguments of an environment's kernel: how to mount its root, then the user's own.
///
/// `subvol` is the path of the root subvolume from the top level; `/` is the top level itself. What the user's
/// arguments say about the root is replaced, of their `rootflags=` the last counts (as for the kernel) and keeps
/// its other options. `ro` comes first unless the user's last word is `rw`. The order and the repetitions of all
/// other arguments stay, and nothing behind `--` is touched: it is for init.
///
/// genkernel's `real_root=` and `real_rootflags=` win over `root=` and `rootflags=` in its initramfs, so they are
/// taken out; it has read the plain names since long, and with `crypt_root=` it uses the mapped device anyway.
///
/// # Errors
/// [`CmdlineError::CommaInSubvolume`], and [`CmdlineError::Quote`] or [`CmdlineError::NotPlain`] for a path that
/// cannot be passed on. A blank is passed on, but not every initramfs takes it.
pub fn environment_args(
    user: &[String],
    root: &RootSpec,
    subvol: &str,
) -> Result<Vec<String>, CmdlineError> {
    if subvol.contains(',') {
        return Err(CmdlineError::CommaInSubvolume(subvol.to_owned()));
    }
    let end = user
        .iter()
        .position(|arg| arg == "--")
        .unwrap_or(user.len());
    let (own, for_init) = user.split_at(end);

    let writable = own
        .iter()
        .rfind(|arg| matches!(arg.as_str(), "ro" | "rw"))
        .is_some_and(|arg| arg == "rw");
    let mut flags = format!("rootflags=subvol=/{}", subvol.trim_matches('/'));
    let user_flags = last_value(own, "real_rootflags")
        .or_else(|| last_value(own, "rootflags"))
        .unwrap_or_default();
    for option in user_flags.split(',').filter(|option| !option.is_empty()) {
        if !matches!(name_of(option), "subvol" | "subvolid") {
            flags.push(',');
            flags.push_str(option);
        }
    }
    let (root, types) = match root {
        RootSpec::Uuid(uuid) => (format!("root=UUID={uuid}"), None),
        RootSpec::PartUuid(uuid) => (
            format!("root=PARTUUID={uuid}"),
            Some("rootfstype=btrfs".to_owned()),
        ),
    };

    let mut args = vec![root];
    args.extend(types);
    args.push(if writable { "rw" } else { "ro" }.to_owned());
    args.push(kernel_spelling(&flags)?);
    let has_type = args.iter().any(|arg| arg.starts_with("rootfstype="));
    args.extend(own.iter().filter(|arg| !is_ours(arg, has_type)).cloned());
    args.extend(for_init.iter().cloned());
    Ok(args)
}

/// The arguments that lead to a shell for one person instead of the whole system.
///
/// Both spellings at once, whatever the init is, for an environment can get another one. `single` goes to the init as
/// an argument: sysvinit, openrc-init and runit know it, and systemd has it for compatibility only. `systemd.unit=` is
/// systemd's own; to the kernel a name with a dot is that of a module's parameter, so no other init sees it.
///
/// What would hide the messages is left out.
pub fn rescue_args(args: &[String]) -> Vec<String> {
    const RESCUE: [&str; 2] = ["single", "systemd.unit=rescue.target"];
    const HIDE: [&str; 3] = ["quiet", "splash", "rhgb"];
    let end = args.iter().position(|arg| arg == "--");
    let (own, for_init) = args.split_at(end.unwrap_or(args.len()));
    own.iter()
        .filter(|arg| !HIDE.contains(&arg.as_str()))
        .cloned()
        .chain(RESCUE.map(str::to_owned))
        .chain(for_init.iter().cloned())
        .collect()
}

/// Whether an argument of the user's speaks about what [`environment_args`] decides.
fn is_ours(arg: &str, has_type: bool) -> bool {
    match name_of(arg) {
        "ro" | "rw" => !arg.contains('='),
        "root" | "rootflags" | "real_root" | "real_rootflags" | "BOOT_IMAGE" | "initrd" => {
            arg.contains('=')
        }
        "rootfstype" => has_type,
        _ => false,
    }
}

/// The name before `=`, without the quote of `"name=a b"`.
fn name_of(arg: &str) -> &str {
    let arg = arg.strip_prefix('"').unwrap_or(arg);
    arg.split_once('=').map_or(arg, |(name, _)| name)
}

/// The value of the last argument with this name, without quotes.
fn last_value<'a>(args: &'a [String], name: &str) -> Option<&'a str> {
    let arg = args.iter().rfind(|arg| name_of(arg) == name)?;
    arg.split_once('=')
        .map(|(_, value)| value.trim_matches('"'))
}

/// Adds the quotes that the kernel needs around a value with blanks.
fn kernel_spelling(word: &str) -> Result<String, CmdlineError> {
    if word.contains('"') {
        return Err(CmdlineError::Quote(word.to_owned()));
    }
    if !word.contains(is_blank) {
        return Ok(word.to_owned());
    }
    Ok(match word.split_once('=') {
        Some((name, value)) if !name.contains(is_blank) => format!("{name}=\"{value}\""),
        _ => format!("\"{word}\""),
    })
}

/// What the kernel's `isspace` says of ASCII.
fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{b}' | '\u{c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        split_args(line)
    }

    #[test]
    fn rescue_is_said_to_every_init_before_what_is_for_one_alone() {
        for (line, rescue) in [
            ("", "single systemd.unit=rescue.target"),
            (
                "root=x quiet splash quiet=1 console=ttyS0",
                "root=x quiet=1 console=ttyS0 single systemd.unit=rescue.target",
            ),
            (
                "systemd.unit=graphical.target -- quiet 5",
                "systemd.unit=graphical.target single systemd.unit=rescue.target -- quiet 5",
            ),
        ] {
            assert_eq!(rescue_args(&args(line)).join(" "), rescue);
        }
    }

    fn environment(line: &str) -> String {
        environment_args(&args(line), &RootSpec::Uuid("u-1".into()), "/@be/x/root")
            .expect("args")
            .join(" ")
    }

    #[test]
    fn splits_as_the_kernel_does() {
        assert_eq!(args(" quiet  a=b\n"), ["quiet", "a=b"]);
        assert_eq!(
            args(r#"dyndbg="file a.c +p" "x=1 2" y"#),
            [r#"dyndbg="file a.c +p""#, r#""x=1 2""#, "y"]
        );
        assert_eq!(args("a='b c'"), ["a='b", "c'"]);
        assert_eq!(args(r#"a="b c"#), [r#"a="b c"#]);
        assert!(args(" \t").is_empty());
    }

    #[test]
    fn splits_as_grub_does() {
        let split = |text| split_grub(text).map(|words| words.join("|"));
        assert_eq!(split("quiet  splash"), Ok("quiet|splash".into()));
        assert_eq!(
            split(r#"a="b c" "x=1 2" 'y=1 2'"#),
            Ok(r#"a="b c"|x="1 2"|y="1 2""#.into())
        );
        assert_eq!(split(r"a=b\ c a=\\x2d"), Ok(r#"a="b c"|a=\x2d"#.into()));
        assert_eq!(split("a # no"), Ok("a".into()));
        assert_eq!(split("a#b '' "), Ok("a#b".into()));
        assert!(matches!(
            split("quiet $vt_handoff"),
            Err(CmdlineError::GrubSyntax { found: '$', .. })
        ));
        assert!(matches!(
            split("a; reboot"),
            Err(CmdlineError::GrubSyntax { found: ';', .. })
        ));
        assert!(matches!(split(r#"a=\""#), Err(CmdlineError::Quote(_))));
        assert!(matches!(split(r#"a="b"#), Err(CmdlineError::Quote(_))));
    }

    #[test]
    fn a_word_for_grub_has_no_quotes_of_the_kernel() {
        let word = |text| grub_word(text).ok();
        assert_eq!(word("quiet").as_deref(), Some("quiet"));
        assert_eq!(word(r#"foo="a b""#).as_deref(), Some("foo=a b"));
        assert_eq!(word(r#""foo=a b""#).as_deref(), Some("foo=a b"));
        assert_eq!(word(r"x=it's\x2d").as_deref(), Some(r"x=it's\x2d"));
        for bad in [
            r#"foo=a"b c"d"#,
            r#"foo="a"#,
            r#"""#,
            r#""""#,
            "",
            "a\nb",
            r#"foo="a"b""#,
        ] {
            assert_eq!(word(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_root_is_ours_and_the_rest_the_users() {
        assert_eq!(
            environment(""),
            "root=UUID=u-1 ro rootflags=subvol=/@be/x/root"
        );
        assert_eq!(
            environment(
                "BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro rootflags=subvol=@,compress=zstd:3,subvolid=5 quiet rw a a initrd=\\x"
            ),
            "root=UUID=u-1 rw rootflags=subvol=/@be/x/root,compress=zstd:3 quiet a a"
        );
        assert_eq!(
            environment("rw ro rootfstype=btrfs").split(' ').nth(1),
            Some("ro")
        );
        assert_eq!(
            environment("rootfstype=btrfs"),
            "root=UUID=u-1 ro rootflags=subvol=/@be/x/root rootfstype=btrfs"
        );
        assert_eq!(
            environment("rootflags=a rootflags=b")
                .split(' ')
                .next_back(),
            Some("rootflags=subvol=/@be/x/root,b")
        );
        assert_eq!(
            environment("quiet -- ro root=x"),
            "root=UUID=u-1 ro rootflags=subvol=/@be/x/root quiet -- ro root=x"
        );
        assert_eq!(
            environment("rootwait rootdelay=5"),
            "root=UUID=u-1 ro rootflags=subvol=/@be/x/root rootwait rootdelay=5"
        );
    }

    #[test]
    fn genkernel_gets_the_plain_names() {
        assert_eq!(
            environment(
                "root=/dev/ram0 real_root=/dev/sda3 real_rootflags=subvol=x,noatime rootflags=y dolvm"
            ),
            "root=UUID=u-1 ro rootflags=subvol=/@be/x/root,noatime dolvm"
        );
    }

    #[test]
    fn without_initramfs_the_kernel_needs_partition_and_type() {
        let part = RootSpec::PartUuid("p".into());
        let made = environment_args(&args("rootfstype=ext4 quiet"), &part, "/").expect("args");
        assert_eq!(
            made,
            [
                "root=PARTUUID=p",
                "rootfstype=btrfs",
                "ro",
                "rootflags=subvol=/",
                "quiet"
            ]
        );
    }

    #[test]
    fn odd_subvolumes_are_refused_or_quoted() {
        let root = RootSpec::Uuid("u".into());
        let of = |subvol: &str| environment_args(&[], &root, subvol);
        assert_eq!(
            of("/a,b"),
            Err(CmdlineError::CommaInSubvolume("/a,b".into()))
        );
        assert!(of("/a\"b").is_err());
        assert_eq!(
            of("@ root").expect("args")[2],
            r#"rootflags="subvol=/@ root""#
        );
        assert_eq!(of("@").expect("args")[2], "rootflags=subvol=/@");
    }
}
