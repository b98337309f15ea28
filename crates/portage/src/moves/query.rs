//! has_version and best_version (PMS 12.3.8) that know of new names, as a piece of bashrc.
//!
//! Portage asks its main process with the name of the calling function as the command
//! (`FUNCNAME[1]` in `phase-helpers.sh`), so the wrappers have the names of what they wrap.
//! What they are made of is not saved with a package: Portage leaves out its own functions and
//! all whose names begin with three underscores.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The begin: how an atom is taken to pieces.
const HEAD: &str = r#"___be_moved() {
	local operator name version='' rest
	[[ ${1} =~ ^([!<>=~]*)([A-Za-z0-9+_./-]+)(.*)$ ]] || return 1
	operator=${BASH_REMATCH[1]} name=${BASH_REMATCH[2]} rest=${BASH_REMATCH[3]}
	if [[ ${operator} == *[\<\>=~]* ]]; then
		[[ ${name} =~ ^(.+)(-[0-9][0-9.]*[a-z]?(_[a-z]+[0-9]*)*(-r[0-9]+)?)$ ]] || return 1
		name=${BASH_REMATCH[1]} version=${BASH_REMATCH[2]}
	fi
	case ${name} in
"#;

/// The end. What is there under its old name is left alone.
const TAIL: &str = r#"		*) return 1 ;;
	esac
	printf '%s' "${operator}${name}${version}${rest}"
}
if [[ ${EBUILD_PHASE} == depend || ${PORTAGE_REPO_NAME} == "${___be_main}" ]]; then
	:
elif declare -F ___best_version_and_has_version_common >/dev/null; then
	has_version() {
		___best_version_and_has_version_common "$@" && return 0
		local moved
		moved=$(___be_moved "${!#}") || return 1
		___best_version_and_has_version_common "${@:1:$#-1}" "${moved}"
	}
	best_version() {
		local found moved
		found=$(___best_version_and_has_version_common "$@")
		if [[ -z ${found} ]] && moved=$(___be_moved "${!#}"); then
			___best_version_and_has_version_common "${@:1:$#-1}" "${moved}"
			return
		fi
		[[ -n ${found} ]] && printf '%s\n' "${found}"
	}
elif [[ ${EBUILD_PHASE} == setup ]]; then
	ewarn "has_version and best_version do not know new names of packages with this Portage"
fi
"#;

/// What a bashrc has to say for packages that are not of the `main` repository. The new names
/// are by the old ones.
#[must_use]
pub fn wrappers(names: &BTreeMap<String, String>, main: &str) -> String {
    let mut text = format!("___be_main='{main}'\n{HEAD}");
    for (old, new) in names {
        // A string takes all.
        let _always = writeln!(text, "\t\t{old}) name={new} ;;");
    }
    text + TAIL
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Run a script after the wrappers, where only dev-libs/new-2 is installed.
    fn answers(repository: &str, script: &str) -> String {
        let names = [("dev-libs/old", "dev-libs/new"), ("a/gone+", "a/b")];
        let names = names.map(|(old, new)| (old.to_owned(), new.to_owned()));
        let portage = "___best_version_and_has_version_common() {\n\
            [[ ${FUNCNAME[1]} == best_version ]] && echo \"$(m \"$@\")\" && return 0\n\
            [[ -n $(m \"$@\") ]]\n}\n\
            m() { [[ ${!#} == *dev-libs/new* ]] && echo \"dev-libs/new-2 $*\"; }\n\
            has_version() { ___best_version_and_has_version_common \"$@\"; }\n\
            best_version() { ___best_version_and_has_version_common \"$@\"; }\n";
        let text = format!(
            "PORTAGE_REPO_NAME={repository} EBUILD_PHASE=prepare\n{portage}{}{script}",
            wrappers(&names.into(), "gentoo")
        );
        let output = Command::new("bash").args(["-ec", &text]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(error, "");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn an_old_name_is_answered_for_the_new_one() {
        let has = |atom: &str| format!("has_version -b '{atom}' && echo yes || echo no\n");
        let script: String = [
            "dev-libs/old",
            ">=dev-libs/old-1.2_rc3-r1:0=[x,-y]",
            "=dev-libs/old-2*",
            "dev-libs/new",
            "dev-libs/old-er",
            "dev-libs/other",
            "a/gone+",
        ]
        .map(has)
        .concat();
        let said = answers("overlay", &script);
        let said: Vec<_> = said.lines().collect();
        assert_eq!(said, ["yes", "yes", "yes", "yes", "no", "no", "no"]);
        assert_eq!(
            answers("overlay", "best_version '>=dev-libs/old-1:0'"),
            "dev-libs/new-2 >=dev-libs/new-1:0\n"
        );
        assert_eq!(answers("overlay", "best_version a/b || :"), "");
        assert_eq!(answers("gentoo", &has("dev-libs/old")), "no\n");
    }
}
