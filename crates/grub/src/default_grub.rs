//! Kernel arguments from `/etc/default/grub`.
//!
//! The file is shell, sourced by `grub-mkconfig`. It is read here without a shell: quotes, line continuation,
//! `+=`, `export`, and variables that the same file assigned. Where only a shell could tell the value (a command
//! substitution, an assignment inside `if`), the answer is an error that names the line, and only if the value is
//! one of those that matter.

use std::collections::HashMap;
use std::fmt;

use crate::cmdline::{CmdlineError, split_grub};
use crate::shell::{Assign, Part, SyntaxError, Token, Word, tokens};

const LINUX: &str = "GRUB_CMDLINE_LINUX";
const LINUX_DEFAULT: &str = "GRUB_CMDLINE_LINUX_DEFAULT";
const CRYPTODISK: &str = "GRUB_ENABLE_CRYPTODISK";

/// What the user wants every kernel to get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DefaultGrub {
    /// `GRUB_CMDLINE_LINUX`; empty if not set.
    pub linux: String,
    /// `GRUB_CMDLINE_LINUX_DEFAULT`, which recovery entries do without; empty if not set.
    pub linux_default: String,
    /// `GRUB_ENABLE_CRYPTODISK`, which is `y` where GRUB opens encrypted disks; empty if not set, none if only a shell
    /// could tell.
    pub cryptodisk: Option<String>,
}

impl DefaultGrub {
    /// The kernel arguments of a normal entry, in the order in which `grub-mkconfig` gives them.
    ///
    /// # Errors
    /// Those of [`split_grub`].
    pub fn arguments(&self) -> Result<Vec<String>, CmdlineError> {
        split_grub(&format!("{} {}", self.linux, self.linux_default))
    }
}

/// Why the two values are not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefaultGrubError {
    /// Not shell at all.
    Syntax {
        /// From 1.
        line: usize,
        /// What was found.
        what: String,
    },
    /// Only a shell can tell.
    NeedsShell {
        /// From 1.
        line: usize,
        /// What was found.
        what: String,
    },
}

impl fmt::Display for DefaultGrubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { line, what } => write!(f, "line {line}: {what}"),
            Self::NeedsShell { line, what } => {
                write!(f, "line {line}: {what}, which only a shell could evaluate")
            }
        }
    }
}

impl std::error::Error for DefaultGrubError {}

impl From<SyntaxError> for DefaultGrubError {
    fn from(error: SyntaxError) -> Self {
        Self::Syntax {
            line: error.line,
            what: error.what.to_owned(),
        }
    }
}

/// Reads the text of `/etc/default/grub`. For the files of `/etc/default/grub.d`, which Debian sources after it,
/// append their texts in order.
///
/// # Errors
/// See [`DefaultGrubError`]; the line is that of `text`.
pub fn parse_default_grub(text: &str) -> Result<DefaultGrub, DefaultGrubError> {
    let mut reader = Reader::default();
    let mut words = Vec::new();
    for token in tokens(text)? {
        match token {
            Token::Word(word) => words.push(word),
            Token::Operator(operator) => {
                reader.command(&words);
                reader.operator(&operator, !words.is_empty());
                words.clear();
            }
        }
    }
    reader.command(&words);
    Ok(DefaultGrub {
        linux: reader.value(LINUX)?,
        linux_default: reader.value(LINUX_DEFAULT)?,
        cryptodisk: reader.value(CRYPTODISK).ok(),
    })
}

/// What an unconditional run of the file so far would have assigned.
#[derive(Default)]
struct Reader {
    variables: HashMap<String, Value>,
    /// What variables not in the map are; unknown once another file has been sourced.
    others: Option<DefaultGrubError>,
    /// Open `if`, `case`, `{`, `(`, ...
    nesting: Vec<&'static str>,
    /// Behind `&&`, `||` or `|`: may not happen, or not in this shell.
    conditional: bool,
}

type Value = Result<String, DefaultGrubError>;

impl Reader {
    fn operator(&mut self, operator: &str, after_command: bool) {
        match operator {
            "(" => self.nesting.push("("),
            // The one behind a pattern of `case` closes nothing.
            ")" if self.nesting.last() == Some(&"(") => {
                self.nesting.pop();
            }
            _ => {}
        }
        self.conditional = match operator {
            "&&" | "||" | "|" => true,
            ";" | ";;" | "&" => false,
            // A newline behind `&&` goes on with the same list.
            "\n" if after_command => false,
            _ => self.conditional,
        };
    }

