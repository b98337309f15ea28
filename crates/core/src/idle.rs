//! Whether anybody uses the machine: sessions of a login manager, or else terminals.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Where systemd-logind and elogind keep a file for each session (sd-login(3) reads them).
const SESSIONS: &str = "run/systemd/sessions";

/// Services that open a session for a program that nobody waits for.
const UNATTENDED: [&str; 4] = ["cron", "crond", "atd", "fcron"];

/// Programs that wait on a terminal for somebody to log in.
const WAITING: [&str; 7] = [
    "getty", "agetty", "mingetty", "mgetty", "fgetty", "login", "sulogin",
];

/// Who uses the machine whose root is here, a few words each.
pub fn users(root: &Path) -> Vec<String> {
    match fs::read_dir(root.join(SESSIONS)) {
        Ok(sessions) => sessions
            .flatten()
            .filter_map(|file| session(&fs::read_to_string(file.path()).ok()?))
            .collect(),
        Err(_) => terminals(&root.join("proc")),
    }
}

/// A session in which somebody is, by its file.
fn session(text: &str) -> Option<String> {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        lines.find(|(k, _)| *k == key).map(|(_, value)| value)
    };
    let attended = value("CLASS")? == "user" && value("STATE")? != "closing";
    let service = value("SERVICE").unwrap_or_default();
    (attended && !UNATTENDED.contains(&service)).then(|| {
        let user = value("USER").unwrap_or("somebody");
        format!("{user} is logged in")
    })
}

/// Terminals with programs that do not just wait for somebody.
fn terminals(proc: &Path) -> Vec<String> {
    let mut seen = HashSet::new();
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    processes
        .filter_map(|dir| {
            let stat = fs::read_to_string(dir.path().join("stat")).ok()?;
            // `PID (NAME) STATE PPID PGRP SESSION TTY ...`, proc_pid_stat(5).
            let (name, rest) = stat.rsplit_once(')')?;
            let name = name.split_once('(')?.1;
            let terminal: i64 = rest.split_whitespace().nth(4)?.parse().ok()?;
            let uses = terminal != 0 && !WAITING.contains(&name) && seen.insert(terminal);
            uses.then(|| format!("{name} runs on a terminal"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn somebody_who_is_logged_in_is_seen_and_cron_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let session = |user: &str, class: &str, state: &str, service: &str| {
            format!("UID=1\nUSER={user}\nSTATE={state}\nCLASS={class}\nSERVICE={service}\n")
        };
        for (id, text) in [
            ("1", session("root", "user", "active", "cron")),
            ("2", session("gdm", "greeter", "active", "gdm")),
            ("3", session("eve", "user", "closing", "sshd")),
            ("4", session("root", "manager", "active", "systemd-user")),
        ] {
            write(root, &format!("{SESSIONS}/{id}"), &text);
        }
        assert_eq!(users(root), [""; 0]);
        let ann = session("ann", "user", "online", "sshd");
        write(root, &format!("{SESSIONS}/5"), &ann);
        assert_eq!(users(root), ["ann is logged in"]);
    }

    #[test]
    fn without_a_login_manager_terminals_tell() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(root, "proc/1/stat", "1 (init) S 0 1 1 0 -1 4194560\n");
        write(root, "proc/2/stat", "2 (agetty) S 1 2 2 1025 2 4194560\n");
        assert_eq!(users(root), [""; 0]);
        write(root, "proc/3/stat", "3 (a) b) S 1 3 3 34816 3 4194560\n");
        write(root, "proc/4/stat", "4 (vim) S 3 4 3 34816 4 4194560\n");
        assert_eq!(users(root).len(), 1);
    }
}
