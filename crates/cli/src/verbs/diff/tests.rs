use be_core::diff::FileType;

use super::*;
use crate::verbs::diff::{document, script};

fn changed(package: &str, slot: &str, from: &str, to: &str) -> diff::Change {
    diff::Change {
        package: package.into(),
        from: from.into(),
        to: to.into(),
        slot: slot.into(),
        slots: None,
        repositories: None,
        use_enabled: Vec::new(),
        use_disabled: Vec::new(),
        size_from: Some(1000),
        size_to: Some(1000),
    }
}

fn kernel(version: &str, initramfs: bool) -> Kernel {
    Kernel {
        version: version.into(),
        file: format!("vmlinuz-{version}"),
        initramfs: initramfs.then(|| format!("initramfs-{version}.img")),
        set_aside: false,
    }
}

fn file(path: &str, change: Change) -> FileChange {
    FileChange {
        path: path.into(),
        kind: FileType::File,
        change,
    }
}

fn sample() -> Diff {
    let mut python = changed("dev-lang/python", "3.12", "3.12.3", "3.12.5");
    python.use_enabled = vec!["foo".into()];
    python.use_disabled = vec!["bar".into()];
    python.size_to = Some(1000 + (3 << 20));
    let mut lib = changed("dev-libs/lib", "0", "1.9", "1.10");
    lib.slots = Some(("0/1".into(), "0/2".into()));
    let mut moved = changed("app-misc/moved", "0", "1", "1");
    moved.repositories = Some(("gentoo".into(), "guru".into()));
    let entry = |package: &str, size| Entry {
        package: package.into(),
        version: "1-r1".into(),
        slot: "5".into(),
        repository: Some("gentoo".into()),
        size,
    };
    Diff {
        from: "default".into(),
        to: "new".into(),
        packages: PackageDiff {
            added: vec![entry("app-misc/new", Some(1536))],
            removed: vec![entry("app-misc/gone\u{1b}[2J", None)],
            upgraded: vec![python, lib],
            downgraded: vec![changed("app-misc/down", "0", "2", "1")],
            rebuilt: vec![changed("app-misc/rebuilt", "0", "1", "1")],
            moved: vec![moved],
        },
        kernels: KernelDiff {
            added: vec![kernel("6.12.10-gentoo", true), kernel("6.13.0", false)],
            removed: vec![kernel("6.6.58-gentoo", true)],
            changed: vec![kernel("6.1.0", true)],
        },
        configuration: vec![
            file("etc/._cfg0000_x", Change::Added),
            file("etc/a\tb\\\n", Change::Removed),
            file("etc/motd", Change::Changed(vec![Aspect::Content])),
            file(
                "etc/shadow",
                Change::Changed(vec![Aspect::Content, Aspect::Mode]),
            ),
        ],
        files: None,
        notes: Vec::new(),
    }
}

