//! Receiving: everything is made under `.work` and looked at there; the environment appears
//! by one rename, or not at all.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use be_btrfs::stream::{Apply, Command, Parent, Splitter, Touched};
use be_btrfs::{Mode, Root, SubvolumeInfo, Uuid};
use chrono::{DateTime, FixedOffset};
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;

use super::adapt::{self, Identity};
use super::frame::{Kind, Reader};
use super::header::{Header, Sent, Trailer};
use super::kept::{Kept, find};
use super::{Moved, Travel, Watch, listing, sweep};
use crate::execute::make_snapshot;
use crate::model::{Inventory, STORE};
use crate::name::{EnvName, SnapName};
use crate::plan::MIN_FREE;
use crate::record::{
    Base, Late, Member, Policy, Received, Record, Snapshot, SnapshotMember, State, Travelled,
    place, snapshot_place,
};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Lock, Paths};

/// The name of what is kept of an environment that was received.
const RECEIVED: &str = "received";

/// A stream of which the manifest was read.
pub struct Incoming<R> {
    reader: Reader<R>,
    /// What it says of itself.
    pub header: Header,
}

impl<R: Read> Incoming<R> {
    /// Read the beginning of a stream.
    ///
    /// # Errors
    /// [`Travel::NoStream`], [`Travel::Newer`], [`Travel::Cut`], [`Travel::Damaged`].
    pub fn open(from: R) -> Result<Self> {
        let mut reader = Reader::new(from)?;
        let header = Header::parse(reader.expect(Kind::Header)?)?;
        Ok(Self { reader, header })
    }
}

/// What will be made of a stream.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The name that it gets here.
    pub name: EnvName,
    /// The environment here that it is relative to.
    pub origin: Option<EnvName>,
    parents: Vec<Option<Kept>>,
}

/// Decide on a stream by its manifest.
///
/// # Errors
/// Every rule that forbids it; [`Travel::ParentMissing`].
pub fn decide(
    inv: &Inventory,
    header: &Header,
    name: Option<&EnvName>,
) -> Result<Decision, Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    let name = name.unwrap_or(&header.name);
    if inv.names().contains(&name.as_str()) {
        return Err(Refusal::Travel(Travel::NameTaken { name: name.clone() }));
    }
    let parent = |sent: &Sent| {
        let Some(uuid) = &sent.parent else {
            return Ok(None);
        };
        let missing = || {
            Refusal::Travel(Travel::ParentMissing {
                send: header.name.clone(),
                since: header.since.clone(),
                uuid: uuid.clone(),
            })
        };
        find(inv, uuid).map(Some).ok_or_else(missing)
    };
    let parents = header.subvolumes.iter().map(parent);
    let parents = parents.collect::<Result<Vec<_>, Refusal>>()?;
    if inv.fs.free < MIN_FREE {
        return Err(Refusal::NoSpace {
            free: inv.fs.free,
            needed: MIN_FREE,
        });
    }
    let origin = parents.iter().flatten().next();
    Ok(Decision {
        name: name.clone(),
        origin: origin.map(|kept| kept.named.env.clone()),
        parents,
    })
}

/// What the subvolumes of a stream are relative to, open: whatever it is called meanwhile.
pub struct Parents(Vec<Option<(Root, SubvolumeInfo)>>);

impl Decision {
    /// Open what the stream is relative to, and see that it is as it was.
    ///
    /// # Errors
    /// [`Travel::ParentChanged`].
    pub fn open(&self, session: &Session) -> Result<Parents> {
        let open = |kept: &Option<Kept>| kept.as_ref().map(|kept| kept.open(session)).transpose();
        let parents = self.parents.iter().map(open);
        Ok(Parents(parents.collect::<Result<_>>()?))
    }

    /// Decide once more when all of it has come, which may have taken hours. What happened
    /// meanwhile is no reason to lose it: if its name was taken it gets another one, which has a
    /// number at its end.
    ///
    /// # Errors
    /// A filesystem that cannot be written to.
    pub fn again(self, inv: &Inventory, header: &Header) -> Result<Self, Refusal> {
        inv.writable()?;
        let mut parents = header.subvolumes.iter().filter_map(|s| s.parent.as_ref());
        let origin = parents.find_map(|uuid| find(inv, uuid));
        Ok(Self {
            name: free_name(&inv.names(), self.name),
            origin: origin.map(|kept| kept.named.env),
            parents: self.parents,
        })
    }
}

