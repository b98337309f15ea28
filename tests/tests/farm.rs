//! Engines that make compiling faster, where an environment is built.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use be_tests::engines::{Distccd, Icecream, ccache_stats};
use be_tests::overlay::Overlay;
use be_tests::system::{GONE, System};
use xtask::image::Tree;
use xtask::lab::extras::Extra;

const CACHE: &str = "/srv/ccache";
const RUST_CACHE: &str = "/var/cache/sccache";

/// The group and the user that Portage builds as.
const PORTAGE: u32 = 250;

/// A few files of C, and one that is compiled by the way that Rust is.
const COMPILE: &str = r#"
src_compile() {
	local i
	for i in one two three; do
		echo "int ${i}(int a) { return a + 1; }" > ${i}.c || die
		gcc -O2 -c ${i}.c -o ${i}.o || die
	done
	echo "int rust(int a) { return a; }" > rust.c || die
	${RUSTC_WRAPPER} /usr/bin/gcc -c rust.c -o rust.o || die
}
src_install() {
	insinto /usr/share/calc
	doins one.o
}
"#;

/// The lab with a compiler and the engines.
fn farm(config: &str) -> Result<System> {
    let system = System::adopted_lab()?;
    Extra::Farm.install(system.root())?;
    let base = "[upgrade]\npolite = false\nmin_free_mib = 1\nsync = false\n";
    system.write("/etc/be/be.toml", format!("{base}[farm]\n{config}"))?;
    // This distcc cannot leave the sandbox by Portage's proxy, as that of Gentoo can.
    system.append(
        "/etc/portage/make.conf",
        "FEATURES=\"${FEATURES} -network-sandbox\"\n",
    )?;
    Ok(system)
}

/// All files below a directory, by their paths.
fn all_files(dir: &Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let mut left = vec![dir.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).with_context(|| at.display().to_string())? {
            let path = entry?.path();
            match path.is_dir() {
                true => left.push(path),
                false => drop(found.insert(path.display().to_string())),
            }
        }
    }
    Ok(found)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_is_built_comes_from_the_caches_and_from_other_machines() -> Result<()> {
    let system = farm("")?;
    let distccd = Distccd::start(&system)?;
    let config = format!(
        "ccache = \"{CACHE}\"\nsccache = true\nicecream = true\ndistcc = \"127.0.0.1:{}/2\"\n",
        distccd.port
    );
    system.append("/etc/be/be.toml", config)?;
    fs::remove_file(system.path("/usr/bin/icecc"))?;
    // What sandbox(1) reads there is seen by who builds, and by nobody else.
    fs::create_dir_all(system.path("/etc/sandbox.d"))?;
    let overlay = Overlay::new(&system)?;
    overlay.ebuild("calc", "1", COMPILE)?;
    // One that its owner builds without any of them.
    overlay.ebuild("plain", "1", &COMPILE.replace("/calc", "/plain"))?;
    let without = "FEATURES=\"-ccache -distcc\"\nRUSTC_WRAPPER=\"\"\n";
    system.write("/etc/portage/env/without", without)?;
    system.write("/etc/portage/package.env", "app-misc/plain without\n")?;
    system.set_world(&["app-misc/calc", "app-misc/plain"])?;

    let done = system.be.run(&["upgrade", "one"]).done();
    let told = done.stderr.matches("icecc is not installed in one").count();
    ensure!(told == 1, "{}", done.stderr);
    let done = done.says(&["emerge sys-devel/icecream"]);
    assert!(!done.stderr.contains("ccache is not"), "{}", done.stderr);
    assert_eq!(distccd.compiled()?, ["one.c", "two.c", "three.c"]);
    assert_eq!(ccache_stats(&system, CACHE)?, (0, 3));
    let made = fs::metadata(system.path(CACHE))?;
    assert_eq!((made.mode() & 0o7777, made.gid()), (0o2775, PORTAGE));
    let objects = all_files(&system.path(RUST_CACHE))?;
    ensure!(!objects.is_empty(), "nothing is in the cache of sccache");
    // Who listened there is gone.
    ensure!(
        !objects.iter().any(|path| path.contains("/.be-")),
        "{objects:?}"
    );
    for object in &objects {
        assert_eq!(fs::metadata(object)?.uid(), PORTAGE, "{object}");
    }
    // The environment has neither, also after what changed meanwhile was carried over.
    for dir in [CACHE, RUST_CACHE, "/etc/portage/profile"] {
        let copy = system.env("one", dir.trim_start_matches('/'));
        assert!(!copy.exists(), "{}", copy.display());
    }
    let sandbox = system.env("one", "etc/sandbox.d");
    assert_eq!(fs::read_dir(sandbox)?.count(), 0);
    assert!(system.env("one", "usr/share/calc/one.o").is_file());

    // The same sources once more, before and after the compiler was upgraded: what the old one
    // made is not taken for the new one's.
    overlay.ebuild("calc", "2", COMPILE)?;
    let newer = "RDEPEND=\">=app-misc/calc-2\"\nDEPEND=\"${RDEPEND}\"\n\
        src_install() {\n\tlocal i\n\tfor i in gcc x86_64-linux-gnu-gcc; do\n\
        \t\tprintf '#!/bin/sh\\n[ \"$*\" = -v ] && exec echo gcc version 99 >&2\\n\
        exec x86_64-linux-gnu-gcc-14 \"$@\"\\n' | newbin - ${i}\n\tdone\n}\n";
    overlay.ebuild("compiler", "99", newer)?;
    let after = format!("DEPEND=\"app-misc/compiler\"\n{COMPILE}").replace("/calc", "/late");
    overlay.ebuild("late", "1", &after)?;
    system.set_world(&["app-misc/calc", "app-misc/late"])?;
    let done = system.be.run(&["build", "run"]).done();
    assert!(
        done.stdout.contains("new: app-misc/late-1"),
        "{}",
        done.stdout
    );
    assert_eq!(ccache_stats(&system, CACHE)?, (3, 6));
    assert_eq!(distccd.compiled()?.len(), 6);

    drop(distccd);
    system.quiet_within(GONE)?;
    Ok(())
}

mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn who_mends_a_failed_one_has_the_same_and_what_cannot_be_used_is_told() -> Result<()> {
        let config = "ccache = true\nsccache = \"/etc/fstab\"\ndistcc = true\nicecream = true\n";
        let system = farm(config)?;
        fs::remove_file(system.path("/usr/bin/icecc"))?;
        fs::remove_file(system.path("/etc/distcc/hosts"))?;
        let doctor = system.be.run(&["doctor", "--json"]).stdout;
        let found = doctor.matches("engine-missing").count();
        assert_eq!(found, 1, "{doctor}");
        let overlay = Overlay::new(&system)?;
        let fails = COMPILE.replace("src_install() {", "src_install() {\n\tdie later");
        overlay.ebuild("calc", "1", &fails)?;
        system.set_world(&["app-misc/calc"])?;
        let failed = system.be.run(&["upgrade", "one"]).exits(6);
        failed.says(&[
            "icecc is not installed in one",
            "sccache is not used: its cache /etc/fstab cannot be",
            "distcc has no hosts in one",
        ]);
        assert_eq!(ccache_stats(&system, "/var/cache/ccache")?, (0, 3));

        // By hand, and so not by way of distcc: another compiler for ccache, but the same cache.
        let compile = "cd /tmp && echo 'int one(int a) { return a + 1; }' >one.c && \
            /usr/lib/ccache/bin/gcc -O2 -c one.c && echo $FEATURES";
        let mended = system
            .be
            .run(&["exec", "one", "--", "sh", "-c", compile])
            .done();
        assert!(mended.stdout.contains("ccache"), "{}", mended.stdout);
        assert_eq!(ccache_stats(&system, "/var/cache/ccache")?, (0, 4));
        assert!(!system.env("one", "etc/portage/profile").exists());
        // What is complete is the owner's.
        let own = ["exec", "default", "--", "sh", "-c", "echo x$CCACHE_DIR"];
        assert_eq!(system.be.run(&own).done().stdout, "x\n");
        system.quiet_within(GONE)
    }

    #[test]
    #[ignore = "needs root, loop devices and the lab"]
    fn what_a_kill_leaves_is_gone_when_it_goes_on() -> Result<()> {
        let system = farm("ccache = true\nsccache = true\n")?;
        fs::create_dir_all(system.path("/etc/sandbox.d"))?;
        let overlay = Overlay::new(&system)?;
        overlay.ebuild("calc", "1", COMPILE)?;
        let waits = COMPILE.replace("\tlocal i\n", "\t[[ -e /run/be/ccache/go ]] || sleep 300\n");
        let waits = format!("DEPEND=\"app-misc/calc\"\n{waits}")
            .replace("/calc\n\tdoins", "/late\n\tdoins");
        overlay.ebuild("late", "1", &waits)?;
        system.set_world(&["app-misc/calc", "app-misc/late"])?;
        let mut be = system.be.start(&["upgrade", "one"])?;
        let begun = system.env("one", "var/tmp/portage/app-misc/late-1/temp/build.log");
        while !begun.exists() {
            ensure!(!be.has_ended()?, "it has ended");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        be.signal(nix::sys::signal::Signal::SIGKILL)?;
        be.end()?;
        system.quiet_within(GONE)?;
        let left = [
            "etc/portage/profile/make.defaults",
            "etc/sandbox.d/90be-sccache",
        ];
        for path in left {
            assert_eq!(fs::read_to_string(system.env("one", path))?, "", "{path}");
        }

        system.write("/var/cache/ccache/go", "")?;
        system.be.run(&["upgrade", "--continue", "one"]).done();
        for path in ["etc/portage/profile", left[1]] {
            assert!(!system.env("one", path).exists(), "{path}");
        }
        // Only what was cut off is compiled now.
        assert!(system.env("one", "usr/share/late/one.o").is_file());
        assert_eq!(ccache_stats(&system, "/var/cache/ccache")?, (3, 3));
        system.quiet_within(GONE)
    }

    #[test]
    #[ignore = "needs root, loop devices, the lab and a network address"]
    fn icecream_compiles_with_the_compilers_of_the_environment() -> Result<()> {
        let system = farm("icecream = true\n")?;
        let overlay = Overlay::new(&system)?;
        overlay.ebuild("calc", "1", COMPILE)?;
        system.set_world(&["app-misc/calc"])?;
        let preferred = format!("ICECC_PREFERRED_HOST=\"{}\"\n", Icecream::OTHER);
        system.append("/etc/portage/make.conf", preferred)?;
        let done = system.be.run(&["upgrade", "alone"]).done();
        done.says(&["iceccd does not run"]);

        let icecream = Icecream::start(&system)?;
        // What was built before is kept, and not built again.
        overlay.ebuild("calc", "2", COMPILE)?;
        system.be.run(&["upgrade", "helped"]).done();
        let (here, there) = icecream.logs()?;
        for name in ["one.c", "two.c", "three.c"] {
            let line = format!("remote compile for file {name}");
            assert_eq!(there.matches(&line).count(), 1, "{there}");
        }
        // The daemon would have packed what runs.
        assert!(!here.contains("native_env"), "{here}");
        assert!(!system.env("helped", ".be-icecream").exists());
        assert!(system.env("helped", "usr/share/calc/one.o").is_file());
        drop(icecream);
        system.quiet_within(GONE)
    }
}
