//! Which subvolumes share blocks, and which of them is read as the difference
//! from which other.
//!
//! Two subvolumes share blocks only if one is a snapshot of the other, or both
//! are of a third, over any number of generations. What lies in leaves that
//! are not newer than the moment at which their ways parted was once common to
//! them. Any earlier transaction than the true one will do as that moment: more
//! is then compared, and the result is the same.

use std::collections::HashMap;

use crate::{SubvolumeInfo, Tree, Uuid};

/// A snapshot that is gone, and of what it was one: it joins what is left of
/// its lineage, which is otherwise read in full once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// Its UUID.
    pub uuid: Uuid,
    /// The UUID of what it was a snapshot of.
    pub of: Uuid,
    /// The transaction that made it.
    pub otransid: u64,
}

/// A subvolume, and what is to be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Its id.
    pub id: u64,
    /// The place of the one to compare with, which stands before it, and the
    /// transaction since which they can differ. None: nothing is known, all of
    /// it is read.
    pub base: Option<(usize, u64)>,
    /// The end of the steps that build on this one and follow it at once.
    pub end: usize,
}

/// A subvolume in a lineage, there or gone.
struct Member<'a> {
    info: Option<&'a SubvolumeInfo>,
    parent: Option<Uuid>,
    otransid: u64,
}

/// All subvolumes in groups of which it is known that their members are
/// related. Whether two groups are is not known: an ancestor may be gone.
/// Every group is an order in which each follows its base.
pub(super) fn groups(tree: &Tree, gone: &[Gone]) -> Vec<Vec<Step>> {
    let mut members: HashMap<Uuid, Member> = HashMap::new();
    let mut alone: Vec<Vec<Step>> = Vec::new();
    for dead in gone {
        let member = Member {
            info: None,
            parent: Some(dead.of),
            otransid: dead.otransid,
        };
        members.insert(dead.uuid, member);
    }
    for node in tree {
        if node.uuid.is_nil() {
            alone.push(vec![whole(node.id)]);
            continue;
        }
        let member = Member {
            info: Some(&node.info),
            parent: node.parent_uuid,
            otransid: node.otransid,
        };
        members.insert(node.uuid, member);
    }
    let mut children: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
    let mut roots: Vec<Uuid> = Vec::new();
    for (uuid, member) in &members {
        match member.parent {
            Some(parent) => {
                children.entry(parent).or_default().push(*uuid);
                if !members.contains_key(&parent) {
                    roots.push(parent);
                }
            }
            None => roots.push(*uuid),
        }
    }
    for siblings in children.values_mut() {
        // By UUID too: the same order in every run.
        siblings.sort_by_key(|u| (members[u].otransid, *u.as_bytes()));
    }
    roots.sort_by_key(|u| *u.as_bytes());
    roots.dedup();
    let mut groups = alone;
    let mut placed = 0;
    for root in roots {
        let group = group(root, &members, &children);
        placed += group.len();
        groups.extend((!group.is_empty()).then(|| in_order(&group)));
    }
    // Parents in a circle are damage; nothing follows from it.
    if placed < members.values().filter(|m| m.info.is_some()).count() {
        return tree.iter().map(|node| vec![whole(node.id)]).collect();
    }
    groups
}

fn whole(id: u64) -> Step {
    let (base, end) = (None, 1);
    Step { id, base, end }
}

/// The subvolumes that descend from one, there or gone: each with the id to
/// compare with, and since when.
fn group(
    root: Uuid,
    members: &HashMap<Uuid, Member>,
    children: &HashMap<Uuid, Vec<Uuid>>,
) -> Vec<(u64, Option<(u64, u64)>)> {
    let mut group: Vec<(u64, Option<(u64, u64)>)> = Vec::new();
    // With what each is compared if that is known, and since when.
    let mut waiting: Vec<(Uuid, Option<u64>, u64)> = vec![(root, None, u64::MAX)];
    while let Some((uuid, base, since)) = waiting.pop() {
        let here = members.get(&uuid).and_then(|m| m.info);
        if let Some(info) = here {
            // Nobody above it is left: the first of the others has to do.
            let base = base.or_else(|| group.first().map(|&(id, _)| id));
            group.push((info.id, base.map(|base| (base, since))));
        }
        let siblings = children.get(&uuid).into_iter().flatten();
        // The newest is on top, and so comes before the older ones.
        let mut newer = siblings.clone().skip(1);
        for child in siblings {
            let otransid = members[child].otransid;
            // A read-only one has no changes of its own: from one to the next is
            // shorter than from each to a parent that changes all the time.
            let next = newer.next().and_then(|u| members[u].info);
            let (base, since) = match (next.filter(|n| n.read_only), here) {
                (Some(next), _) => (Some(next.id), otransid),
                (None, Some(parent)) => (Some(parent.id), otransid),
                (None, None) => (base, since.min(otransid)),
            };
            waiting.push((*child, base, since));
        }
    }
    group
}