#[test]
fn for_a_person() {
    assert_eq!(
        render(&sample()),
        r"default -> new

Packages
U  dev-lang/python:3.12  3.12.3 -> 3.12.5  +3.0 MiB  +foo -bar
U  dev-libs/lib          1.9 -> 1.10                 :0/1 -> :0/2
D  app-misc/down         2 -> 1
R  app-misc/rebuilt      1
M  app-misc/moved        1                           ::gentoo -> ::guru
+  app-misc/new:5        1-r1              +1.5 KiB
-  app-misc/gone?[2J:5   1-r1

Kernels
+  6.12.10-gentoo
+  6.13.0          no initramfs
M  6.1.0           another build
-  6.6.58-gentoo

Configuration
+  /etc/._cfg0000_x
-  /etc/a\011b\134\012
M  /etc/motd
M  /etc/shadow          content, mode

packages: 2 upgraded, 1 downgraded, 1 rebuilt, 1 moved, 1 added, 1 removed (+3.0 MiB); kernels: 2 added, 1 removed, 1 changed; /etc: 1 added, 1 removed, 2 changed
"
    );
}

#[test]
fn for_a_script() {
    let mut sample = sample();
    sample.files = Some(vec![file("usr/bin/x", Change::Added)]);
    assert_eq!(
        script::lines(&sample),
        "\
package\tupgraded\tdev-lang/python\t3.12\t3.12.3\t3.12.5\t3145728\t+foo,-bar\t-\t-
package\tupgraded\tdev-libs/lib\t0\t1.9\t1.10\t0\t-\t0/1>0/2\t-
package\tdowngraded\tapp-misc/down\t0\t2\t1\t0\t-\t-\t-
package\trebuilt\tapp-misc/rebuilt\t0\t1\t1\t0\t-\t-\t-
package\tmoved\tapp-misc/moved\t0\t1\t1\t0\t-\t-\tgentoo>guru
package\tadded\tapp-misc/new\t5\t-\t1-r1\t1536\t-\t-\t-
package\tremoved\tapp-misc/gone?[2J\t5\t1-r1\t-\t-\t-\t-\t-
kernel\tadded\t6.12.10-gentoo\tvmlinuz-6.12.10-gentoo\tinitramfs-6.12.10-gentoo.img
kernel\tadded\t6.13.0\tvmlinuz-6.13.0\t-
kernel\tremoved\t6.6.58-gentoo\tvmlinuz-6.6.58-gentoo\tinitramfs-6.6.58-gentoo.img
kernel\tchanged\t6.1.0\tvmlinuz-6.1.0\tinitramfs-6.1.0.img
configuration\tadded\t/etc/._cfg0000_x\t-
configuration\tremoved\t/etc/a\\011b\\134\\012\t-
configuration\tchanged\t/etc/motd\tcontent
configuration\tchanged\t/etc/shadow\tcontent,mode
file\tadded\t/usr/bin/x\t-
"
    );
}

/// The keys that scripts rely on.
#[test]
fn for_a_program() {
    let value = document::of(&sample());
    let keys: Vec<_> = value.as_object().unwrap().keys().collect();
    let expected = [
        "from",
        "to",
        "same",
        "packages",
        "size",
        "kernels",
        "configuration",
        "files",
    ];
    assert_eq!(keys, expected);
    assert_eq!(value["files"], serde_json::Value::Null);
    assert_eq!(
        value["packages"]["upgraded"][0],
        serde_json::json!({
            "package": "dev-lang/python",
            "from": "3.12.3",
            "to": "3.12.5",
            "slot": "3.12",
            "slots": null,
            "repositories": null,
            "use_enabled": ["foo"],
            "use_disabled": ["bar"],
            "size_from": 1000,
            "size_to": 3146728,
        })
    );
    assert_eq!(
        value["packages"]["added"][0],
        serde_json::json!({
            "package": "app-misc/new",
            "version": "1-r1",
            "slot": "5",
            "repository": "gentoo",
            "size": 1536,
        })
    );
    assert_eq!(
        value["kernels"]["added"][1],
        serde_json::json!({
            "version": "6.13.0",
            "file": "vmlinuz-6.13.0",
            "initramfs": null,
            "set_aside": false,
        })
    );
    assert_eq!(value["configuration"]["added"][0], "/etc/._cfg0000_x");
    assert_eq!(
        value["configuration"]["changed"][1],
        serde_json::json!({ "path": "/etc/shadow", "what": ["content", "mode"] })
    );
}

#[test]
fn nothing_differs() {
    let empty = Diff {
        from: "a".into(),
        to: "b".into(),
        packages: PackageDiff::default(),
        kernels: KernelDiff::default(),
        configuration: Vec::new(),
        files: None,
        notes: Vec::new(),
    };
    assert_eq!(render(&empty), "nothing differs between a and b\n");
    assert_eq!(script::lines(&empty), "");
    assert_eq!(document::of(&empty)["same"], true);
}

#[test]
fn sizes() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (5 << 30, "5.0 GiB"),
    ] {
        assert_eq!(size_text(bytes), text);
    }
    assert_eq!(growth_text(-2048), "-2.0 KiB");
}

#[test]
fn names_that_are_no_text() {
    use std::ffi::OsStr;
    let path = Path::new(OsStr::from_bytes(b"etc/\xff\xc3\xa4"));
    assert_eq!(plain_path(path), "/etc/\\377\u{e4}");
    assert_eq!(plain_path(Path::new("")), "/");
}
