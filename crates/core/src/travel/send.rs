//! Sending: a read-only snapshot of the environment, which is kept, then the stream of it.

use std::io::{self, Read, Write, pipe};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result, bail};
use be_btrfs::Root;
use be_btrfs::stream::{END_LENGTH, Splitter, Touched, is_end, remove_dir};
use chrono::{DateTime, FixedOffset};
use nix::fcntl::{FcntlArg, fcntl};

use super::frame::{Kind, LONGEST, Writer};
use super::header::{Header, Holder, SCHEMA, Sent, Trailer};
use super::kept::{Held, Kept, chosen, identity, is_idle, latest, travelled, was_received};
use super::{Moved, Travel, Watch, adapt, listing};
use crate::execute::execute;
use crate::layout::{Layout, Source, sources};
use crate::model::{Environment, Inventory};
use crate::name::{EnvName, Named, SnapName};
use crate::plan::{self, Plan, Step};
use crate::record::{Snapshot, Travelled, as_description};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::store::{Lock, Paths};

/// The most that an unprivileged process may give a pipe by default: fewer turns between the
/// kernel, which writes the stream, and the one who reads it.
const PIPE: i32 = 1 << 20;

/// The name of what is kept of an environment that was sent.
const SENT: &str = "sent";

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Send {
    /// Which environment.
    pub env: EnvName,
    /// What that consists of.
    pub layout: Layout,
    /// Only what is different from this one, as that travelled last, or from this snapshot of
    /// one.
    pub since: Option<Named>,
    /// The time.
    pub now: DateTime<FixedOffset>,
}

/// What will be done.
#[derive(Debug, Clone)]
pub struct Sending {
    /// The snapshot that is sent.
    pub snapshot: Named,
    /// The snapshot that the stream is relative to.
    pub since: Option<Named>,
    /// What has to be done for it; nothing, where what was sent before is still as it is now.
    pub plan: Plan,
    members: Vec<Source>,
    parents: Vec<Option<Kept>>,
    env: EnvName,
    description: String,
    since_name: Option<EnvName>,
}

/// Plan to send an environment.
///
/// # Errors
/// Every rule that forbids it.
pub fn plan_send(inv: &Inventory, request: &Send) -> Result<Sending, Refusal> {
    inv.writable()?;
    inv.undamaged()?;
    let env = inv.get(&request.env)?;
    if !env.usable() && !env.running {
        return Err(Refusal::NotReady {
            name: request.env.clone(),
            state: env.state().as_str(),
        });
    }
    let root = env.root.as_ref().ok_or_else(|| Refusal::RootMissing {
        name: request.env.clone(),
    })?;
    if request.layout.boot.is_some() {
        let name = request.env.clone();
        return Err(Refusal::Travel(Travel::BootApart { name }));
    }
    let members = sources(root, &request.layout);
    let since = match &request.since {
        Some(since) => Some(kept_of(inv, since, &request.env)?),
        None => None,
    };
    let parent = |mount: &str| {
        let mut all = since.iter().flatten();
        all.find(|kept| kept.member.mount == mount).cloned()
    };
    let parents: Vec<_> = members.iter().map(|m| parent(&m.mount)).collect();
    let name = free_name(env);
    let snapshot = plan::Snapshot {
        env: request.env.clone(),
        layout: request.layout.clone(),
        name: name.clone(),
        description: "as it was sent, for be send --since".into(),
        now: request.now,
    };
    let mut plan = plan::snapshot(inv, &snapshot)?;
    for step in &mut plan.steps {
        if let Step::Snapshot(spec) = step {
            spec.snapshot.sending = true;
        }
    }
    Ok(Sending {
        snapshot: Named::snapshot(&request.env, &name),
        since: parents.iter().flatten().next().map(|k| k.named.clone()),
        plan,
        members,
        parents,
        env: request.env.clone(),
        description: env.record.description.clone(),
        since_name: request.since.as_ref().map(|since| since.env.clone()),
    })
}

/// What of `since` travelled, last or as that snapshot; its root has to be there.
fn kept_of(inv: &Inventory, since: &Named, send: &EnvName) -> Result<Vec<Kept>, Refusal> {
    let env = inv.get(&since.env)?;
    let kept = match &since.snapshot {
        Some(snapshot) => chosen(env, snapshot)?,
        None => latest(env),
    };
    let kept = kept.unwrap_or_default();
    match kept.iter().any(|kept| kept.member.mount == "/") {
        true => Ok(kept),
        false => Err(Refusal::Travel(Travel::NeverTravelled {
            name: since.clone(),
            send: match since.snapshot {
                Some(_) => send.clone(),
                None => since.env.clone(),
            },
        })),
    }
}

