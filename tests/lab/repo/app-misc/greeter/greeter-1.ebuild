# Distributed under the terms of the MIT or Apache-2.0 licence, as the rest of be.

EAPI=8

DESCRIPTION="A consumer that works only with the libgreet it was built against"
HOMEPAGE="https://localhost/"
S="${WORKDIR}"
LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"

DEPEND="dev-libs/libgreet:="
RDEPEND="${DEPEND}"

src_install() {
	local abi=$(<"${ESYSROOT}"/usr/lib/libgreet/abi)
	newbin - greeter <<-EOF
		#!/bin/sh
		read -r abi </usr/lib/libgreet/abi
		[ "\${abi}" = ${abi} ] || { echo "greeter: needs libgreet ${abi}, found \${abi}" >&2; exit 127; }
		echo "greetings by libgreet ${abi}"
	EOF
}
