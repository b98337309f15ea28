//! What the menu shows of an environment: its entry, and in the submenu its other kernels and
//! rescue.

use std::collections::BTreeMap;

use be_grub::access::Access;
use be_grub::cmdline::rescue_args;
use be_grub::menu::{Entry, Extra, More, Way};

use crate::boot::Kernel;
use crate::menu::entry;
use crate::model::Environment;

/// What becomes of the environments, in the order of the menu.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    access: Access,
    pub(crate) entries: Vec<Entry>,
    pub(crate) more: More,
    /// What the titles say, by environment.
    pub(crate) packages: BTreeMap<String, u32>,
}

impl Entries {
    /// None yet; passwords are asked for as in the user's own grub.cfg.
    pub(crate) fn of(access: Access) -> Self {
        Self {
            access,
            more: More {
                unrestricted: access.submenu,
                ..More::default()
            },
            ..Self::default()
        }
    }

    /// Add an environment with its kernels, the newest first.
    ///
    /// # Errors
    /// Why GRUB cannot be given its entry; nothing is added then.
    pub(crate) fn add(
        &mut self,
        env: &Environment,
        kernels: &[Kernel],
        packages: Option<u32>,
    ) -> Result<(), String> {
        let (newest, older) = kernels.split_first().ok_or("it has no kernel")?;
        let main = entry(env, newest)?;
        let extra = |way, title, args| Extra {
            way,
            entry: Entry {
                title,
                args,
                unrestricted: self.access.inside,
                ..main.clone()
            },
        };
        let rescue = extra(
            Way::Rescue,
            format!("{}, rescue", short_title(env, newest)),
            rescue_args(&newest.arguments),
        );
        for kernel in older {
            // One that GRUB cannot be given costs the environment nothing else.
            let (Ok(entry), Some(file)) = (entry(env, kernel), file_name(kernel)) else {
                continue;
            };
            let title = older_title(env, kernel, file);
            let mut older = extra(Way::Kernel(file.to_owned()), title, entry.args);
            older.entry.fs_uuid = entry.fs_uuid;
            older.entry.linux = entry.linux;
            older.entry.initrd = entry.initrd;
            self.more.entries.push(older);
        }
        self.more.entries.push(rescue);
        self.entries.push(Entry {
            title: title(env, newest, packages),
            unrestricted: self.access.menu,
            ..main
        });
        if let Some(packages) = packages {
            self.packages.insert(env.name().to_string(), packages);
        }
        Ok(())
    }
}

/// `NAME: Linux 6.6.1, 2026-11-20 01:30, 1234 packages, what its owner says of it`. The date
/// and not the age, for a menu file does not know today's.
pub(crate) fn title(env: &Environment, kernel: &Kernel, packages: Option<u32>) -> String {
    let created = env.record.created.format("%Y-%m-%d %H:%M");
    let mut title = format!("{}, {created}", short_title(env, kernel));
    if let Some(packages) = packages {
        let s = if packages == 1 { "" } else { "s" };
        title = format!("{title}, {packages} package{s}");
    }
    if !env.record.description.is_empty() {
        title = format!("{title}, {}", env.record.description);
    }
    title
}

fn short_title(env: &Environment, kernel: &Kernel) -> String {
    format!("{}: Linux {}", env.name(), kernel.version)
}

/// Of several kernels with one version only the file says which is which.
fn older_title(env: &Environment, kernel: &Kernel, file: &str) -> String {
    let title = short_title(env, kernel);
    match file.ends_with(&format!("-{}", kernel.version)) {
        true => title,
        false => format!("{title} ({file})"),
    }
}

