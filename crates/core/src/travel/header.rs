//! What a stream says of itself before anything else, in JSON.

use std::path::{Component, Path, PathBuf};

use be_btrfs::Uuid;
use chrono::{DateTime, FixedOffset};
use serde::{Deserialize, Serialize};

use super::Travel;
use crate::name::EnvName;
use crate::record::{Policy, no_description, place};

/// The version of the manifest. A later one may have fields that are not known here, and
/// means the same by those that are.
pub const SCHEMA: u32 = 1;

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`] of the one who wrote it; a later one is refused.
    pub schema: u32,
    /// The environment, as it is called where it comes from.
    pub name: EnvName,
    /// What its owner says of it.
    #[serde(default)]
    pub description: String,
    /// When it was sent.
    pub sent: DateTime<FixedOffset>,
    /// The machine's name, for people.
    #[serde(default)]
    pub host: String,
    /// The UUID of its btrfs: another one is another machine.
    pub filesystem: String,
    /// The environment that it is relative to, as that is called there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<EnvName>,
    /// Its own subvolumes; the first one is the root. What is shared is not sent.
    pub subvolumes: Vec<Sent>,
}

/// A subvolume that is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Where it is mounted in the environment.
    pub mount: String,
    /// How it came into the environment.
    pub policy: Policy,
    /// The UUID of the read-only snapshot that is sent.
    pub uuid: String,
    /// The transaction that made it, there.
    pub generation: u64,
    /// By which the stream names what it is relative to: the UUID of a snapshot that was
    /// sent, or received, before; none if it is all here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The directories in it at which other subvolumes were, which the stream leaves out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// A copy of the store is in it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub holds_store: bool,
}

/// A directory at which another subvolume was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its path in the subvolume.
    pub path: String,
    /// The permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What all of a stream comes to; the last frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    /// Bytes of the streams of btrfs.
    pub bytes: u64,
    /// Paths in the listings.
    pub paths: u64,
    /// The digest over all frames before this one, in hexadecimal.
    pub digest: String,
}

impl Header {
    /// Read a manifest, and look at all of it: what it names becomes paths here.
    ///
    /// # Errors
    /// [`Travel::Newer`], [`Travel::Damaged`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Travel> {
        #[derive(Deserialize)]
        struct Version {
            schema: u32,
        }
        let wrong = |e: serde_json::Error| Travel::damaged(&format!("its manifest: {e}"));
        let Version { schema: version } = serde_json::from_slice(bytes).map_err(wrong)?;
        if version > SCHEMA {
            return Err(Travel::Newer { version });
        }
        let header: Header = serde_json::from_slice(bytes).map_err(wrong)?;
        match header.wrong() {
            None => Ok(header),
            Some(why) => Err(Travel::damaged(&format!("its manifest: {why}"))),
        }
    }

    fn wrong(&self) -> Option<String> {
        const MOST: usize = 1000;
        let all = &self.subvolumes;
        if all.first().map(|s| s.mount.as_str()) != Some("/") || all.len() > MOST {
            return Some("its first subvolume is not the root".into());
        }
        let mut places: Vec<PathBuf> = all.iter().map(|s| place(&s.mount)).collect();
        places.sort();
        places.dedup();
        if places.len() != all.len() {
            return Some("two subvolumes have one place".into());
        }
        let uuid = |text: &str| text.parse::<Uuid>().is_ok_and(|uuid| !uuid.is_nil());
        if !uuid(&self.filesystem) {
            return Some("the UUID of its filesystem is damaged".into());
        }
        // They are shown, on terminals and in menus.
        let texts = [&self.host, &self.description];
        if texts.iter().any(|text| no_description(text).is_some()) {
            return Some("a text in it cannot be shown".into());
        }
        for sent in all {
            let mount = &sent.mount;
            if !is_mount(mount) {
                return Some(format!("{mount:?} is no place for a subvolume"));
            }
            if sent.policy == Policy::Shared {
                return Some(format!("{mount} is shared, which is not sent"));
            }
            if !uuid(&sent.uuid) || sent.parent.as_deref().is_some_and(|p| !uuid(p)) {
                return Some(format!("a UUID of {mount} is damaged"));
            }
            if let Some(bad) = sent.holders.iter().find(|h| !is_below(&h.path)) {
                return Some(format!("{:?} is no path in {mount}", bad.path));
            }
        }
        None
    }

    /// Whether it is relative to another environment.
    pub fn is_incremental(&self) -> bool {
        self.subvolumes.iter().any(|s| s.parent.is_some())
    }
}

/// An absolute path as be writes it, with nothing in it that a line of fstab or a message
/// could be broken with.
fn is_mount(mount: &str) -> bool {
    let below = mount.strip_prefix('/').unwrap_or("/");
    let short = place(mount)
        .file_name()
        .is_some_and(|name| name.len() <= 255);
    short && !mount.contains(char::is_control) && (below.is_empty() || is_below(below))
}

fn is_below(path: &str) -> bool {
    let normal = |c: Component| matches!(c, Component::Normal(_));
    let again: PathBuf = Path::new(path).components().collect();
    !path.is_empty()
        && !path.contains('\0')
        && again.as_os_str() == path
        && Path::new(path).components().all(normal)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    pub(in super::super) fn header() -> Value {
        json!({
            "schema": 1,
            "name": "x",
            "sent": "2026-11-20T01:02:03+01:00",
            "filesystem": "00000000-0000-0000-0000-00000000000f",
            "later": "fields are no error",
            "description": "",
            "subvolumes": [
                { "mount": "/", "policy": "cloned", "generation": 7,
                  "uuid": "00000000-0000-0000-0000-000000000001",
                  "holders": [{ "path": "var/lib/machines", "mode": 448, "uid": 0, "gid": 0 }] },
                { "mount": "/var/lib/x", "policy": "late", "generation": 7,
                  "uuid": "00000000-0000-0000-0000-000000000002",
                  "parent": "00000000-0000-0000-0000-000000000003" },
            ],
        })
    }

    fn parse(value: &Value) -> Result<Header, Travel> {
        Header::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_manifest() {
        let header = parse(&header()).unwrap();
        assert!(header.is_incremental());
        let text = serde_json::to_vec(&header).unwrap();
        assert_eq!(Header::parse(&text).unwrap(), header);
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        let bad: [(&str, Value); 17] = [
            ("/name", json!("../x")),
            ("/name", json!("")),
            ("/schema", json!("x")),
            ("/filesystem", json!("x")),
            ("/description", json!("\u{1b}[2J")),
            ("/subvolumes", json!([])),
            ("/subvolumes/0/mount", json!("/usr")),
            ("/subvolumes/1/mount", json!("/")),
            ("/subvolumes/1/mount", json!("/var/../../etc")),
            ("/subvolumes/1/mount", json!("var")),
            ("/subvolumes/1/mount", json!("//var")),
            ("/subvolumes/1/mount", json!("/a\nb")),
            ("/subvolumes/1/policy", json!("shared")),
            ("/subvolumes/1/uuid", json!("../../x")),
            (
                "/subvolumes/1/parent",
                json!("00000000-0000-0000-0000-000000000000"),
            ),
            ("/subvolumes/0/holders/0/path", json!("../../etc")),
            ("/subvolumes/0/holders/0/path", json!("/etc")),
        ];
        for (at, value) in bad {
            let mut header = header();
            *header.pointer_mut(at).unwrap() = value;
            let refused = parse(&header);
            assert!(
                matches!(refused, Err(Travel::Damaged { .. })),
                "{at}: {refused:?}"
            );
        }
        let mut later = header();
        later["schema"] = json!(2);
        assert_eq!(parse(&later), Err(Travel::Newer { version: 2 }));
        let long = json!(format!("/{}", "x".repeat(300)));
        let mut header = header();
        *header.pointer_mut("/subvolumes/1/mount").unwrap() = long;
        assert!(parse(&header).is_err());
    }
}
