//! Package moves on whole repositories: what the cache comes to, and what is found where.

use std::fs;
use std::path::{Path, PathBuf};

use be_portage::moves::cache::{Rewritten, rewritten};
use be_portage::moves::map::Moves;
use be_portage::moves::packages::Stock;
use be_portage::moves::repository::Repository;
use be_portage::moves::scan::{Kind, Scan, scan};
use be_portage::moves::stand_in::{Survey, survey};
use be_portage::moves::updates::Updates;
use md5::{Digest, Md5};

struct Root(tempfile::TempDir);

impl Root {
    /// `main`, with these updates and packages, and an empty `overlay`.
    fn new(updates: &str, packages: &[&str]) -> Self {
        let root = Root(tempfile::tempdir().unwrap());
        root.put(
            "etc/portage/repos.conf",
            "[DEFAULT]\nmain-repo = main\n[main]\nlocation = /main\n[overlay]\nlocation = /overlay\n",
        );
        root.put("main/profiles/updates/1Q-2026", updates);
        root.put("overlay/profiles/repo_name", "overlay\n");
        for package in packages {
            let (cpv, slot) = package.split_once(' ').unwrap_or((package, "0"));
            root.package("main", cpv, &format!("EAPI=8\nSLOT={slot}\n"), &[]);
        }
        root
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// An ebuild, and its entry with these fields.
    fn package(&self, repository: &str, cpv: &str, ebuild: &str, fields: &[(&str, &str)]) {
        let (category, pf) = cpv.split_once('/').unwrap();
        let (name, _) = be_portage::version::split_pf(pf).unwrap();
        self.put(
            &format!("{repository}/{category}/{name}/{pf}.ebuild"),
            ebuild,
        );
        if !fields.is_empty() {
            let cache = format!("{repository}/metadata/md5-cache/{cpv}");
            self.put(&cache, &entry(ebuild, fields));
        }
    }

    fn repositories(&self) -> Vec<Repository> {
        Repository::configured(self.0.path()).unwrap()
    }

    fn scan(&self) -> Scan {
        scan(&self.repositories(), |_| true, Some(self.0.path())).unwrap()
    }

    /// What the cache of `overlay` comes to, by a function of it.
    fn rewritten<T>(&self, look: impl FnOnce(Rewritten<'_>) -> T) -> T {
        self.with_overlay(|overlay, _, moves, stock| {
            look(rewritten(overlay, moves, stock).unwrap())
        })
    }

    /// What is needed for `overlay`, by a function of it.
    fn surveyed<T>(&self, look: impl FnOnce(Survey<'_>) -> T) -> T {
        self.with_overlay(|overlay, all, moves, stock| {
            look(survey(overlay, all, moves, stock).unwrap())
        })
    }

    fn with_overlay<T>(
        &self,
        look: impl FnOnce(&Repository, &[Repository], &Moves, &Stock<'_>) -> T,
    ) -> T {
        let repositories = self.repositories();
        let mut updates = Updates::default();
        for repository in &repositories {
            updates.append(repository.updates().unwrap());
        }
        let moves = Moves::new(updates.updates);
        let stock = Stock::new(&repositories);
        let overlay = repositories.iter().find(|r| r.name == "overlay").unwrap();
        look(overlay, &repositories, &moves, &stock)
    }
}

fn entry(ebuild: &str, fields: &[(&str, &str)]) -> String {
    let digest = Md5::digest(ebuild);
    let md5: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    let lines = fields.iter().map(|(key, value)| format!("{key}={value}\n"));
    lines.collect::<String>() + &format!("_eclasses_=x\t0\n_md5_={md5}\n")
}

const USER: &[(&str, &str)] = &[
    ("BDEPEND", "a/b"),
    ("DEFINED_PHASES", "-"),
    ("DESCRIPTION", "of dev/old"),
    ("PDEPEND", "|| ( dev/old dev/older ) dev/new"),
    (
        "RDEPEND",
        ">=dev/old-1:0=[x?]  !dev/gone !<dev/older-1 dev/old-er",
    ),
    ("SLOT", "0"),
];

#[test]
fn entries_differ_in_nothing_but_the_names() {
    let root = Root::new(
        "move dev/old dev/new\nmove dev/older dev/new\nmove dev/gone dev/nowhere\n",
        &["dev/new-2"],
    );
    root.package("overlay", "app/user-1", "EAPI=8\n", USER);
    root.package("overlay", "app/other-1", "EAPI=8\n", &[("RDEPEND", "a/b")]);
    let found = root.rewritten(|found| {
        assert_eq!(
            (found.entries.len(), found.entries[0].changes.len()),
            (1, 4)
        );
        (found.entries[0].path.clone(), found.entries[0].text.clone())
    });
    assert_eq!(found.0, "metadata/md5-cache/app/user-1");
    let mut fields = USER.to_vec();
    fields[3].1 = "|| ( dev/new ) dev/new";
    fields[4].1 = ">=dev/new-1:0=[x?]  !dev/gone !<dev/new-1 dev/old-er";
    assert_eq!(found.1, entry("EAPI=8\n", &fields));
}

#[test]
fn a_name_that_a_repository_has_is_right() {
    let root = Root::new("move dev/old dev/new\n", &["dev/new-2"]);
    root.package("overlay", "app/user-1", "EAPI=8\n", USER);
    root.package("overlay", "dev/old-7", "EAPI=8\nSLOT=0\n", &[]);
    assert_eq!(root.rewritten(|found| found.entries.len()), 0);
    assert_eq!(root.scan().findings, []);
}

#[test]
fn what_would_not_help_is_told_and_not_done() {
    let root = Root::new("move dev/old dev/new\n", &["dev/new-2"]);
    root.package(
        "overlay",
        "app/user-1",
        "EAPI=8\n",
        &[("RDEPEND", ">dev/old-2")],
    );
    assert_eq!(root.rewritten(|found| found.entries.len()), 0);
    let findings = root.scan().findings;
    assert_eq!((findings.len(), findings[0].satisfied), (1, false));
}

#[test]
fn a_blocker_of_the_package_itself_stays() {
    let root = Root::new("move dev/old dev/new\n", &[]);
    let fields = &[("RDEPEND", "!dev/old !!<dev/old-2"), ("SLOT", "0")];
    root.package("overlay", "dev/new-2", "RDEPEND=\"!dev/old\"\n", fields);
    let changed = root.rewritten(|found| {
        let changes = found.entries[0].changes.iter();
        changes.map(|c| c.new.atom.to_string()).collect::<Vec<_>>()
    });
    assert_eq!(changed, ["!!<dev/new-2"]);
}

#[test]
fn a_blocker_of_what_the_same_entry_needs_stays() {
    let root = Root::new("move dev/old dev/new\n", &["dev/new-2"]);
    let fields = &[("RDEPEND", "dev/new !dev/old !!<dev/old-2")];
    root.package("overlay", "app/user-1", "EAPI=8\n", fields);
    root.package(
        "overlay",
        "app/user-2",
        "EAPI=8\n",
        &[("RDEPEND", "!dev/old")],
    );
    let changed = root.rewritten(|found| {
        let changes = found.entries.iter().flat_map(|entry| &entry.changes);
        changes.map(|c| c.new.atom.to_string()).collect::<Vec<_>>()
    });
    assert_eq!(changed, ["!!<dev/new-2", "!dev/new"]);
}

#[test]
fn what_has_no_entry_that_is_read_needs_one_if_it_may_have_an_old_name() {
    const OLD: &str = "RDEPEND=\"dev/old\"\n";
    let root = Root::new("move dev/old dev/new\n", &["dev/new-2"]);
    let fields = &[("RDEPEND", "dev/old")];
    root.put("main/eclass/x.eclass", "");
    root.put("overlay/eclass/own.eclass", OLD);
    root.put("overlay/eclass/by.eclass", "inherit own\n");
    // `main` has the eclass that the entry knows by a checksum, or by another one.
    root.package("overlay", "app/fresh-1", OLD, fields);
    let path = "overlay/metadata/md5-cache/app/fresh-1";
    let text = fs::read_to_string(root.path(path)).unwrap();
    let empty = "x\td41d8cd98f00b204e9800998ecf8427e";
    root.put(path, &text.replace("x\t0", empty));
    root.package("overlay", "app/changed-1", OLD, fields);
    root.package("overlay", "app/none-1", OLD, &[]);
    root.package("overlay", "app/by-1", "inherit by\n", &[]);
    root.package("overlay", "app/built-1", "BDEPEND=\"dev/${X}\"\n", &[]);
    root.package(
        "overlay",
        "app/right-1",
        "RDEPEND=\"dev/new a/${X}\"\n",
        &[],
    );
    let asks = "src_prepare() {\n\thas_version '>=dev/old-1' && x\n}\n";
    root.package("overlay", "app/asks-1", asks, &[("RDEPEND", "a/b")]);
    root.surveyed(|found| {
        let entries: Vec<_> = found.entries.iter().map(|e| e.cpv.as_str()).collect();
        assert_eq!(entries, ["app/fresh-1"]);
        let names = ("dev/old".to_owned(), "dev/new".to_owned());
        assert_eq!(found.names(), [names.clone()].into());
        let uncached: Vec<_> = found.uncached.iter().map(String::as_str).collect();
        let expected = ["app/asks", "app/built", "app/by", "app/changed", "app/none"];
        assert_eq!(uncached, expected);
        assert_eq!(found.asked, [names].into());
    });
}

#[test]
fn an_entry_of_another_ebuild_does_not_count() {
    let root = Root::new("move dev/old dev/new\n", &["dev/new-2"]);
    root.package("overlay", "app/user-1", "EAPI=8\n", USER);
    root.put(
        "overlay/app/user/user-1.ebuild",
        "EAPI=8\nDEPEND=\"dev/new\"\n",
    );
    root.rewritten(|found| {
        assert_eq!(found.outdated, ["app/user-1"]);
        assert!(found.entries.is_empty());
    });
    assert_eq!(root.scan().findings, []);
    // A broken one spoils no other.
    root.package(
        "overlay",
        "app/bad-1",
        "EAPI=8\n",
        &[("RDEPEND", "( dev/old")],
    );
    root.rewritten(|found| {
        let invalid = "app/bad-1: RDEPEND: \"( dev/old\": a group is not closed";
        assert_eq!(found.invalid, [invalid]);
    });
}

#[test]
fn slots_are_those_of_cache_or_ebuild() {
    let root = Root::new(
        "slotmove =dev/foo-2* 0 2\n",
        &["dev/foo-2.1 2", "dev/foo-3 \"3\""],
    );
    root.package("main", "dev/foo-2.2", "SLOT=$(x)\n", &[("SLOT", "2/9")]);
    let fields = &[("RDEPEND", "=dev/foo-2*:0= >=dev/foo-1:0 ~dev/foo-2.2:0/0")];
    root.package("overlay", "app/user-1", "EAPI=8\n", fields);
    let text = root.rewritten(|found| found.entries[0].text.clone());
    assert!(
        text.starts_with("RDEPEND==dev/foo-2*:2= >=dev/foo-1:0 ~dev/foo-2.2:0/0\n"),
        "{text}"
    );
}

#[test]
fn a_slot_that_is_not_known_changes_nothing() {
    let root = Root::new("slotmove dev/foo 0 2\n", &["dev/foo-2 2", "dev/foo-3 ${X}"]);
    root.package(
        "overlay",
        "app/user-1",
        "EAPI=8\n",
        &[("RDEPEND", "dev/foo:0")],
    );
    assert_eq!(root.rewritten(|found| found.entries.len()), 0);
    assert_eq!(root.scan().findings, []);
}

#[test]
fn everything_that_has_names_is_looked_into() {
    let root = Root::new("move dev/old dev/new\n", &["dev/new-2"]);
    // From an eclass: it is in the cache alone.
    root.package(
        "overlay",
        "app/user-1",
        "inherit x\n",
        &[("RDEPEND", "dev/old")],
    );
    root.put(
        "overlay/eclass/x.eclass",
        "# dev/old\nRDEPEND=\"\n\tdev/old\n\"\n",
    );
    root.put(
        "overlay/profiles/package.mask/a",
        "# dev/old\n>=dev/old-1\n",
    );
    root.put("overlay/profiles/sub/packages", "*dev/old\n");
    root.put("overlay/profiles/package.mask.txt", "dev/old\n");
    root.put(
        "etc/portage/package.accept_keywords",
        "dev/old::main ~amd64\n",
    );
    root.put(
        "etc/portage/profile/package.provided",
        "dev/old-1\ndev/older-1\n",
    );
    root.put("etc/portage/env/dev/old:0", "");
    root.put("etc/portage/sets/mine", "dev/old\n");
    root.put("var/db/pkg/dev/old-1/SLOT", "0\n");
    root.put("var/db/pkg/app/user-1/BDEPEND", "x? ( dev/old )\n");
    root.put("var/db/pkg/app/user-1/repository", "overlay\n");
    let found = root.scan();
    let places: Vec<_> = found
        .findings
        .iter()
        .map(|f| {
            (
                f.kind,
                f.file.as_str(),
                f.lines.as_slice(),
                f.variables.join(" "),
            )
        })
        .collect();
    let none: &[usize] = &[];
    let plain = String::new;
    assert_eq!(
        places,
        [
            (
                Kind::Ebuild,
                "app/user/user-1.ebuild",
                none,
                "RDEPEND".into()
            ),
            (Kind::Eclass, "eclass/x.eclass", &[3], plain()),
            (Kind::Profile, "profiles/package.mask/a", &[2], plain()),
            (Kind::Profile, "profiles/sub/packages", &[1], plain()),
            (Kind::Config, "/etc/portage/env/dev/old:0", none, plain()),
            (
                Kind::Config,
                "/etc/portage/package.accept_keywords",
                &[1],
                plain()
            ),
            (
                Kind::Config,
                "/etc/portage/profile/package.provided",
                &[1],
                plain()
            ),
            (Kind::World, "/etc/portage/sets/mine", &[1], plain()),
            (Kind::Installed, "/var/db/pkg/dev/old-1", none, plain()),
            (
                Kind::Installed,
                "/var/db/pkg/app/user-1",
                none,
                "BDEPEND".into()
            ),
        ]
    );
    assert!(
        found
            .findings
            .iter()
            .all(|f| (&*f.old, &*f.new) == ("dev/old", "dev/new"))
    );
    let patched = &found.patches[0].diff;
    for line in ["+\tdev/new", "+>=dev/new-1", "+*dev/new"] {
        assert!(patched.contains(&format!("{line}\n")), "{patched}");
    }
}

#[test]
fn no_link_leads_out_of_the_root() {
    let root = Root::new("move dev/old dev/new\n", &["dev/new-2"]);
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("list"), "dev/old\n").unwrap();
    let link = |from: &str, to: &Path| std::os::unix::fs::symlink(to, root.path(from)).unwrap();
    link("etc/portage/package.mask", outside.path());
    link("etc/portage/package.use", &outside.path().join("list"));
    // Inside, a link is followed; one that goes round in a circle comes to an end.
    root.put("elsewhere/list", "dev/old\n");
    link("etc/portage/package.env", Path::new("/elsewhere"));
    link("elsewhere/again", Path::new("/elsewhere"));
    let files: Vec<_> = root.scan().findings.into_iter().map(|f| f.file).collect();
    assert!(
        files
            .iter()
            .all(|f| f.starts_with("/etc/portage/package.env/")),
        "{files:?}"
    );
    assert!(
        files.contains(&"/etc/portage/package.env/list".to_owned()),
        "{files:?}"
    );
}
