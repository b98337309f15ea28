//! `be init`: adopt the system that is there. Nothing is moved.

use chrono::{DateTime, FixedOffset};

use super::create::default;
use super::{Plan, Step};
use crate::files::{self, Fact};
use crate::layout;
use crate::model::Inventory;
use crate::name::EnvName;
use crate::record::{Member, Record, State};
use crate::refusal::Refusal;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Init {
    /// Name for the running system.
    pub name: EnvName,
    /// The time.
    pub now: DateTime<FixedOffset>,
    /// Our script is in the system's /etc/grub.d, as we would write it.
    pub script_installed: bool,
    /// Our services and hooks that the system should have, and how they are.
    pub files: Vec<Fact>,
}

/// Plan the adoption; a plan without steps means that all is done already.
///
/// # Errors
/// A layout that is not supported, no GRUB, a name that is taken.
pub fn init(inv: &Inventory, request: &Init) -> Result<Plan, Refusal> {
    if inv.fs.read_only {
        return Err(Refusal::ReadOnly);
    }
    inv.undamaged()?;
    layout::supported(&inv.system)?;
    let Some(config) = &inv.menu.config else {
        return Err(Refusal::NoGrub);
    };
    let mut plan = Plan::default();
    if !inv.initialised {
        plan.steps.push(Step::MakeStore);
    }
    let running = inv.environments.iter().find(|e| e.running);
    if running.is_none() {
        inv.free_name(&request.name)?;
        let mut record = Record::new(request.name.clone(), request.now, State::Confirmed);
        record.adopted = true;
        record.grub_home.clone_from(&inv.system.grub_home);
        let layout = &inv.system.layout;
        record.boot = layout.boot.as_ref().map(|b| b.place.clone());
        record.subvolumes = layout::sources(&inv.system.root, layout)
            .into_iter()
            .map(|s| Member::new(&s.mount, s.policy, s.uuid))
            .collect();
        plan.steps.push(Step::Adopt(Box::new(record)));
    }
    if !request.script_installed {
        plan.steps.push(Step::InstallScript);
    }
    let files = files::missing(&request.files);
    plan.steps.extend(files.map(Step::InstallFile));
    let left = files::foreign(&request.files);
    plan.notes
        .extend(left.map(|file| format!("left /{} as it is: be did not write it", file.path)));
    // The menu first: a grub.cfg that reads a menu must find one.
    let name = running.map_or(&request.name, |e| e.name());
    if running.is_none() || !inv.menu.entries.iter().any(|e| e == name.as_str()) {
        plan.steps.push(Step::menu(&default(inv, name)));
    }
    if !inv.menu.hooked {
        plan.steps.push(Step::HookConfig {
            config: config.clone(),
        });
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{env, inventory, name, now};
    use super::*;

    fn request() -> Init {
        Init {
            name: name("default"),
            now: now(),
            script_installed: false,
            files: Vec::new(),
        }
    }

    #[test]
    fn a_fresh_system() {
        let mut inv = inventory(Vec::new());
        inv.initialised = false;
        inv.menu.hooked = false;
        let plan = init(&inv, &request()).unwrap();
        let [
            Step::MakeStore,
            Step::Adopt(record),
            Step::InstallScript,
            Step::WriteMenu { default, .. },
            Step::HookConfig { .. },
        ] = &plan.steps[..]
        else {
            panic!("{plan:?}");
        };
        assert_eq!(default.as_str(), "default");
        assert!(record.adopted && record.state == State::Confirmed);
        assert_eq!(record.grub_home.as_deref(), Some("boot/grub"));
    }

    #[test]
    fn a_second_time_nothing_is_left_to_do() {
        let mut inv = inventory(vec![env("default", 256).running().next()]);
        inv.menu.entries = vec!["default".into()];
        let mut request = request();
        request.script_installed = true;
        assert!(init(&inv, &request).unwrap().steps.is_empty());
    }

    #[test]
    fn files_are_written_where_nobody_else_wrote_them() {
        let mut inv = inventory(vec![env("default", 256).running().next()]);
        inv.menu.entries = vec!["default".into()];
        let mut request = request();
        request.script_installed = true;
        request.files = files::samples();
        let plan = init(&inv, &request).unwrap();
        let steps: Vec<String> = plan.steps.iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "install /etc/init.d/be-confirm",
                "enable it: /etc/runlevels/default/be-confirm"
            ]
        );
        assert_eq!(
            plan.notes,
            ["left /etc/kernel/postrm.d/zz-be as it is: be did not write it"]
        );
    }

    #[test]
    fn no_grub_no_adoption() {
        let mut inv = inventory(Vec::new());
        inv.menu.config = None;
        assert_eq!(init(&inv, &request()), Err(Refusal::NoGrub));
    }
}
