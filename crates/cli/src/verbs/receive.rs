//! `be receive`

use std::fs::File;
use std::io::{IsTerminal, Read, stdin};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use be_core::execute::execute;
use be_core::name::EnvName;
use be_core::plan::{Plan, Step, default};
use be_core::record::Record;
use be_core::refusal::exit;
use be_core::session::Session;
use be_core::travel::{
    Coming, Decision, Header, Identity, Incoming, Parents, Taken, Travel, decide,
};
use serde_json::json;

use crate::context::{Context, Work};
use crate::reporter::{Amount, Outcome};

/// Make an environment of what be send writes, read from standard input or a file.
///
/// It is an environment only when all of it has come and is as it was sent. What came is kept
/// as NAME@received, for be send --since.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    ssh strong be send web-new --since web | be receive\n  \
    be receive web2 /mnt/usb/web.be\n  \
    be receive -n < web.be")]
pub struct Args {
    /// Which machine it is to be: the one that it was, this one, or a new one. A stream from
    /// another machine is this one if nothing is said.
    #[arg(long, value_name = "WHICH", value_enum)]
    identity: Option<Which>,
    /// Its name here; the one that it has there if not given.
    name: Option<EnvName>,
    /// Read from this file.
    #[arg(value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// See [`Identity`].
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Which {
    Keep,
    Take,
    New,
}

impl From<Which> for Identity {
    fn from(which: Which) -> Self {
        match which {
            Which::Keep => Self::Keep,
            Which::Take => Self::Take,
            Which::New => Self::New,
        }
    }
}

pub fn run(args: &Args, ctx: &mut Context) -> Result<Outcome> {
    let from = match &args.file {
        Some(path) => {
            File::open(path).with_context(|| format!("cannot open {}", path.display()))?
        }
        None if stdin().is_terminal() => return Err(Travel::FromTerminal.into()),
        None => File::from(stdin().as_fd().try_clone_to_owned()?),
    };
    let incoming = Incoming::open(from)?;
    let header = incoming.header.clone();
    let work = ctx.begin()?;
    let decision = decide(&work.inv, &header, args.name.as_ref())?;
    let parents = decision.open(&ctx.session)?;
    let identity = args.identity.map(Identity::from);
    let Some(lock) = work.lock else {
        let which = Identity::or_default(identity, &header, &work.inv.fs.uuid);
        return Ok(show(&header, &decision, which));
    };
    // One of its own, for others work with the store while it comes.
    let session = Session::open(&ctx.session.sysroot)?;
    let coming = Coming::begin(&session, &decision.name, &lock)?;
    drop(lock);
    let wanted = decision.name.clone();
    let taken = take(ctx, (&coming, &wanted), incoming, parents)?;
    let work = ctx.begin_patiently()?;
    let decision = decision.again(&work.inv, &header)?;
    let about = (&header, &decision);
    let record = coming.publish(&work.inv, about, &taken, identity, ctx.now)?;
    if record.name != wanted {
        let name = &record.name;
        let taken = format!("there is an environment {wanted} by now: what came is {name}");
        ctx.reporter.note(&taken);
    }
    finish(ctx, work, &record, &taken)
}

fn take<R: Read>(
    ctx: &mut Context,
    (coming, name): (&Coming, &EnvName),
    incoming: Incoming<R>,
    parents: Parents,
) -> Result<Taken> {
    let reporter = &mut *ctx.reporter;
    let what = format!("receiving {name}");
    let taken = coming.take(incoming, parents, &mut |moved| reporter.moved(&what, moved));
    ctx.reporter.moved_all();
    taken
}

/// Its entry in the menu, if it would boot here.
fn finish(ctx: &mut Context, work: Work, record: &Record, taken: &Taken) -> Result<Outcome> {
    let Work { lock, inv } = work;
    let lock = lock.context("the lock is held")?;
    let running = inv.running()?.name().clone();
    let plan = Plan {
        steps: vec![Step::menu(&default(&inv, &running))],
        notes: Vec::new(),
    };
    execute(&ctx.session, inv, &plan, &lock)?;
    let inv = ctx.session.observe()?;
    let env = inv.get(&record.name)?;
    let found = ctx.session.examine(&inv, env)?;
    let bootable = found.problems.is_empty();
    let name = &record.name;
    let mut notes = vec![format!(
        "received {}, in a stream of {}; {} paths are as they were sent",
        Amount(taken.moved.bytes),
        Amount(taken.moved.stream),
        taken.paths
    )];
    if !bootable {
        notes.push(format!(
            "{name} is complete, but would not boot here and has no entry in the menu: {}; be \
             shell {name} to mend it, then be check {name} and be menu",
            found.problems.join("; ")
        ));
    }
    let code = if bootable {
        exit::DONE
    } else {
        exit::NOT_BOOTABLE
    };
    Ok(Outcome::new(json!({
        "environment": name,
        "origin": record.origin,
        "received": record.received,
        "bytes": taken.moved.bytes,
        "stream_bytes": taken.moved.stream,
        "paths": taken.paths,
        "bootable": bootable,
        "problems": found.problems,
    }))
    .text(format!("{name}\n"))
    .notes(notes)
    .code(code))
}

fn show(header: &Header, decision: &Decision, identity: Identity) -> Outcome {
    let mounts: Vec<_> = header.subvolumes.iter().map(|s| s.mount.as_str()).collect();
    let from = match header.host.as_str() {
        "" => header.filesystem.as_str(),
        host => host,
    };
    let relative = match &decision.origin {
        Some(origin) => format!(", relative to {origin}, which is here"),
        None => String::new(),
    };
    let text = format!(
        "would receive {} of {from} as {}{relative}: {}; identity: {}\n",
        header.name,
        decision.name,
        mounts.join(", "),
        identity.as_str()
    );
    Outcome::new(json!({
        "dry_run": true,
        "environment": decision.name,
        "origin": decision.origin,
        "header": header,
        "identity": identity.as_str(),
    }))
    .text(text)
}
