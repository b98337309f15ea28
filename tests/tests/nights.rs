//! Two weeks of `be upgrade --unattended`, with all that nights bring.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use be_tests::be::{Be, Outcome};
use be_tests::system::System;
use xtask::chroot::Chroot;
use xtask::image::Tree;
use xtask::loopdev::Mount;

const UPSTREAM: &str = "srv/lab/gentoo.git";

/// What the new version of the package is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Builds,
    Fails,
}

/// A machine that is upgraded every night, and rebooted after some of them.
struct Machine {
    system: System,
    /// What was booted, if that is not the first system.
    booted: Option<(String, Mount)>,
    be: Be,
    night: u32,
}

impl Machine {
    fn new() -> Result<Self> {
        let system = System::adopted_lab()?;
        system.set_world(&["app-misc/night"])?;
        system.append("/etc/be/be.toml", NIGHTLY)?;
        let be = system.be.clone();
        let sendmail = system.dir().join("bin/sendmail");
        fs::create_dir_all(system.dir().join("bin"))?;
        fs::write(&sendmail, "#!/bin/sh\ncat >\"$(dirname \"$0\")/../mail\"\n")?;
        fs::set_permissions(&sendmail, fs::Permissions::from_mode(0o755))?;
        let mut machine = Self {
            system,
            booted: None,
            be,
            night: 0,
        };
        machine.release(Version::Builds)?;
        machine.emerge_first()?;
        Ok(machine)
    }

    fn root(&self) -> PathBuf {
        match &self.booted {
            Some((_, mount)) => mount.path().to_owned(),
            None => self.system.root().to_owned(),
        }
    }

    fn sh(&self, script: &str) -> Result<String> {
        let script = format!("set -e; export HOME=/root; {script}");
        Chroot::new(&self.root()).run(&["bash", "-c", &script])
    }

    /// The first version is there before any night.
    fn emerge_first(&self) -> Result<()> {
        self.sh(
            "emerge --sync >/dev/null 2>&1 && emerge --ask=n --oneshot app-misc/night && \
                 rm -rf /var/log/emerge.log",
        )
        .map(drop)
    }

    /// A day passes in the repository.
    fn release(&mut self, version: Version) -> Result<()> {
        self.night += 1;
        let number = self.night;
        let phase = match version {
            Version::Builds => {
                format!("src_install() {{ insinto /etc; newins - night <<<{number}; }}")
            }
            Version::Fails => "src_compile() { die \"it does not build\"; }".to_owned(),
        };
        let day = format!("2025-01-{number:02}T00:00:00Z");
        self.sh(&format!(
            "export GIT_AUTHOR_DATE={day} GIT_COMMITTER_DATE={day}; rm -rf /tmp/work; \
             git clone -q /{UPSTREAM} /tmp/work; cd /tmp/work; mkdir -p app-misc/night; \
             rm -f app-misc/night/*; \
             printf '%s\\n' EAPI=8 'DESCRIPTION=x' 'S=${{WORKDIR}}' SLOT=0 KEYWORDS=amd64 \
             '{phase}' >app-misc/night/night-{number}.ebuild; \
             git add -A; git commit -qm {number}; git push -q origin HEAD; rm -rf /tmp/work"
        ))
        .map(drop)
    }

    /// A night passes; gives what cron would mail, and the mail.
    fn night(&self) -> Result<(Outcome, Option<String>)> {
        let mail = self.system.dir().join("mail");
        if mail.exists() {
            fs::remove_file(&mail)?;
        }
        let path = std::env::var("PATH").context("there is no PATH")?;
        let bin = self.system.dir().join("bin");
        let mut command = self.be.command(&["upgrade", "--unattended"]);
        command.env("PATH", format!("{}:{path}", bin.display()));
        let outcome = Outcome::of(&mut command);
        Ok((outcome, fs::read_to_string(mail).ok()))
    }

    /// Nothing is done, and nobody is told.
    fn is_quiet(&self) -> Result<()> {
        let (outcome, mail) = self.night()?;
        let outcome = outcome.exits(77);
        ensure!(outcome.stdout.is_empty(), "{}", outcome.stdout);
        ensure!(outcome.stderr.is_empty(), "{}", outcome.stderr);
        ensure!(mail.is_none(), "{mail:?}");
        Ok(())
    }

