//! `be diff`: what it tells is what differs, by real Portage and by hand.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;

use anyhow::{Context, Result};
use be_tests::be::Outcome;
use be_tests::system::System;
use rustix::fs::XattrFlags;
use serde_json::Value;
use xtask::fingerprint::Fingerprint;
use xtask::image::{Layout, Tree};
use xtask::run::{cmd, run};

/// Every path that differs between two roots, by the tests' own means: what is more than
/// times, and the number of names.
fn differing(a: &Path, b: &Path) -> Result<BTreeSet<String>> {
    let (a, b) = (Fingerprint::of(a, &["@be"])?, Fingerprint::of(b, &["@be"])?);
    let mut paths = BTreeSet::new();
    for line in a.diff(&b) {
        let (sign, rest) = line.split_at(2);
        let path = match sign {
            "* " => match rest.split_once(": ") {
                Some((path, what)) if is_more(what) => path,
                _ => continue,
            },
            _ => rest,
        };
        paths.insert(path.to_owned());
    }
    Ok(paths)
}

/// Whether more changed than times, the number of names, and the size, which is that of a
/// directory's names where the content is the same.
fn is_more(what: &str) -> bool {
    let words = ["type ", "mode ", "owner ", "content ", "xattrs "];
    words.iter().any(|word| what.contains(word))
}

/// Every path of a document's group.
fn paths(group: &Value) -> BTreeSet<String> {
    let list = |key: &str| group[key].as_array().cloned().unwrap_or_default();
    let changed = list("changed").into_iter().map(|c| c["path"].clone());
    let all = list("added").into_iter().chain(list("removed"));
    all.chain(changed)
        .filter_map(|p| p.as_str().map(str::to_owned))
        .collect()
}

fn what(group: &Value, path: &str) -> Vec<String> {
    let changed = group["changed"].as_array().cloned().unwrap_or_default();
    let found = changed.iter().find(|c| c["path"] == path);
    let words = found.and_then(|c| c["what"].as_array().cloned());
    let words = words.unwrap_or_default();
    words
        .iter()
        .filter_map(|w| w.as_str().map(str::to_owned))
        .collect()
}

