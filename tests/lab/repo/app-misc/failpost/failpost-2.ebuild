# Distributed under the terms of the MIT or Apache-2.0 licence, as the rest of be.

EAPI=8

DESCRIPTION="A package whose second version fails after it was installed"
HOMEPAGE="https://localhost/"
S="${WORKDIR}"
LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"

src_install() {
	newbin - failpost <<<"#!/bin/sh
echo failpost ${PV}"
}

pkg_postinst() {
	die "postinst failed"
}
