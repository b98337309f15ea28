# Distributed under the terms of the MIT or Apache-2.0 licence, as the rest of be.

EAPI=8

DESCRIPTION="A library whose sub-slot stands for its soname"
HOMEPAGE="https://localhost/"
S="${WORKDIR}"
LICENSE="MIT"
SLOT="0/1"
KEYWORDS="amd64"

src_install() {
	insinto /usr/lib/libgreet
	newins - abi <<<"${PV}"
}
