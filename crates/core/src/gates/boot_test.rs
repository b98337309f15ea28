//! The gate `boot-test`: the environment is booted in a virtual machine.

use std::io::Write;

use anyhow::{Context, Result, bail};

use super::{Outcome, Scene};
use crate::log;
use crate::vm::{self, Request, Verdict};

pub(super) fn check(scene: &Scene<'_>) -> Result<Outcome> {
    let (session, name) = (scene.session, &scene.record.name);
    let request = Request::of(session);
    let tested = vm::test(session, name, &request, scene.interrupted, &mut |_| {});
    if scene.interrupted.came() {
        bail!("it was interrupted");
    }
    let tested = match tested {
        Ok(tested) => tested,
        // It says nothing about the environment.
        Err(e) => return Ok(Outcome::Unknown(format!("{e:#}").replace('\n', " "))),
    };
    if !tested.last.is_empty() {
        let mut out = log::append(&session.store, name)?;
        let text = tested.last.join("\n");
        writeln!(out, ">>> gate: the end of its boot\n{text}").context("cannot write the log")?;
    }
    let why = format!("{}, after {:.0} s", tested.why, tested.took.as_secs_f32());
    Ok(match tested.verdict {
        Verdict::Passed => Outcome::Passed(why),
        Verdict::Failed => Outcome::Failed(vec![why]),
        Verdict::Unknown => Outcome::Unknown(why),
    })
}
