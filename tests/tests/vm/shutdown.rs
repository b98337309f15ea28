//! What changes until the running system shuts down is in the environment that boots after it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::{Result, ensure};
use be_tests::vm::{LONG, Machine, emulated};
use xtask::image::{Layout, Tree};
use xtask::lab::inits::Init;
use xtask::vm::Firmware;

use crate::distribution::{boots, machine, start};

/// Writes to a database until it is told to end, a row in a transaction each; another one of its
/// own kind would have the rows in memory and the file behind.
const WRITER: &str = r#"#!/usr/bin/python3
import signal, sqlite3, sys, time

stop = False
def end(*_):
    global stop
    stop = True
signal.signal(signal.SIGTERM, end)
db = sqlite3.connect("/srv/db/rows", isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, root TEXT)")
root = next(line.split()[3] for line in open("/proc/self/mountinfo") if line.split()[4] == "/")
while not stop:
    db.execute("INSERT INTO rows (root) VALUES (?)", (root,))
    time.sleep(0.1)
# The last word, long after the activation.
db.execute("INSERT INTO rows (root) VALUES (?)", ("the end of " + root,))
db.close()
"#;

const UNIT: &str = "[Service]\nExecStart=/usr/local/sbin/writer\n";

const SCRIPT: &str = "#!/sbin/openrc-run\ncommand=/usr/local/sbin/writer\n\
    command_background=yes\npidfile=/run/writer.pid\n";

/// A system with the writer enabled, the database in a subvolume that is cloned late.
fn with_database(init: Init, layout: Layout, firmware: Firmware) -> Result<Machine> {
    let mut made = machine(init, layout, firmware, |disk, be| {
        let executable = |path: &str, text: &str| -> Result<()> {
            disk.write(path, text)?;
            let mode = fs::Permissions::from_mode(0o755);
            Ok(fs::set_permissions(disk.path(path), mode)?)
        };
        executable("/usr/local/sbin/writer", WRITER)?;
        fs::create_dir_all(disk.path("/srv/db"))?;
        match init {
            Init::Systemd => {
                disk.write("/etc/systemd/system/writer.service", UNIT)?;
                let wants = "/etc/systemd/system/multi-user.target.wants";
                fs::create_dir_all(disk.path(wants))?;
                let link = disk.path(&format!("{wants}/writer.service"));
                symlink("/etc/systemd/system/writer.service", link)?;
            }
            Init::OpenRc => {
                executable("/etc/init.d/writer", SCRIPT)?;
                let link = disk.path("/etc/runlevels/default/writer");
                symlink("/etc/init.d/writer", link)?;
            }
        }
        disk.write("/etc/shadow", "root:*:1::::::\n")?;
        be.run(&["init"]).done();
        be.run(&["layout", "split", "/srv/db", "late"]).done();
        Ok(())
    })?;
    start(&mut made, init)?;
    Ok(made)
}

/// Whose rows are in the database of the system that runs, in order, after a check of it.
const ROWS: &str = "python3 -c '
import sqlite3
db = sqlite3.connect(\"/srv/db/rows\")
assert db.execute(\"PRAGMA integrity_check\").fetchone() == (\"ok\",)
for row in db.execute(\"SELECT root, count(*) FROM rows GROUP BY root ORDER BY min(n)\"):
    print(*row)
'";

/// An upgrade, work that goes on beside it and after it, and the shutdown.
fn loses_nothing(init: Init, layout: Layout, firmware: Firmware) -> Result<()> {
    let mut machine = with_database(init, layout, firmware)?;
    let said = machine
        .vm()
        .check("be upgrade new -- app-misc/hello", LONG)?;
    ensure!(said.contains("when this system shuts down"), "{said}");
    let list = machine.sh("be list -H")?;
    ensure!(list.contains("new\tR\t"), "{list}");
    machine.sh("sed -i 's/^root:[^:]*:/root:changed:/' /etc/shadow && \
         echo 'ann:x:1234:1234::/home/ann:/bin/sh' >>/etc/passwd && \
         mkdir -p /home/ann /var/spool/cron/crontabs && chown 1234:1234 /home/ann && \
         echo '@daily true' >/var/spool/cron/crontabs/ann && \
         truncate -s 1G /home/ann/large && echo end >>/home/ann/large")?;
    machine.vm().send("reboot\n")?;
    boots(&mut machine, init, "new", "be.boot=trial")?;
    ensure!(machine.sh("hello")? == "hello 2\n");
    let there = "grep -c ^root:changed: /etc/shadow; grep -c ^ann:x:1234: /etc/passwd; \
                 cat /var/spool/cron/crontabs/ann; tail -c 4 /home/ann/large; \
                 stat -c %u,%s /home/ann/large";
    assert_eq!(machine.sh(there)?, "1\n1\n@daily true\nend\n0,1073741828\n");
    let rows = machine.sh(ROWS)?;
    ensure!(rows.contains("the end of /@ 1\n"), "{rows}");

    // And back, with the password that was changed once more.
    machine.sh("sed -i 's/^root:changed:/root:again:/' /etc/shadow")?;
    let said = machine
        .vm()
        .check("be rollback --carry /etc/shadow", LONG)?;
    ensure!(said.contains("default boots next"), "{said}");
    machine.vm().send("reboot\n")?;
    boots(&mut machine, init, "default", "be.boot=default")?;
    ensure!(machine.sh("hello")? == "hello 1\n");
    machine.sh("grep -q ^root:again: /etc/shadow")?;
    // The database is the one from before.
    let rows = machine.sh(ROWS)?;
    ensure!(rows.contains("/@ ") && !rows.contains("/@be/new"), "{rows}");
    Ok(())
}

#[test]
#[ignore = "needs root and QEMU"]
fn what_was_written_until_the_shutdown_is_there_with_systemd() -> Result<()> {
    emulated(|| loses_nothing(Init::Systemd, Layout::BootExt4, Firmware::Bios))
}

/// Each takes a machine minutes.
mod thorough {
    use super::*;

    #[test]
    #[ignore = "needs root and QEMU"]
    fn what_was_written_until_the_shutdown_is_there_with_openrc() -> Result<()> {
        emulated(|| loses_nothing(Init::OpenRc, Layout::AtSubvol, Firmware::Uefi))
    }
}
