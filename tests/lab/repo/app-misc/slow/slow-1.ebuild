# Distributed under the terms of the MIT or Apache-2.0 licence, as the rest of be.

EAPI=8

DESCRIPTION="A package that takes ${LAB_SLOW} seconds to build"
HOMEPAGE="https://localhost/"
S="${WORKDIR}"
LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"

src_compile() {
	# One line a second, so that a progress display has something to follow.
	local i
	for ((i = 0; i < ${LAB_SLOW:-20}; i++)); do
		echo "compiling part ${i}"
		sleep 1
	done
}

src_install() {
	newbin - slow <<<"#!/bin/sh
echo slow ${PV}"
}
