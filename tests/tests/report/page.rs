//! The page: well-formed, self-contained, and nothing of a package's is taken for markup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, ensure};
use be_tests::system::System;
use xtask::run::{cmd, run};

use crate::browser;
use crate::scene::{MARKUP, prepared};

/// Reads it as XML, which is stricter than a browser: one tag that is not closed, one `&` or
/// control character that is not escaped, and it is refused.
const STRICT: &str = "import sys, xml.dom.minidom as m
d = m.parse(sys.argv[1])
for e in d.getElementsByTagName('*'):
    print(e.tagName, *sorted(e.attributes.keys()))
";

fn well_formed(page: &Path) -> Result<String> {
    run(cmd("python3", ["-c", STRICT])
        .arg(page)
        .stdin(Stdio::null()))
}

fn write_page(system: &System, name: &str) -> Result<PathBuf> {
    let file = system.dir().join(format!("{name}.html"));
    let args = ["log", name, "--html", "-o"].map(PathBuf::from);
    let args = [&args[..], std::slice::from_ref(&file)].concat();
    assert_eq!(system.be.run(&args).done().stdout, "");
    Ok(file)
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn nothing_hostile_gets_into_it() -> Result<()> {
    let system = prepared()?;
    let upgrade = ["upgrade", "new", "--", "--keep-going"];
    drop(system.be.run(&upgrade).exits(6));
    let file = write_page(&system, "new")?;
    let page = fs::read_to_string(&file)?;
    let elements = well_formed(&file)?;
    for line in elements.lines() {
        let mut words = line.split(' ');
        let tag = words.next().unwrap_or_default();
        ensure!(
            !["script", "img", "link", "iframe", "object", "image", "use"].contains(&tag),
            "{tag}"
        );
        let fetches = |a: &str| ["src", "href", "srcset", "xlink:href"].contains(&a) && tag != "a";
        ensure!(!words.any(|a| fetches(a) || a.starts_with("on")), "{line}");
    }
    assert!(
        !page.contains("http:") && !page.contains("https:"),
        "{page}"
    );
    assert!(!page.contains("@import") && !page.contains(MARKUP));
    let escaped = "&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;";
    // The failed build's log, and what the other package said.
    assert_eq!(page.matches(escaped).count(), 2);
    let control = |c: char| c.is_control() && c != '\n' && c != '\t' || c == '\u{202e}';
    assert_eq!(page.find(control), None);
    for words in [
        "app-misc/hostile-1",
        "+tk",
        "<svg",
        "prefers-color-scheme: dark",
        "viewport",
    ] {
        assert!(page.contains(words), "{words}");
    }
    assert!(elements.lines().filter(|l| *l == "title").count() > 8);

    browser::looks_well(system.dir(), &file)?;
    // The browser would tell if there were something to tell.
    let bad = page.replace("<h1>", "<h1><script>console.error('x')</script>");
    fs::write(&file, bad)?;
    assert!(browser::looks_well(system.dir(), &file).is_err() || !browser::is_here());
    let wide = page.replace(
        "<h1>",
        "<h1><i style='display:inline-block;width:500px'></i>",
    );
    fs::write(&file, wide)?;
    assert!(browser::looks_well(system.dir(), &file).is_err() || !browser::is_here());
    Ok(())
}
