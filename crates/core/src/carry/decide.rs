//! What becomes of one name that changed on the running system: pure, from what differs
//! between three trees.

use crate::diff::Aspect;

/// How a name of one tree differs from the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// In nothing; or it is in neither.
    Same,
    /// Only the tree has it.
    Added,
    /// Only the base has it.
    Removed,
    /// In these ways.
    Changed(Vec<Aspect>),
}

impl Delta {
    fn has(&self, aspect: Aspect) -> bool {
        match self {
            Delta::Same => false,
            // All of it.
            Delta::Added | Delta::Removed => true,
            Delta::Changed(aspects) => aspects.contains(&aspect),
        }
    }
}

/// One name in the three trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Three {
    /// From the base to the running system.
    pub running: Delta,
    /// From the base to the new environment.
    pub new: Delta,
    /// Where both of these have it: what differs between them.
    pub apart: Vec<Aspect>,
}

/// Which of the two a part comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum From {
    /// The running system.
    Running,
    /// The new environment.
    New,
}

/// Each part from the one that changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Content, target of a link, number of a device.
    pub content: From,
    /// Permissions.
    pub mode: From,
    /// User and group.
    pub owner: From,
    /// Extended attributes.
    pub attributes: From,
    /// Permissions, owner or attributes were changed on both sides, differently: they come
    /// from the side that is preferred.
    pub contested: bool,
}

/// What to do about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the new environment has it like that.
    Already,
    /// As the running system has it: only that side changed.
    Take,
    /// Each part from the one that changed it.
    Mix(Mix),
    /// The content was changed on both sides; the rest as in the mix.
    Merge(Mix),
    /// Both sides changed it in ways that do not go together.
    Clash(Clash),
}

/// What does not go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Clash {
    /// One side made something else of it: a link of a file, for example.
    Type,
    /// Removed on the running system, changed in the new environment.
    RemovedHere,
    /// Changed on the running system, removed in the new environment.
    RemovedThere,
}

/// Decide about a name; of what both changed besides the content, `prefer` has it.
#[must_use]
pub fn decide(three: &Three, prefer: From) -> Verdict {
    let (running, new) = (&three.running, &three.new);
    match (running, new) {
        (Delta::Same, _) => return Verdict::Already,
        (_, Delta::Same) => return Verdict::Take,
        (Delta::Removed, Delta::Removed) => return Verdict::Already,
        (Delta::Removed, _) => return Verdict::Clash(Clash::RemovedHere),
        (_, Delta::Removed) => return Verdict::Clash(Clash::RemovedThere),
        _ if three.apart.is_empty() => return Verdict::Already,
        _ => {}
    }
    let became = |delta: &Delta| matches!(delta, Delta::Changed(a) if a.contains(&Aspect::Type));
    if three.apart.contains(&Aspect::Type) || became(running) && became(new) {
        return Verdict::Clash(Clash::Type);
    }
    let mut contested = false;
    let mut part = |aspect| {
        if !three.apart.contains(&aspect) {
            return From::New;
        }
        match (running.has(aspect), new.has(aspect)) {
            (true, false) => From::Running,
            (false, _) => From::New,
            (true, true) => {
                contested = true;
                prefer
            }
        }
    };
    let (mode, owner, attributes) = (
        part(Aspect::Mode),
        part(Aspect::Owner),
        part(Aspect::Attributes),
    );
    let both = running.has(Aspect::Content) && new.has(Aspect::Content);
    let merge = both && three.apart.contains(&Aspect::Content);
    let content = match running.has(Aspect::Content) && three.apart.contains(&Aspect::Content) {
        true => From::Running,
        false => From::New,
    };
    let mix = Mix {
        content: if merge { prefer } else { content },
        mode,
        owner,
        attributes,
        contested,
    };
    match merge {
        true => Verdict::Merge(mix),
        // What the running system changed is so there: somebody did it on both sides.
        false if mix.is_new() && !mix.contested => Verdict::Already,
        false => Verdict::Mix(mix),
    }
}

