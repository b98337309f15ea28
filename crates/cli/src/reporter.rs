//! The only place that prints. Results go to stdout, all else to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::{IsTerminal, Write};

use serde_json::{Map, Value, json};

use crate::failure::Failure;

/// What a verb has to say when it is done.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For stdout, without `--json`.
    pub text: String,
    /// For stdout, with `--json`: the fields of the one document.
    pub fields: Map<String, Value>,
    /// For stderr; with `--json` in the document.
    pub notes: Vec<String>,
    /// The exit code.
    pub code: u8,
}

impl Outcome {
    /// An outcome with this document.
    pub fn new(fields: Value) -> Self {
        let fields = match fields {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        Self {
            fields,
            ..Self::default()
        }
    }

    /// The same with this text as the result.
    #[must_use]
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// The same with more text behind it.
    #[must_use]
    pub fn more(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self
    }

    /// The same with these notes as well.
    #[must_use]
    pub fn notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// The same with this exit code.
    #[must_use]
    pub fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }
}

/// How and how much to print.
#[derive(Debug)]
pub struct Reporter {
    json: bool,
    quiet: bool,
    progress: Option<std::fs::File>,
    line_open: bool,
    /// What was said before the end, for the one document.
    said: Vec<String>,
}

impl Reporter {
    /// A reporter for these options.
    pub fn new(json: bool, quiet: bool, progress: Option<std::fs::File>) -> Self {
        Self {
            json,
            quiet,
            progress,
            line_open: false,
            said: Vec::new(),
        }
    }

    /// Print what a verb came to; gives the exit code.
    pub fn outcome(&mut self, verb: &str, outcome: Outcome) -> u8 {
        self.end_line();
        if self.json {
            let mut document = head(verb);
            document.extend(outcome.fields);
            self.said.extend(outcome.notes);
            document.insert("notes".into(), json!(self.said));
            self.document(document);
        } else {
            for note in &outcome.notes {
                self.note(note);
            }
            out(&outcome.text);
        }
        outcome.code
    }

    /// Print that the command line is wrong, as a document.
    pub fn usage(&mut self, message: &str) -> u8 {
        let mut document = Map::new();
        document.insert("schema".into(), json!("be/v1"));
        let code = be_core::refusal::exit::USAGE;
        document.insert(
            "error".into(),
            json!({ "kind": "usage", "message": message, "hint": "be --help", "code": code }),
        );
        self.document(document);
        code
    }

    /// Print why a verb did not do it; gives the exit code.
    pub fn failure(&mut self, verb: &str, failure: &Failure) -> u8 {
        self.end_line();
        if self.json {
            let mut document = head(verb);
            document.insert(
                "error".into(),
                json!({
                    "kind": failure.kind(),
                    "message": failure.message(),
                    "hint": failure.hint(),
                    "code": failure.code(),
                }),
            );
            document.insert("notes".into(), json!(self.said));
            self.document(document);
        } else {
            if !(self.quiet && failure.is_nothing()) {
                err(&format!("be: {}", failure.message()));
            }
            if let Some(hint) = failure.hint().filter(|_| !self.quiet) {
                // Several ways out stand below each other.
                for (i, way) in hint.lines().enumerate() {
                    let head = if i == 0 { "next:" } else { "     " };
                    err(&format!("    {head} {way}"));
                }
            }
        }
        failure.code()
    }

    /// Whether standard output is for one document.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A sentence for a person.
    pub fn note(&mut self, text: &str) {
        self.end_line();
        if self.json {
            self.said.push(text.to_owned());
        } else if !self.quiet {
            err(&format!("be: {text}"));
        }
    }

    /// A line that the next one replaces; without a terminal it is left out.
    pub fn status_line(&mut self, text: &str) {
        if self.quiet || self.json || !std::io::stderr().is_terminal() {
            return;
        }
        let mut stderr = std::io::stderr().lock();
        // A terminal that is gone must not stop an upgrade.
        let _gone = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
        self.line_open = true;
    }

    /// One line of JSON for `--progress-fd`. A reader that went away is forgotten.
    pub fn progress(&mut self, event: &Value) {
        if let Some(file) = &mut self.progress
            && writeln!(file, "{event}").is_err()
        {
            self.progress = None;
        }
    }

    /// Ask a question that wants yes or no; no terminal means no.
    pub fn confirm(&mut self, question: &str) -> bool {
        if !std::io::stdin().is_terminal() {
            return false;
        }
        let mut stderr = std::io::stderr().lock();
        let asked = write!(stderr, "be: {question} [y/N] ").and_then(|()| stderr.flush());
        let mut answer = String::new();
        asked.is_ok()
            && std::io::stdin().read_line(&mut answer).is_ok()
            && matches!(answer.trim(), "y" | "Y" | "yes")
    }

    fn end_line(&mut self) {
        if std::mem::take(&mut self.line_open) {
            err("");
        }
    }

    fn document(&self, document: Map<String, Value>) {
        out(&format!("{}\n", Value::Object(document)));
    }
}

/// `1 error`, `2 errors`.
pub fn count(n: usize, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{n} {one}s"),
    }
}

fn head(verb: &str) -> Map<String, Value> {
    let mut head = Map::new();
    head.insert("schema".into(), json!("be/v1"));
    head.insert("verb".into(), json!(verb));
    head
}

fn out(text: &str) {
    // A closed pipe (`be list | head`) is no failure of ours.
    let _closed = std::io::stdout().lock().write_all(text.as_bytes());
}

fn err(line: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{line}");
}