fn free_name(env: &Environment) -> SnapName {
    let taken: Vec<&str> = env
        .record
        .snapshots
        .iter()
        .map(|s| s.name.as_str())
        .collect();
    let names = (1..).map(|n| match n {
        1 => SENT.to_owned(),
        n => format!("{SENT}-{n}"),
    });
    let mut free = names.filter(|name| !taken.contains(&name.as_str()));
    let name = free.next().unwrap_or_default();
    SnapName::parse(&name).expect("it is a word, and a number")
}

impl Sending {
    /// How much is about to be sent, in bytes of files; what is shared among files counts
    /// each time, and what btrfs or zstd compresses as it is without.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn size(&self, session: &Session) -> Result<u64> {
        let mut bytes = 0;
        for (source, parent) in self.members.iter().zip(&self.parents) {
            let root = session.store.root_of(&source.from)?;
            let id = be_btrfs::subvolume_info(&root)?.id;
            let before = match parent {
                Some(kept) => Some(be_btrfs::subvolume_info(
                    &session.store.root_of(&kept.path)?,
                )?),
                None => None,
            };
            let since = before.as_ref().map_or(0, |info| info.ctransid);
            let base = before.map(|info| info.id);
            let top = &session.store.top;
            let mut seen = std::collections::BTreeSet::new();
            for file in top.committed_changes(id, since, base, &[])? {
                if file.kind.is_file() && seen.insert(file.inode) {
                    bytes += root.lstat(&file.path).map_or(0, |m| m.size);
                }
            }
        }
        Ok(bytes)
    }
}

/// A snapshot that is ready to be sent.
#[derive(Debug)]
pub struct Outgoing {
    /// What will be said of it.
    pub header: Header,
    /// It.
    pub snapshot: Named,
    /// It was taken for this, and not for an earlier one.
    pub fresh: bool,
    /// What it is relative to.
    since: Option<Named>,
    trees: Vec<Tree>,
    /// It, and what it is relative to.
    _held: Vec<Held>,
}

#[derive(Debug)]
struct Tree {
    root: Root,
    /// The transaction that last changed something in it.
    changed: u64,
    parent: Option<u64>,
    /// So that it stays.
    _parent: Option<Root>,
}

/// Take the snapshot that is to be sent, or take the last one where nothing was written since.
///
/// # Errors
/// [`Travel::ParentChanged`], or when the snapshot cannot be taken.
pub fn prepare(
    session: &Session,
    inv: Inventory,
    sending: &Sending,
    now: DateTime<FixedOffset>,
    lock: &Lock,
) -> Result<Outgoing> {
    let filesystem = inv.fs.uuid.clone();
    let mut parents = Vec::new();
    for parent in &sending.parents {
        parents.push(match parent {
            Some(kept) => Some(kept.open(session)?),
            None => None,
        });
    }
    let holders = holders(session, &sending.members)?;
    // What it is relative to may be it, if nothing was written; but nothing is its own parent.
    let again = still_the_same(session, &inv, sending)?;
    let again = again.filter(|snapshot| sending.since.as_ref() != Some(snapshot));
    let fresh = again.is_none();
    let snapshot = match again {
        Some(snapshot) => snapshot,
        None => {
            execute(session, inv, &sending.plan, lock)?;
            sending.snapshot.clone()
        }
    };
    let held = std::iter::once(&snapshot).chain(&sending.since);
    let held = held.map(|name| Held::of(session, name));
    let held = held.collect::<Result<_>>()?;
    let record = session.store.record_of(&sending.env)?;
    let name = snapshot.snapshot.as_ref().context("a snapshot is named")?;
    let taken = record.snapshot(name).context("the snapshot is gone")?;
    let home = Paths::environment(&sending.env).join(taken.place());
    let (mut trees, mut subvolumes) = (Vec::new(), Vec::new());
    let all = taken
        .made()
        .zip(&sending.members)
        .zip(parents.into_iter().zip(holders));
    for (((path, _), source), (parent, holders)) in all {
        let root = session.store.root_of(&home.join(path))?;
        let info = be_btrfs::subvolume_info(&root)?;
        let at = subvolumes.len();
        subvolumes.push(Sent {
            mount: source.mount.clone(),
            policy: source.policy,
            uuid: info.uuid.to_string(),
            generation: info.otransid,
            parent: sending.parents[at]
                .as_ref()
                .map(|k| identity(&k.member).to_owned()),
            holders,
            holds_store: source.holds_store,
        });
        let (parent, id) = match parent {
            Some((root, info)) => (Some(root), Some(info.id)),
            None => (None, None),
        };
        trees.push(Tree {
            root,
            changed: info.ctransid,
            parent: id,
            _parent: parent,
        });
    }
    let header = Header {
        schema: SCHEMA,
        name: sending.env.clone(),
        // As it is now it cannot be given any more; it may be older than that.
        description: as_description(&sending.description),
        sent: now,
        host: as_description(&adapt::host_name(&session.root)),
        filesystem,
        since: sending.since_name.clone(),
        subvolumes,
    };
    Ok(Outgoing {
        header,
        snapshot,
        fresh,
        since: sending.since.clone(),
        trees,
        _held: held,
    })
}

