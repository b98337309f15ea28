# Distributed under the terms of the MIT or Apache-2.0 licence, as the rest of be.

EAPI=8

DESCRIPTION="A package whose second version does not build"
HOMEPAGE="https://localhost/"
S="${WORKDIR}"
LICENSE="MIT"
SLOT="0"
KEYWORDS="amd64"

src_install() {
	newbin - failbuild <<<"#!/bin/sh
echo failbuild ${PV}"
}
