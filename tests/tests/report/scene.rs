//! An upgrade in which everything happens that a report tells of.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use be_tests::system::System;
use xtask::image::Tree;

/// A repository of its own, with packages that are made here.
const OVERLAY: &str = "/var/db/repos/overlay";

fn ebuild(body: &str) -> String {
    format!(
        "EAPI=8\nDESCRIPTION=\"x\"\nHOMEPAGE=\"https://localhost/\"\nS=\"${{WORKDIR}}\"\n\
         LICENSE=\"MIT\"\nSLOT=\"0\"\nKEYWORDS=\"amd64\"\n{body}"
    )
}

/// Built again when the flags change.
const FLAGS: &str = "IUSE=\"nls tk\"\nsrc_install() { newbin - flags <<<\"${USE}\"; }\n";

/// What a page must not take for its own, and a terminal must not obey.
pub const MARKUP: &str = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>&amp;";

/// Says it, with what is no text at all.
fn hostile() -> String {
    format!(
        "src_compile() {{\n\tprintf '%s\\n' {MARKUP:?}\n\
         \tprintf '\\033[31mred\\033[0m \\033]0;title\\007\\001 \\377\\302\\233 \\342\\200\\256turned\\n'\n\
         \tdie \"it is hostile\"\n}}\n"
    )
}

fn talkative() -> String {
    format!(
        "src_install() {{ newbin - talk <<<x; }}\npkg_postinst() {{ ewarn {MARKUP:?}; elog told; }}\n"
    )
}

/// The system before the upgrade.
pub fn prepared() -> Result<System> {
    let system = System::adopted_lab()?;
    for (path, text) in [
        (
            "metadata/layout.conf",
            "masters = gentoo\nthin-manifests = true\n".to_owned(),
        ),
        ("profiles/repo_name", "overlay\n".to_owned()),
        (
            "metadata/timestamp.chk",
            "Sat, 28 Nov 2026 10:00:00 +0000\n".to_owned(),
        ),
        ("app-misc/flags/flags-1.ebuild", ebuild(FLAGS)),
        ("app-misc/hostile/hostile-1.ebuild", ebuild(&hostile())),
        (
            "app-misc/talkative/talkative-1.ebuild",
            ebuild(&talkative()),
        ),
    ] {
        system.write(&format!("{OVERLAY}/{path}"), text)?;
    }
    let conf = format!("[overlay]\nlocation = {OVERLAY}\n");
    system.write("/etc/portage/repos.conf/overlay.conf", conf)?;
    system.append(
        "/etc/portage/make.conf",
        "PORTAGE_ELOG_SYSTEM=\"save_summary\"\n",
    )?;
    system.write("/etc/portage/package.use", "app-misc/flags nls\n")?;
    let install = [
        "emerge",
        "--ask=n",
        "--color=n",
        "--oneshot",
        "app-misc/flags",
    ];
    system.chroot().run(&install)?;
    system.write("/etc/portage/package.use", "app-misc/flags tk\n")?;

    let hook = "/etc/be/upgrade.d/after-merge/tidy";
    system.write(
        hook,
        "#!/bin/sh\nexec emerge --ask=n --unmerge app-misc/slow\n",
    )?;
    fs::set_permissions(system.path(hook), fs::Permissions::from_mode(0o755))?;
    system.set_world(&[
        "app-misc/hello",
        "app-misc/confy",
        "app-misc/greeter",
        "app-misc/flags",
        "app-misc/talkative",
        "app-misc/hostile",
        "sys-kernel/lab-kernel",
    ])?;
    Ok(system)
}

/// What the failed one is mended by.
pub fn mend(system: &System, name: &str) {
    let path = format!("{OVERLAY}/app-misc/hostile/hostile-1.ebuild");
    let mend = ["exec", name, "--", "sed", "-i", "s/die .*/:/", &path];
    system.be.run(&mend).done();
}
