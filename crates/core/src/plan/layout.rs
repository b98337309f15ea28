//! `be layout set`: what becomes of a subvolume when an environment is created.

use std::path::Path;

use super::{Plan, Step};
use crate::layout::{Part, holds_packages, is_volume};
use crate::model::Inventory;
use crate::observe::GRUB_HOMES;
use crate::record::Policy;
use crate::refusal::Refusal;

/// Plan the choice for what is seen at `path`; a plan without steps means that it is made
/// already.
///
/// # Errors
/// [`Refusal::NotAPart`], and [`Refusal::Split`] for what belongs to packages.
pub fn set_policy(inv: &Inventory, path: &Path, policy: Policy) -> Result<Plan, Refusal> {
    inv.writable()?;
    let part = part(inv, path)?;
    if policy == Policy::Shared && is_volume(&part.subvolume.path) {
        return Err(Refusal::NotAPart {
            path: path.to_owned(),
            why: "it belongs to this environment, and goes with it".into(),
            split: false,
        });
    }
    let is_grub_home = GRUB_HOMES
        .iter()
        .any(|home| path.strip_prefix("/") == Ok(Path::new(home)));
    if policy != Policy::Shared && is_grub_home {
        return Err(Refusal::NotAPart {
            path: path.to_owned(),
            why: "one GRUB boots all environments".into(),
            split: false,
        });
    }
    if policy != Policy::Cloned && holds_packages(path) {
        return Err(Refusal::Split {
            path: path.to_owned(),
        });
    }
    let mut plan = Plan::default();
    if part.chosen && part.policy == policy {
        return Ok(plan);
    }
    plan.steps.push(Step::SetPolicy {
        mount: part.mount.clone(),
        subvolume: part.subvolume.path.clone(),
        uuid: part.subvolume.uuid.clone(),
        policy,
    });
    Ok(plan)
}

fn part<'a>(inv: &'a Inventory, path: &Path) -> Result<&'a Part, Refusal> {
    let not = |why: &str, split| Refusal::NotAPart {
        path: path.to_owned(),
        why: why.to_owned(),
        split,
    };
    if path == Path::new("/") {
        return Err(not("the root is always cloned", false));
    }
    let layout = &inv.system.layout;
    if path == Path::new("/boot") && layout.boot.is_some() {
        return Err(not(
            "every environment has its kernels in its own root",
            false,
        ));
    }
    let Some(part) = layout.part_at(path) else {
        return Err(not("it is not a subvolume of its own", true));
    };
    if !part.within.as_os_str().is_empty() {
        return Err(not("it is a directory of another subvolume", true));
    }
    if part.subvolume.is_top_level() || part.subvolume.id == inv.system.root.id {
        return Err(not("it shows a subvolume that is used otherwise", false));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::fixture::{env, inventory};
    use super::*;
    use crate::model::Subvolume;

    fn part(mount: &str, within: &str) -> Part {
        Part {
            mount: mount.into(),
            subvolume: Subvolume {
                id: 300,
                uuid: "p".into(),
                path: "@x".into(),
                generation: 1,
            },
            within: within.into(),
            listed: true,
            source: None,
            policy: Policy::Shared,
            chosen: false,
            nested: Vec::new(),
        }
    }

    #[test]
    fn only_what_is_a_subvolume_has_a_policy() {
        let mut inv = inventory(vec![env("default", 256).running().next()]);
        inv.system.layout.parts = vec![
            part("/srv", ""),
            part("/opt", ""),
            part("/var/lib/docker", "var/lib/docker"),
        ];
        let set = |path: &str, policy| set_policy(&inv, Path::new(path), policy);
        let plan = set("/srv", Policy::Late).unwrap();
        let [Step::SetPolicy { mount, policy, .. }] = &plan.steps[..] else {
            panic!("{plan:?}");
        };
        assert_eq!((mount, policy), (&PathBuf::from("/srv"), &Policy::Late));
        for path in ["/", "/home", "/var/lib/docker"] {
            let refused = set(path, Policy::Cloned);
            assert!(matches!(refused, Err(Refusal::NotAPart { .. })), "{path}");
        }
        assert!(matches!(
            set("/opt", Policy::Shared),
            Err(Refusal::Split { .. })
        ));
    }
}
