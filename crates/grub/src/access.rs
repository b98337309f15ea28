//! Who may boot what, as the user's own `grub.cfg` has it.
//!
//! Where GRUB has `superusers`, an entry without `--unrestricted` asks for a password. `grub-mkconfig` writes that word
//! only if its owner has put it into `10_linux`, so the entries that are there tell what is wanted of ours.
//! What cannot be read, or is not there, counts as restricted: a password too many can be typed.

use crate::shell::{Part, Token, Word, tokens};

/// Which entries need no password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// The first entry of the menu that boots Linux.
    pub menu: bool,
    /// The submenus with entries that boot Linux. Only where `superusers` is exported: else it is not set in a submenu,
    /// and whoever gets in may edit what is there, whatever it is.
    pub submenu: bool,
    /// All entries in submenus that boot Linux.
    pub inside: bool,
}

/// What is between braces.
enum Block {
    Submenu { unrestricted: bool, has_linux: bool },
    Entry { unrestricted: bool, is_linux: bool },
    Other,
}

#[derive(Default)]
struct Reader {
    open: Vec<Block>,
    /// Of the first entry of the menu.
    menu: Option<bool>,
    submenus: Vec<bool>,
    inside: Vec<bool>,
    exported: bool,
}

/// Reads the text of a `grub.cfg`.
pub fn read(cfg: &str) -> Access {
    let mut reader = Reader::default();
    let Ok(tokens) = tokens(cfg) else {
        return Access::default();
    };
    let mut command: Vec<&Word> = Vec::new();
    for token in &tokens {
        let word = match token {
            Token::Operator(_) => {
                reader.command(&command);
                command.clear();
                continue;
            }
            Token::Word(word) => word,
        };
        match word.bare() {
            Some("{") => {
                reader.open(&command);
                command.clear();
            }
            Some("}") if command.is_empty() => reader.close(),
            Some("if" | "elif" | "then" | "else" | "while" | "until" | "do")
                if command.is_empty() => {}
            _ => command.push(word),
        }
    }
    reader.command(&command);
    let all = |of: &[bool]| !of.is_empty() && of.iter().all(|unrestricted| *unrestricted);
    Access {
        menu: reader.menu.unwrap_or(false),
        submenu: reader.exported && all(&reader.submenus),
        inside: all(&reader.inside),
    }
}

impl Reader {
    /// `command {`.
    fn open(&mut self, command: &[&Word]) {
        let unrestricted = command.iter().any(|word| is(word, "--unrestricted"));
        self.open
            .push(match command.first().and_then(|w| w.bare()) {
                Some("menuentry") => Block::Entry {
                    unrestricted,
                    is_linux: false,
                },
                Some("submenu") => Block::Submenu {
                    unrestricted,
                    has_linux: false,
                },
                _ => Block::Other,
            });
    }

    fn command(&mut self, command: &[&Word]) {
        let Some(name) = command.first().and_then(|word| word.bare()) else {
            return;
        };
        if name == "export" && command[1..].iter().any(|word| is(word, "superusers")) {
            self.exported = true;
        }
        // `linux`, `linux16`, `linuxefi`.
        if name.starts_with("linux")
            && let Some(Block::Entry { is_linux, .. }) = self.open.last_mut()
        {
            *is_linux = true;
        }
    }

    fn close(&mut self) {
        match self.open.pop() {
            Some(Block::Entry {
                unrestricted,
                is_linux: true,
            }) => {
                let mut is_inside = false;
                for block in &mut self.open {
                    if let Block::Submenu { has_linux, .. } = block {
                        (is_inside, *has_linux) = (true, true);
                    }
                }
                match is_inside {
                    true => self.inside.push(unrestricted),
                    false => _ = self.menu.get_or_insert(unrestricted),
                }
            }
            Some(Block::Submenu {
                unrestricted,
                has_linux: true,
            }) => self.submenus.push(unrestricted),
            _ => {}
        }
    }
}