/// The snapshot that was sent last, if nothing was written to any subvolume since.
fn still_the_same(session: &Session, inv: &Inventory, sending: &Sending) -> Result<Option<Named>> {
    let env = inv.get(&sending.env)?;
    let snapshots = env.record.snapshots.iter().zip(&env.snapshots);
    let sent = |s: &Snapshot| travelled(s) && !was_received(s);
    let Some((snapshot, found)) = snapshots.rev().find(|(s, _)| sent(s)) else {
        return Ok(None);
    };
    let all = super::kept::of(env.name(), snapshot, found);
    if all.len() != sending.members.len() {
        return Ok(None);
    }
    session.store.top.sync()?;
    for (kept, source) in all.iter().zip(&sending.members) {
        let Ok((_, info)) = kept.open(session) else {
            return Ok(None);
        };
        let now = be_btrfs::subvolume_info(&session.store.root_of(&source.from)?)?;
        // A snapshot is made by a commit, in which nobody writes after it.
        let same = info.parent_uuid == Some(now.uuid) && now.ctransid <= info.otransid;
        if kept.member.mount != source.mount || !same {
            return Ok(None);
        }
    }
    Ok(all.first().map(|kept| kept.named.clone()))
}

/// The directories at which other subvolumes are, as those see them.
fn holders(session: &Session, members: &[Source]) -> Result<Vec<Vec<Holder>>> {
    let mut all = Vec::new();
    for member in members {
        let root = session.store.root_of(&member.from)?;
        let mut holders = Vec::new();
        for path in &member.nested {
            let Some(text) = path.to_str() else {
                bail!("{} is no text, which a stream needs", path.display());
            };
            let found = root.metadata(path)?;
            holders.push(Holder {
                path: text.to_owned(),
                mode: found.mode,
                uid: found.uid,
                gid: found.gid,
            });
        }
        all.push(holders);
    }
    Ok(all)
}

impl Outgoing {
    /// Write the stream. Gives what it comes to.
    ///
    /// # Errors
    /// When it cannot be read, or nobody takes it.
    pub fn stream(&self, session: &Session, to: impl Write, watch: Watch<'_>) -> Result<Moved> {
        let mut writer = Writer::new(to).context(GONE)?;
        let header = serde_json::to_vec(&self.header)?;
        writer.frame(Kind::Header, &header).context(GONE)?;
        let (mut moved, mut paths) = (Moved::default(), 0);
        for (tree, sent) in self.trees.iter().zip(&self.header.subvolumes) {
            let touched = send_one(session, tree, &mut writer, &mut moved, watch)
                .with_context(|| format!("cannot send {} of {}", sent.mount, self.header.name))?;
            paths += listing::write(&mut writer, &tree.root, touched)?;
        }
        let trailer = Trailer {
            bytes: moved.bytes,
            paths,
            digest: String::new(),
        };
        writer.trailer(trailer).context(GONE)?;
        moved.stream = writer.end().context(GONE)?;
        watch(moved);
        Ok(moved)
    }