fn free_name(taken: &[&str], name: EnvName) -> EnvName {
    // A name may have 64 letters.
    let short: String = name.as_str().chars().take(60).collect();
    let numbered = (2..1000).map(|n| format!("{short}-{n}"));
    let mut names = std::iter::once(name.to_string()).chain(numbered);
    let free = names.find(|name| !taken.contains(&name.as_str()));
    let free = free.and_then(|free| EnvName::parse(&free).ok());
    free.unwrap_or(name)
}

/// An environment that is being received. What it has so far is deleted with this value, or
/// when it was killed by the next command that has the lock.
pub struct Coming<'a> {
    session: &'a Session,
    dir: PathBuf,
    published: bool,
    _claim: Flock<File>,
}

/// The subvolumes of an environment that have come, and are what was sent.
pub struct Taken {
    subvolumes: Vec<Came>,
    /// What it was.
    pub moved: Moved,
    /// How many paths were looked at.
    pub paths: u64,
}

struct Came {
    root: Root,
    info: SubvolumeInfo,
    base: Option<Base>,
}

/// What a stream is written to.
struct Target {
    root: Root,
    parent: Option<Parent>,
    base: Option<Base>,
}

impl<'a> Coming<'a> {
    /// Make room for it.
    ///
    /// # Errors
    /// [`Refusal::Busy`] if it is being received already.
    pub fn begin(session: &'a Session, name: &EnvName, _lock: &Lock) -> Result<Self> {
        let dir = Path::new(Paths::COMING).join(name.as_str());
        let store = &session.store;
        store.dir.mkdir_all(&dir, 0o700)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(store.top.fd(), &dir, flags, FileMode::empty())
            .with_context(|| format!("cannot open /{}", dir.display()))?;
        let claim = Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock);
        let claim = claim.map_err(|_| Refusal::Busy {
            what: format!("another be receives {name}"),
        })?;
        Ok(Self {
            session,
            dir,
            published: false,
            _claim: claim,
        })
    }

    /// Take all of a stream, and look at what it has written.
    ///
    /// # Errors
    /// What is wrong with the stream, see [`Travel`]; no space.
    pub fn take<R: Read>(
        &self,
        incoming: Incoming<R>,
        parents: Parents,
        watch: Watch<'_>,
    ) -> Result<Taken> {
        let Incoming { mut reader, header } = incoming;
        let mut taken = Taken {
            subvolumes: Vec::new(),
            moved: Moved::default(),
            paths: 0,
        };
        for (sent, parent) in header.subvolumes.iter().zip(parents.0) {
            let (came, touched) = self
                .take_one(&mut reader, sent, parent, &mut taken.moved, watch)
                .with_context(|| format!("cannot receive {}", sent.mount))?;
            taken.paths += listing::verify(&mut reader, &came.root, &sent.mount, touched)?;
            taken.subvolumes.push(came);
        }
        let digest = reader.digest();
        let trailer: Trailer = serde_json::from_slice(reader.expect(Kind::Trailer)?)
            .map_err(|e| Travel::damaged(&format!("its end: {e}")))?;
        let all = (trailer.bytes, trailer.paths, trailer.digest);
        if all != (taken.moved.bytes, taken.paths, digest) {
            return Err(Travel::damaged("it is not what it says at its end").into());
        }
        taken.moved.stream = reader.read;
        reader.end()?;
        watch(taken.moved);
        Ok(taken)
    }

    fn take_one<R: Read>(
        &self,
        reader: &mut Reader<R>,
        sent: &Sent,
        parent: Option<(Root, SubvolumeInfo)>,
        moved: &mut Moved,
        watch: Watch<'_>,
    ) -> Result<(Came, Touched)> {
        let Target { root, parent, base } = self.target(sent, parent)?;
        let uuid: Uuid = sent.uuid.parse().context("a UUID is damaged")?;
        let (mut touched, mut splitter) = (Touched::default(), Splitter::new());
        let mut apply = Apply::new(&root, parent.as_ref());
        let mut transid = None;
        loop {
            let (kind, bytes) = reader.frame()?;
            match kind {
                Kind::Data => {
                    moved.bytes += bytes.len() as u64;
                    let fed = splitter.feed(bytes, |command| -> Result<()> {
                        if let Some(found) = begins(&command, uuid)? {
                            transid = Some(found);
                        }
                        touched.note(&command);
                        Ok(apply.command(&command)?)
                    });
                    fed.map_err(bad_stream)?;
                }
                Kind::EndOfData => break,
                _ => return Err(Travel::damaged("a frame is not in its place").into()),
            }
            moved.stream = reader.read;
            watch(*moved);
        }
        let transid = transid.filter(|_| splitter.is_complete());
        let transid = transid.ok_or_else(|| Travel::damaged("a subvolume has no end"))?;
        drop(apply);
        let info = self.session.store.top.seal(root.fd(), uuid, transid)?;
        Ok((Came { root, info, base }, touched))
    }

    /// The subvolume that the stream is written to: empty, or a snapshot of its parent.
    fn target(&self, sent: &Sent, parent: Option<(Root, SubvolumeInfo)>) -> Result<Target> {
        let store = &self.session.store;
        let home = store.dir.sub(&self.dir)?;
        let at = kept_place().join(place(&sent.mount));
        let (Some((parent, info)), Some(named)) = (parent, &sent.parent) else {
            let (above, name) = (at.parent(), at.file_name());
            let (above, name) = above.zip(name).context("a subvolume has no name")?;
            home.mkdir_all(above, 0o700)?;
            let above = home.sub(above)?;
            let info = store.top.create_subvolume(above.fd(), name)?;
            sweep::note(&home, info.uuid)?;
            return Ok(Target {
                root: above.sub(name)?,
                parent: None,
                base: None,
            });
        };
        // What it is relative to was sent from here: as it was then is the common ancestor with
        // what it is a snapshot of, so that what changed there since can be carried.
        let of = info.parent_uuid.filter(|_| info.received_uuid.is_none());
        let base = match of.filter(|_| sent.policy != Policy::Late) {
            Some(of) => {
                let at = Path::new("base").join(place(&sent.mount));
                let uuid = self.snapshot_of(&parent, &home, &at, Mode::ReadOnly)?.0;
                Some(Base {
                    uuid: uuid.to_string(),
                    of: of.to_string(),
                    generation: info.otransid,
                })
            }
            None => None,
        };
        let (_, root) = self.snapshot_of(&parent, &home, &at, Mode::Writable)?;
        // The stream knows nothing of them, and would have to remove what holds them.
        root.remove_placeholders()?;
        let uuid = named.parse().context("a UUID is damaged")?;
        Ok(Target {
            root,
            parent: Some(Parent { uuid, root: parent }),
            base,
        })
    }

    /// A snapshot that is known to be ours, also when what it is of is gone.
    fn snapshot_of(&self, of: &Root, home: &Root, at: &Path, mode: Mode) -> Result<(Uuid, Root)> {
        let (info, root) = make_snapshot(self.session, home, at, of, mode)?;
        sweep::note(home, info.uuid)?;
        Ok((info.uuid, root))
    }

    /// Make an environment of what has come, adapt it to this system, and let it appear.
    /// Gives its record.
    ///
    /// # Errors
    /// [`Refusal::Exists`], no space.
    pub fn publish(
        mut self,
        inv: &Inventory,
        (header, decision): (&Header, &Decision),
        taken: &Taken,
        identity: Option<Identity>,
        now: DateTime<FixedOffset>,
    ) -> Result<Record> {
        let store = &self.session.store;
        let home = store.dir.sub(&self.dir)?;
        let mut record = Record::new(decision.name.clone(), now, State::Ready);
        record.origin.clone_from(&decision.origin);
        record.description.clone_from(&header.description);
        record.received = Some(Received::new(
            header.host.clone(),
            header.filesystem.clone(),
            header.name.to_string(),
        ));
        let mut roots = Vec::new();
        for (sent, came) in header.subvolumes.iter().zip(&taken.subvolumes) {
            let (member, root) = self.member(&home, sent, came)?;
            record.subvolumes.push(member);
            roots.push((sent.mount.clone(), root));
        }
        record.snapshots.push(snapshot(header, taken, now)?);
        adapt::adapt(self.session, inv, &record, header, &roots, identity)?;
        // What be itself has written is no reason to keep what is late as it is.
        for (member, (_, root)) in record.subvolumes.iter_mut().zip(&roots) {
            if let Some(late) = &mut member.late {
                late.written = be_btrfs::subvolume_info(root)?.ctransid;
            }
        }
        home.mkdir_all("log", 0o700)?;
        store.write_new_record(&self.dir, &record)?;
        // All of it is on the disk before it is an environment.
        store.top.sync()?;
        store
            .dir
            .rename_noreplace(&self.dir, Paths::environment(&record.name))
            .with_context(|| format!("cannot publish {}", record.name))?;
        self.published = true;
        Ok(record)
    }

    /// The environment's own subvolume: a writable snapshot of what came, which stays as it is.
    fn member(&self, home: &Root, sent: &Sent, came: &Came) -> Result<(Member, Root)> {
        let place = place(&sent.mount);
        let (info, root) = make_snapshot(self.session, home, &place, &came.root, Mode::Writable)?;
        if sent.holds_store {
            root.remove_tree(STORE)
                .context("cannot take the store out of what came")?;
        }
        for holder in &sent.holders {
            if !root.exists(&holder.path)? {
                root.mkdir_all(&holder.path, 0o755)?;
                root.chown(&holder.path, holder.uid, holder.gid)?;
                root.chmod(&holder.path, holder.mode & 0o7777)?;
            }
        }
        let mut member = Member::new(&sent.mount, sent.policy, info.uuid.to_string());
        if sent.policy == Policy::Late {
            // It is cloned once more from the running system when that is left for it.
            member.late = Some(Late {
                of: sent.uuid.clone(),
                since: info.otransid,
                written: be_btrfs::subvolume_info(&root)?.ctransid,
            });
        } else {
            member.base.clone_from(&came.base);
        }
        Ok((member, root))
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        if !self.published
            && let Err(e) = sweep::discard(self.session, &self.dir)
        {
            tracing::warn!("what came so far stays until the next be: {e:#}");
        }
    }
}