impl Mix {
    /// Whether all of it is as the new environment has it.
    #[must_use]
    pub fn is_new(&self) -> bool {
        [self.content, self.mode, self.owner, self.attributes] == [From::New; 4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Aspect::{Attributes, Content, Mode, Owner, Type};

    fn three(running: Delta, new: Delta, apart: &[Aspect]) -> Three {
        Three {
            running,
            new,
            apart: apart.to_vec(),
        }
    }

    fn changed(aspects: &[Aspect]) -> Delta {
        Delta::Changed(aspects.to_vec())
    }

    /// The parts that come from the running system.
    fn parts(mix: Mix) -> Vec<Aspect> {
        let all = [
            (mix.content, Content),
            (mix.mode, Mode),
            (mix.owner, Owner),
            (mix.attributes, Attributes),
        ];
        let all = all.into_iter().filter(|(from, _)| *from == From::Running);
        all.map(|(_, aspect)| aspect).collect()
    }

    #[test]
    fn what_one_side_changed_is_taken() {
        for running in [Delta::Added, Delta::Removed, changed(&[Content])] {
            let found = decide(&three(running.clone(), Delta::Same, &[Content]), From::New);
            assert_eq!(found, Verdict::Take, "{running:?}");
            let other = decide(&three(Delta::Same, running, &[Content]), From::New);
            assert_eq!(other, Verdict::Already);
        }
    }

    #[test]
    fn the_same_on_both_sides_is_there_already() {
        for (running, new) in [
            (Delta::Removed, Delta::Removed),
            (Delta::Added, Delta::Added),
            (changed(&[Type]), changed(&[Type])),
            (changed(&[Content, Mode]), changed(&[Content, Mode])),
        ] {
            let found = decide(&three(running, new, &[]), From::Running);
            assert_eq!(found, Verdict::Already);
        }
    }

    #[test]
    fn what_does_not_go_together() {
        let clash = |running, new, apart: &[Aspect]| decide(&three(running, new, apart), From::New);
        let edited = changed(&[Content]);
        for (running, new, apart, expected) in [
            (Delta::Removed, edited.clone(), vec![], Clash::RemovedHere),
            (edited.clone(), Delta::Removed, vec![], Clash::RemovedThere),
            (changed(&[Type]), edited.clone(), vec![Type], Clash::Type),
            (edited, changed(&[Type]), vec![Type], Clash::Type),
            (
                changed(&[Type]),
                changed(&[Type]),
                vec![Content],
                Clash::Type,
            ),
            (Delta::Added, Delta::Added, vec![Type], Clash::Type),
        ] {
            assert_eq!(clash(running, new, &apart), Verdict::Clash(expected));
        }
    }

    #[test]
    fn each_part_from_the_one_that_changed_it() {
        let mode_and_content = three(changed(&[Mode]), changed(&[Content]), &[Mode, Content]);
        let Verdict::Mix(mix) = decide(&mode_and_content, From::Running) else {
            panic!("no mix");
        };
        assert_eq!((parts(mix), mix.contested), (vec![Mode], false));
        let other = three(changed(&[Content]), changed(&[Mode]), &[Mode, Content]);
        let Verdict::Mix(mix) = decide(&other, From::New) else {
            panic!("no mix");
        };
        assert_eq!((parts(mix), mix.contested), (vec![Content], false));
        // Owners differ on both sides: whoever is preferred has it.
        for prefer in [From::Running, From::New] {
            let owners = three(changed(&[Owner]), changed(&[Owner]), &[Owner]);
            let Verdict::Mix(mix) = decide(&owners, prefer) else {
                panic!("no mix");
            };
            assert_eq!((mix.owner, mix.contested), (prefer, true));
        }
    }

    #[test]
    fn what_both_did_is_done() {
        let both = three(changed(&[Mode]), changed(&[Mode, Content]), &[Content]);
        assert_eq!(decide(&both, From::Running), Verdict::Already);
    }

    #[test]
    fn content_of_both_is_merged() {
        let three = three(
            changed(&[Content, Mode]),
            changed(&[Content]),
            &[Content, Mode],
        );
        let Verdict::Merge(mix) = decide(&three, From::New) else {
            panic!("no merge");
        };
        assert_eq!((mix.mode, mix.content), (From::Running, From::New));
        // New on both sides, with another mode: nobody knows what was meant.
        let added = super::tests::three(Delta::Added, Delta::Added, &[Mode]);
        let Verdict::Mix(mix) = decide(&added, From::Running) else {
            panic!("no mix");
        };
        assert!(mix.contested && mix.mode == From::Running && mix.content == From::New);
    }
}
