use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use be_portage::config_files::{Why, checksum};
use chrono::DateTime;

use super::*;

const V1: &str = "# 1\na\n\nb\n\nc\n";
const MINE: &str = "# 1\na\n\nmine\n\nc\n";
const V2: &str = "# 2\na\n\nb\n\nc\nd\n";
const MERGED: &str = "# 2\na\n\nmine\n\nc\nd\n";
const V3: &str = "# 3\na\n\nb\n\nc\nd\ne\n";

struct System(tempfile::TempDir);

impl System {
    fn new() -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.put("etc/x", "");
        this
    }

    fn root(&self) -> Root {
        Root::open(self.0.path()).unwrap()
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn get(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.0.path().join(path)).ok()
    }

    /// The package has this version of /etc/foo.conf.
    fn install(&self, version: &str) {
        let line = format!("obj /etc/foo.conf {} 1\n", checksum(version.as_bytes()));
        self.put("var/db/pkg/app-misc/foo-1/SLOT", "0\n");
        self.put("var/db/pkg/app-misc/foo-1/CONTENTS", line);
    }

    fn copy(&self) -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        let from = self.0.path().join(".");
        let mut cp = std::process::Command::new("cp");
        let done = cp.arg("-a").arg(from).arg(copy.0.path()).status();
        assert!(done.unwrap().success());
        copy
    }

    fn lineage(&self) -> Lineage {
        lineage(
            &self.root(),
            &Manager::Portage,
            &BTreeSet::from(["/etc/foo.conf".to_owned()]),
        )
        .unwrap()
    }

    fn only(&self, lineage: &Lineage) -> Item {
        let mut items = survey(&self.root(), &Manager::Portage, lineage).unwrap();
        assert_eq!(items.len(), 1, "{items:?}");
        items.remove(0)
    }
}

fn stamp() -> Stamp {
    Stamp::new(DateTime::parse_from_rfc3339("2026-11-20T01:02:03+01:00").unwrap())
}

/// A system in which a person has changed a file after the packaged one was kept.
fn changed() -> System {
    let system = System::new();
    system.install(V1);
    system.put("etc/foo.conf", V1);
    learn(&system.root(), &Manager::Portage, &Lineage::default()).unwrap();
    system.put("etc/foo.conf", MINE);
    system
}

/// The same after the package has brought its next version.
fn upgraded(base: &System) -> System {
    let system = base.copy();
    system.install(V2);
    system.put("etc/._cfg0000_foo.conf", V2);
    system
}

#[test]
fn what_was_kept_lets_a_change_be_merged() {
    let base = changed();
    let system = upgraded(&base);
    let item = system.only(&base.lineage());
    assert_eq!(item.base.as_deref(), Some(V1.as_bytes()));
    assert_eq!(item.decision, Decision::Merge(MERGED.into()));

    // Without it nobody knows.
    fs::remove_dir_all(base.0.path().join("var/lib")).unwrap();
    let item = system.only(&base.lineage());
    assert_eq!(item.decision, Decision::Leave(Why::UnknownBase));
    base.put("etc/foo.conf", V1);
    system.put("etc/foo.conf", V1);
    let item = system.only(&base.lineage());
    assert_eq!(item.decision, Decision::Take);
}

#[test]
fn a_kept_version_that_is_damaged_is_not_used() {
    let base = changed();
    let system = upgraded(&base);
    let kept = format!("{HOME}/packaged/{}", checksum(V1.as_bytes()));
    assert_eq!(base.get(&kept).as_deref(), Some(V1));
    base.put(&kept, "");
    let item = system.only(&base.lineage());
    assert_eq!(item.decision, Decision::Leave(Why::UnknownBase));
}

/// A version that waited was not merged: the next one is not compared with it, which would
/// undo what it had brought.
#[test]
fn versions_that_wait_are_not_what_a_file_was_made_from() {
    let first = changed();
    let second = upgraded(&first);
    learn(&second.root(), &Manager::Portage, &first.lineage()).unwrap();
    let third = second.copy();
    third.install(V3);
    third.put("etc/._cfg0001_foo.conf", V3);
    let item = third.only(&second.lineage());
    assert_eq!(item.files.len(), 2);
    assert_eq!(item.base.as_deref(), Some(V1.as_bytes()));
    let merged = V3.replace('b', "mine");
    assert_eq!(item.decision, Decision::Merge(merged.into()));

    // Something else came meanwhile: nobody knows what was made of it.
    second.install("another version\n");
    let item = third.only(&second.lineage());
    assert_eq!(item.decision, Decision::Leave(Why::UnknownBase));
}

