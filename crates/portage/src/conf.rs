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
}
