//! Inventories for the tests of plans.

use chrono::{DateTime, FixedOffset};

use crate::layout::Layout;
use crate::model::SnapshotState;
use crate::model::{
    Environment, Filesystem, GrubConfig, Inventory, MenuState, Place, Subvolume, System,
};
use crate::name::{EnvName, SnapName};
use crate::record::{Member, Policy, Record, Snapshot, SnapshotMember, State};

pub(crate) fn now() -> DateTime<FixedOffset> {
    DateTime::parse_from_rfc3339("2026-11-20T01:02:03+01:00").unwrap()
}

pub(crate) fn name(text: &str) -> EnvName {
    EnvName::parse(text).unwrap()
}

pub(crate) struct Builder(Environment);

pub(crate) fn env(text: &str, id: u64) -> Builder {
    let uuid = format!("uuid-{id}");
    let mut record = Record::new(name(text), now(), State::Confirmed);
    record
        .subvolumes
        .push(Member::new("/", Policy::Cloned, uuid.clone()));
    let root = Subvolume {
        id,
        uuid,
        path: format!("@be/{text}/root").into(),
        generation: 10,
    };
    let mut env = Environment::new(record, Some(root.clone()));
    env.subvolumes = vec![Some(root)];
    Builder(env)
}

/// A snapshot of the root, with this id.
pub(crate) fn snapshot(env: &mut Environment, text: &str, id: u64) {
    let name = SnapName::parse(text).unwrap();
    let uuid = format!("uuid-{id}");
    let mut snapshot = Snapshot::new(name, now(), State::Confirmed);
    snapshot.subvolumes = vec![SnapshotMember::new("/", uuid.clone(), Vec::new())];
    env.snapshots.push(SnapshotState {
        subvolumes: vec![Some(Subvolume {
            id,
            uuid,
            path: format!("@be/{}/snap/{text}/root", env.name()).into(),
            generation: 10,
        })],
        mounted: Vec::new(),
    });
    env.record.snapshots.push(snapshot);
}

impl Builder {
    pub(crate) fn running(mut self) -> Self {
        self.0.running = true;
        self
    }
    pub(crate) fn next(mut self) -> Self {
        self.0.next = true;
        self.0.default = true;
        self
    }
    pub(crate) fn state(mut self, state: State) -> Self {
        self.0.record.state = state;
        self
    }
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Environment)) -> Self {
        change(&mut self.0);
        self
    }
}

pub(crate) fn inventory(environments: Vec<Builder>) -> Inventory {
    let environments: Vec<_> = environments.into_iter().map(|b| b.0).collect();
    let root = environments
        .iter()
        .find(|e| e.running)
        .and_then(|e| e.root.clone());
    Inventory {
        sysroot: "/".into(),
        fs: Filesystem {
            uuid: "f".into(),
            device: "/dev/x".into(),
            number: "0:30".into(),
            partuuid: None,
            read_only: false,
            free: 10 << 30,
            default_subvolume: 5,
            quotas: false,
        },
        system: System {
            root: root.unwrap_or(Subvolume {
                id: 5,
                uuid: "top".into(),
                path: "".into(),
                generation: 9,
            }),
            layout: Layout::default(),
            mounts: Vec::new(),
            grub_home: Some("boot/grub".into()),
            swapfiles: Vec::new(),
        },
        initialised: true,
        environments,
        damaged: Vec::new(),
        leftovers: Vec::new(),
        menu: MenuState {
            config: Some(GrubConfig {
                place: Place::InRoot {
                    root: "@".into(),
                    path: "boot/grub/grub.cfg".into(),
                },
                shown: "/boot/grub/grub.cfg".into(),
            }),
            hooked: true,
            ..MenuState::default()
        },
    }
}