/// Puts those that build on one right behind it.
fn in_order(group: &[(u64, Option<(u64, u64)>)]) -> Vec<Step> {
    let mut built_on: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, (_, base)) in group.iter().enumerate() {
        if let Some((base, _)) = base {
            built_on.entry(*base).or_default().push(at);
        }
    }
    let mut steps: Vec<Step> = Vec::with_capacity(group.len());
    let mut places: HashMap<u64, usize> = HashMap::new();
    let roots = (0..group.len()).filter(|&at| group[at].1.is_none());
    let mut waiting: Vec<usize> = roots.rev().collect();
    while let Some(at) = waiting.pop() {
        let (id, base) = group[at];
        let base = base.map(|(base, since)| (places[&base], since));
        places.insert(id, steps.len());
        steps.push(Step { id, base, end: 0 });
        waiting.extend(built_on.remove(&id).into_iter().flatten().rev());
    }
    for at in (0..steps.len()).rev() {
        steps[at].end = steps[at].end.max(at + 1);
        if let Some((base, _)) = steps[at].base {
            steps[base].end = steps[base].end.max(steps[at].end);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Node;

    fn uuid(n: u8) -> Uuid {
        Uuid::from_bytes([n; 16])
    }

    fn node(id: u8, parent: Option<u8>, otransid: u64, read_only: bool) -> Node {
        Node {
            info: SubvolumeInfo {
                id: id.into(),
                uuid: uuid(id),
                parent_uuid: parent.map(uuid),
                received_uuid: None,
                parent_id: Some(5),
                dirid: Some(256),
                read_only,
                generation: 0,
                ctransid: 0,
                otransid,
                otime: 0,
            },
            path: id.to_string().into(),
        }
    }

    /// Ids, with the id of the base and since when.
    fn shown(groups: Vec<Vec<Step>>) -> Vec<Vec<(u64, u64, u64)>> {
        let mut all: Vec<Vec<_>> = groups
            .iter()
            .map(|g| {
                g.iter()
                    .map(|s| {
                        let base = s.base.map_or((0, 0), |(at, since)| (g[at].id, since));
                        (s.id, base.0, base.1)
                    })
                    .collect()
            })
            .collect();
        all.sort();
        all
    }

    #[test]
    fn clones_are_compared_with_what_they_were_cloned_from() {
        let tree = Tree::new(vec![
            node(10, None, 1, false),
            node(11, Some(10), 20, false),
            node(12, Some(10), 30, false),
            node(13, Some(11), 40, false),
            node(14, None, 2, false),
        ]);
        let groups = groups(&tree, &[]);
        assert_eq!(
            shown(groups.clone()),
            [
                vec![(10, 0, 0), (12, 10, 30), (11, 10, 20), (13, 11, 40)],
                vec![(14, 0, 0)]
            ]
        );
        let first = groups.iter().find(|g| g.len() == 4).unwrap();
        let ends: Vec<usize> = first.iter().map(|s| s.end).collect();
        assert_eq!(ends, [4, 2, 4, 4]);
    }

    #[test]
    fn read_only_ones_form_a_chain() {
        let tree = Tree::new(vec![
            node(10, None, 1, false),
            node(11, Some(10), 20, true),
            node(12, Some(10), 30, true),
            node(13, Some(11), 21, false),
        ]);
        assert_eq!(
            shown(groups(&tree, &[])),
            [[(10, 0, 0), (12, 10, 30), (11, 12, 20), (13, 11, 21)]]
        );
    }

    #[test]
    fn siblings_of_a_parent_that_is_gone() {
        let tree = Tree::new(vec![
            node(11, Some(9), 20, false),
            node(12, Some(9), 30, false),
            node(13, Some(9), 40, false),
        ]);
        assert_eq!(
            shown(groups(&tree, &[])),
            [[(13, 0, 0), (12, 13, 30), (11, 13, 20)]]
        );
    }

    #[test]
    fn one_that_is_gone_joins_two_lineages() {
        let tree = Tree::new(vec![
            node(10, None, 1, false),
            node(12, Some(11), 30, false),
        ]);
        assert_eq!(groups(&tree, &[]).len(), 2);
        let gone = Gone {
            uuid: uuid(11),
            of: uuid(10),
            otransid: 20,
        };
        // They parted when the one between was made, not when the last was.
        assert_eq!(shown(groups(&tree, &[gone])), [[(10, 0, 0), (12, 10, 20)]]);
        // Two that are gone, and nobody above them.
        let tree = Tree::new(vec![
            node(13, Some(11), 30, false),
            node(14, Some(10), 25, false),
        ]);
        assert_eq!(shown(groups(&tree, &[gone])), [[(14, 0, 0), (13, 14, 20)]]);
    }

    #[test]
    fn a_circle_ends() {
        let tree = Tree::new(vec![
            node(10, Some(11), 1, false),
            node(11, Some(10), 2, false),
        ]);
        assert_eq!(groups(&tree, &[]).len(), 2);
    }
}
