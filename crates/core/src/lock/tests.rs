//! What is told of two locks.

use super::*;

const LOCK: &str = include_str!("../../tests/fixtures/be-lock-1.json");

fn lock() -> Lock {
    Lock::parse(LOCK).unwrap()
}

/// What is told of a change of the fixture, and what of that decides.
fn told(change: impl FnOnce(&mut Lock)) -> (Vec<String>, Vec<String>) {
    let (before, mut after) = (lock(), lock());
    change(&mut after);
    let lines = |all: Vec<Difference>| all.iter().map(ToString::to_string).collect();
    let all: Vec<String> = lines(differences(&before, &after));
    let back = differences(&after, &before);
    assert_eq!(back.len(), all.len());
    let deciding: Vec<String> = lines(configuration_differences(&before, &after));
    let same = before.configuration_digest() == after.configuration_digest();
    assert_eq!(same, deciding.is_empty(), "{all:?}");
    (all, deciding)
}

/// The entry of a path.
fn at<'a>(lock: &'a mut Lock, path: &str) -> &'a mut Entry {
    let path = format!("/etc/portage/{path}");
    let mut entries = lock.configuration.entries.iter_mut();
    entries.find(|e| *e.path == *path).unwrap()
}

#[test]
fn every_difference_is_one_line() {
    type Case = (fn(&mut Lock), &'static [&'static str], bool);
    let cases: [Case; 18] = [
        (|_| {}, &[], false),
        (
            |l| l.repositories[0].state = State::Missing,
            &["repository gentoo: 0123456789ab.. -> not there"],
            true,
        ),
        (
            |l| {
                l.repositories.remove(3);
            },
            &[
                "repository old: gone (not there)",
                "place of old: gone (/srv/old)",
            ],
            true,
        ),
        (
            |l| l.repositories[0].sync_uri = None,
            &["place of gentoo sync-uri: gone (https://example.org/gentoo.git)"],
            false,
        ),
        (
            |l| at(l, "make.conf").sha256 = Some(Sha256::new(b"x")),
            &["/etc/portage/make.conf: content"],
            true,
        ),
        (
            |l| at(l, "make.conf").mode = Some(Mode::new(0o640)),
            &["/etc/portage/make.conf: mode 0644 -> 0640"],
            true,
        ),
        (
            |l| at(l, "package.use").group = "portage".to_owned().try_into().ok(),
            &["/etc/portage/package.use: owner root:root -> root:portage"],
            true,
        ),
        (
            |l| at(l, "make.profile").target = Some("x".to_owned().try_into().unwrap()),
            &["/etc/portage/make.profile: link to \
               ../../var/db/repos/gentoo/profiles/default/linux/amd64/23.0 -> x"],
            false,
        ),
        (
            |l| at(l, "package.use/x").kind = Kind::Other,
            &["/etc/portage/package.use/x: a file -> something else"],
            true,
        ),
        (
            |l| drop(l.configuration.entries.pop()),
            &["/etc/portage/package.use/x: gone (a file)"],
            true,
        ),
        (
            |l| drop(l.profile.pop()),
            &["profile: gentoo:base, gentoo:default/linux/amd64/23.0 -> gentoo:base"],
            true,
        ),
        (
            |l| l.world = vec!["a/b".to_owned().try_into().unwrap()],
            &["world: +a/b -app-misc/hello"],
            false,
        ),
        (
            |l| drop(l.settings.insert("CFLAGS".into(), "-O3".into())),
            &["CFLAGS: \"-O2 -pipe\" -> \"-O3\""],
            true,
        ),
        (
            |l| drop(l.settings.insert("FEATURES".into(), "nostrip".into())),
            &["FEATURES: -sandbox"],
            false,
        ),
        (
            |l| drop(l.settings.insert("USE".into(), "acl ssl".into())),
            &["USE: +ssl -nls"],
            true,
        ),
        (
            |l| {
                l.packages[0].use_flags = Flags::new(&["nls".into(), "x".into()]);
                l.packages[0].build_time = Some(1);
                l.packages[0].repository = None;
            },
            &[
                "repository of app-misc/hello-2: gentoo -> an unknown one",
                "USE of app-misc/hello-2: +x -ssl",
            ],
            false,
        ),
        (
            |l| l.packages[0].cpv = "app-misc/hello-3".to_owned().try_into().unwrap(),
            &["app-misc/hello:0: app-misc/hello-2 -> app-misc/hello-3"],
            false,
        ),
        (
            |l| l.toolchain.packages[0].use_flags = Flags::new(&["cxx".into()]),
            &["USE of sys-devel/gcc-14.2.1_p20241221: -pie"],
            true,
        ),
    ];
    for (change, lines, decides) in cases {
        let (all, deciding) = told(change);
        assert_eq!(all, lines);
        assert_eq!(!deciding.is_empty(), decides, "{all:?}");
    }
}