    /// Write down that all of it was sent, and by what it is known to be unchanged: from now on
    /// a stream can be relative to it.
    ///
    /// # Errors
    /// It is not there any more, or the record cannot be written.
    pub fn mark(&self, session: &Session, inv: &Inventory, _lock: &Lock) -> Result<()> {
        let is_it = |s: &Snapshot| {
            let of = s.subvolumes.iter().map(|m| &m.uuid);
            of.eq(self.header.subvolumes.iter().map(|s| &s.uuid))
        };
        // The environment may have another name by now.
        let mut envs = inv.environments.iter().map(|env| &env.record);
        let record = envs.find(|record| record.snapshots.iter().any(is_it));
        let mut record = record.context("what was sent is gone")?.clone();
        for taken in record.snapshots.iter_mut().filter(|s| is_it(s)) {
            taken.sending = false;
            for (member, tree) in taken.subvolumes.iter_mut().zip(&self.trees) {
                member.travelled = Some(Travelled {
                    received: None,
                    changed: tree.changed,
                });
            }
        }
        let home = Paths::environment(&record.name);
        session.store.write_record(&home, &record)
    }
}

const GONE: &str = "cannot write the stream";

/// The stream of one subvolume: the kernel writes it to a pipe, in a thread of its own.
fn send_one(
    session: &Session,
    tree: &Tree,
    writer: &mut Writer<impl Write>,
    moved: &mut Moved,
    watch: Watch<'_>,
) -> Result<Touched> {
    let (mut from, to) = pipe()?;
    // A smaller one is slower, and no more than that.
    let _as_it_is = fcntl(&to, FcntlArg::F_SETPIPE_SZ(PIPE));
    thread::scope(|threads| {
        let kernel = threads.spawn(move || {
            session
                .store
                .top
                .send(tree.root.fd(), tree.parent, to.as_fd())
        });
        let read = read_all(&mut from, &tree.root, writer, moved, watch);
        // So that the kernel does not wait for a reader.
        drop(from);
        let sent = kernel.join();
        let sent = sent.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (touched, complete) = read?;
        sent?;
        match complete {
            true => Ok(touched),
            false => bail!("the kernel has sent half of it"),
        }
    })
}

fn read_all(
    from: &mut impl Read,
    root: &Root,
    writer: &mut Writer<impl Write>,
    moved: &mut Moved,
    watch: Watch<'_>,
) -> Result<(Touched, bool)> {
    let (mut touched, mut splitter) = (Touched::default(), Splitter::new());
    let mut pass = |piece: &[u8], touched: &mut Touched| -> Result<bool> {
        splitter.feed(piece, |command| {
            touched.note(&command);
            Ok::<_, anyhow::Error>(())
        })?;
        writer.frame(Kind::Data, piece).context(GONE)?;
        moved.bytes += piece.len() as u64;
        moved.stream = writer.written;
        watch(*moved);
        Ok(splitter.is_complete())
    };
    let (mut buffer, mut held) = (vec![0; LONGEST], 0);
    loop {
        let count = held + fill(from, &mut buffer[held..])?;
        // Something may have to come before the last command.
        let now = count.saturating_sub(END_LENGTH);
        pass(&buffer[..now], &mut touched)?;
        if count == buffer.len() {
            buffer.copy_within(now.., 0);
            held = count - now;
            continue;
        }
        if is_end(&buffer[now..count]) {
            for path in forgotten(&touched, root)? {
                pass(&remove_dir(&path), &mut touched)?;
            }
        }
        let complete = pass(&buffer[now..count], &mut touched)?;
        writer.frame(Kind::EndOfData, b"").context(GONE)?;
        return Ok((touched, complete));
    }
}

/// Directories that the kernel forgets to remove: it takes the number of a subvolume that lay
/// in one for that of an inode, which it waits for (`can_rmdir` of `fs/btrfs/send.c`).
fn forgotten(touched: &Touched, root: &Root) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in touched.orphans() {
        match root.lstat(path) {
            Err(e) if e.is_not_found() => found.push(path.to_owned()),
            there => drop(there?),
        }
    }
    Ok(found)
}

/// As much as there is, up to all of the buffer.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// What is to be let go of after an environment was sent: of what was sent before, the last
/// one stays, and what this one is relative to, in case the other side could not take it. After
/// a failure, what was taken for it. What others had begun to send who do so no more goes each
/// time; what is being sent, or is what that is relative to, stays.
pub fn tidy(session: &Session, inv: &Inventory, outgoing: Outgoing, sent: bool) -> Vec<Named> {
    let names = doomed(inv, &outgoing, sent);
    // It holds what was sent.
    drop(outgoing);
    let idle = names.into_iter().filter(|name| is_idle(session, name));
    idle.collect()
}

