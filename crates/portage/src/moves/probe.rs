//! A throw-away repository by which it shows whether a Portage still takes dependencies from
//! the metadata cache of a repository: its one ebuild says something else than its entry.

use super::cache::md5_of;
use super::repository::Repository;
use crate::emerge::Emerge;

/// Its name, and that of its only category.
const NAME: &str = "be-check";

/// What the ebuild depends on by its entry.
const EXPECTED: &str = "be-check/new";

/// Where its metadata is, below it. Portage is to find there what [`metadata`] has.
pub const METADATA: &str = "metadata";

const EBUILD: &str = "EAPI=8\nDESCRIPTION=\"A question\"\nSLOT=0\nRDEPEND=\"be-check/old\"\n";

const LAYOUT: &str = "masters =\nthin-manifests = true\ncache-formats = md5-dict\n";

/// Its files, by their paths.
#[must_use]
pub fn files() -> Vec<(&'static str, &'static str)> {
    vec![
        ("profiles/repo_name", "be-check\n"),
        ("profiles/eapi", "8\n"),
        ("profiles/categories", "be-check\n"),
        ("be-check/probe/probe-1.ebuild", EBUILD),
    ]
}

/// The files below [`METADATA`], by their paths in there.
#[must_use]
pub fn metadata() -> Vec<(&'static str, String)> {
    let sum = md5_of(EBUILD.as_bytes());
    let entry = format!(
        "DEFINED_PHASES=-\nDESCRIPTION=A question\nEAPI=8\nRDEPEND={EXPECTED}\nSLOT=0\n\
         _md5_={sum}\n"
    );
    vec![
        ("layout.conf", LAYOUT.to_owned()),
        ("md5-cache/be-check/probe-1", entry),
    ]
}

/// Ask Portage about the ebuild. The throw-away repository is at `location` in the system,
/// where `others` are configured.
#[must_use]
pub fn question(location: &str, others: &[Repository]) -> Emerge {
    let mut text = String::from("[DEFAULT]\n");
    if let Some(main) = others.iter().find(|r| r.main) {
        text.push_str(&format!("main-repo = {}\n", main.name));
    }
    let others = others.iter().filter_map(|r| {
        let location = r.location.as_ref()?;
        Some((r.name.as_str(), location.to_str()?))
    });
    for (name, location) in others.chain([(NAME, location)]) {
        text.push_str(&format!("[{name}]\nlocation = {location}\n"));
    }
    let args = [
        "portageq",
        "metadata",
        "/",
        "ebuild",
        "be-check/probe-1",
        "RDEPEND",
    ];
    Emerge {
        args: args.map(str::to_owned).to_vec(),
        env: vec![("PORTAGE_REPOSITORIES".to_owned(), text)],
    }
}

/// Whether this is the answer of a Portage that does.
#[must_use]
pub fn is_honoured(output: &str) -> bool {
    output.lines().any(|line| line.trim() == EXPECTED)
}
