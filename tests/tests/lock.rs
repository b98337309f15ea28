//! Locks: what made an environment is written down, compared, and made again elsewhere.

use anyhow::{Context, Result, ensure};
use be_tests::system::System;
use be_tests::upstream::{FLAGGED, UPSTREAM, release, sh};
use serde_json::Value;
use xtask::image::Tree;

/// `be lock ENV`, as it is printed.
fn lock(system: &System, args: &[&str]) -> Result<Value> {
    let args = [&["lock"], args].concat();
    let text = system.be.run(&args).done().stdout;
    let value: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    ensure!(value["schema"] == "be-lock/v1", "{text}");
    Ok(value)
}

/// The packages of a list in a lock.
fn packages(list: &Value) -> Vec<&str> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|package| package["cpv"].as_str()).collect()
}

fn entry<'a>(lock: &'a Value, path: &str) -> Option<&'a Value> {
    let entries = lock["configuration"]["entries"].as_array()?;
    entries.iter().find(|entry| entry["path"] == path)
}

/// The environment `same` is as the lock says.
fn nothing_differs(system: &System, lock: &str) -> Result<()> {
    let said = system.be.run(&["diff", "--lock", lock, "same"]);
    let said = said.done().stdout;
    ensure!(said.starts_with("nothing differs"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn an_environment_that_no_upgrade_made_has_a_lock_of_what_is_there() -> Result<()> {
    let system = System::adopted_lab()?;
    system.write("/etc/portage/package.use/x", "app-misc/hello nls\n")?;
    system.write("/etc/portage/secret", "password\n")?;
    let secret = ["chmod", "600", "/etc/portage/secret"];
    system.chroot().run(&secret)?;
    let before = (system.running()?, system.subvolumes()?, system.host()?);
    let out = system
        .be
        .run(&["lock"])
        .done()
        .says(&["/etc/portage/secret"]);
    ensure!(!out.stdout.contains("password"), "{}", out.stdout);
    // Nothing was written, and nothing is left.
    ensure!(system.running()? == before.0 && system.subvolumes()? == before.1);
    let changed = system.host_changes(&before.2)?;
    ensure!(changed.is_empty(), "{changed:?}");
    let found: Value = serde_json::from_str(&out.stdout)?;
    ensure!(found["recorded"] == false && found["start"].is_null());
    let git = ["git", "-C", "/var/db/repos/gentoo", "rev-parse", "HEAD"];
    let commit = system.chroot().run(&git)?;
    let state = &found["repositories"][0]["state"]["git"];
    ensure!(
        state["commit"] == commit.trim() && state["modified"] == false,
        "{state}"
    );
    ensure!(found["profile"][0] == "gentoo:lab" && found["portage"] == "3.0.83");
    ensure!(found["settings"]["CHOST"] == "x86_64-pc-linux-gnu");
    ensure!(packages(&found["packages"]).contains(&"app-misc/hello-1"));
    let text = &entry(&found, "/etc/portage/package.use/x").context("no entry")?["text"];
    ensure!(text == "app-misc/hello nls\n", "{text}");

    // A file that no commit has is named.
    system.write("/var/db/repos/gentoo/app-misc/hello/hello-9.ebuild", "x")?;
    let dirty = lock(&system, &["default"])?;
    ensure!(dirty["repositories"][0]["state"]["git"]["modified"] == true);
    system
        .chroot()
        .run(&["rm", "/var/db/repos/gentoo/app-misc/hello/hello-9.ebuild"])?;

    let document = system.be.run(&["lock", "--json"]).done().json();
    ensure!(document["lock"]["schema"] == "be-lock/v1", "{document}");
    ensure!(document["configuration_digest"].is_string(), "{document}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_made_an_environment_stays_whatever_becomes_of_it() -> Result<()> {
    let system = System::adopted_lab()?;
    system.be.run(&["upgrade", "new", "--", "--jobs=1"]).done();
    let made = lock(&system, &["new"])?;
    ensure!(made["recorded"] == true && made["origin"] == "default");
    ensure!(made["options"][0] == "--jobs=1", "{}", made["options"]);
    ensure!(packages(&made["packages"]).contains(&"app-misc/hello-2"));
    ensure!(packages(&made["start"]).contains(&"app-misc/hello-1"));
    let conf = system.env("new", "/etc/portage/make.conf");
    std::fs::write(&conf, std::fs::read_to_string(&conf)? + "USE=\"nls\"\n")?;
    ensure!(lock(&system, &["new"])? == made);
    let now = lock(&system, &["--now", "new"])?;
    ensure!(now["recorded"] == false);
    ensure!(now["settings"]["USE"] == "amd64 nls", "{}", now["settings"]);
    ensure!(now["configuration"]["sha256"] != made["configuration"]["sha256"]);

    // It goes with the name, and not into a clone.
    system.be.run(&["rename", "new", "other"]).done();
    let renamed = lock(&system, &["other"])?;
    ensure!(renamed["environment"] == "other" && renamed["packages"] == made["packages"]);
    system.be.run(&["create", "-e", "other", "clone"]).done();
    ensure!(lock(&system, &["clone"])?["recorded"] == false);
    // One that is damaged is one clear error.
    std::fs::write(system.top("@be/other/log/lock.json"), "{\n\"schema\": 1\n}")?;
    let out = system.be.run(&["lock", "other"]).exits(1);
    ensure!(out.error().contains("the lock of other") && out.error().contains("line 2"));
    Ok(())
}

/// Another repository than Gentoo's, at this address.
fn overlay(system: &System) -> Result<()> {
    let script = format!(
        "export GIT_AUTHOR_DATE=2025-01-01T00:00:00Z GIT_COMMITTER_DATE=2025-01-01T00:00:00Z; \
         mkdir -p /srv/second/{{profiles,metadata,app-misc/own}}; cd /srv/second; \
         echo second >profiles/repo_name; echo masters = gentoo >metadata/layout.conf; \
         cat >app-misc/own/own-1.ebuild <<'END'\n{FLAGGED}END\n\
         git init -q; git add -A; git -c user.name=x -c user.email=x@x commit -qm second"
    );
    sh(system, &script).map(drop)
}

/// The machine that others are to be like: with the packages of the first day, a flag of its own,
/// and an environment `made`. Gives its lock.
fn first(slow: u32) -> Result<(System, String)> {
    let system = System::adopted_lab()?;
    day_one(&system)?;
    overlay(&system)?;
    sh(
        &system,
        "git clone -q file:///srv/second /var/db/repos/second",
    )?;
    let conf = "[second]\nlocation = /var/db/repos/second\nsync-type = git\n\
                sync-uri = file:///srv/second\n";
    system.write("/etc/portage/repos.conf/second.conf", conf)?;
    let world = [
        "app-misc/flagged",
        "app-misc/greeter",
        "app-misc/hello",
        "app-misc/own",
        "app-misc/slow",
    ];
    system.set_world(&world)?;
    system.set_slow(slow)?;
    system.write("/etc/portage/package.use/flagged", "app-misc/flagged doc\n")?;
    system.be.run(&["upgrade", "made"]).done();
    let text = system.be.run(&["lock", "made"]).done().stdout;
    Ok((system, text))
}

fn day_one(system: &System) -> Result<()> {
    let ebuilds = [
        ("app-misc/flagged/flagged-1.ebuild", FLAGGED),
        ("app-misc/extra/extra-1.ebuild", FLAGGED),
    ];
    release(system, 1, &ebuilds)
}

/// Another machine: of a later day, with other packages, another flag, another world, and the
/// repository as a shallow checkout, and without the other repository.
fn second() -> Result<System> {
    let system = System::adopted_lab()?;
    day_one(&system)?;
    overlay(&system)?;
    let ebuilds = [
        ("app-misc/flagged/flagged-2.ebuild", FLAGGED),
        ("app-misc/hello/hello-3.ebuild", FLAGGED),
    ];
    release(&system, 2, &ebuilds)?;
    system.write("/etc/portage/package.use", "app-misc/flagged -nls\n")?;
    let repo = "/var/db/repos/gentoo";
    sh(
        &system,
        &format!(
            "rm -rf {repo}; git clone -q --depth 1 file://{UPSTREAM} {repo}; \
             emerge --ask=n --color=n app-misc/flagged app-misc/extra app-misc/hello; \
             rm -rf /var/tmp/portage"
        ),
    )?;
    Ok(system)
}

/// The file of a lock on the host.
fn file(system: &System, text: &str) -> Result<String> {
    let path = system.dir().join("machine.lock");
    std::fs::write(&path, text)?;
    Ok(path.to_string_lossy().into_owned())
}

/// The paths of all packages of an environment, with what each of them is.
fn paths(system: &System, name: &str) -> Result<Vec<String>> {
    let db = system.env(name, "/var/db/pkg");
    let mut all = Vec::new();
    for category in std::fs::read_dir(db)? {
        for package in std::fs::read_dir(category?.path())? {
            let package = package?.path();
            let text = std::fs::read_to_string(package.join("CONTENTS")).unwrap_or_default();
            for line in text.lines() {
                let mut words = line.split(' ');
                let (kind, path) = (words.next(), words.next());
                all.push(format!("{} {kind:?} {path:?}", package.display()));
            }
        }
    }
    let home = system.env(name, "").to_string_lossy().into_owned();
    let mut all: Vec<String> = all.iter().map(|line| line.replace(&home, "")).collect();
    all.sort();
    Ok(all)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn the_same_lock_gives_the_same_on_another_machine() -> Result<()> {
    let (one, text) = first(0)?;
    let other = second()?;
    let file = file(&other, &text)?;
    let wanted: Value = serde_json::from_str(&text)?;
    let before = other.running()?;

    let told = other.be.run(&["diff", "--lock", &file]).done().stdout;
    for line in [
        "app-misc/flagged:0: app-misc/flagged-1 -> app-misc/flagged-2",
        "USE of app-misc/flagged-2: -doc -nls",
        "app-misc/extra:0: added (app-misc/extra-1)",
        "/etc/portage/package.use: a directory -> a file",
        "world: +app-misc/confy +app-misc/extra +sys-kernel/lab-kernel -app-misc/own -app-misc/slow",
    ] {
        ensure!(told.contains(line), "{line}: {told}");
    }
    let shown = other
        .be
        .run(&["-n", "upgrade", "--lock", &file])
        .done()
        .stdout;
    ensure!(
        shown.contains("commits of the lock") && !shown.contains("synchronise"),
        "{shown}"
    );
    let pretended = other
        .be
        .run(&["upgrade", "--lock", &file, "--pretend"])
        .done()
        .stdout;
    ensure!(pretended.contains("app-misc/flagged 2 -> 1"), "{pretended}");
    ensure!(other.listed("same").is_none());

    let done = other.be.run(&["upgrade", "--lock", &file, "same"]).done();
    ensure!(
        !done.stdout.contains("not as in the lock"),
        "{}",
        done.stdout
    );
    ensure!(other.running()? == before, "the running system was written");
    ensure!(other.menu_default()? == "same");
    let made = lock(&other, &["same"])?;
    ensure!(made["recorded"] == true);
    for part in [
        "repositories",
        "configuration",
        "profile",
        "world",
        "world_sets",
        "settings",
    ] {
        ensure!(made[part] == wanted[part], "{part}: {}", made[part]);
    }
    let plain = |lock: &Value| {
        let mut packages = lock["packages"].clone();
        for package in packages.as_array_mut().into_iter().flatten() {
            // The one thing that is documented to be another.
            package["build_time"].take();
        }
        packages
    };
    ensure!(plain(&made) == plain(&wanted), "{}", made["packages"]);
    ensure!(paths(&other, "same")? == paths(&one, "made")?);
    nothing_differs(&other, &file)
}

/// As savedconfig.eclass does.
const SAVED: &str = "EAPI=8\nDESCRIPTION=x\nS=\"${WORKDIR}\"\nSLOT=0\nLICENSE=MIT\n\
    KEYWORDS=amd64\n\
    src_install() {\n\tinsinto /etc/portage/savedconfig/${CATEGORY}\n\
    \techo CONFIG_PASSWD=y >\"${T}\"/${PF} || die\n\tdoins \"${T}\"/${PF}\n}\n";

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_packages_and_the_machine_write_is_no_deviation() -> Result<()> {
    let system = System::adopted_lab()?;
    release(&system, 1, &[("app-misc/saved/saved-1.ebuild", SAVED)])?;
    system.set_world(&["app-misc/hello", "app-misc/saved"])?;
    system.write("/etc/portage/gnupg/pubring.kbx", "first")?;
    sh(
        &system,
        "mkdir /etc/portage/{env,patches}; ln -s /srv/conf/x /etc/portage/env/x; \
         chgrp portage /etc/portage/patches; chmod 750 /etc/portage/patches",
    )?;
    system.be.run(&["upgrade", "made"]).done();
    let out = system.be.run(&["lock", "made"]).done();
    let out = out.says(&["outside of /etc/portage", "/etc/portage/env/x"]);
    let text = out.stdout.clone();
    let value: Value = serde_json::from_str(&text)?;
    let saved = "/etc/portage/savedconfig/app-misc/saved-1";
    let content = &entry(&value, saved).context("no entry")?["text"];
    ensure!(content == "CONFIG_PASSWD=y\n", "{content}");
    let patches = entry(&value, "/etc/portage/patches").context("no entry")?;
    ensure!(patches["group"] == "portage", "{patches}");
    ensure!(!text.contains("gnupg"), "{text}");
    // The next day gpg has written to its directory.
    let keys = system.env("made", "/etc/portage/gnupg/pubring.kbx");
    std::fs::write(keys, "second")?;
    let file = file(&system, &text)?;
    let told = system.be.run(&["diff", "--lock", &file, "made"]).done();
    ensure!(
        told.stdout.starts_with("nothing differs"),
        "{}",
        told.stdout
    );
    sh(&system, "rm -r /etc/portage/{env,patches}")?;
    let out = system.be.run(&["upgrade", "--lock", &file, "same"]).done();
    ensure!(out.stderr.contains("/etc/portage/env/x"), "{}", out.stderr);
    let keys = system.env("same", "/etc/portage/gnupg/pubring.kbx");
    ensure!(std::fs::read_to_string(keys)? == "first");
    nothing_differs(&system, &file)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn every_deviation_from_a_lock_is_named() -> Result<()> {
    let system = System::adopted_lab()?;
    system.write("/etc/portage/package.use/x", "app-misc/hello nls\n")?;
    let text = system.be.run(&["lock"]).done().stdout;
    let file = file(&system, &text)?;
    let diff = |args: &[&str]| {
        system
            .be
            .run(&[&["diff", "--lock", &file], args].concat())
            .done()
    };
    ensure!(diff(&[]).stdout.starts_with("nothing differs"));
    system.write("/etc/portage/package.use/x", "app-misc/hello -nls\n")?;
    system.append("/etc/portage/make.conf", "CFLAGS=\"-O3\"\nUSE=\"nls\"\n")?;
    sh(
        &system,
        "chmod 600 /etc/portage/repos.conf/gentoo.conf; cd /var/db/repos/gentoo; \
         cp -a profiles/lab profiles/other; git add -A; \
         git -c user.name=x -c user.email=x@x commit -qm x; \
         ln -sfn /var/db/repos/gentoo/profiles/other /etc/portage/make.profile; \
         ln -s nowhere /etc/portage/link; echo app-misc/slow >>/var/lib/portage/world",
    )?;
    let told = diff(&[]).stdout;
    for line in [
        "\nrepository gentoo: ",
        "\n/etc/portage/package.use/x: content\n",
        "\n/etc/portage/repos.conf/gentoo.conf: mode 0644 -> 0600\n",
        "\n/etc/portage/link: added (a link)\n",
        "\n/etc/portage/make.profile: link to /var/db/repos/gentoo/profiles/lab -> /var/db",
        "\nprofile: gentoo:lab -> gentoo:other\n",
        "\nworld: +app-misc/slow\n",
        "\nUSE: +nls\n",
        "\nCFLAGS: added (\"-O3\")\n",
    ] {
        ensure!(told.contains(line), "{line}: {told}");
    }
    let json = diff(&["--json"]).json();
    ensure!(
        json["same"] == false && json["configuration_same"] == false,
        "{json}"
    );
    ensure!(
        json["differences"]
            .as_array()
            .is_some_and(|all| all.len() == 10),
        "{json}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_cannot_be_had_or_must_not_be_is_refused_before_anything_is_built() -> Result<()> {
    let system = System::adopted_lab()?;
    system.write("/etc/portage/package.use/x", "app-misc/hello nls\n")?;
    let text = system.be.run(&["lock"]).done().stdout;
    let value: Value = serde_json::from_str(&text)?;
    let commit = value["repositories"][0]["state"]["git"]["commit"].as_str();
    let commit = commit.context("no commit")?;
    let before = (system.running()?, system.subvolumes()?, system.host()?);
    let refused = |text: &str, code: i32, words: &[&str]| -> Result<()> {
        let file = file(&system, text)?;
        let out = system
            .be
            .run(&["-q", "upgrade", "--lock", &file, "new"])
            .exits(code);
        for word in words {
            ensure!(out.error().contains(word), "{word}: {}", out.stderr);
        }
        Ok(())
    };
    let nowhere = "f".repeat(40);
    let gone = text.replace(commit, &nowhere);
    refused(&gone, 3, &[&nowhere, "gentoo", "cannot be had"])?;
    let dirty = text.replace("\"modified\": false", "\"modified\": true");
    refused(&dirty, 3, &["recorded with changes"])?;
    let mut published = value.clone();
    for part in ["packages", "world", "world_sets"] {
        published[part] = Value::Array(Vec::new());
    }
    refused(
        &published.to_string(),
        3,
        &["only for comparing", "no packages"],
    )?;
    let later = text.replace("be-lock/v1", "be-lock/v2");
    refused(&later, 3, &["be-lock/v1", "line 2"])?;
    refused(&text[..200], 3, &["EOF", "line"])?;
    for path in ["/etc/portage/../shadow", "/etc/shadow", "etc/portage/x"] {
        let evil = text.replace("/etc/portage/package.use/x", path);
        refused(&evil, 3, &["below /etc/portage", "line"])?;
    }
    let foreign = text.replace("\"ARCH\": \"amd64\"", "\"ARCH\": \"arm64\"");
    refused(&foreign, 3, &["a machine for arm64", "amd64"])?;
    // A link that what follows would be written through.
    let dir = "\"path\": \"/etc/portage/package.use\",\n        \"kind\": \"directory\",\n        \
               \"mode\": \"0755\"";
    ensure!(text.contains(dir), "{text}");
    let link = dir
        .replace("directory", "link")
        .replace("\"mode\": \"0755\"", "\"target\": \"/etc\"");
    refused(
        &text.replace(dir, &link),
        3,
        &["package.use/x", "no directory of the lock"],
    )?;
    let own = file(&system, &text)?;
    let named = system.be.run(&[
        "-q",
        "upgrade",
        "--lock",
        &own,
        "new",
        "--",
        "app-misc/hello",
    ]);
    ensure!(named.exits(2).error().contains("app-misc/hello"));
    ensure!(system.running()? == before.0 && system.subvolumes()? == before.1);
    ensure!(system.leftovers().is_empty() && system.listed("new").is_none());
    let changed = system.host_changes(&before.2)?;
    ensure!(changed.is_empty(), "{changed:?}");

    // Work that is in no commit would be lost.
    system.write("/var/db/repos/gentoo/mine", "x")?;
    refused(&text, 3, &["changes of its own", "/var/db/repos/gentoo"])?;
    // What is not in the environment cannot be made so for it.
    sh(
        &system,
        "cd /var/db/repos; mv gentoo /srv; ln -s /run/gentoo gentoo",
    )?;
    refused(&text, 3, &["/var/db/repos/gentoo", "shared by all"])?;
    ensure!(system.listed("new").is_none());
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_was_cut_off_goes_on_with_its_lock() -> Result<()> {
    let (_one, text) = first(4)?;
    let other = second()?;
    let mut file = file(&other, &text)?;
    let mut upgrade = other.be.start(&["upgrade", "--lock", &file, "same"])?;
    upgrade.until("a build", || other.builds_slow("same").then_some(()))?;
    upgrade.signal(nix::sys::signal::Signal::SIGKILL)?;
    let _killed = upgrade.end()?;
    other.quiet_within(be_tests::system::GONE)?;
    std::fs::remove_file(&file)?;
    other.be.run(&["upgrade", "--continue", "same"]).done();
    file = self::file(&other, &text)?;
    nothing_differs(&other, &file)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn git_that_was_cut_off_goes_on() -> Result<()> {
    let system = System::adopted_lab()?;
    day_one(&system)?;
    let repo = "/var/db/repos/gentoo";
    sh(&system, &format!("git -C {repo} pull --quiet"))?;
    let file = file(&system, &system.be.run(&["lock"]).done().stdout)?;
    // To go there takes its time for every file.
    let slow = "echo '* filter=slow' >.git/info/attributes; \
                git config filter.slow.smudge 'sleep 2; cat'; git config filter.slow.clean cat";
    sh(
        &system,
        &format!("cd {repo}; git reset --quiet --hard HEAD~1; {slow}"),
    )?;
    let mut upgrade = system.be.start(&["upgrade", "--lock", &file, "new"])?;
    let locked = system.env(
        "new",
        format!("{repo}/.git/index.lock").trim_start_matches('/'),
    );
    upgrade.until("git", || locked.exists().then_some(()))?;
    upgrade.signal(nix::sys::signal::Signal::SIGKILL)?;
    let _killed = upgrade.end()?;
    system.quiet_within(be_tests::system::GONE)?;
    ensure!(locked.exists(), "git was too quick");
    // Nothing is to be merged, and all is as the lock says.
    let ended = system.be.run(&["upgrade", "--continue", "new"]).done();
    ensure!(
        !ended.stdout.contains("not as in the lock"),
        "{}",
        ended.stdout
    );
    let status = format!("git -C {repo} status --porcelain");
    let said = system
        .be
        .run(&["exec", "new", "--", "sh", "-c", &status])
        .done();
    assert_eq!(said.stdout, "");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_comes_out_otherwise_is_named_and_not_activated() -> Result<()> {
    let system = System::adopted_lab()?;
    system.write("/etc/portage/secret", "password\n")?;
    sh(&system, "chmod 600 /etc/portage/secret")?;
    // Two compilers, of which the lock has the one in use and this system the other.
    let (host, gcc) = ("x86_64-pc-linux-gnu", "/etc/env.d/gcc");
    let chooses = format!("#!/bin/sh\ntest -e {gcc}/$1 && echo CURRENT=$1 >{gcc}/config-{host}\n");
    system.write("/usr/bin/gcc-config", chooses)?;
    let choose = |version: &str| {
        let both = format!("touch {gcc}/{host}-13 {gcc}/{host}-14");
        let chosen = format!("gcc-config {host}-{version}");
        sh(
            &system,
            &format!("mkdir -p {gcc}; {both}; chmod 755 /usr/bin/gcc-config; {chosen}"),
        )
    };
    choose("14")?;
    // It is installed all the same, and stays as it is.
    system.write("/etc/portage/package.mask", "app-misc/hello\n")?;
    let text = system.be.run(&["lock"]).done().stdout;
    sh(&system, "rm /etc/portage/secret")?;
    choose("13")?;
    // What is missing is not given up for that, nor what a chore has made another.
    sh(
        &system,
        "emerge --ask=n --color=n --unmerge app-misc/greeter",
    )?;
    let chore = "/etc/be/upgrade.d/before-chores/other";
    let other = "cd /var/lib/portage && cp -a world /tmp && \
                 emerge --ask=n --color=n --unmerge app-misc/confy && mv /tmp/world .";
    system.write(chore, format!("#!/bin/sh\n{other}\n"))?;
    sh(&system, &format!("chmod 755 {chore}"))?;
    // Nobody can build it so: the ebuild has no such flag.
    let hello = "\"cpv\": \"app-misc/hello-1\",\n      \"slot\": \"0\",\n      \
                 \"repository\": \"gentoo\",\n      \"use\": \"";
    ensure!(text.contains(hello), "{text}");
    let file = file(&system, &text.replace(hello, &format!("{hello}nls")))?;
    let out = system.be.run(&["upgrade", "--lock", &file, "new"]).exits(7);
    ensure!(out.stderr.contains("/etc/portage/secret"), "{}", out.stderr);
    let masked = "masked by its own configuration: app-misc/hello-1";
    ensure!(out.stderr.contains(masked), "{}", out.stderr);
    let otherwise = |package| {
        let mut lines = out.stdout.lines();
        lines.any(|line| line.starts_with("not as in the lock") && line.contains(package))
    };
    ensure!(!otherwise("greeter"), "{}", out.stdout);
    ensure!(!otherwise("confy"), "{}", out.stdout);
    ensure!(!otherwise("toolchain"), "{}", out.stdout);
    let chosen = system.env("new", &format!("{}/config-{host}", &gcc[1..]));
    ensure!(std::fs::read_to_string(chosen)?.contains("gnu-14"));
    for line in [
        "not as in the lock: USE of app-misc/hello-1: -nls",
        "not as in the lock: /etc/portage/secret: gone (a file)",
        "be activate new makes it the default",
    ] {
        ensure!(out.stdout.contains(line), "{line}: {}", out.stdout);
    }
    ensure!(!out.stdout.contains("failbuild"), "{}", out.stdout);
    ensure!(system.sound_menu()? == "default");
    let made = system.listed("new").context("new is gone")?;
    ensure!(made["state"] == "ready", "{made}");
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and a Debian"]
fn another_package_manager_is_refused_plainly() -> Result<()> {
    let system = System::adopted_with(xtask::lab::managers::Managed::Apt)?;
    let out = system.be.run(&["lock"]).exits(3);
    ensure!(out.error().contains("no lock of default"), "{}", out.stderr);
    let text = include_str!("../../crates/core/tests/fixtures/be-lock-1.json");
    let file = file(&system, text)?;
    let before = system.subvolumes()?;
    let out = system.be.run(&["upgrade", "--lock", &file]).exits(3);
    ensure!(out.error().contains("not by apt"), "{}", out.stderr);
    ensure!(system.subvolumes()? == before);
    Ok(())
}
