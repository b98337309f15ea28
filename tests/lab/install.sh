#!/bin/bash
# Runs inside the new root: makes the ebuild repository and installs version 1
# of everything with the real emerge. The repository's upstream is then one
# commit ahead, so that `emerge --sync` brings every version 2.
set -euo pipefail
export HOME=/root LANG=C.UTF-8 NO_COLOR=1
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z'
old_kernel=$1 new_kernel=$2

work=/srv/lab/work
cd "$work"
kernel=sys-kernel/lab-kernel
mv $kernel/lab-kernel.ebuild.in /tmp/lab-kernel.ebuild
cp /tmp/lab-kernel.ebuild "$kernel/lab-kernel-$old_kernel.ebuild"
git init -q
git add -A
git reset -q -- '*-2.ebuild'
git commit -q -m 'Version 1 of everything'
cp /tmp/lab-kernel.ebuild "$kernel/lab-kernel-$new_kernel.ebuild"
git add -A
git commit -q -m 'Version 2 of everything'
git clone -q --bare "$work" /srv/lab/gentoo.git
git clone -q file:///srv/lab/gentoo.git /var/db/repos/gentoo
git -C /var/db/repos/gentoo reset -q --hard HEAD~1
cd /
rm -rf "$work" /tmp/lab-kernel.ebuild

emerge --ask=n --color=n --quiet-build=y \
	app-misc/hello app-misc/greeter app-misc/confy sys-kernel/lab-kernel
# Installed, but in nobody's world: a test appends to the world file what it wants.
LAB_SLOW=0 emerge --ask=n --color=n --quiet-build=y --oneshot \
	app-misc/slow app-misc/failbuild app-misc/failpost
sed -i 's/^colour=.*/colour=green/' /etc/confy.conf
# As a Gentoo package leaves it: running emerge writes nothing below /usr.
python3 -m compileall -q /usr/lib/python3/dist-packages
# Counted from here, the log of an upgrade is the upgrade's alone.
rm -rf /var/log/emerge.log /var/log/emerge-fetch.log /var/tmp/portage /var/cache/edb/mtimedb
