//! Just enough of POSIX shell to read `/etc/default/grub`: words, quotes, variables and what separates commands.
//!
//! Nothing is run. What would need a shell (command substitution, `${x:-y}`) stays in the word as a [`Part::Foreign`],
//! for only a value that is used makes it an error: Debian's own file sets `GRUB_DISTRIBUTOR` by a command.

use std::iter::Peekable;
use std::str::Chars;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    /// `$name` or `${name}`.
    Variable(String),
    /// An expansion that only a shell can make; how it starts.
    Foreign(&'static str),
}

/// A word, or the value of an assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) parts: Vec<Part>,
    /// `NAME=` or `NAME+=` in front of `parts`.
    pub(crate) assigns: Option<Assign>,
    /// Line on which it starts, from 1.
    pub(crate) line: usize,
    /// Whether any of it was quoted; a reserved word is not.
    quoted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assign {
    pub(crate) name: String,
    pub(crate) append: bool,
}

impl Word {
    /// The text of a word without quotes or expansions: a command's name, a reserved word.
    pub(crate) fn bare(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] if self.assigns.is_none() && !self.quoted => Some(text),
            _ => None,
        }
    }

    fn push(&mut self, c: char) {
        if let Some(Part::Text(text)) = self.parts.last_mut() {
            text.push(c);
        } else {
            self.parts.push(Part::Text(c.into()));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Word(Word),
    /// Newline or an operator.
    Operator(String),
}

/// A text that no shell would read either.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: usize,
    pub(crate) what: &'static str,
}

struct Lexer<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
}

/// Splits a script into words and operators; comments are dropped.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut lexer = Lexer {
        chars: text.chars().peekable(),
        line: 1,
    };
    let mut tokens = Vec::new();
    while let Some(&c) = lexer.chars.peek() {
        match c {
            ' ' | '\t' => {
                lexer.next();
            }
            '#' => while lexer.chars.next_if(|c| *c != '\n').is_some() {},
            '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => {
                lexer.next();
                let mut operator = String::from(c);
                if matches!(c, ';' | '&' | '|' | '<' | '>') && lexer.chars.next_if_eq(&c).is_some()
                {
                    operator.push(c);
                }
                if operator == "<<" {
                    return lexer.fail("a here-document");
                }
                tokens.push(Token::Operator(operator));
            }
            _ => {
                // A line that continues is no word.
                let word = lexer.word()?;
                if word.quoted || word.assigns.is_some() || !word.parts.is_empty() {
                    tokens.push(Token::Word(word));
                }
            }
        }
    }
    Ok(tokens)
}

impl Lexer<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, SyntaxError> {
        Err(SyntaxError {
            line: self.line,
            what,
        })
    }

    fn word(&mut self) -> Result<Word, SyntaxError> {
        let mut word = Word {
            parts: Vec::new(),
            assigns: None,
            line: self.line,
            quoted: false,
        };
        while let Some(&c) = self.chars.peek() {
            match c {
                ' ' | '\t' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')' => break,
                _ => {}
            }
            self.next();
            match c {
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some(c) => {
                        word.quoted = true;
                        word.push(c);
                    }
                    None => word.push('\\'),
                },
                '\'' => {
                    word.quoted = true;
                    self.single_quotes(&mut word)?;
                }
                '"' => {
                    word.quoted = true;
                    self.double_quotes(&mut word)?;
                }
                '$' | '`' => self.expansion(c, false, &mut word)?,
                '=' if word.assigns.is_none() && !word.quoted => match assigned(&word.parts) {
                    Some(assign) => {
                        word.parts.clear();
                        word.assigns = Some(assign);
                    }
                    None => word.push('='),
                },
                c => word.push(c),
            }
        }
        Ok(word)
    }

    fn single_quotes(&mut self, word: &mut Word) -> Result<(), SyntaxError> {
        let line = self.line;
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => word.push(c),
                None => {
                    return Err(SyntaxError {
                        line,
                        what: "a single quote that is not closed",
                    });
                }
            }
        }
    }

    fn double_quotes(&mut self, word: &mut Word) -> Result<(), SyntaxError> {
        let line = self.line;
        let unclosed = Err(SyntaxError {
            line,
            what: "a double quote that is not closed",
        });
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some(c @ ('$' | '`')) => self.expansion(c, true, word)?,
                Some('\\') => match self.next() {
                    Some('\n') => {}
                    Some(c @ ('$' | '`' | '"' | '\\')) => word.push(c),
                    Some(c) => {
                        word.push('\\');
                        word.push(c);
                    }
                    None => return unclosed,
                },
                Some(c) => word.push(c),
                None => return unclosed,
            }
        }
    }

    /// What follows `$` or a backtick, which has been read.
    fn expansion(
        &mut self,
        first: char,
        in_quotes: bool,
        word: &mut Word,
    ) -> Result<(), SyntaxError> {
        if first == '`' {
            self.skip_to('`', "a backtick that is not closed")?;
            word.parts.push(Part::Foreign("`...`"));
            return Ok(());
        }
        match self.chars.peek().copied() {
            Some('(') => {
                self.next();
                self.skip_parentheses()?;
                word.parts.push(Part::Foreign("$(...)"));
            }
            Some('{') => {
                self.next();
                let name = self.name();
                if !name.is_empty() && self.chars.next_if_eq(&'}').is_some() {
                    word.parts.push(Part::Variable(name));
                } else {
                    self.skip_to('}', "a `${` that is not closed")?;
                    word.parts.push(Part::Foreign("${...}"));
                }
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.name();
                word.parts.push(Part::Variable(name));
            }
            Some(c) if c.is_ascii_digit() || "?#*@!$-".contains(c) => {
                self.next();
                word.parts.push(Part::Foreign("a parameter of the shell"));
            }
            // bash's $'...' and $"..." are something else in other shells.
            Some('\'' | '"') if !in_quotes => word.parts.push(Part::Foreign("$ before a quote")),
            _ => word.push('$'),
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.chars.next_if(|c| {
            c.is_ascii_alphabetic() || *c == '_' || (!name.is_empty() && c.is_ascii_digit())
        }) {
            name.push(c);
        }
        name
    }

    fn skip_to(&mut self, end: char, what: &'static str) -> Result<(), SyntaxError> {
        let line = self.line;
        loop {
            match self.next() {
                Some('\\') => {
                    self.next();
                }
                Some(c) if c == end => return Ok(()),
                Some(_) => {}
                None => return Err(SyntaxError { line, what }),
            }
        }
    }

    fn skip_parentheses(&mut self) -> Result<(), SyntaxError> {
        let what = "a `$(` that is not closed";
        let line = self.line;
        let mut depth = 1_usize;
        while depth > 0 {
            match self.next() {
                Some('(') => depth += 1,
                Some(')') => depth -= 1,
                Some(c @ ('"' | '`')) => self.skip_to(c, what)?,
                // No escapes between single quotes.
                Some('\'') => while self.next().ok_or(SyntaxError { line, what })? != '\'' {},
                Some('\\') => {
                    self.next();
                }
                Some(_) => {}
                None => return Err(SyntaxError { line, what }),
            }
        }
        Ok(())
    }
}

/// What is assigned to, if these parts stand before the `=` of an assignment.
fn assigned(parts: &[Part]) -> Option<Assign> {
    let [Part::Text(text)] = parts else {
        return None;
    };
    let (name, append) = text
        .strip_suffix('+')
        .map_or((text.as_str(), false), |name| (name, true));
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    valid.then(|| Assign {
        name: name.to_owned(),
        append,
    })
}