fn is(word: &Word, text: &str) -> bool {
    word.assigns.is_none() && matches!(word.parts.as_slice(), [Part::Text(t)] if t == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `grub-mkconfig` writes it, shortened.
    fn cfg(first: &str, submenu: &str, older: &str, rescue: &str, custom: &str) -> String {
        format!(
            r#"
### BEGIN /etc/grub.d/00_header ###
if [ "${{next_entry}}" ] ; then
   set default="${{next_entry}}"
   set boot_once=true
else
   set default="0"
fi
if [ x"${{feature_menuentry_id}}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function savedefault {{
  if [ -z "${{boot_once}}" ]; then
    saved_entry="${{chosen}}"
  fi
}}
### BEGIN /etc/grub.d/10_linux ###
menuentry 'Memory {{ test }}' --class tool --unrestricted {{
	chainloader /memtest
}}
menuentry 'It'\''s Gentoo' --class gnu-linux {first} $menuentry_id_option 'gnulinux-simple-1' {{
	load_video
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	linux	/@/boot/vmlinuz-6.6.1 root=UUID=1 ro  quiet
	initrd	/@/boot/initramfs-6.6.1.img
}}
submenu 'Advanced options' {submenu} $menuentry_id_option 'gnulinux-advanced-1' {{
	menuentry 'Gentoo, 6.6.1' {older} $menuentry_id_option 'gnulinux-6.6.1-advanced-1' {{
		echo	'Loading Linux 6.6.1 ...'
		linux	/@/boot/vmlinuz-6.6.1 root=UUID=1 ro
	}}
	menuentry 'Gentoo, 6.6.1 (recovery mode)' {rescue} {{
		linux	/@/boot/vmlinuz-6.6.1 root=UUID=1 ro single
	}}
}}
menuentry 'Another' --unrestricted {{
	linux /other
}}
### BEGIN /etc/grub.d/40_custom ###
{custom}
"#
        )
    }

    fn flags(access: Access) -> [bool; 3] {
        [access.menu, access.submenu, access.inside]
    }

    #[test]
    fn it_is_as_the_users_own_entries_are() {
        const U: &str = "--unrestricted";
        const SET: &str = "set superusers=\"root\"\npassword_pbkdf2 root grub.pbkdf2.sha512.10.A.B";
        const EXPORT: &str = "set superusers=root; export superusers";
        for (text, expected) in [
            (cfg("", "", "", "", SET), [false, false, false]),
            (cfg(U, "", "", "", SET), [true, false, false]),
            // What CLASS in 10_linux makes: the submenu has no class.
            (cfg(U, "", U, U, SET), [true, false, true]),
            (cfg(U, "", U, U, EXPORT), [true, false, true]),
            (cfg(U, "", U, "", EXPORT), [true, false, false]),
            // In the submenu it would not be set.
            (cfg(U, U, U, U, SET), [true, false, true]),
            (cfg(U, U, U, U, EXPORT), [true, true, true]),
            (cfg("", U, "", "", EXPORT), [false, true, false]),
            (
                cfg("'--unrestricted'", "", "", "", ""),
                [true, false, false],
            ),
            (
                cfg("--users '--unrestricted x'", "", "", "", ""),
                [false; 3],
            ),
        ] {
            assert_eq!(flags(read(&text)), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_or_cannot_be_read_is_restricted() {
        for text in [
            "",
            "set superusers=root\n",
            "menuentry x --unrestricted { chainloader /x\n}\n",
            "menuentry x --unrestricted {\nlinux /x\n",
            "menuentry x --unrestricted {\nlinux /x\n}\necho 'open\n",
            "# menuentry x --unrestricted {\n# linux /x\n# }\n",
            "echo menuentry x --unrestricted {\nlinux /x\n}\n",
            "}\n}\n{\n",
        ] {
            assert_eq!(read(text), Access::default(), "{text}");
        }
        let one_line = "menuentry x --unrestricted { linux /x; initrd /y; }";
        assert_eq!(flags(read(one_line)), [true, false, false]);
    }
}