/// `--files` names exactly what differs, in both directions, and writes nothing.
#[track_caller]
fn is_complete(system: &System, (a, root_a): (&str, &Path), (b, root_b): (&str, &Path)) {
    let expected = differing(root_a, root_b).expect("the roots can be read");
    for (from, to) in [(a, b), (b, a)] {
        let args = ["diff", from, to, "--files", "--json"];
        let told = system
            .unchanged_by(0, &args)
            .expect("it can be told")
            .json();
        assert_eq!(paths(&told["files"]), expected, "{from} {to}");
    }
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn after_an_upgrade() -> Result<()> {
    let system = System::adopted_lab()?;
    system.be.run(&["upgrade", "new"]).done();
    let lab = &system.image().lab;

    let text = system.unchanged_by(0, &["diff", "default", "new"])?.stdout;
    assert!(
        text.starts_with("default -> new\n\nPackages\nU  "),
        "{text}"
    );
    for line in [
        format!("+  {}\n", lab.new_kernel.release),
        "+  /etc/._cfg0000_confy.conf\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}: {text}");
    }
    let line = |package: &str| {
        let mark = format!("U  {package} ");
        let line = text.lines().find(|line| line.starts_with(&mark));
        line.unwrap_or_else(|| panic!("{package}: {text}"))
    };
    for package in ["app-misc/hello", "dev-libs/libgreet", "app-misc/confy"] {
        assert!(line(package).contains(" 1 -> 2"), "{text}");
    }
    let summary = text.lines().last().unwrap_or_default();
    assert!(summary.starts_with("packages: "), "{text}");
    assert!(summary.contains("kernels: 1 added"), "{text}");

    let json = system.be.run(&["diff", "default", "new", "--json"]).done();
    let json = json.json();
    assert_eq!(
        (&json["from"], &json["to"]),
        (&"default".into(), &"new".into())
    );
    assert_eq!(json["same"], false);
    let upgraded = json["packages"]["upgraded"].as_array().context("no list")?;
    let hello = upgraded.iter().find(|c| c["package"] == "app-misc/hello");
    let hello = hello.context("app-misc/hello is not there")?;
    assert_eq!((&hello["from"], &hello["to"]), (&"1".into(), &"2".into()));
    // The sizes are those that Portage wrote down.
    let size = |path: std::path::PathBuf| -> Result<Value> {
        Ok(fs::read_to_string(path)?.trim().parse::<u64>()?.into())
    };
    let vdb = |version| format!("var/db/pkg/app-misc/hello-{version}/SIZE");
    assert_eq!(hello["size_from"], size(system.path(&vdb(1)))?);
    assert_eq!(hello["size_to"], size(system.env("new", &vdb(2)))?);
    // Rebuilt for the new library, as Portage has it.
    let rebuilt = json["packages"]["rebuilt"].as_array().context("no list")?;
    assert!(
        rebuilt.iter().any(|c| c["package"] == "app-misc/greeter"),
        "{rebuilt:?}"
    );
    let kernels = json["kernels"]["added"].as_array().context("no list")?;
    assert_eq!(kernels[0]["version"], lab.new_kernel.release.as_str());
    let etc = paths(&json["configuration"]);
    assert!(!etc.contains("/etc/fstab"), "{etc:?}");
    assert_eq!(json["files"], Value::Null);

    // The running one is what it goes to, if it is not said.
    let back = system.be.run(&["diff", "new"]).done().stdout;
    assert!(
        back.starts_with("new -> default\n\nPackages\nD  "),
        "{back}"
    );

    let script = system.be.run(&["diff", "-H", "default", "new"]).done();
    let wanted = "package\tupgraded\tapp-misc/hello\t0\t1\t2\t";
    assert!(script.stdout.contains(wanted), "{}", script.stdout);

    let (old, new) = (system.root(), system.env("new", ""));
    is_complete(&system, ("default", old), ("new", &new));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_fresh_clone_has_no_differences() -> Result<()> {
    for layout in [Layout::AtSubvol, Layout::TopLevel] {
        let system = System::lab(layout)?;
        run(cmd("btrfs", ["--quiet", "subvolume", "create"]).arg(system.path("/srv/nested")))?;
        system.write("/srv/nested/file", "x")?;
        system.be.run(&["init"]).done();
        system.be.run(&["create", "new"]).done();
        let outcome = system.unchanged_by(0, &["diff", "new"])?;
        assert_eq!(outcome.stdout, "nothing differs between new and default\n");
        assert_eq!(system.be.run(&["diff", "-H", "new"]).done().stdout, "");
        let json = system.be.run(&["diff", "new", "--json"]).done().json();
        assert_eq!(json["same"], true);
        // The one file that `be` writes in a clone.
        let json = system.be.run(&["diff", "new", "--files", "--json"]).done();
        let files = paths(&json.json()["files"]);
        assert_eq!(files, BTreeSet::from(["/etc/fstab".to_owned()]));
        let itself = system.be.run(&["diff", "new", "new", "--files"]).done();
        assert_eq!(itself.stdout, "nothing differs: both are new\n");
    }
    Ok(())
}

/// All that `change_by_hand` needs.
fn prepare(root: &Path) -> Result<()> {
    let put = |path: &str| -> Result<()> {
        let path = root.join(path);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        Ok(fs::write(path, "1111")?)
    };
    for path in [
        "usr/share/chmod",
        "usr/share/edited",
        "usr/share/xattr",
        "usr/share/deleted",
        "usr/share/renamed-from",
        "usr/share/linked",
        "usr/share/to-dir",
        "usr/share/touched",
        "usr/share/swap-a/one",
        "usr/share/swap-b/two",
        "usr/share/tree/deep/er/file",
        "usr/share/gone/deep/er/file",
        "usr/share/replaced/file",
        "etc/conf.d/a",
        "etc/conf.d/b",
        "etc/same",
    ] {
        put(path)?;
    }
    symlink("1111", root.join("usr/share/symlink"))?;
    Ok(())
}

fn edit_in_place(path: &Path) -> Result<()> {
    let time = fs::metadata(path)?.modified()?;
    fs::write(path, "2222")?;
    File::options().write(true).open(path)?.set_modified(time)?;
    Ok(())
}

fn change_by_hand(root: &Path) -> Result<()> {
    let share = root.join("usr/share");
    let at = |name: &str| share.join(name);
    fs::set_permissions(at("chmod"), Permissions::from_mode(0o4711))?;
    edit_in_place(&at("edited"))?;
    rustix::fs::setxattr(at("xattr"), "user.note", b"x", XattrFlags::empty())?;
    fs::remove_file(at("deleted"))?;
    fs::rename(at("renamed-from"), at("renamed-to"))?;
    fs::hard_link(at("linked"), at("linked-again"))?;
    fs::remove_file(at("to-dir"))?;
    fs::create_dir(at("to-dir"))?;
    fs::write(at("to-dir/inner"), "")?;
    File::options()
        .write(true)
        .open(at("touched"))?
        .set_modified(std::time::UNIX_EPOCH)?;
    // Directories that change places: nothing in them is written.
    fs::rename(at("swap-a"), at("swap"))?;
    fs::rename(at("swap-b"), at("swap-a"))?;
    fs::rename(at("swap"), at("swap-b"))?;
    fs::rename(at("tree"), at("moved-tree"))?;
    fs::remove_dir_all(at("gone"))?;
    fs::remove_dir_all(at("replaced"))?;
    symlink("/etc", at("replaced"))?;
    fs::remove_file(at("symlink"))?;
    symlink("2222", at("symlink"))?;
    fs::write(at("new"), "")?;
    fs::create_dir_all(at("new-tree/deep"))?;
    fs::write(at("new-tree/deep/file"), "")?;
    edit_in_place(&root.join("etc/conf.d/a"))?;
    fs::remove_file(root.join("etc/conf.d/b"))?;
    fs::write(root.join("etc/conf.d/c"), "")?;
    fs::set_permissions(root.join("etc"), Permissions::from_mode(0o750))?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn files_are_complete() -> Result<()> {
    let system = System::adopted_small()?;
    prepare(system.root())?;
    system.be.run(&["create", "new"]).done();
    let new = system.env("new", "");
    change_by_hand(&new)?;
    is_complete(&system, ("default", system.root()), ("new", &new));

    let json = system
        .be
        .run(&["diff", "default", "new", "--files", "--json"]);
    let files = json.done().json()["files"].clone();
    for (path, words) in [
        ("/usr/share/chmod", &["mode"][..]),
        ("/usr/share/edited", &["content"]),
        ("/usr/share/xattr", &["attributes"]),
        ("/usr/share/to-dir", &["type"]),
        ("/usr/share/symlink", &["content"]),
        ("/usr/share/replaced", &["type"]),
        ("/usr/share/touched", &[]),
        ("/etc", &["mode"]),
    ] {
        assert_eq!(what(&files, path), words, "{path}: {files}");
    }
    let has = |key: &str, path: &str| {
        let list = files[key].as_array();
        list.is_some_and(|list| list.iter().any(|p| p == path))
    };
    assert!(has("removed", "/usr/share/renamed-from"));
    assert!(has("added", "/usr/share/renamed-to"));
    assert!(has("added", "/usr/share/moved-tree/deep/er/file"));
    assert!(has("removed", "/usr/share/gone/deep/er"));
    let text = system.be.run(&["diff", "default", "new"]).done().stdout;
    assert_eq!(
        text,
        "default -> new\n\nConfiguration\nM  /etc/          mode\nM  /etc/conf.d/a\n\
         -  /etc/conf.d/b\n+  /etc/conf.d/c\n\n/etc: 1 added, 1 removed, 2 changed\n"
    );

    // Both sides go on; and two clones of different times are compared.
    system.be.run(&["create", "other"]).done();
    system.write("/usr/share/only-here", "x")?;
    fs::remove_file(system.path("/usr/share/linked"))?;
    edit_in_place(&system.path("/etc/same"))?;
    system.be.run(&["create", "later"]).done();
    fs::write(system.env("later", "usr/share/later"), "")?;
    let roots = [
        ("default", system.root().to_owned()),
        ("new", new),
        ("other", system.env("other", "")),
        ("later", system.env("later", "")),
    ];
    for (number, (a, root_a)) in roots.iter().enumerate() {
        for (b, root_b) in &roots[number + 1..] {
            is_complete(&system, (a, root_a), (b, root_b));
        }
    }
    Ok(())
}

/// Makes the root of an environment one that no btrfs knows to be a snapshot.
fn forget_lineage(system: &System, name: &str) -> Result<()> {
    let root = system.top(&format!("@be/{name}/root"));
    let copy = system.top(&format!("@be/{name}/copy"));
    run(cmd("btrfs", ["--quiet", "subvolume", "create"]).arg(&copy))?;
    run(cmd("cp", ["-a"]).arg(root.join(".")).arg(&copy))?;
    run(cmd("btrfs", ["--quiet", "subvolume", "delete"]).arg(&root))?;
    fs::rename(&copy, &root)?;
    let path = system.top(&format!("@be/{name}/be.json"));
    let mut record: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    let known = system.subvolumes()?;
    let place = format!("@be/{name}/root ");
    let line = known.iter().find(|line| line.starts_with(&place));
    let uuid = line.and_then(|line| line.rsplit(' ').next());
    let member = record["subvolumes"][0].as_object_mut().context("no root")?;
    member.insert("uuid".into(), uuid.context("no copy")?.into());
    member.remove("base");
    fs::write(&path, record.to_string())?;
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn without_a_common_history() -> Result<()> {
    let system = System::adopted_small()?;
    prepare(system.root())?;
    system.be.run(&["create", "new"]).done();
    forget_lineage(&system, "new")?;
    let same = system.be.run(&["diff", "new"]).done().stdout;
    assert_eq!(same, "nothing differs between new and default\n");
    let new = system.env("new", "");
    change_by_hand(&new)?;
    is_complete(&system, ("default", system.root()), ("new", &new));
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn who_may_not_and_what_is_not_there() -> Result<()> {
    let system = System::adopted_small()?;
    system.be.run(&["create", "new"]).done();
    system.refuses(3, &["diff", "nwe"], &["no environment nwe"])?;
    let both = system.unchanged_by(2, &["diff", "-H", "--json", "new"])?;
    assert_eq!(both.json()["error"]["kind"], "usage");

    // A place that anybody may run it from.
    let public = tempfile::tempdir_in("/tmp")?;
    fs::set_permissions(public.path(), Permissions::from_mode(0o755))?;
    let program = public.path().join("be");
    fs::copy(system.be.program(), &program)?;
    let mut command = cmd(&program, ["diff", "new"]);
    let outcome = Outcome::of(command.uid(65534).gid(65534)).exits(3);
    assert!(outcome.error().contains("only root"), "{}", outcome.stderr);
    Ok(())
}
