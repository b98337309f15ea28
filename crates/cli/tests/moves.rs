//! `be moves` as a program, on repositories of a few files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A root with the repositories `main`, which has moved packages, and `overlay`, which has
/// not noticed.
struct System(tempfile::TempDir);

const EBUILD: &str = "# of app/user
EAPI=8
SLOT=0
DEPEND=\"
\t>=dev/old-1:4[x?]
\tdev/oldest
\"
RDEPEND=\"${DEPEND} !<dev/old-1\"
";

impl System {
    fn new() -> Self {
        let system = System(tempfile::tempdir().unwrap());
        system.put(
            "etc/portage/repos.conf/all.conf",
            "[DEFAULT]\nmain-repo = main\n\n[main]\nlocation = /repos/main\n\n\
             [overlay]\nlocation = /repos/overlay\n\n[gone]\nlocation = /repos/gone\n",
        );
        for name in ["main", "overlay"] {
            system.put(&format!("repos/{name}/profiles/repo_name"), name);
        }
        system.put("repos/overlay/metadata/layout.conf", "masters = main\n");
        system.put(
            "repos/main/profiles/updates/1Q-2026",
            "move dev/old dev/new\nslotmove dev/new 4 0\nmove dev/gone dev/nowhere\n",
        );
        system.put("repos/main/dev/new/new-2.ebuild", "EAPI=8\nSLOT=0\n");
        system.put("repos/overlay/app/user/user-1.ebuild", EBUILD);
        system.put("var/lib/portage/world", "app/user\n");
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn be(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_be"))
            .arg("moves")
            .args(arguments)
            .args([Path::new("--root"), self.0.path()])
            .env_remove("BE_SYSROOT")
            .output()
            .unwrap()
    }

    /// The exit code, and the output with the root left out.
    fn said(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let done = self.be(arguments);
        let text = String::from_utf8(done.stdout).unwrap();
        let root = self.0.path().to_str().unwrap();
        (done.status.code(), text.replace(root, "ROOT"))
    }
}

#[test]
fn old_names_are_told_with_their_places() {
    let system = System::new();
    system.put("etc/portage/package.use/mine", "# mine\n\n=dev/old-2 x\n");
    system.put("etc/portage/patches/dev/old-2/fix.patch", "");
    system.put("var/lib/portage/world", "app/user\ndev/old\ndev/gone\n");
    system.put("var/db/pkg/app/user-1/RDEPEND", "dev/old:4=\n");
    let (code, text) = system.said(&[]);
    assert_eq!(
        text,
        "dev/old -> dev/new\n\
         \x20   moved by  ROOT/repos/main/profiles/updates/1Q-2026:1\n\
         \x20   ::overlay  app/user/user-1.ebuild:8\n\
         \x20   /etc/portage/package.use/mine:3\n\
         \x20   /etc/portage/patches/dev/old-2\n\
         \x20   /var/lib/portage/world:2\n\
         dev/old:4 -> dev/new:0\n\
         \x20   moved by  ROOT/repos/main/profiles/updates/1Q-2026:1\n\
         \x20   moved by  ROOT/repos/main/profiles/updates/1Q-2026:2\n\
         \x20   ::overlay  app/user/user-1.ebuild:5\n\
         \x20   installed  /var/db/pkg/app/user-1  RDEPEND\n\
         \n2 old names in 6 places\n"
    );
    assert_eq!(code, Some(1));
}

#[test]
fn what_is_not_seen_is_said() {
    let system = System::new();
    system.put("repos/main/profiles/updates/2Q-2026", "moved dev/a dev/b\n");
    let stderr = String::from_utf8(system.be(&[]).stderr).unwrap();
    assert!(
        stderr.contains("2Q-2026:1: \"moved\" is neither move nor slotmove"),
        "{stderr}"
    );
    let unseen = "not seen: what eclasses and variables add to dependencies in overlay, where 1 \
                  of the ebuilds have no entry in the metadata cache";
    assert!(stderr.contains(unseen), "{stderr}");
}

#[test]
fn a_patch_is_printed_and_leaves_nothing_to_be_found() {
    let system = System::new();
    let (code, diff) = system.said(&["--patch"]);
    assert_eq!(
        diff,
        "--- a/app/user/user-1.ebuild\n\
         +++ b/app/user/user-1.ebuild\n\
         @@ -2,7 +2,7 @@\n\
         \x20EAPI=8\n\
         \x20SLOT=0\n\
         \x20DEPEND=\"\n\
         -\t>=dev/old-1:4[x?]\n\
         +\t>=dev/new-1:0[x?]\n\
         \x20\tdev/oldest\n\
         \x20\"\n\
         -RDEPEND=\"${DEPEND} !<dev/old-1\"\n\
         +RDEPEND=\"${DEPEND} !<dev/new-1\"\n"
    );
    assert_eq!(code, Some(1));
    let mended = EBUILD
        .replace("dev/old-1:4", "dev/new-1:0")
        .replace("dev/old-1", "dev/new-1");
    system.put("repos/overlay/app/user/user-1.ebuild", &mended);
    assert_eq!(system.said(&["--patch"]), (Some(0), String::new()));
    let clean = (Some(0), "no old name is left\n".to_owned());
    assert_eq!(system.said(&[]), clean);
}

#[test]
fn repositories_can_be_named() {
    let system = System::new();
    system.put("var/lib/portage/world", "dev/old\n");
    let overlay = system.path("repos/overlay");
    let above = system.path("repos");
    for path in [overlay, above] {
        let (code, text) = system.said(&[path.to_str().unwrap()]);
        assert!(text.ends_with("\n2 old names in 2 places\n"), "{text}");
        assert_eq!(code, Some(1));
    }
    let main = system.path("repos/main");
    assert_eq!(system.said(&[main.to_str().unwrap()]).0, Some(0));
    // Without the one that it builds upon, nothing is known of its moves.
    system.put("etc/portage/repos.conf/all.conf", "");
    let overlay = system.be(&[system.path("repos/overlay").to_str().unwrap()]);
    assert_eq!(overlay.status.code(), Some(0));
    let stderr = String::from_utf8(overlay.stderr).unwrap();
    assert!(
        stderr.contains("not seen: moves of main, which overlay builds upon"),
        "{stderr}"
    );
}

#[test]
fn the_document_has_everything() {
    let system = System::new();
    system.put(
        "repos/overlay/app/user/Manifest",
        "EBUILD user-1.ebuild 1\n",
    );
    let done = system.be(&["--json", "--patch"]);
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(document["schema"], "be/v1");
    assert_eq!(
        (&document["verb"], &document["clean"]),
        (&"moves".into(), &false.into())
    );
    let first = &document["findings"][0];
    for (key, value) in [
        ("old", "dev/old".into()),
        ("new", "dev/new".into()),
        ("kind", "ebuild".into()),
        ("repository", "overlay".into()),
        ("file", "app/user/user-1.ebuild".into()),
        ("lines", vec![8].into()),
        ("variables", Value::Array(vec![])),
        ("satisfied", true.into()),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    let by = first["moved_by"][0].as_str().unwrap();
    assert!(
        by.ends_with("/repos/main/profiles/updates/1Q-2026:1"),
        "{by}"
    );
    let patch = &document["patches"][0];
    assert_eq!(patch["manifests"][0], "app/user");
    assert!(
        patch["diff"]
            .as_str()
            .unwrap()
            .starts_with("--- a/app/user/")
    );
    assert_eq!(done.status.code(), Some(1));
}

#[test]
fn what_is_no_repository_is_named_with_the_way_out() {
    let system = System::new();
    let empty = system.path("var");
    let done = system.be(&[empty.to_str().unwrap()]);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(stderr.contains("/var is no ebuild repository"), "{stderr}");
    assert_eq!(done.status.code(), Some(1));
    system.put("etc/portage/repos.conf/all.conf", "");
    let done = system.be(&[]);
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(
        stderr.contains("next: name the directories of some: be moves REPO-DIR"),
        "{stderr}"
    );
    assert_eq!(done.status.code(), Some(3));
}
