//! The only place that prints. Results go to stdout, all else to stderr.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use be_core::travel::Moved;
use be_core::upgrade::Merging;
use serde_json::{Map, Value, json};

use crate::display::Display;
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
    silent_nothing: bool,
    progress: Option<std::fs::File>,
    /// Lines of progress that were dropped since the last one.
    lost: u64,
    /// What moves on the terminal.
    display: Option<Display>,
    /// What was said before the end, for the one document.
    said: Vec<String>,
    /// Standard output is for something else than the result.
    results_to_stderr: bool,
    /// When something began to move, and when that was told last.
    moving: Option<(Instant, Instant)>,
}

/// An amount of data, in bytes, for a person.
pub struct Amount(pub u64);

impl fmt::Display for Amount {
    #[allow(clippy::cast_precision_loss)] // only one digit of it is shown
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 10 << 30 => write!(f, "{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            bytes if bytes >= 10 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes if bytes >= 10 << 10 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{bytes} bytes"),
        }
    }
}

/// How often it is told how far something is.
const TELL: Duration = Duration::from_millis(500);

impl Reporter {
    /// A reporter for these options.
    pub fn new(json: bool, quiet: bool, progress: Option<std::fs::File>) -> Self {
        Self {
            json,
            quiet,
            silent_nothing: quiet,
            progress,
            lost: 0,
            display: None,
            said: Vec::new(),
            results_to_stderr: false,
            moving: None,
        }
    }

    /// Standard output is for something else: the one document goes to standard error.
    pub fn results_to_stderr(&mut self) {
        self.results_to_stderr = true;
    }

    /// How far an environment is that is sent or received: on a terminal, and as progress.
    pub fn moved(&mut self, what: &str, moved: Moved) {
        let now = Instant::now();
        let (began, told) = *self.moving.get_or_insert((now, now));
        if now.duration_since(told) < TELL {
            return;
        }
        self.moving = Some((began, now));
        let seconds = now.duration_since(began).as_secs_f64();
        self.progress(json!({
            "schema": "be/v1",
            "event": "moved",
            "bytes": moved.bytes,
            "stream_bytes": moved.stream,
            "seconds": seconds.round(),
        }));
        if self.quiet || self.json || !has_terminal() {
            return;
        }
        #[allow(clippy::cast_precision_loss)]
        let rate = moved.bytes as f64 / seconds / f64::from(1 << 20);
        let text = format!("{what}: {}, {rate:.0} MiB/s", Amount(moved.bytes));
        self.display.get_or_insert_with(Display::new).head(&text);
    }

    /// It is over.
    pub fn moved_all(&mut self) {
        self.moving = None;
        drop(self.display.take().map(Display::end));
    }

    /// Print what a verb came to; gives the exit code.
    pub fn outcome(&mut self, verb: &str, outcome: Outcome) -> u8 {
        self.end_display();
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
        self.end_display();
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
            if !(self.silent_nothing && failure.is_nothing()) {
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

    /// Do not say that there was nothing to do.
    pub fn silence_nothing(&mut self) {
        self.silent_nothing = true;
    }

    /// Whether standard output is for one document.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// A sentence for a person.
    pub fn note(&mut self, text: &str) {
        if self.json {
            self.said.push(text.to_owned());
        } else if !self.quiet {
            let print = || err(&format!("be: {text}"));
            match &self.display {
                Some(display) => display.above(print),
                None => print(),
            }
        }
    }

    /// A phase of long work begins. It is told on a terminal while it goes on, and when it is
    /// over; elsewhere in a line.
    pub fn phase(&mut self, text: &str) {
        if self.quiet || self.json || !has_terminal() {
            self.note(text);
            return;
        }
        let ended = self.display.get_or_insert_with(Display::new).phase(text);
        if let Some(ended) = ended {
            self.note(&ended);
        }
    }

    /// How far a merge is, as it is shown on a terminal; whether there is one.
    pub fn merging(&mut self, merging: &Merging) -> bool {
        match &mut self.display {
            Some(display) => display.merging(merging),
            None => return false,
        }
        true
    }

    /// How far a merge is that another process does; none if nothing is merged now.
    pub fn watch(&mut self, merging: Option<&Merging>) {
        match merging {
            Some(merging) if !self.quiet && has_terminal() => {
                self.display
                    .get_or_insert_with(Display::new)
                    .merging(merging);
            }
            _ => drop(self.display.take().map(Display::end)),
        }
    }

    /// One line of JSON for `--progress-fd`: an object, to which the number of lines is added
    /// that found the pipe full before it. A reader that went away is forgotten.
    pub fn progress(&mut self, mut event: Value) {
        let Some(file) = &mut self.progress else {
            return;
        };
        if self.lost > 0 {
            event["lost"] = self.lost.into();
        }
        // In one piece, which a pipe takes whole or not at all: pipe(7).
        match file.write_all(format!("{event}\n").as_bytes()) {
            Ok(()) => self.lost = 0,
            Err(e) if e.kind() == ErrorKind::WouldBlock => self.lost += 1,
            Err(_) => self.progress = None,
        }
    }

    /// Print a piece of a longer text as it is; whether somebody still reads it.
    pub fn stream(&mut self, text: &[u8]) -> bool {
        let print = || {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(text).and_then(|()| stdout.flush()).is_ok()
        };
        match &self.display {
            Some(display) if !text.is_empty() => display.above(print),
            _ => print(),
        }
    }

    /// Ask a question that wants yes or no; no terminal means no.
    pub fn confirm(&mut self, question: &str) -> bool {
        let answer = self.ask(&format!("be: {question} [y/N] "));
        answer.is_some_and(|answer| matches!(answer.as_str(), "y" | "Y" | "yes"))
    }

    /// Whether there is a person at a terminal who can be asked.
    pub fn can_ask(&self) -> bool {
        !self.json && std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
    }

    /// Ask a question; none without a terminal, or at the end of the input.
    pub fn ask(&mut self, question: &str) -> Option<String> {
        if !std::io::stdin().is_terminal() {
            return None;
        }
        let mut stderr = std::io::stderr().lock();
        let asked = write!(stderr, "{question}").and_then(|()| stderr.flush());
        let mut answer = String::new();
        let read = asked.and_then(|()| std::io::stdin().read_line(&mut answer));
        (read.ok()? > 0).then(|| answer.trim().to_owned())
    }

    /// Something for a person to decide on.
    pub fn show(&mut self, text: &str) {
        self.end_display();
        let _closed = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn end_display(&mut self) {
        if let Some(ended) = self.display.take().and_then(Display::end) {
            self.note(&ended);
        }
    }

    fn document(&self, document: Map<String, Value>) {
        match self.results_to_stderr {
            true => err(&Value::Object(document).to_string()),
            false => out(&format!("{}\n", Value::Object(document))),
        }
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

fn has_terminal() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    std::io::stderr().is_terminal() && !dumb
}

fn err(line: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "{line}");
}
