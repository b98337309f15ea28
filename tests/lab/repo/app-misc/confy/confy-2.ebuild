# Distributed under the terms of the MIT or Apache-2.0 licence, as the rest of be.

EAPI=8

DESCRIPTION="A configuration file below CONFIG_PROTECT"
HOMEPAGE="https://localhost/"
S="${WORKDIR}"
LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"

src_install() {
	insinto /etc
	newins - confy.conf <<-EOF
		# Configuration of confy
		level=${PV}
		colour=grey
	EOF
	newbin - confy <<-EOF
		#!/bin/sh
		grep -v "^#" /etc/confy.conf
	EOF
}
