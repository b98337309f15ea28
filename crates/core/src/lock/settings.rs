//! The settings that a lock has, of the hundreds that Portage computes.

use std::collections::BTreeMap;

/// A list of words whose order says nothing.
const WORDS: [&str; 7] = [
    "ACCEPT_KEYWORDS",
    "ACCEPT_LICENSE",
    "ACCEPT_PROPERTIES",
    "ACCEPT_RESTRICT",
    "FEATURES",
    "USE",
    "USE_EXPAND",
];

/// Those that decide what a built package looks like, besides USE and what it expands to.
const BUILD: [&str; 23] = [
    "ABI",
    "ARCH",
    "ASFLAGS",
    "BINPKG_FORMAT",
    "CBUILD",
    "CC",
    "CFLAGS",
    "CHOST",
    "CPPFLAGS",
    "CTARGET",
    "CXX",
    "CXXFLAGS",
    "DEFAULT_ABI",
    "EPREFIX",
    "FCFLAGS",
    "FFLAGS",
    "GOFLAGS",
    "INSTALL_MASK",
    "LD",
    "LDFLAGS",
    "LIBDIR",
    "MULTILIB_ABIS",
    "RUSTFLAGS",
];

/// The features that change the files of a package: make.conf(5).
const FEATURES: [&str; 8] = [
    "compressdebug",
    "dedupdebug",
    "installsources",
    "nodoc",
    "noinfo",
    "noman",
    "nostrip",
    "splitdebug",
];

/// Those that a lock has, of all: what is set, without what is empty.
pub(super) fn of(mut all: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let expanded: Vec<String> = all
        .get("USE_EXPAND")
        .map(|names| names.split_whitespace().map(str::to_owned).collect())
        .unwrap_or_default();
    all.retain(|name, value| {
        let wanted = WORDS.contains(&name.as_str()) || BUILD.contains(&name.as_str());
        !value.is_empty() && (wanted || expanded.contains(name))
    });
    for (name, value) in &mut all {
        if is_list(name) || expanded.contains(name) {
            let mut words: Vec<&str> = value.split_whitespace().collect();
            words.sort_unstable();
            words.dedup();
            *value = words.join(" ");
        }
    }
    all
}

/// Whether it is a list of words, of which single ones come and go.
pub(super) fn is_list(name: &str) -> bool {
    WORDS.contains(&name) || !BUILD.contains(&name)
}

/// What of a setting decides about a built package; none if nothing does.
pub(super) fn decisive(name: &str, value: &str) -> Option<String> {
    match name {
        "FEATURES" => {
            let words = value.split_whitespace();
            let telling: Vec<&str> = words.filter(|word| FEATURES.contains(word)).collect();
            Some(telling.join(" "))
        }
        _ if name.starts_with("ACCEPT_") || name == "USE_EXPAND" => None,
        _ => Some(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_those_that_matter_and_what_use_expands_to() {
        let all = [
            ("USE", "nls acl"),
            ("USE_EXPAND", "PYTHON_TARGETS L10N"),
            ("PYTHON_TARGETS", "python3_13 python3_12"),
            ("L10N", ""),
            ("CFLAGS", "-pipe -O2"),
            ("PATH", "/bin"),
        ];
        let all = all.map(|(k, v)| (k.to_owned(), v.to_owned()));
        let found = of(all.into_iter().collect());
        let found: Vec<_> = found.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(
            found,
            [
                ("CFLAGS", "-pipe -O2"),
                ("PYTHON_TARGETS", "python3_12 python3_13"),
                ("USE", "acl nls"),
                ("USE_EXPAND", "L10N PYTHON_TARGETS"),
            ]
        );
        assert_eq!(decisive("FEATURES", "nostrip sandbox").unwrap(), "nostrip");
        assert_eq!(decisive("ACCEPT_KEYWORDS", "amd64"), None);
    }
}
