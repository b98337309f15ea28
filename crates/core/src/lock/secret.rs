//! What others must not see: keys, passwords and tokens. A file that looks like one that has some
//! is withheld; it is better to withhold one too many.

/// What is in the name of a variable or an option that holds one.
const NAMES: [&str; 4] = ["PASSW", "PASSPHRASE", "SECRET", "TOKEN"];

/// Who logs in there is nobody's secret: a key proves it.
const BY_KEY: [&str; 5] = ["git", "git+ssh", "ssh", "ssh+git", "svn+ssh"];

/// Whether there is one in the text of a file.
pub(super) fn is_in(text: &str) -> bool {
    let upper = text.to_ascii_uppercase();
    // Programs have variables of such names, and help texts such options.
    let is_patch = text.lines().any(|line| line.starts_with("@@ -"));
    upper.contains("PRIVATE KEY-----")
        || upper.contains("AUTHORIZATION:")
        || text.split(is_between).any(is_login)
        || (!is_patch && upper.lines().any(is_named))
}

/// An address without what is proven by in it: for HTTP also without a name, which may be a token.
pub(super) fn without(uri: &str) -> String {
    let Some((scheme, who, rest)) = login(uri) else {
        return uri.to_owned();
    };
    match who.split_once(':').map_or(who, |(name, _)| name) {
        name if !scheme.starts_with("http") => format!("{scheme}://{name}@{rest}"),
        _ => format!("{scheme}://{rest}"),
    }
}

/// What ends an address in a text.
fn is_between(c: char) -> bool {
    c.is_whitespace() || "\"'`<>()".contains(c)
}

/// Scheme, name with password, and the rest of an address.
fn login(uri: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = uri.split_once("://")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (authority, _) = rest.split_at(end);
    let has_port = |(_, port): (&str, &str)| port.bytes().all(|b| b.is_ascii_digit());
    let at = match authority.rfind('@') {
        Some(at) => at,
        // The slash belongs to the password.
        None if authority.rsplit_once(':').is_some_and(|p| !has_port(p)) => rest.rfind('@')?,
        None => return None,
    };
    Some((scheme, &rest[..at], &rest[at + 1..]))
}

/// Whether a word is an address with a password, or with a name that may be one; also
/// `NAME:PASSWORD@HOST`, which is not `NAME@HOST:PATH` of ssh(1).
fn is_login(word: &str) -> bool {
    if word.contains("://") {
        // In the place of the scheme may be more: `sync-uri=https`.
        return login(word).is_some_and(|(scheme, who, _)| {
            let from = scheme.rfind(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c));
            let scheme = from.map_or(scheme, |at| &scheme[at + 1..]);
            who.contains(':') || !BY_KEY.contains(&scheme.to_ascii_lowercase().as_str())
        });
    }
    let (before, host) = word.rsplit_once('@').unwrap_or_default();
    let (name, password) = before.split_once(':').unwrap_or_default();
    !matches!(name, "" | "mailto") && !password.is_empty() && !host.is_empty()
}

/// Whether a line in capitals gives a value to something that is named like one, or an option of
/// a program is. What is only chosen when a kernel or a program is built has names of its own.
fn is_named(line: &str) -> bool {
    let has = |name: &str| NAMES.iter().any(|n| name.contains(n));
    let mut words = line.split(is_between);
    let option = words.any(|word| word.starts_with("--") && has(word));
    let Some((name, value)) = line.split_once('=') else {
        return option;
    };
    let name = name.split_whitespace().last().unwrap_or_default();
    let value = value.trim().trim_matches(['"', '\'']);
    option || (has(name) && !value.is_empty() && !name.starts_with("CONFIG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proves_who_one_is_stays_where_it_is() {
        for (uri, shown) in [
            ("https://me:secret@host/x.git", "https://host/x.git"),
            (
                "https://TOKEN@github.com/o/r.git",
                "https://github.com/o/r.git",
            ),
            ("https://me:a/b@host/x", "https://host/x"),
            ("https://host:8080/x@1", "https://host:8080/x@1"),
            ("https://me@host:8080/x.git", "https://host:8080/x.git"),
            ("https://me:a@b@host", "https://host"),
            ("ssh://me:secret@host/x", "ssh://me@host/x"),
            ("ssh://git@host:22/x", "ssh://git@host:22/x"),
            ("git@host:x.git", "git@host:x.git"),
            ("rsync://host/gentoo", "rsync://host/gentoo"),
            ("file:///srv/a:b@c", "file:///srv/a:b@c"),
        ] {
            assert_eq!(without(uri), shown);
        }
    }

    #[test]
    fn a_secret_is_seen_in_whatever_form() {
        for text in [
            "PORTAGE_ELOG_MAILURI=\"me@x.org me:secret@mail.x.org:465\"",
            "sync-uri = https://TOKEN@github.com/o/r.git",
            "sync-uri=https://me:pass@host/x",
            "PORTAGE_BINHOST=\"https://u:p/w@h/\"",
            "http_proxy=http://u:p@proxy:3128",
            "FETCHCOMMAND=\"wget --password=p -O x\"",
            "FETCHCOMMAND=\"wget --http-password p\"",
            "FETCHCOMMAND=\"curl -H 'Authorization: Bearer x'\"",
            "export GITHUB_TOKEN=abc",
            "db_passwd = 'x'",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
        ] {
            assert!(is_in(text), "{text}");
        }
        for text in [
            "USE=\"secret-service token\"\n# the password is elsewhere",
            "app-crypt/libsecret vala",
            "sync-uri = git@host:gentoo.git",
            "sync-uri = ssh://git@host:22/x # me@host",
            "sync-uri = git+ssh://git@host/x",
            "PORTAGE_ELOG_MAILURI=\"me@x.org mail.x.org:25\"",
            "https://host:8080/a/b",
            "GITHUB_TOKEN=\"\"",
            "CONFIG_PASSWD=y\nCONFIG_FEATURE_DEFAULT_PASSWD_ALGO=\"des\"",
            "@system @world a/b:0",
            "--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-token = next();\n+token = peek();",
            "# mailto:me@x.org",
        ] {
            assert!(!is_in(text), "{text}");
        }
    }
}
