//! Binary packages from other hosts: preferred where Portage is told to, and never a reason for an
//! upgrade to fail. What a host does not give whole is built.

use anyhow::{Result, bail};
use be_portage::emerge;
use be_portage::pretend::{Kind, Planned, is_to_fetch};

use super::Work;
use super::portage::is_merged;
use crate::record::{FellBack, Sources};

impl Work<'_> {
    /// Fetch all that will be merged before anything is: better now than after twelve hours.
    /// Gives what is merged then: what no host gives is built.
    pub(super) fn fetch(&mut self, mut planned: Vec<Planned>) -> Result<Vec<Planned>> {
        if !planned.iter().any(is_merged) {
            return Ok(planned);
        }
        let mut fell = Vec::new();
        loop {
            let command = emerge::fetch(&self.options);
            let Some(code) = self.tries(&command, &[0])? else {
                self.note_sources(&planned, fell)?;
                return Ok(planned);
            };
            let left = self.left_to_fetch(&planned)?;
            let known = self.options.from_source.len();
            for package in &left {
                self.give_up_on(package, &mut fell);
            }
            if self.options.from_source.len() == known {
                bail!(
                    "not all could be fetched (emerge --fetchonly: exit {code}); nothing was built"
                );
            }
            // What is built needs more than what is only unpacked.
            planned = self.preview(&emerge::pretend(&self.options))?;
        }
    }

    /// Merge. A binary package of a host that turns out bad only when it is unpacked, by its
    /// signature or by what is in it, is built: that one alone.
    pub(super) fn merge_or_build(&mut self, mut planned: Vec<Planned>) -> Result<()> {
        loop {
            let before = self.installed()?;
            let Err(error) = self.merge(&planned, &emerge::upgrade(&self.options)) else {
                return Ok(());
            };
            let installed = self.installed()?;
            let failed = self.upgrade().failed.clone();
            // One that is there all the same, and was not before, failed in its pkg_postinst.
            let bad = planned.iter().filter(|p| {
                is_remote(p)
                    && failed.contains(&p.package)
                    && installed.find(&p.package) == before.find(&p.package)
            });
            let known = self.options.from_source.len();
            let mut fell = Vec::new();
            for package in bad {
                let why = "its binary package was refused by Portage when it was unpacked";
                self.build_instead(package, why, &mut fell);
            }
            if self.interrupted.came() || self.options.from_source.len() == known {
                return Err(error);
            }
            self.note_sources(&planned, fell)?;
            planned = self.preview(&emerge::pretend(&self.options))?;
            planned = self.fetch(planned)?;
        }
    }

    /// The binary packages that have not come, or are not what the index says.
    fn left_to_fetch(&mut self, planned: &[Planned]) -> Result<Vec<Planned>> {
        let from = self.log_length()?;
        if self.emerge(&emerge::fetch_list(&self.options), |_| ())? != 0 {
            return Ok(Vec::new());
        }
        let list = self.log_since(from)?;
        let left = planned.iter().filter(|p| is_remote(p));
        let left = left.filter(|p| is_to_fetch(&list, p));
        Ok(left.cloned().collect())
    }

    /// Have a package built that did not come.
    fn give_up_on(&mut self, package: &Planned, fell: &mut Vec<FellBack>) {
        let tries = self.session.config.upgrade.fetch_tries.max(1);
        let why = match tries {
            1 => "its binary package did not come whole and valid".to_owned(),
            n => format!("its binary package did not come whole and valid in {n} tries"),
        };
        self.build_instead(package, &why, fell);
    }

    /// Have a package built, whatever the hosts have.
    fn build_instead(&mut self, package: &Planned, why: &str, fell: &mut Vec<FellBack>) {
        let Some(name) = package.cp() else { return };
        if self.options.from_source.contains(&name) {
            return;
        }
        self.watch
            .note(&format!("{} is built from source: {why}", package.package));
        self.options.from_source.push(name);
        fell.push(FellBack::new(package.package.clone(), why.to_owned()));
    }

    /// For the report.
    fn note_sources(&mut self, planned: &[Planned], fell: Vec<FellBack>) -> Result<()> {
        let mut sources = self.upgrade().sources.take().unwrap_or_default();
        for package in planned.iter().filter(|p| is_merged(p)) {
            let list = match package.kind {
                _ if is_remote(package) => &mut sources.binhost,
                Kind::Ebuild => &mut sources.built,
                // What an upgrade before it has built, or fetched.
                _ => continue,
            };
            if !list.contains(&package.package) {
                list.push(package.package.clone());
            }
        }
        // In an earlier attempt it may have come, or not.
        let Sources {
            binhost,
            built,
            fell_back,
            ..
        } = &mut sources;
        for one in fell {
            binhost.retain(|p| *p != one.package);
            fell_back.retain(|f| f.package != one.package);
            fell_back.push(one);
        }
        built.retain(|p| !binhost.contains(p));
        self.upgrade().sources = Some(sources);
        self.write_record()
    }
}

pub(super) fn is_remote(planned: &Planned) -> bool {
    planned.kind == Kind::Binary && planned.flags.remote
}