    fn command(&mut self, words: &[Word]) {
        let mut words = words;
        while let Some(reserved) = words.first().and_then(Word::bare) {
            match reserved {
                "if" => self.nesting.push("if"),
                "case" => self.nesting.push("case"),
                "for" | "while" | "until" => self.nesting.push("do"),
                "{" => self.nesting.push("{"),
                "fi" => self.close("if"),
                "esac" => self.close("case"),
                "done" => self.close("do"),
                "}" => self.close("{"),
                "then" | "elif" | "else" | "do" | "!" | "function" => {}
                _ => break,
            }
            words = &words[1..];
        }
        let assignments = words
            .iter()
            .take_while(|word| word.assigns.is_some())
            .count();
        if assignments == words.len() {
            self.assign_all(words);
            return;
        }
        // Assignments before a command are its environment only.
        let (command, operands) = (&words[assignments], &words[assignments + 1..]);
        match command.bare() {
            Some("export" | "readonly" | "declare" | "typeset") => self.assign_all(operands),
            Some("unset") => {
                for name in operands.iter().filter_map(Word::bare) {
                    let value = self
                        .certainly(command.line, "`unset` under a condition")
                        .map(|()| String::new());
                    self.variables.insert(name.to_owned(), value);
                }
            }
            Some(name @ ("." | "source" | "eval" | "read" | "exit" | "return")) => {
                let error = needs_shell(command.line, format!("`{name}`"));
                self.variables
                    .values_mut()
                    .for_each(|value| *value = Err(error.clone()));
                self.others = Some(error);
            }
            _ => {}
        }
    }

    fn close(&mut self, what: &str) {
        if let Some(at) = self.nesting.iter().rposition(|open| *open == what) {
            self.nesting.truncate(at);
        }
    }

    fn assign_all(&mut self, words: &[Word]) {
        for word in words {
            if let Some(assign) = &word.assigns {
                let value = self.assigned(word, assign);
                self.variables.insert(assign.name.clone(), value);
            }
        }
    }

    fn assigned(&self, word: &Word, assign: &Assign) -> Value {
        self.certainly(word.line, "an assignment under a condition")?;
        let mut value = if assign.append {
            self.variable(&assign.name, word.line)?
        } else {
            String::new()
        };
        for part in &word.parts {
            match part {
                Part::Text(text) => value.push_str(text),
                Part::Variable(name) => value.push_str(&self.variable(name, word.line)?),
                Part::Foreign(what) => return Err(needs_shell(word.line, format!("`{what}`"))),
            }
        }
        Ok(value)
    }

    fn certainly(&self, line: usize, what: &str) -> Result<(), DefaultGrubError> {
        if self.conditional || !self.nesting.is_empty() {
            Err(needs_shell(line, what.to_owned()))
        } else {
            Ok(())
        }
    }

    /// The value of a variable in an expansion. One that the file did not assign comes from outside.
    fn variable(&self, name: &str, line: usize) -> Value {
        match (self.variables.get(name), &self.others) {
            (Some(value), _) => value.clone(),
            (None, Some(error)) => Err(error.clone()),
            (None, None) if matches!(name, LINUX | LINUX_DEFAULT | CRYPTODISK) => Ok(String::new()),
            (None, None) => Err(needs_shell(
                line,
                format!("the variable `{name}`, set elsewhere"),
            )),
        }
    }

    fn value(&self, name: &str) -> Value {
        self.variable(name, 0)
    }
}