#[test]
fn what_was_there_is_kept_and_the_file_stays_what_it_was() {
    let base = changed();
    let system = upgraded(&base);
    let path = system.0.path().join("etc/foo.conf");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
    }
    let before = fs::metadata(&path).unwrap();
    let item = system.only(&base.lineage());
    let kept = put(&system.root(), &item, MERGED.as_bytes(), &stamp()).unwrap();
    done_with(&system.root(), &item).unwrap();

    let place = "var/lib/be/config/before/2026-11-20_010203/etc/foo.conf";
    assert_eq!(kept, Some(Path::new("/").join(place)));
    assert_eq!(system.get(place).as_deref(), Some(MINE));
    assert_eq!(system.get("etc/foo.conf").as_deref(), Some(MERGED));
    assert_eq!(system.get("etc/._cfg0000_foo.conf"), None);
    let after = fs::metadata(&path).unwrap();
    let attributes = |m: &fs::Metadata| (m.mode(), m.uid(), m.gid());
    assert_eq!(attributes(&after), attributes(&before));
    let home = fs::metadata(system.0.path().join(HOME)).unwrap();
    assert_eq!(home.mode() & 0o777, 0o700);
    // A later change has its own.
    let newer = Item {
        ours: Some(MERGED.into()),
        ..item
    };
    let kept = put(&system.root(), &newer, b"x", &stamp()).unwrap();
    assert_eq!(kept, Some(Path::new("/").join(format!("{place}.1"))));
    assert_eq!(system.get(place).as_deref(), Some(MINE));
}

#[test]
fn a_merge_that_was_cut_off_is_not_merged_again() {
    let base = changed();
    let system = upgraded(&base);
    let item = system.only(&base.lineage());
    assert!(!already_merged(&system.root(), &item, &stamp()));
    put(&system.root(), &item, MERGED.as_bytes(), &stamp()).unwrap();
    let again = system.only(&base.lineage());
    assert!(already_merged(&system.root(), &again, &stamp()));
    // What a person does meanwhile counts.
    system.put("etc/foo.conf", format!("{MERGED}more\n"));
    let again = system.only(&base.lineage());
    assert!(!already_merged(&system.root(), &again, &stamp()));
}

#[test]
fn what_waits_can_take_the_place_of_a_link() {
    let system = System::new();
    let outside = system.0.path().with_extension("outside");
    fs::write(&outside, "host").unwrap();
    symlink(&outside, system.0.path().join("etc/foo.conf")).unwrap();
    system.put("etc/._cfg0000_foo.conf", V1);
    system.put("etc/._cfg0001_foo.conf", V2);
    let item = system.only(&Lineage::default());
    assert_eq!(item.decision, Decision::Leave(Why::NoFile));
    assert!(put(&system.root(), &item, b"x", &stamp()).is_err());
    let kept = change::take(&system.root(), &item, &stamp())
        .unwrap()
        .unwrap();
    let kept = kept.strip_prefix("/").unwrap();
    assert_eq!(fs::read_link(system.0.path().join(kept)).unwrap(), outside);
    assert_eq!(system.get("etc/foo.conf").as_deref(), Some(V2));
    assert!(
        survey(&system.root(), &Manager::Portage, &Lineage::default())
            .unwrap()
            .is_empty()
    );
    assert_eq!(fs::read_to_string(&outside).unwrap(), "host");
    fs::remove_file(outside).unwrap();

    // Nothing was there.
    system.put("etc/._cfg0000_gone", V1);
    let item = system.only(&Lineage::default());
    assert_eq!(item.decision, Decision::Leave(Why::NoFile));
    assert_eq!(change::take(&system.root(), &item, &stamp()).unwrap(), None);
    assert_eq!(system.get("etc/gone").as_deref(), Some(V1));

    fs::create_dir(system.0.path().join("etc/dir")).unwrap();
    system.put("etc/._cfg0000_dir", V1);
    let item = system.only(&Lineage::default());
    assert!(change::take(&system.root(), &item, &stamp()).is_err());
    assert!(system.get("etc/._cfg0000_dir").is_some());
}