fn file_name(kernel: &Kernel) -> Option<&str> {
    kernel.linux.file_name()?.to_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture;

    const DATE: &str = "2026-11-20 01:02";

    fn kernel(file: &str, version: &str) -> Kernel {
        Kernel {
            version: version.into(),
            fs: None,
            linux: format!("boot/{file}").into(),
            initrd: vec![format!("boot/initramfs-{version}.img").into()],
            arguments: ["root=UUID=1", "ro", "quiet"].map(str::to_owned).to_vec(),
        }
    }

    fn environment(description: &str) -> Environment {
        let builder =
            fixture::env("x", 300).with(|env| env.record.description = description.to_owned());
        fixture::inventory(vec![builder]).environments.remove(0)
    }

    fn entries(kernels: &[Kernel], packages: Option<u32>, access: Access) -> Entries {
        let mut entries = Entries::of(access);
        entries
            .add(&environment("a test"), kernels, packages)
            .unwrap();
        entries
    }

    #[test]
    fn a_title_says_what_and_from_when() {
        let kernel = kernel("vmlinuz-6.6.1", "6.6.1");
        for (packages, description, rest) in [
            (None, "", ""),
            (Some(1234), "", ", 1234 packages"),
            (Some(1), "a test", ", 1 package, a test"),
            (None, "a test", ", a test"),
        ] {
            assert_eq!(
                title(&environment(description), &kernel, packages),
                format!("x: Linux 6.6.1, {DATE}{rest}")
            );
        }
    }

    #[test]
    fn the_newest_kernel_is_in_the_menu_and_the_others_and_rescue_in_the_submenu() {
        let kernels = [
            kernel("vmlinuz-6.12.1", "6.12.1"),
            kernel("kernel-genkernel-x86_64-6.6.1", "6.6.1"),
            kernel("vmlinuz-6.12.1.old", "6.12.1"),
            // An odd one costs the others nothing.
            kernel("vmlinuz-6.1\n", "6.1"),
        ];
        let all = entries(&kernels, Some(7), Access::default());
        let [main] = all.entries.as_slice() else {
            panic!("{:?}", all.entries);
        };
        assert_eq!(main.linux, "/@be/x/root/boot/vmlinuz-6.12.1");
        assert_eq!(
            main.title,
            format!("x: Linux 6.12.1, {DATE}, 7 packages, a test")
        );
        assert_eq!(all.packages["x"], 7);
        let shown: Vec<_> = all
            .more
            .entries
            .iter()
            .map(|extra| {
                let id = be_grub::menu::extra_id(&extra.entry.name, &extra.way);
                (id, extra.entry.title.as_str(), extra.entry.linux.as_str())
            })
            .collect();
        let boot = "/@be/x/root/boot";
        let wanted = [
            (
                "be-x/kernel-genkernel-x86_64-6.6.1",
                "x: Linux 6.6.1",
                format!("{boot}/kernel-genkernel-x86_64-6.6.1"),
            ),
            (
                "be-x/vmlinuz-6.12.1.old",
                "x: Linux 6.12.1 (vmlinuz-6.12.1.old)",
                format!("{boot}/vmlinuz-6.12.1.old"),
            ),
            (
                "be-x/rescue",
                "x: Linux 6.12.1, rescue",
                format!("{boot}/vmlinuz-6.12.1"),
            ),
        ];
        let wanted = wanted
            .each_ref()
            .map(|(id, title, linux)| (id.to_string(), *title, linux.as_str()));
        assert_eq!(shown, wanted);
        let arguments = all.more.entries[2].entry.args.join(" ");
        assert_eq!(
            arguments,
            "root=UUID=1 ro single systemd.unit=rescue.target"
        );
        assert_eq!(all.more.entries[0].entry.args, main.args);
        assert_eq!(
            all.more.entries[0].entry.initrd,
            [format!("{boot}/initramfs-6.6.1.img")]
        );
    }

    #[test]
    fn passwords_are_asked_for_as_in_the_users_own_entries() {
        let kernels = [kernel("vmlinuz-2", "2"), kernel("vmlinuz-1", "1")];
        for bits in 0..8 {
            let access = Access {
                menu: bits & 1 != 0,
                submenu: bits & 2 != 0,
                inside: bits & 4 != 0,
            };
            let all = entries(&kernels, None, access);
            assert_eq!(all.entries[0].unrestricted, access.menu);
            assert_eq!(all.more.unrestricted, access.submenu);
            let inside = all.more.entries.iter().map(|e| e.entry.unrestricted);
            assert_eq!(inside.collect::<Vec<_>>(), [access.inside; 2]);
        }
    }

    #[test]
    fn without_an_entry_there_is_nothing_in_the_submenu() {
        let mut all = Entries::default();
        assert!(all.add(&environment(""), &[], None).is_err());
        let wrong = kernel("../vmlinuz-1", "1");
        assert!(all.add(&environment(""), &[wrong], Some(1)).is_err());
        assert!(all.entries.is_empty() && all.more.entries.is_empty() && all.packages.is_empty());
    }
}
