//! A reading of GRUB scripts that shares no code with what writes them, for `grub-script-check` says nothing about
//! where words end. After `grub-core/script/yylex.l`; variables are left as they stand.

/// All statements, as words. `then`, `else` and braces end one too.
pub fn statements(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    let mut line = Vec::new();
    let mut word: Option<String> = None;
    let mut bare = true;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                bare = false;
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().expect("a closing quote") {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                bare = false;
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().expect("a closing quote") {
                        '"' => break,
                        '\\' => panic!("the template has no escapes in double quotes"),
                        c => word.push(c),
                    }
                }
            }
            '\\' => {
                bare = false;
                let next = chars.next().expect("something behind a backslash");
                assert_ne!(next, '\n', "the template continues no line");
                word.get_or_insert_default().push(next);
            }
            '$' if chars.peek() == Some(&'{') => {
                let word = word.get_or_insert_default();
                word.push('$');
                for c in chars.by_ref() {
                    word.push(c);
                    if c == '}' {
                        break;
                    }
                }
            }
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            ' ' | '\t' | '\n' | ';' | '{' | '}' => {
                if let Some(word) = word.take() {
                    let ends = bare && matches!(word.as_str(), "then" | "else");
                    line.push(word);
                    if ends {
                        all.push(std::mem::take(&mut line));
                    }
                }
                bare = true;
                if matches!(c, '{' | '}') {
                    line.push(c.to_string());
                }
                if !matches!(c, ' ' | '\t') && !line.is_empty() {
                    all.push(std::mem::take(&mut line));
                }
            }
            '|' | '&' | '<' | '>' => panic!("`{c}` outside of quotes"),
            c => word.get_or_insert_default().push(c),
        }
    }
    line.extend(word);
    if !line.is_empty() {
        all.push(line);
    }
    all
}

/// The words of a `menuentry` line up to its brace, and the statements of its body.
pub type MenuEntry = (Vec<String>, Vec<Vec<String>>);

/// The entries outside of submenus. Functions are passed over.
pub fn menu_entries(text: &str) -> Vec<MenuEntry> {
    split(text).0
}

/// What is done at once: all that is in no entry and no function.
#[allow(dead_code, reason = "not every test needs all of this")]
pub fn outside(text: &str) -> Vec<Vec<String>> {
    let mut inside = false;
    let mut all = statements(text);
    all.retain(|line| {
        let opens = ["function", "menuentry", "submenu"].contains(&&*line[0]);
        let kept = !inside && !opens;
        inside = (inside || opens) && line != &["}"];
        kept && line != &["}"]
    });
    all
}

/// The words of the `submenu` line, if there is one, and the entries inside.
pub fn submenu(text: &str) -> Option<(Vec<String>, Vec<MenuEntry>)> {
    split(text).1
}

type Submenu = (Vec<String>, Vec<MenuEntry>);

fn split(text: &str) -> (Vec<MenuEntry>, Option<Submenu>) {
    let mut entries = Vec::new();
    let mut open: Option<MenuEntry> = None;
    let mut submenu: Option<Submenu> = None;
    let mut in_submenu = false;
    let mut in_function = false;
    for mut line in statements(text) {
        let of = |words: &mut Vec<String>| assert_eq!(words.pop().as_deref(), Some("{"));
        if line[0] == "function" || in_function {
            in_function = line != ["}"];
        } else if line[0] == "menuentry" {
            assert!(open.is_none(), "an entry inside an entry");
            of(&mut line);
            open = Some((line, Vec::new()));
        } else if line[0] == "submenu" {
            assert!(open.is_none() && submenu.is_none(), "one submenu");
            of(&mut line);
            submenu = Some((line, Vec::new()));
            in_submenu = true;
        } else if line == ["}"] {
            match (open.take(), &mut submenu) {
                (Some(entry), Some((_, inside))) if in_submenu => inside.push(entry),
                (Some(entry), _) => entries.push(entry),
                (None, _) => {
                    assert!(in_submenu, "a brace closes something");
                    in_submenu = false;
                }
            }
        } else if let Some((_, body)) = &mut open {
            body.push(line);
        }
    }
    assert!(open.is_none() && !in_submenu, "all is closed");
    (entries, submenu)
}

/// What the kernel takes as name and value from one argument (`lib/cmdline.c`, `next_arg`).
pub fn kernel_value(arg: &str) -> (String, Option<String>) {
    let (text, quoted) = arg
        .strip_prefix('"')
        .map_or((arg, false), |rest| (rest, true));
    let mut text = text.to_owned();
    let name_and_value = |text: &str| match text.char_indices().position(|(i, c)| i > 0 && c == '=')
    {
        Some(at) => (text[..at].to_owned(), Some(text[at + 1..].to_owned())),
        None => (text.to_owned(), None),
    };
    let (_, value) = name_and_value(&text);
    let opened = value.is_some_and(|value| value.starts_with('"'));
    if (quoted || opened) && text.ends_with('"') {
        text.pop();
    }
    let (name, value) = name_and_value(&text);
    (
        name,
        value.map(|value| {
            if opened {
                value.strip_prefix('"').unwrap_or(&value).to_owned()
            } else {
                value
            }
        }),
    )
}