#[test]
fn what_no_build_can_give_again_is_no_difference() {
    let (all, _) = told(|l| {
        l.recorded = false;
        l.created += chrono::TimeDelta::days(1);
        l.environment = crate::name::EnvName::parse("other").unwrap();
        l.options.clear();
        l.moves.clear();
        l.start = None;
        l.packages[1].build_id = None;
        l.packages[1].build_time = None;
        l.toolchain.packages[0].build_time = None;
        // Of keys, an older be wrote down what it found.
        at(l, "gnupg/pubring.kbx").sha256 = Some(Sha256::new(b"x"));
    });
    assert_eq!(all, Vec::<String>::new());
}

#[test]
fn what_is_private_is_published_without_its_digest() {
    let mut own = lock();
    let at_conf = at(&mut own, "make.conf");
    (at_conf.text, at_conf.withheld) = (None, Some(Withheld::Private));
    let uri = "https://TOKEN@example.org/x".to_owned();
    own.repositories[0].sync_uri = uri.try_into().ok();
    let text = own.clone().for_others().to_text().unwrap();
    let published = Lock::parse(&text).unwrap();
    let digest = at(&mut own, "make.conf").sha256.clone().unwrap();
    assert!(!text.contains("TOKEN") && !text.contains("gnupg"));
    assert!(!text.contains(&*digest));
    assert_eq!(published.clone().for_others(), published);
    // The two agree, and still do when only the secret is another.
    assert_eq!(configuration_differences(&published, &own), []);
    at(&mut own, "make.conf").sha256 = Some(Sha256::new(b"x"));
    assert_eq!(configuration_differences(&published, &own), []);
    assert_eq!(published.configuration_digest(), own.configuration_digest());
    // What is private in one alone is another file.
    assert_ne!(configuration_differences(&published, &lock()), []);
}

#[test]
fn with_a_published_lock_only_the_configuration_is_compared() {
    let published = lock().for_others();
    assert!(published.is_for_others() && !lock().is_for_others());
    let mut own = lock();
    assert_eq!(differences(&published, &own), []);
    own.world.clear();
    own.settings.insert("CFLAGS".into(), "-O3".into());
    let told: Vec<String> = differences(&published, &own)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(told, ["CFLAGS: \"-O2 -pipe\" -> \"-O3\""]);
}

#[test]
fn what_a_link_leads_to_outside_is_named() {
    let of = |path: &str, target: &str| {
        let mut lock = lock();
        let entry = at(&mut lock, "make.profile");
        entry.path = format!("/etc/portage/{path}").try_into().unwrap();
        entry.target = target.to_owned().try_into().ok();
        lock.withheld().count() == 1
    };
    for (path, target, out) in [
        ("make.conf", "/srv/conf/make.conf", true),
        ("package.use", "../../srv/conf/package.use", true),
        ("env/x", "../../x", true),
        ("env/make.profile", "/srv/x", true),
        ("make.conf", "/etc/portage/../x", true),
        ("make.conf", "/etc/portage.d/x", true),
        ("env/x", "../make.conf", false),
        ("make.conf", "/etc/portage/own/./make.conf", false),
        ("make.conf", "/etc/../etc/portage/own", false),
        (
            "make.profile",
            "../../var/db/repos/gentoo/profiles/x",
            false,
        ),
    ] {
        assert_eq!(of(path, target), out, "{path} -> {target}");
    }
}

#[test]
fn keys_of_a_machine_are_neither_made_nor_missed() {
    let dir = tempfile::tempdir().unwrap();
    let root = be_btrfs::Root::open(dir.path()).unwrap();
    let mut lock = lock();
    let entries = &mut lock.configuration.entries;
    entries.retain(|e| e.path.starts_with("/etc/portage/gnupg"));
    assert_eq!(entries.len(), 2);
    let withheld: Vec<_> = lock.withheld().collect();
    assert_eq!(withheld, Vec::<&Entry>::new());
    let missing = apply(&root, &lock.configuration).unwrap();
    assert_eq!(missing, Vec::<String>::new());
    assert!(!dir.path().join("etc/portage/gnupg").exists());
}

#[test]
fn an_environment_does_not_deviate_by_what_hosts_offer() {
    let (before, mut after) = (lock(), lock());
    after.binhosts.clear();
    assert_eq!(differences(&before, &after).len(), 1);
    assert_eq!(deviations(&before, &after), []);
}