fn kept_place() -> PathBuf {
    let name = SnapName::parse(RECEIVED).expect("it is a word");
    snapshot_place(&name)
}

/// What the record says of what was received and stays as it is.
fn snapshot(header: &Header, taken: &Taken, now: DateTime<FixedOffset>) -> Result<Snapshot> {
    let name = SnapName::parse(RECEIVED)?;
    let mut snapshot = Snapshot::new(name, now, State::Ready);
    snapshot.description = "as it was received, for be send --since".into();
    for (sent, came) in header.subvolumes.iter().zip(&taken.subvolumes) {
        let mut member = SnapshotMember::new(&sent.mount, came.info.uuid.to_string(), Vec::new());
        member.travelled = Some(Travelled {
            received: Some(sent.uuid.clone()),
            changed: came.info.ctransid,
        });
        snapshot.subvolumes.push(member);
    }
    Ok(snapshot)
}

/// The transaction that the first command of a stream names; it has to be of the subvolume
/// that the manifest has announced.
fn begins(command: &Command<'_>, announced: Uuid) -> Result<Option<u64>> {
    let (uuid, transid) = match *command {
        Command::Subvolume { uuid, transid } => (uuid, transid),
        Command::Snapshot { uuid, transid, .. } => (uuid, transid),
        _ => return Ok(None),
    };
    match uuid == announced {
        true => Ok(Some(transid)),
        false => Err(Travel::damaged("a subvolume is another than it says").into()),
    }
}

/// What a stream may not say is its fault, and that it goes through a link; the rest is that of
/// this filesystem.
fn bad_stream(error: anyhow::Error) -> anyhow::Error {
    let Some(found) = error.downcast_ref::<be_btrfs::Error>() else {
        return error;
    };
    let link = [Errno::LOOP, Errno::NOTDIR].map(|e| Some(e.raw_os_error()));
    let says = matches!(found.reason(), be_btrfs::Reason::BadStream(_));
    match says || link.contains(&found.errno()) {
        true => Travel::damaged(&found.to_string()).into(),
        false => error,
    }
}
