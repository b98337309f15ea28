//! When two subvolumes went separate ways.

use std::collections::HashMap;

use be_btrfs::{SubvolumeInfo, Tree, Uuid};

use crate::record::Base;

/// More generations of clones than anybody makes.
const MOST: usize = 4096;

/// What is known of who was cloned from whom, also of subvolumes that are gone.
#[derive(Debug, Default)]
pub struct Ancestry(HashMap<Uuid, Parent>);

#[derive(Debug, Clone, Copy)]
struct Parent {
    uuid: Uuid,
    /// The transaction of the snapshot.
    at: u64,
    /// The time of the snapshot, in seconds since 1970, where it is known.
    time: Option<i64>,
}

/// The last moment that two subvolumes have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Parted {
    /// What differs is newer than this transaction, in the one or in the other.
    pub transaction: u64,
    /// When that was, in seconds since 1970; not before it.
    pub time: i64,
}

impl Parted {
    /// Never: it is one subvolume.
    const NEVER: Self = Self {
        transaction: u64::MAX,
        time: i64::MAX,
    };
}

impl Ancestry {
    /// What btrfs knows, and what records know of bases that were removed since.
    pub fn new<'a>(tree: &Tree, bases: impl IntoIterator<Item = &'a Base>) -> Self {
        let mut parents = HashMap::new();
        for base in bases {
            if let (Ok(base_uuid), Ok(of)) = (base.uuid.parse(), base.of.parse()) {
                let parent = Parent {
                    uuid: of,
                    at: base.generation,
                    time: None,
                };
                parents.insert(base_uuid, parent);
            }
        }
        for node in tree {
            parents.extend(parent_of(node).map(|p| (node.uuid, p)));
        }
        Self(parents)
    }

    /// When two subvolumes parted; none if they have no common ancestor.
    pub fn parted(&self, a: &SubvolumeInfo, b: &SubvolumeInfo) -> Option<Parted> {
        let (of_a, of_b) = (self.chain(a), self.chain(b));
        of_a.iter().find_map(|(uuid, parted_a)| {
            let (_, parted_b) = of_b.iter().find(|(other, _)| other == uuid)?;
            Some(*parted_a.min(parted_b))
        })
    }

    /// It, the one it is a snapshot of and so on, each with when it parted from that.
    fn chain(&self, info: &SubvolumeInfo) -> Vec<(Uuid, Parted)> {
        let mut chain = Vec::new();
        if !info.uuid.is_nil() {
            chain.push((info.uuid, Parted::NEVER));
        }
        // Read from the subvolume itself: the tree is as of the last commit.
        let mut next = parent_of(info);
        let mut time = info.otime;
        while let Some(parent) = next.filter(|_| chain.len() < MOST) {
            // Where nobody knows the time, that of its own snapshot is a little later.
            time = parent.time.unwrap_or(time);
            let transaction = parent.at;
            chain.push((parent.uuid, Parted { transaction, time }));
            next = self.0.get(&parent.uuid).copied();
        }
        chain
    }
}

fn parent_of(info: &SubvolumeInfo) -> Option<Parent> {
    let uuid = info.parent_uuid.filter(|uuid| !uuid.is_nil())?;
    // Without the transaction (a kernel before 3.6) nothing can be said.
    (info.otransid > 0).then_some(Parent {
        uuid,
        at: info.otransid,
        time: Some(info.otime),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use be_btrfs::Node;

    fn uuid(n: u8) -> Uuid {
        Uuid::from_bytes([n; 16])
    }

    fn info(n: u8, parent: u8, otransid: u64) -> SubvolumeInfo {
        SubvolumeInfo {
            id: u64::from(n) + 256,
            uuid: uuid(n),
            parent_uuid: (parent > 0).then(|| uuid(parent)),
            received_uuid: None,
            parent_id: Some(5),
            dirid: Some(256),
            read_only: false,
            generation: 1000,
            ctransid: 1000,
            otransid,
            otime: 10 * otransid as i64,
        }
    }

    /// The transaction.
    fn parted(known: &Ancestry, a: &SubvolumeInfo, b: &SubvolumeInfo) -> Option<u64> {
        let parted = known.parted(a, b)?;
        assert!(parted == Parted::NEVER || parted.time >= 10 * parted.transaction as i64);
        Some(parted.transaction)
    }

    fn ancestry(known: &[SubvolumeInfo], bases: &[Base]) -> Ancestry {
        let nodes = known.iter().map(|info| Node {
            info: info.clone(),
            path: format!("{}", info.id).into(),
        });
        Ancestry::new(&Tree::new(nodes.collect()), bases)
    }

    #[test]
    fn the_first_parting_counts() {
        // 1 is the system; 2 a base of it at 20, 3 the clone of that; 4 and 5 later.
        let all = [
            info(1, 0, 7),
            info(2, 1, 20),
            info(3, 2, 21),
            info(4, 1, 40),
            info(5, 4, 41),
        ];
        let known = ancestry(&all, &[]);
        for (a, b, since) in [
            (0, 2, 20),
            (0, 4, 40),
            (2, 4, 20),
            (1, 2, 21),
            (0, 0, u64::MAX),
        ] {
            assert_eq!(parted(&known, &all[a], &all[b]), Some(since), "{a} {b}");
            assert_eq!(parted(&known, &all[b], &all[a]), Some(since), "{b} {a}");
        }
        let stranger = info(9, 8, 30);
        assert_eq!(parted(&known, &all[0], &stranger), None);
    }

    #[test]
    fn a_base_that_is_gone_is_known_from_the_record() {
        let (system, clone) = (info(1, 0, 7), info(3, 2, 21));
        let all = [system.clone(), clone.clone()];
        assert_eq!(parted(&ancestry(&all, &[]), &system, &clone), None);
        let base = Base {
            uuid: uuid(2).to_string(),
            of: uuid(1).to_string(),
            generation: 20,
        };
        let known = ancestry(&all, &[base]);
        assert_eq!(parted(&known, &system, &clone), Some(20));
        // Two clones of a base that nobody knows any more.
        let other = info(4, 2, 30);
        assert_eq!(parted(&ancestry(&[], &[]), &clone, &other), Some(21));
    }

    #[test]
    fn a_loop_ends() {
        let (a, b) = (info(1, 2, 10), info(2, 1, 11));
        let known = ancestry(&[a.clone(), b], &[]);
        assert_eq!(parted(&known, &a, &info(9, 8, 1)), None);
    }
}
