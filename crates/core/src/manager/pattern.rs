//! How a line reads that names a package: a text with `{package}`, `{old}`, `{new}`, `{number}`,
//! `{total}` and `{rest}` in it.

use serde::Deserialize;

/// A line that is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Package,
    Old,
    New,
    Number,
    Total,
    /// Anything, also nothing.
    Rest,
}

/// What a line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The package.
    pub package: String,
    /// The version that goes, if the line names it.
    pub old: Option<String>,
    /// The version that comes, if the line names it.
    pub new: Option<String>,
    /// Which package it is, counted from 1, if the line says so.
    pub number: Option<u32>,
    /// How many there are, if the line says so.
    pub total: Option<u32>,
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut parts = Vec::new();
        let text = one_space(&text);
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (name, behind) = after
                .split_once('}')
                .ok_or_else(|| format!("a `{{` without `}}` in {text:?}"))?;
            let field = match name {
                "package" => Field::Package,
                "old" => Field::Old,
                "new" => Field::New,
                "number" => Field::Number,
                "total" => Field::Total,
                "rest" => Field::Rest,
                other => {
                    let known = "package, old, new, number, total, rest";
                    return Err(format!("{{{other}}} is none of {known}"));
                }
            };
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            } else if matches!(parts.last(), Some(Part::Field(_))) {
                return Err(format!("nothing between two fields in {text:?}"));
            }
            parts.push(Part::Field(field));
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        match parts.contains(&Part::Field(Field::Package)) {
            true => Ok(Self(parts)),
            false => Err(format!("there is no {{package}} in {text:?}")),
        }
    }
}

fn one_space(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Pattern {
    /// What this line says, if it reads so from its first to its last word. How many spaces
    /// are between words does not matter; no field but `{rest}` has one in it.
    pub fn find(&self, line: &str) -> Option<Found> {
        let line = one_space(line);
        let mut left = line.as_str();
        let mut found = Found::default();
        let mut parts = self.0.iter().peekable();
        while let Some(part) = parts.next() {
            let field = match part {
                Part::Text(text) => {
                    left = left.strip_prefix(text.as_str())?;
                    continue;
                }
                Part::Field(field) => *field,
            };
            let end = match parts.peek() {
                Some(Part::Text(text)) => left.find(text.as_str())?,
                _ => left.len(),
            };
            let (value, behind) = left.split_at(end);
            left = behind;
            let word = || {
                let is_word = !value.is_empty() && !value.contains(' ');
                is_word.then(|| value.to_owned())
            };
            match field {
                Field::Package => found.package = word()?,
                Field::Old => found.old = Some(word()?),
                Field::New => found.new = Some(word()?),
                // Where numbers stand below each other, a space is before the short ones.
                Field::Number => found.number = Some(value.trim().parse().ok()?),
                Field::Total => found.total = Some(value.trim().parse().ok()?),
                Field::Rest => {}
            }
        }
        left.is_empty().then_some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_from(text.to_owned()).unwrap()
    }

    fn found(package: &str, old: Option<&str>, new: Option<&str>) -> Option<Found> {
        Some(Found {
            package: package.to_owned(),
            old: old.map(str::to_owned),
            new: new.map(str::to_owned),
            ..Found::default()
        })
    }

    #[test]
    fn lines_are_taken_apart() {
        let upgrade = pattern("Inst {package} [{old}] ({new} {rest}");
        let new = pattern("Inst {package} ({new} {rest}");
        // Printed by apt 3.0.3.
        let line = "Inst hello [1] (2 localhost [all])";
        assert_eq!(upgrade.find(line), found("hello", Some("1"), Some("2")));
        assert_eq!(new.find(line), None);
        let line = "Inst more (1:3-4 localhost [amd64]) []";
        assert_eq!(upgrade.find(line), None);
        assert_eq!(new.find(line), found("more", None, Some("1:3-4")));
        assert_eq!(upgrade.find("Conf hello (2 localhost [all])"), None);
        let remove = pattern("Remv {package} [{old}]{rest}");
        assert_eq!(remove.find("Remv a [1]"), found("a", Some("1"), None));
        assert_eq!(remove.find("Remv a [1] []"), found("a", Some("1"), None));
        let table = pattern("{package} {new}");
        assert_eq!(table.find(" a   2  "), found("a", None, Some("2")));
        assert_eq!(table.find("a 2 b"), None);
        assert_eq!(table.find("a"), None);
        let counted = pattern("({number}/{total}) {package}");
        let at = counted.find("( 3/12) a").unwrap();
        assert_eq!((at.number, at.total), (Some(3), Some(12)));
        assert_eq!(counted.find("(x/12) a"), None);
    }

    #[test]
    fn what_cannot_be_a_pattern_is_told() {
        for (text, why) in [
            ("{pakage}", "none of package"),
            ("{package", "without"),
            ("{new}", "no {package}"),
            ("{package}{new}", "nothing between"),
        ] {
            let error = Pattern::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
