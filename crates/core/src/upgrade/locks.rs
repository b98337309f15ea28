//! What makes the environment, written down beside it when it is complete.

use anyhow::Result;

use super::{Request, Work};
use crate::lock::{self, Lock, Made, Scene};
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

    /// The lock, with what the environment came to. It takes a while, in which nobody else is to
    /// wait for the store.
    pub(super) fn complete_lock(&mut self, request: &Request) -> Option<Lock> {
        let made = self.made.take()?;
        let now = later(request.now);
        let done = self.scene_of(|scene| made.into_lock(scene, now));
        done.map_err(|e| self.tell_unlocked(&e)).ok()
    }

    /// Write it down.
    pub(super) fn write_lock(&mut self, lock: Option<&Lock>) {
        if let Some(lock) = lock
            && let Err(e) = lock::write(&self.session.store, lock)
        {
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
