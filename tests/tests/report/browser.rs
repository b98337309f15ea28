//! A real browser, where one is installed: it is large, and no part of what tests need.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xtask::run::{cmd, have};

const CHROMIUM: &str = "chromium";

/// Widths of a telephone and a screen, in pixels.
const WIDTHS: [u32; 2] = [390, 1280];

pub fn is_here() -> bool {
    have(CHROMIUM)
}

/// The page has no errors, fetches nothing and is not wider than a telephone.
///
/// A window has a least width; a frame has none.
pub fn looks_well(dir: &Path, page: &Path) -> Result<()> {
    if !is_here() {
        xtask::say("there is no chromium: the page was not looked at");
        return Ok(());
    }
    for width in WIDTHS {
        let frame = dir.join("frame.html");
        fs::write(
            &frame,
            format!(
                "<!DOCTYPE html><iframe width={width} height=800 src=\"{}\"></iframe><p id=w></p>
<script>onload = () => {{
  const inner = frames[0].document.documentElement;
  w.textContent = `width ${{inner.scrollWidth}} of ${{inner.clientWidth}}`;
}}</script>",
                page.display()
            ),
        )?;
        let output = cmd(CHROMIUM, ["--headless", "--no-sandbox", "--disable-gpu"])
            .args(["--allow-file-access-from-files", "--enable-logging=stderr"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .arg(format!("--user-data-dir={}", dir.join("browser").display()))
            .args(["--window-size=1400,900", "--dump-dom"])
            .arg(format!("file://{}", frame.display()))
            .output()
            .context("start chromium")?;
        let said = String::from_utf8_lossy(&output.stderr);
        let console: Vec<&str> = said.lines().filter(|l| l.contains("CONSOLE")).collect();
        ensure!(console.is_empty(), "{console:?}");
        let dom = String::from_utf8_lossy(&output.stdout);
        let shown = dom.split("width ").find_map(|rest| {
            let (inner, rest) = rest.split_once(" of ")?;
            let outer = rest.split('<').next()?;
            Some((inner.parse::<u32>().ok()?, outer.parse::<u32>().ok()?))
        });
        let (inner, outer) = shown.with_context(|| format!("no width in {dom}\n{said}"))?;
        ensure!(
            inner <= width && outer <= width,
            "{inner} of {outer} at {width}"
        );
    }
    Ok(())
}