    /// Something is done, and told; gives the name of what boots next, and the mail.
    fn is_upgraded(&self) -> Result<(String, String)> {
        let (outcome, mail) = self.night()?;
        let outcome = outcome.done();
        let mail = mail.context("no mail")?;
        let text = outcome.stdout.trim_end();
        ensure!(mail.contains(text), "{mail}\n---\n{text}");
        ensure!(
            mail.starts_with("To: root\nSubject: be: 1 change in "),
            "{mail}"
        );
        let version = self.night;
        ensure!(
            mail.contains("app-misc/night") && mail.contains(&version.to_string()),
            "{mail}"
        );
        let next = self.system.menu_default()?;
        let next = next.strip_prefix("be-").unwrap_or(&next).to_owned();
        let is = fs::read_to_string(self.system.env(&next, "etc/night"))?;
        ensure!(is == format!("{version}\n"), "{is}");
        Ok((next, mail))
    }

    /// Something is wrong, and told.
    fn is_told(&self, code: i32, words: &[&str]) -> Result<()> {
        let next = self.system.menu_default()?;
        let before = self.names()?;
        let (outcome, mail) = self.night()?;
        let mail = mail.context("no mail")?;
        for word in words {
            ensure!(mail.contains(word), "{word}: {mail}");
        }
        drop(outcome.exits(code).says(words));
        ensure!(self.system.menu_default()? == next);
        let kept = self.names()?.len() - before.len();
        ensure!(kept == usize::from(code == 6), "{kept}");
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>> {
        let list = self.be.run(&["--json", "list"]).done().json();
        let all = list["environments"].as_array().context("no list")?;
        let names = all.iter().filter_map(|env| env["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// What boots next is booted, and comes up.
    fn reboot(&mut self, name: &str) -> Result<()> {
        let (mount, be) = self.system.mount_root_of(name)?;
        // Only who was really booted may say so: here that is this test.
        let record = self.system.top(&format!("@be/{name}/be.json"));
        let text = fs::read_to_string(&record)?;
        let confirmed = text.replacen("\"ready\"", "\"confirmed\"", 1);
        ensure!(confirmed != text, "{text}");
        fs::write(record, confirmed)?;
        self.booted = Some((name.to_owned(), mount));
        self.be = be;
        Ok(())
    }
}

const NIGHTLY: &str = "
[prune]
keep = 2
min_keep = 1
failed_days = 0

[nightly]
mail = \"root\"
";

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn two_weeks() -> Result<()> {
    let mut machine = Machine::new()?;
    let running = machine.system.running()?;
    // 1 and 2: nothing, then something. 3: it waits to be booted.
    machine.is_quiet()?;
    machine.release(Version::Builds)?;
    let (first, _) = machine.is_upgraded()?;
    machine.is_quiet()?;
    // 4: something new replaces what was never booted.
    machine.release(Version::Builds)?;
    let (second, mail) = machine.is_upgraded()?;
    ensure!(
        mail.contains(&format!("{first} was never booted: replaced")),
        "{mail}"
    );
    ensure!(!machine.names()?.contains(&first));
    machine.reboot(&second)?;
    // 5 and 6: what does not build is built once, and the running one stays what it is.
    machine.is_quiet()?;
    machine.release(Version::Fails)?;
    machine.is_told(6, &["app-misc/night-4 failed", "be upgrade --continue"])?;
    machine.is_quiet()?;
    // 7: mended.
    machine.release(Version::Builds)?;
    let (third, _) = machine.is_upgraded()?;
    // 8 and 9: the mirror is down, then behind.
    let upstream = machine.root().join(UPSTREAM);
    let away = upstream.with_extension("away");
    fs::rename(&upstream, &away)?;
    machine.is_told(1, &["could not be synchronised"])?;
    fs::rename(&away, &upstream)?;
    // The running system has a newer tree than its mirror.
    machine.reboot(&third)?;
    machine.sh(&format!(
        "cd /{UPSTREAM}; git branch -f kept; git update-ref HEAD HEAD~1"
    ))?;
    machine.is_told(1, &["is behind", "2025-01-04", "2025-01-05"])?;
    machine.sh(&format!("cd /{UPSTREAM}; git update-ref HEAD kept"))?;
    // 10 to 14: every night something, and a reboot every other day.
    for reboot in [true, false, true, false, true] {
        machine.release(Version::Builds)?;
        let (next, _) = machine.is_upgraded()?;
        ensure!(machine.names()?.len() <= 5, "{:?}", machine.names()?);
        if reboot {
            machine.reboot(&next)?;
        }
    }
    // What was adopted is as it was, but for what this test itself released in it.
    let changed = running.diff(&machine.system.running()?);
    let own = |path: &String| path.contains(UPSTREAM) || path.contains("/tmp");
    let changed: Vec<_> = changed.iter().filter(|path| !own(path)).collect();
    ensure!(changed.is_empty(), "{changed:?}");
    let left = machine.system.subvolume_paths()?;
    ensure!(left.len() <= 14, "{left:?}");
    Ok(())
}