fn doomed(inv: &Inventory, outgoing: &Outgoing, sent: bool) -> Vec<Named> {
    let Ok(env) = inv.get(&outgoing.snapshot.env) else {
        return Vec::new();
    };
    let named = |s: &Snapshot| Named::snapshot(env.name(), &s.name);
    let all = || env.record.snapshots.iter().rev();
    let others = all().filter(|s| named(s) != outgoing.snapshot);
    let mut names: Vec<_> = others.clone().filter(|s| s.sending).map(named).collect();
    match sent {
        true => {
            let own = others.filter(|s| travelled(s) && !was_received(s));
            let own = own.skip(1).map(named);
            names.extend(own.filter(|name| outgoing.since.as_ref() != Some(name)));
        }
        false => names.extend(outgoing.fresh.then(|| outgoing.snapshot.clone())),
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::fixture::{env, inventory, name, now, snapshot};
    use crate::record::State;

    fn sent(e: &mut Environment, text: &str, id: u64) {
        snapshot(e, text, id);
        if let Some(last) = e.record.snapshots.last_mut() {
            last.subvolumes[0].travelled = Some(Travelled {
                received: None,
                changed: 7,
            });
        }
    }

    fn request(text: &str, since: Option<&str>) -> Send {
        Send {
            env: name(text),
            layout: Layout::default(),
            since: since.map(|since| since.parse().unwrap()),
            now: now(),
        }
    }

    #[test]
    fn the_last_one_that_travelled_is_the_parent() {
        let inv = inventory(vec![
            env("default", 256).running().next(),
            env("x", 300).with(|e| {
                sent(e, "sent", 400);
                sent(e, "sent-2", 401);
                snapshot(e, "mine", 402);
            }),
            env("y", 301),
            env("bad", 302).state(State::Failed),
        ]);
        let plan = plan_send(&inv, &request("y", Some("x"))).unwrap();
        assert_eq!(plan.since.unwrap().to_string(), "x@sent-2");
        assert_eq!(plan.snapshot.to_string(), "y@sent");
        let plan = plan_send(&inv, &request("x", None)).unwrap();
        assert_eq!(plan.snapshot.to_string(), "x@sent-3");
        assert_eq!(plan.since, None);
        let plan = plan_send(&inv, &request("x", Some("x@sent"))).unwrap();
        assert_eq!(plan.since.unwrap().to_string(), "x@sent", "an older one");
        let Some(Step::Snapshot(spec)) = plan.plan.steps.first() else {
            panic!("{:?}", plan.plan);
        };
        assert!(spec.snapshot.sending, "until it is sent");
        let refused = |of, since| plan_send(&inv, &request(of, since)).unwrap_err();
        assert!(matches!(
            refused("x", Some("y")),
            Refusal::Travel(Travel::NeverTravelled { .. })
        ));
        assert!(matches!(
            refused("x", Some("x@mine")),
            Refusal::Travel(Travel::NeverTravelled { .. })
        ));
        assert!(matches!(refused("bad", None), Refusal::NotReady { .. }));
        let mut apart = request("x", None);
        apart.layout.boot = Some(crate::layout::Boot {
            place: crate::record::Boot::new("u".into(), "ext4".into(), None),
            size: 0,
            locked_root: false,
        });
        assert!(matches!(
            plan_send(&inv, &apart),
            Err(Refusal::Travel(Travel::BootApart { .. }))
        ));
    }

    #[test]
    fn the_last_two_are_kept() {
        let inv = inventory(vec![
            env("default", 256).running().next(),
            env("x", 300).with(|e| {
                sent(e, "sent", 400);
                sent(e, "sent-2", 401);
                snapshot(e, "mine", 402);
                sent(e, "sent-3", 403);
                snapshot(e, "sent-4", 404);
                e.record.snapshots[4].sending = true;
            }),
        ]);
        let outgoing = |fresh| Outgoing {
            header: serde_json::from_value(super::super::header::tests::header()).unwrap(),
            snapshot: "x@sent-3".parse().unwrap(),
            fresh,
            since: None,
            trees: Vec::new(),
            _held: Vec::new(),
        };
        let names = |all: Vec<Named>| -> Vec<String> { all.iter().map(Named::to_string).collect() };
        let doomed = |fresh, sent| names(doomed(&inv, &outgoing(fresh), sent));
        assert_eq!(doomed(true, true), ["x@sent-4", "x@sent"]);
        assert_eq!(doomed(true, false), ["x@sent-4", "x@sent-3"]);
        assert_eq!(doomed(false, false), ["x@sent-4"]);
        let mut again = outgoing(true);
        again.since = Some("x@sent".parse().unwrap());
        assert_eq!(names(super::doomed(&inv, &again, true)), ["x@sent-4"]);
    }
}
