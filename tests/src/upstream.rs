//! Where the repository of the lab comes from, and days that pass there.

use anyhow::Result;

use crate::system::System;

/// The repository upstream, as a path in the system.
pub const UPSTREAM: &str = "/srv/lab/gentoo.git";

/// A package with USE flags that its files tell of.
pub const FLAGGED: &str = "EAPI=8\nDESCRIPTION=x\nS=\"${WORKDIR}\"\nSLOT=0\nLICENSE=MIT\n\
    KEYWORDS=amd64\nIUSE=\"+nls doc\"\n\
    src_install() {\n\tinsinto /usr/share/${PN}\n\techo ${PV} >\"${T}\"/version || die\n\
    \tdoins \"${T}\"/version\n\tuse nls && newins \"${T}\"/version nls\n\
    \tuse doc && newins \"${T}\"/version doc\n\ttrue\n}\n";

/// Run a script in the system.
///
/// # Errors
/// One of its commands fails.
pub fn sh(system: &System, script: &str) -> Result<String> {
    let script = format!("set -e; export HOME=/root; {script}");
    system.chroot().run(&["bash", "-c", &script])
}

/// A day passes upstream: these ebuilds come. The commit is the same on every machine.
///
/// # Errors
/// git fails.
pub fn release(system: &System, day: u32, ebuilds: &[(&str, &str)]) -> Result<()> {
    let mut files = String::new();
    for (path, text) in ebuilds {
        files += &format!("mkdir -p $(dirname {path}); cat >{path} <<'END'\n{text}END\n");
    }
    let date = format!("2025-01-{day:02}T00:00:00Z");
    sh(
        system,
        &format!(
            "export GIT_AUTHOR_DATE={date} GIT_COMMITTER_DATE={date}; rm -rf /tmp/work; \
             git clone -q {UPSTREAM} /tmp/work; cd /tmp/work\n{files}git add -A; \
             git -c user.name=x -c user.email=x@x commit -qm {day}; git push -q origin HEAD; \
             rm -rf /tmp/work"
        ),
    )
    .map(drop)
}

/// Fetch what came there, as a synchronisation does.
///
/// # Errors
/// git fails.
pub fn fetch(system: &System) -> Result<()> {
    let git = "git -C /var/db/repos/gentoo";
    sh(
        system,
        &format!("{git} fetch -q origin; {git} reset -q --hard FETCH_HEAD"),
    )
    .map(drop)
}
