//! What the report says is what happened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use be_tests::system::{GONE, System};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::scene::{MARKUP, mend, prepared};

fn report(system: &System, name: &str) -> Value {
    system.be.run(&["--json", "log", name]).done().json()["report"].clone()
}

fn strings(list: &Value, key: &str) -> Vec<String> {
    let each = list.as_array().into_iter().flatten();
    each.filter_map(|v| v[key].as_str().map(str::to_owned))
        .collect()
}

/// `category/name-version` of what is installed below a root.
fn installed(root: &std::path::Path) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for category in fs::read_dir(root.join("var/db/pkg"))? {
        let category = category?;
        for package in fs::read_dir(category.path())? {
            let (category, package) = (category.file_name(), package?.file_name());
            found.insert(format!("{}/{}", category.display(), package.display()));
        }
    }
    Ok(found)
}

/// How long each package took, by emerge's own log.
fn took(log: &str) -> BTreeMap<String, u64> {
    let mut begun = BTreeMap::new();
    let mut took = BTreeMap::new();
    for line in log.lines() {
        let Some((time, text)) = line.split_once(": ") else {
            continue;
        };
        let (Ok(time), words) = (time.parse::<u64>(), text.split_whitespace()) else {
            continue;
        };
        let words: Vec<&str> = words.collect();
        match words[..] {
            [">>>", "emerge", _, "of", _, package, ..] => {
                begun.insert(package.to_owned(), time);
            }
            [":::", "completed", "emerge", _, "of", _, package, ..] => {
                took.insert(package.to_owned(), time - begun[package]);
            }
            _ => {}
        }
    }
    took
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_failed_one_and_how_it_went_on() -> Result<()> {
    let system = prepared()?;
    let upgrade = ["upgrade", "new", "--", "--keep-going", "--jobs=2"];
    drop(system.be.run(&upgrade).exits(6).says(&["hostile"]));
    let failed = report(&system, "new");
    assert_eq!(failed["verdict"], "failed");
    assert_eq!(failed["environment"], "new");
    assert_eq!(failed["origin"], "default");
    assert_eq!(failed["options"], json!(["--keep-going", "--jobs=2"]));
    let error = &system.record("new")?["upgrade"]["error"];
    assert_eq!(failed["attempts"][0]["words"], *error);

    // Packages, as the databases of both sides have them.
    let (base, root) = (system.top("@be/new/base/root"), system.env("new", ""));
    let (before, after) = (installed(&base)?, installed(&root)?);
    let packages = &failed["result"]["packages"];
    let told = |list: &str, version: &str| -> BTreeSet<String> {
        let each = packages[list].as_array().into_iter().flatten();
        each.map(|p| format!("{}-{}", p["package"], p[version]).replace('"', ""))
            .collect()
    };
    let gone = &told("upgraded", "from") | &told("removed", "version");
    assert_eq!(gone, &before - &after);
    let came = &told("upgraded", "to") | &told("added", "version");
    assert_eq!(came, &after - &before);
    assert!(came.contains("app-misc/hello-2") && came.contains("app-misc/talkative-1"));
    let flags = &packages["rebuilt"][0];
    assert_eq!(flags["package"], "app-misc/flags");
    assert_eq!(
        (&flags["use_enabled"], &flags["use_disabled"]),
        (&json!(["tk"]), &json!(["nls"]))
    );

    // Times, as emerge's log has them.
    let log = fs::read_to_string(root.join("var/log/emerge.log"))?;
    let from = fs::read_to_string(base.join("var/log/emerge.log"))?.len();
    let times = took(&log[from..]);
    assert!(times.len() >= 5, "{times:?}");
    let builds = failed["builds"].as_array().context("builds")?;
    let merged = builds.iter().filter(|b| b["fate"] == "merged");
    let merged = merged.map(|b| (b["package"].as_str(), b["seconds"].as_u64()));
    let merged: BTreeMap<String, u64> = merged
        .filter_map(|(p, s)| Some((p?.to_owned(), s?)))
        .collect();
    assert_eq!(merged, times);
    let broken = builds.iter().find(|b| b["package"] == "app-misc/hostile-1");
    assert_eq!(broken.context("hostile")?["fate"], "failed");

    let failure = &failed["failures"][0];
    assert_eq!(failed["failures"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&failure["what"], &failure["stage"]),
        (&json!("app-misc/hostile-1"), &json!("build"))
    );
    let lines = failure["lines"].as_array().context("lines")?;
    assert!(lines.iter().any(|l| l == MARKUP), "{lines:?}");
    let red = lines.iter().find_map(|l| l.as_str()?.strip_prefix("red "));
    assert!(!red.context("red")?.contains(char::is_control), "{red:?}");

    // What is left, and what was said.
    let result = &failed["result"];
    assert_eq!(
        strings(&result["debt"]["config"], "target"),
        ["/etc/confy.conf"]
    );
    let said = result["messages"].as_array().context("messages")?;
    let warning = said
        .iter()
        .find(|m| m["class"] == "WARN")
        .context("a warning")?;
    assert_eq!(warning["package"], "app-misc/talkative-1");
    assert_eq!(warning["lines"], json!([MARKUP]));
    let (old, new) = (&failed["kernels"]["before"], &failed["kernels"]["after"]);
    assert_eq!(new.as_array().map(Vec::len), Some(2));
    assert_eq!(old.as_array().map(Vec::len), Some(1));
    assert_eq!(new[1], old[0]);
    assert!(result["space"]["exclusive"].as_u64() > Some(0));
    assert!(result["space"]["referenced"].as_u64() > result["space"]["exclusive"].as_u64());

    // What it was made from.
    let head = system.env("new", "var/db/repos/gentoo/.git/refs/heads/master");
    let commit = fs::read_to_string(head)?;
    let repositories = failed["repositories"].as_array().context("repositories")?;
    assert_eq!(repositories[0]["path"], "/var/db/repos/gentoo");
    assert_eq!(repositories[0]["state"], commit.trim());
    assert_ne!(repositories[0]["before"], repositories[0]["state"]);
    assert_eq!(repositories[1]["state"], "Sat, 28 Nov 2026 10:00:00 +0000");
    assert_eq!(failed["inputs"], system.record("new")?["upgrade"]["inputs"]);
    let phases = strings(&failed["phases"], "phase");
    assert_eq!(phases, ["clone", "sync", "preview", "fetch", "merge"]);
    assert_eq!(failed["programs"], json!([]));

    // It goes on, and the report is of all that was.
    mend(&system, "new");
    system.be.run(&["upgrade", "--continue", "new"]).done();
    let done = report(&system, "new");
    assert_eq!(done["verdict"], "ready");
    let attempts = strings(&done["attempts"], "verdict");
    assert_eq!(attempts, ["failed", "ready"]);
    assert_eq!(done["failures"], failed["failures"]);
    let again = strings(&done["phases"], "phase");
    let rest = [
        "preview",
        "fetch",
        "merge",
        "chores",
        "configuration",
        "check",
    ];
    assert_eq!(again[5..], rest);
    let programs = done["programs"].as_array().context("programs")?;
    let ran: Vec<_> = programs
        .iter()
        .map(|p| (&p["kind"], &p["name"], &p["well"]))
        .collect();
    let hook = "/etc/be/upgrade.d/after-merge/tidy";
    let well = json!(true);
    assert_eq!(ran[0], (&json!("hook"), &json!(hook), &well));
    assert_eq!(ran[1], (&json!("chore"), &json!("module-rebuild"), &well));
    let removed = strings(&done["result"]["packages"]["removed"], "package");
    assert_eq!(removed, ["app-misc/slow"]);
    let shown = system.be.run(&["log", "new"]).done().stdout;
    for words in [
        "new: ready",
        "app-misc/flags",
        "+tk -nls",
        "merge the new /etc/confy.conf",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }

    // What becomes of the environment later changes nothing.
    let tidy =
        "rm -r /var/log/emerge.log /var/log/portage /var/db/pkg/app-misc /etc/._cfg* /boot/*";
    system
        .be
        .run(&["exec", "new", "--", "sh", "-c", tidy])
        .done();
    assert_eq!(report(&system, "new"), done);
    system.be.run(&["rename", "new", "renamed"]).done();
    let mut renamed = report(&system, "renamed");
    renamed["environment"] = json!("new");
    assert_eq!(renamed, done);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn what_was_killed_has_what_is_known() -> Result<()> {
    let system = System::adopted_lab()?;
    system.set_world(&["app-misc/hello", "app-misc/slow"])?;
    system.set_slow(4)?;
    let nothing = system.be.run(&["log", "--html", "default"]).exits(77);
    drop(nothing.says(&["there is no report of default"]));
    let mut be = system.be.start(&["upgrade", "cut"])?;
    be.until("a build", || system.builds_slow("cut").then_some(()))?;
    assert_eq!(report(&system, "cut")["verdict"], "running");
    be.signal(Signal::SIGKILL)?;
    be.end()?;
    system.quiet_within(GONE)?;

    let cut = report(&system, "cut");
    assert_eq!(cut["verdict"], "cut-off");
    let builds = cut["builds"].as_array().context("builds")?;
    let slow = builds.iter().find(|b| b["package"] == "app-misc/slow-2");
    assert_eq!(slow.context("slow")?["fate"], "begun");
    let failure = &cut["failures"][0];
    assert_eq!(failure["what"], "app-misc/slow-2");
    let last = failure["lines"].as_array().and_then(|l| l.last()).cloned();
    let last = last.context("its log")?;
    assert!(
        last.as_str()
            .is_some_and(|l| l.starts_with("compiling part")),
        "{last}"
    );
    let page = system.be.run(&["log", "--html", "cut"]).done().stdout;
    assert!(page.contains("be upgrade --continue cut goes on"));

    // A power cut may leave half a line.
    let journal = system.top("@be/cut/log/upgrade.jsonl");
    let whole = fs::read_to_string(&journal)?;
    fs::write(&journal, format!("{whole}{{\"at\":\"2026-"))?;
    system.be.run(&["upgrade", "--continue", "cut"]).done();
    let done = report(&system, "cut");
    assert_eq!(strings(&done["attempts"], "verdict"), ["cut-off", "ready"]);
    assert_eq!(done["failures"][0]["lines"], failure["lines"]);
    let fates = strings(&done["builds"], "fate");
    assert_eq!(fates.iter().filter(|f| *f == "begun").count(), 1);
    Ok(())
}

#[test]
#[ignore = "needs root, loop devices and the lab"]
fn a_command_that_failed_is_shown_with_its_output() -> Result<()> {
    let system = System::adopted_lab()?;
    let upgrade = ["upgrade", "new", "--", "app-misc/nowhere"];
    drop(system.be.run(&upgrade).exits(6));
    let failed = report(&system, "new");
    let failure = &failed["failures"][0];
    assert!(
        failure["what"]
            .as_str()
            .is_some_and(|w| w.contains("--pretend")),
        "{failure}"
    );
    let lines = failure["lines"].to_string();
    assert!(lines.contains("app-misc/nowhere"), "{lines}");
    assert_eq!(failed["builds"], json!([]));
    Ok(())
}