fn needs_shell(line: usize, what: String) -> DefaultGrubError {
    DefaultGrubError::NeedsShell { line, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux(text: &str) -> Result<String, DefaultGrubError> {
        parse_default_grub(text).map(|read| read.linux)
    }

    fn line_of(text: &str) -> usize {
        match parse_default_grub(text) {
            Err(
                DefaultGrubError::NeedsShell { line, .. } | DefaultGrubError::Syntax { line, .. },
            ) => line,
            Ok(read) => panic!("{text:?} gave {read:?}"),
        }
    }

    #[test]
    fn reads_what_distributions_ship() {
        let text = "# comment 'with quote\nGRUB_DEFAULT=0\nGRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-x} ) || echo Debian`\n\
                    GRUB_OTHER=$(lsb_release -i -s \")\" 2> /dev/null || echo 'a)b')\n\
                    GRUB_CMDLINE_LINUX_DEFAULT=\"quiet splash\" # more\nGRUB_CMDLINE_LINUX=\"\"\n";
        let read = parse_default_grub(text).expect("read");
        assert_eq!(
            read,
            DefaultGrub {
                linux: String::new(),
                linux_default: "quiet splash".into(),
                cryptodisk: Some(String::new()),
            }
        );
        let empty = parse_default_grub("").expect("read");
        assert_eq!(empty.arguments(), Ok(Vec::new()));
    }

    #[test]
    fn whether_encrypted_disks_are_opened() {
        for (text, value) in [
            ("GRUB_ENABLE_CRYPTODISK=y", Some("y")),
            (
                "GRUB_ENABLE_CRYPTODISK=y\nexport GRUB_ENABLE_CRYPTODISK=\"n\"",
                Some("n"),
            ),
            ("#GRUB_ENABLE_CRYPTODISK=y", Some("")),
            ("if true; then GRUB_ENABLE_CRYPTODISK=y; fi", None),
        ] {
            let read = parse_default_grub(text).expect("read");
            assert_eq!(read.cryptodisk.as_deref(), value, "{text}");
        }
    }

    #[test]
    fn quotes_and_escapes() {
        for (text, value) in [
            (r#"GRUB_CMDLINE_LINUX='a "b c" $d'"#, r#"a "b c" $d"#),
            (
                r#"GRUB_CMDLINE_LINUX="a \"b c\" \$d \x""#,
                r#"a "b c" $d \x"#,
            ),
            (r"GRUB_CMDLINE_LINUX=a\ b\'c", "a b'c"),
            (r#"GRUB_CMDLINE_LINUX=a"b "'c '\d"#, "ab c d"),
            ("GRUB_CMDLINE_LINUX=\"a \\\n b\"", "a  b"),
            ("GRUB_CMDLINE_\\\nLINUX=a", "a"),
            ("export GRUB_CMDLINE_LINUX=a X=b", "a"),
            ("X=1; GRUB_CMDLINE_LINUX=a", "a"),
            ("GRUB_CMDLINE_LINUX=root=/dev/sda#1", "root=/dev/sda#1"),
            ("GRUB_CMDLINE_LINUX=a=b=c", "a=b=c"),
            ("GRUB_CMDLINE_LINUX=\"5$ a$\"", "5$ a$"),
        ] {
            assert_eq!(linux(text).as_deref(), Ok(value), "{text}");
        }
    }

    #[test]
    fn later_ones_win_append_and_refer() {
        assert_eq!(
            linux("GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX=b").as_deref(),
            Ok("b")
        );
        assert_eq!(
            linux("GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX+=' b'").as_deref(),
            Ok("a b")
        );
        assert_eq!(linux("GRUB_CMDLINE_LINUX+=b").as_deref(), Ok("b"));
        assert_eq!(
            linux("GRUB_CMDLINE_LINUX=\"${GRUB_CMDLINE_LINUX} a\"").as_deref(),
            Ok(" a")
        );
        assert_eq!(
            linux("U=x-1\nGRUB_CMDLINE_LINUX=\"u=$U v=${U}y\"").as_deref(),
            Ok("u=x-1 v=x-1y")
        );
        assert_eq!(
            linux("GRUB_CMDLINE_LINUX=a\nunset GRUB_CMDLINE_LINUX").as_deref(),
            Ok("")
        );
        assert_eq!(linux("GRUB_CMDLINE_LINUX=a true\n").as_deref(), Ok(""));
    }

    #[test]
    fn what_needs_a_shell_names_its_line() {
        for (text, line) in [
            ("\nGRUB_CMDLINE_LINUX=$(cat x)", 2),
            ("X=`id`\n\nGRUB_CMDLINE_LINUX=\"a $X\"", 1),
            ("GRUB_CMDLINE_LINUX=${X:-y}", 1),
            ("GRUB_CMDLINE_LINUX=$HOME", 1),
            ("GRUB_CMDLINE_LINUX=$1", 1),
            ("GRUB_CMDLINE_LINUX=$'a'", 1),
            ("if true; then\nGRUB_CMDLINE_LINUX=a\nfi", 2),
            ("case x in\nx) GRUB_CMDLINE_LINUX=a;;\nesac", 2),
            ("[ -f x ] &&\nGRUB_CMDLINE_LINUX=a", 2),
            ("f() {\nGRUB_CMDLINE_LINUX=a\n}", 2),
            ("GRUB_CMDLINE_LINUX=a\n. /etc/more", 2),
            ("GRUB_CMDLINE_LINUX='a\n", 1),
            ("X=\"a\n\nb", 1),
            ("cat <<EOF\nEOF", 1),
        ] {
            assert_eq!(line_of(text), line, "{text:?}");
        }
    }

    #[test]
    fn conditions_end() {
        let text = "if a; then X=1; fi; for i in 1; do :; done\ncase a in b|(c) d;; esac\n( X=2 )\n{ X=3; }\na || X=4\n";
        assert_eq!(
            linux(&format!("{text}GRUB_CMDLINE_LINUX=ok\n")).as_deref(),
            Ok("ok")
        );
        assert_eq!(
            linux(
                "GRUB_CMDLINE_LINUX=a\nif x; then GRUB_CMDLINE_LINUX=b; fi\nGRUB_CMDLINE_LINUX=c"
            )
            .as_deref(),
            Ok("c")
        );
    }

    #[test]
    fn gives_arguments_as_grub_mkconfig_orders_them() {
        let read =
            parse_default_grub("GRUB_CMDLINE_LINUX='a=\"b c\"'\nGRUB_CMDLINE_LINUX_DEFAULT=quiet")
                .expect("read");
        assert_eq!(read.arguments().expect("arguments"), ["a=\"b c\"", "quiet"]);
    }
}
