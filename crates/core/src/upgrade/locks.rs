//! What makes the environment, written down beside it when it is complete.

use anyhow::Result;

use super::{Request, Work};
use crate::lock::{self, Made, Scene};
use crate::upgrade::report::later;

impl Work<'_> {
    /// What was written down of an earlier result of this environment is not true any more.
    pub(super) fn forget_lock(&self) -> Result<()> {
        let path = lock::path(&self.record.name);
        match self.session.store.dir.remove_file(path) {
            Err(e) if !e.is_not_found() => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// Note down what the environment is made from, before anything is built. The lock is worth
    /// no upgrade: that it cannot be had is told.
    pub(super) fn take_made(&mut self) {
        let taken = self.scene_of(Made::take);
        match taken {
            Ok(mut made) => {
                made.moved(&self.noted.moves);
                self.made = Some(made);
            }
            Err(e) => self.tell_unlocked(&e),
        }
    }

    /// Write it down, with what it came to.
    pub(super) fn write_lock(&mut self, request: &Request) {
        let Some(made) = self.made.take() else {
            return;
        };
        let now = later(request.now);
        let done = self
            .scene_of(|scene| made.into_lock(scene, now))
            .and_then(|lock| lock::write(&self.session.store, &lock));
        if let Err(e) = done {
            self.tell_unlocked(&e);
        }
    }

    pub(super) fn scene_of<T>(&self, look: impl FnOnce(&Scene<'_>) -> Result<T>) -> Result<T> {
        let inv = self.session.observe()?;
        let scene = Scene::new(self.session, &inv, inv.get(&self.record.name)?)?;
        look(&scene)
    }

    fn tell_unlocked(&mut self, why: &anyhow::Error) {
        let name = self.record.name.clone();
        let what = format!("what {name} was made from is not written down: {why:#}");
        self.watch.note(&what);
    }
}
