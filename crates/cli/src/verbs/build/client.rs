//! `be build client`

use anyhow::Result;
use be_core::upgrade::build;
use serde_json::json;

use crate::context::Context;
use crate::reporter::Outcome;

/// What a client needs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the directory is served; http:// and the name of this machine if not given.
    #[arg(long, value_name = "URL", value_parser = url)]
    url: Option<String>,
}

fn url(text: &str) -> Result<String, String> {
    let known = [
        "http://", "https://", "ftp://", "ssh://", "sftp://", "file:///",
    ];
    let plain = !text.chars().any(|c| c.is_control() || c.is_whitespace());
    match plain
        && known
            .iter()
            .any(|k| text.strip_prefix(k).is_some_and(|r| !r.is_empty()))
    {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err(format!("it begins with one of {}", known.join(", "))),
    }
}

pub fn run(args: &Args, ctx: &Context) -> Result<Outcome> {
    let config = &ctx.session.config.build;
    let signed = !config.sign.is_empty();
    let url = match &args.url {
        Some(url) => url.clone(),
        None => format!("http://{}", host()),
    };
    let published = build::status(&ctx.session)?.count.is_some();
    let mut notes = Vec::new();
    if !published {
        notes.push("nothing is published yet: be build run".to_owned());
    }
    if signed {
        notes.push(format!(
            "the client has to trust the key {}: gpg --homedir {} --armor --export {0} here, and \
             there gpg --homedir /etc/portage/gnupg --import, and lsign it; see be(8)",
            config.sign, config.gpg_home
        ));
    }
    Ok(
        Outcome::new(json!({ "uri": url, "signed": signed, "text": snippet(&url, signed) }))
            .text(snippet(&url, signed))
            .notes(notes),
    )
}

/// For /etc/portage/binrepos.conf.
fn snippet(url: &str, signed: bool) -> String {
    // Before any other that the client has. Without a place of its own Portage keeps what it
    // fetches among the client's own packages where PORTAGE_BINHOST is set, and forgets that it is
    // to be verified (`binrepo/config.py`).
    let verify = match signed {
        true => "true",
        false => "false",
    };
    format!(
        "[be]\npriority = 9999\nsync-uri = {url}\nlocation = /var/cache/binhost/be\n\
         verify-signature = {verify}\n"
    )
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(url("https://a/b/").as_deref(), Ok("https://a/b"));
        for bad in [
            "",
            "a",
            "http://",
            "http://a b",
            "gopher://a",
            "http://a\n[x]",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_verifies_what_is_signed() {
        assert_eq!(
            snippet("http://farm:8080", true),
            "[be]\npriority = 9999\nsync-uri = http://farm:8080\n\
             location = /var/cache/binhost/be\nverify-signature = true\n"
        );
        assert!(snippet("http://farm", false).contains("verify-signature = false"));
    }
}