#[test]
fn names_may_be_odd_and_no_link_leads_out() {
    let system = System::new();
    let tmp = tempfile::tempdir().unwrap();
    symlink(tmp.path(), system.0.path().join("etc/out")).unwrap();
    fs::write(tmp.path().join("._cfg0000_x"), "").unwrap();
    // Portage installs no such name; it is nobody's.
    let odd = OsStr::from_bytes(b"etc/._cfg0000_\xff");
    fs::write(system.0.path().join(odd), "").unwrap();
    system.put("etc/a\nb 'c", "x \n");
    system.put("etc/._cfg0000_a\nb 'c", "x\n");
    let item = system.only(&Lineage::default());
    assert_eq!(item.path(), "/etc/a\nb 'c");
    assert_eq!(item.decision, Decision::Take);
    change::take(&system.root(), &item, &stamp()).unwrap();
    assert_eq!(system.get("etc/a\nb 'c").as_deref(), Some("x\n"));
    // A directory above that is a link is one inside.
    system.put("opt/foo/etc/y", "y");
    symlink("/opt/foo/etc", system.0.path().join("opt/etc")).unwrap();
    system.put("etc/profile.env", "export CONFIG_PROTECT='/opt/etc'\n");
    system.put("opt/foo/etc/._cfg0000_y", "y\n\n# z\n");
    let item = system.only(&Lineage::default());
    assert_eq!(item.path(), "/opt/etc/y");
    change::take(&system.root(), &item, &stamp()).unwrap();
    assert_eq!(system.get("opt/foo/etc/y").as_deref(), Some("y\n\n# z\n"));
}

#[test]
fn what_no_package_has_any_more_is_let_go_of() {
    let base = changed();
    let kept = |system: &System| {
        fs::read_dir(system.0.path().join(HOME).join("packaged"))
            .unwrap()
            .count()
    };
    assert_eq!(kept(&base), 1);
    let system = upgraded(&base);
    learn(&system.root(), &Manager::Portage, &base.lineage()).unwrap();
    assert_eq!(kept(&system), 2);
    let item = system.only(&base.lineage());
    done_with(&system.root(), &item).unwrap();
    learn(&system.root(), &Manager::Portage, &Lineage::default()).unwrap();
    assert_eq!(kept(&system), 1);
    fs::remove_dir_all(system.0.path().join("var/db/pkg/app-misc")).unwrap();
    system.put(&format!("{HOME}/packaged/mine"), "");
    learn(&system.root(), &Manager::Portage, &Lineage::default()).unwrap();
    assert_eq!(kept(&system), 1);
    assert!(system.get(&format!("{HOME}/packaged/mine")).is_some());
}

#[test]
fn only_the_last_times_are_kept() {
    let system = System::new();
    for n in 0..30 {
        system.put("etc/foo.conf", format!("{n}"));
        system.put("etc/._cfg0000_foo.conf", "new\n");
        let item = system.only(&Lineage::default());
        let time = DateTime::parse_from_rfc3339("2026-11-20T01:02:03Z").unwrap();
        let stamp = Stamp::new(time + chrono::Duration::days(n));
        change::take(&system.root(), &item, &stamp).unwrap();
    }
    let kept = fs::read_dir(system.0.path().join(HOME).join("before")).unwrap();
    let mut kept: Vec<_> = kept.flatten().map(|e| e.file_name()).collect();
    kept.sort();
    assert_eq!(kept.len(), 20);
    assert_eq!(kept[19], "2026-12-19_010203");
}

#[test]
fn files_of_be_are_a_persons() {
    for path in [
        "/etc/kernel/postinst.d/zz-be",
        "/etc/fstab",
        "/etc/init.d/be-confirm",
    ] {
        assert!(is_sensitive(path), "{path}");
    }
    assert!(!is_sensitive("/etc/foo.conf"));
}

