//! The picture of a report for the documentation: an upgrade of a dozen packages, as
//! `be log --html` shows it in a browser.
//!
//! `cargo run -p be-tests --example picture FILE.png`, as root, with Chromium installed.
#![expect(clippy::print_stdout, reason = "the result of an example")]

use std::path::PathBuf;

use anyhow::{Context, Result};
use be_tests::system::System;
use xtask::image::Tree;
use xtask::run::{cmd, run};

/// What is built besides the lab's own packages: name, version and seconds.
const PACKAGES: [(&str, &str, u32); 8] = [
    ("dev-libs/openlib", "3.4.1", 9),
    ("dev-lang/lingua", "1.92.0", 21),
    ("dev-qt/widgets", "6.10.1", 14),
    ("kde-plasma/desktop", "6.5.3", 7),
    ("media-libs/codecs", "8.0.1", 5),
    ("net-misc/transfer", "8.17.0", 3),
    ("sys-apps/tools", "2.41.2", 4),
    ("app-editors/pen", "9.1.0954", 6),
];

const REPOSITORY: &str = "/var/db/repos/work";

fn main() -> Result<()> {
    let picture = std::env::args_os().nth(1).map(PathBuf::from);
    let picture = picture.context("which file is the picture to be?")?;
    let system = System::adopted_lab()?;
    repository(&system)?;
    let mut world: Vec<&str> = PACKAGES.iter().map(|(name, ..)| *name).collect();
    world.extend(["app-misc/hello", "app-misc/greeter", "app-misc/confy"]);
    world.push("sys-kernel/lab-kernel");
    system.set_world(&world)?;
    let options = ["upgrade", "2026-11-28", "--", "--jobs=2"];
    println!("{}", system.be.run(&options).done().stdout);
    let page = system.dir().join("report.html");
    let html = page.to_string_lossy();
    system
        .be
        .run(&["log", "2026-11-28", "--html", "-o", &html])
        .done();
    let mut browser = cmd("chromium", ["--headless", "--no-sandbox", "--disable-gpu"]);
    browser.args(["--hide-scrollbars", "--window-size=1000,1250"]);
    browser.arg(format!("--screenshot={}", picture.display()));
    run(browser.arg(format!("file://{html}")))?;
    Ok(())
}

fn repository(system: &System) -> Result<()> {
    let write = |path: &str, text: &str| system.write(&format!("{REPOSITORY}/{path}"), text);
    write("profiles/repo_name", "work\n")?;
    write("metadata/layout.conf", "masters =\nthin-manifests = true\n")?;
    let categories: String = PACKAGES
        .iter()
        .filter_map(|(name, ..)| name.split_once('/'))
        .map(|(category, _)| format!("{category}\n"))
        .collect();
    write("profiles/categories", &categories)?;
    for (name, version, seconds) in PACKAGES {
        let package = name.rsplit('/').next().unwrap_or(name);
        let text = format!(
            "EAPI=8\nDESCRIPTION=\"Work\"\nHOMEPAGE=\"https://localhost/\"\nS=\"${{WORKDIR}}\"\n\
             LICENSE=\"MIT\"\nSLOT=\"0\"\nKEYWORDS=\"amd64\"\nsrc_compile() {{ sleep {seconds}; }}\n\
             src_install() {{ newbin - {package} <<<\"#!/bin/sh\"; }}\n"
        );
        write(&format!("{name}/{package}-{version}.ebuild"), &text)?;
    }
    let conf = format!("[work]\nlocation = {REPOSITORY}\nauto-sync = no\n");
    system.write("/etc/portage/repos.conf/work.conf", conf)
}
