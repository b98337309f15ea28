//! make.conf(5), as far as it can be read without a shell.

/// Whether a text of make.conf adds a feature, such as `buildpkg`, to FEATURES. One that a
/// profile or a sourced file adds is not seen.
#[must_use]
pub fn has_feature(text: &str, feature: &str) -> bool {
    let mut inside = false;
    let mut has = false;
    for line in text.lines().map(str::trim) {
        let starts = line.starts_with("FEATURES=") || line.starts_with("FEATURES+=");
        if line.starts_with('#') || !(inside || starts) {
            continue;
        }
        let value = if inside {
            line
        } else {
            line.split_once('=').map_or("", |(_, v)| v)
        };
        let quotes = value.matches('"').count();
        inside = if inside { quotes == 0 } else { quotes == 1 };
        for word in value.split(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
            if word == feature {
                has = true;
            } else if word.strip_prefix('-') == Some(feature) {
                has = false;
            }
        }
    }
    has
}

/// The value that a text of make.conf gives a variable at last, if it is a plain one: with a
/// reference to another variable in it nobody but Portage knows it.
#[must_use]
pub fn plain_value<'a>(text: &'a str, variable: &str) -> Option<&'a str> {
    let mut values = text.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix(variable)?;
        rest.strip_prefix('=')
    });
    let value = values.next_back()?;
    let value = match value.chars().next()? {
        quote @ ('"' | '\'') => value[1..].split_once(quote)?.0,
        _ => value.split_whitespace().next()?,
    };
    let plain = !value.is_empty() && !value.contains(['$', '`', '\\']);
    plain.then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features() {
        let has = |text: &str| has_feature(text, "buildpkg");
        assert!(has("USE=\"x\"\nFEATURES=\"ccache buildpkg\"\n"));
        assert!(has("FEATURES=buildpkg"));
        assert!(has("FEATURES=\"${FEATURES}\n\tbuildpkg\n\"\nUSE=\"-x\"\n"));
        assert!(has("FEATURES='parallel-fetch buildpkg'"));
        assert!(!has("# FEATURES=\"buildpkg\"\n"));
        assert!(!has("FEATURES=\"-buildpkg\"\n"));
        assert!(!has("FEATURES=\"buildpkg-live\"\nUSE=\"buildpkg\"\n"));
        assert!(!has(
            "FEATURES=\"buildpkg\"\nFEATURES=\"$FEATURES -buildpkg\"\n"
        ));
        assert!(!has(""));
    }

    #[test]
    fn plain_values() {
        let value = |text| plain_value(text, "CCACHE_DIR");
        assert_eq!(
            value("CCACHE_DIR=\"/var/cache/ccache\"  # mine\n"),
            Some("/var/cache/ccache")
        );
        assert_eq!(value("CCACHE_DIR=/a\nCCACHE_DIR='/b'\n"), Some("/b"));
        assert_eq!(value("CCACHE_DIR=/a # b\n"), Some("/a"));
        assert_eq!(value("CCACHE_DIR=\"${PORTAGE_TMPDIR}/ccache\"\n"), None);
        assert_eq!(
            value("#CCACHE_DIR=/a\nXCCACHE_DIR=/b\nCCACHE_DIRS=/c\n"),
            None
        );
        assert_eq!(value("CCACHE_DIR=\"/open\n"), None);
        assert_eq!(value(""), None);
    }
}