/// Debian's, in which a file that a person has changed has a new version beside it.
fn debian() -> (Manager, System) {
    let text = include_str!("../manager/apt.toml");
    let profile = crate::manager::Profile::parse("apt", text).unwrap();
    let system = System::new();
    system.put("etc/foo.conf", V1);
    system.dpkg(V1);
    let manager = Manager::Profile(profile.into());
    learn(&system.root(), &manager, &Lineage::default()).unwrap();
    system.put("etc/foo.conf", MINE);
    (manager, system)
}

impl System {
    /// dpkg has installed this version of /etc/foo.conf.
    fn dpkg(&self, version: &str) {
        let sum = checksum(version.as_bytes());
        let status = format!("Package: foo\nConffiles:\n /etc/foo.conf {sum}\n");
        self.put("var/lib/dpkg/status", status);
    }
}

#[test]
fn what_dpkg_leaves_is_merged_where_its_version_was_kept() {
    let (manager, base) = debian();
    let system = base.copy();
    system.dpkg(V2);
    system.put("etc/foo.conf.dpkg-dist", V2);
    // Nothing of dpkg's, and a package that it has not come to yet.
    system.put("etc/bar.rpmnew", "");
    system.put("etc/next.conf", V1);
    system.put("etc/next.conf.dpkg-new", V1);

    let paths = waiting(&system.root(), &manager).unwrap();
    let lineage = lineage(&base.root(), &manager, &paths).unwrap();
    let items = survey(&system.root(), &manager, &lineage).unwrap();
    let [item, next] = &items[..] else {
        panic!("{items:?}");
    };
    assert_eq!(item.decision, Decision::Merge(MERGED.into()));
    assert_eq!(next.decision, Decision::Leave(Why::Unfinished));
    put(&system.root(), item, MERGED.as_bytes(), &stamp()).unwrap();
    done_with(&system.root(), item).unwrap();
    assert_eq!(system.get("etc/foo.conf").as_deref(), Some(MERGED));
    assert_eq!(system.get("etc/foo.conf.dpkg-dist"), None);
    // The next time, it is known that it was made from this one.
    let kept = format!("{HOME}/packaged/{}", checksum(V2.as_bytes()));
    assert_eq!(system.get(&kept).as_deref(), Some(V2));
}

#[test]
fn what_was_moved_away_is_lost_in_no_case() {
    let (manager, system) = debian();
    system.put("etc/foo.conf.dpkg-old", MINE);
    system.put("etc/foo.conf", V2);
    assert!(waiting(&system.root(), &manager).unwrap().is_empty());
    let only = |system: &System| {
        let mut items = survey(&system.root(), &manager, &Lineage::default()).unwrap();
        assert_eq!(items.len(), 1, "{items:?}");
        items.remove(0)
    };
    let item = only(&system);
    assert_eq!(item.kind, Kind::Old);
    assert_eq!(item.decision, Decision::Leave(Why::Old));

    let other = system.copy();
    let kept = change::keep(&other.root(), &item, &stamp()).unwrap();
    let place = "var/lib/be/config/before/2026-11-20_010203/etc/foo.conf";
    let old = format!("{place}.dpkg-old");
    assert_eq!(kept, Some(Path::new("/").join(&old)));
    assert_eq!(other.get(&old).as_deref(), Some(MINE));
    assert_eq!(other.get("etc/foo.conf").as_deref(), Some(V2));
    assert_eq!(other.get("etc/foo.conf.dpkg-old"), None);

    let kept = change::take(&system.root(), &item, &stamp()).unwrap();
    assert_eq!(kept, Some(Path::new("/").join(place)));
    assert_eq!(system.get(place).as_deref(), Some(V2));
    assert_eq!(system.get("etc/foo.conf").as_deref(), Some(MINE));
    assert_eq!(system.get("etc/foo.conf.dpkg-old"), None);
    let kept = format!("{HOME}/packaged/{}", checksum(MINE.as_bytes()));
    assert_eq!(system.get(&kept), None);

    // Nothing is in use any more.
    system.put("etc/gone.dpkg-old", MINE);
    let item = only(&system);
    assert_eq!(change::take(&system.root(), &item, &stamp()).unwrap(), None);
    assert_eq!(system.get("etc/gone").as_deref(), Some(MINE));
}
