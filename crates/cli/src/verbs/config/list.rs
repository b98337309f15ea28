//! The list.

use be_core::config_files::Item;
use be_core::name::EnvName;
use be_core::portage::config_files::Decision;
use be_core::portage::config_files::waiting::Kind;
use serde_json::{Value, json};

use super::{shown, strings};
use crate::reporter::Outcome;

pub fn outcome(name: &EnvName, items: &[Item]) -> Outcome {
    let text: String = items
        .iter()
        .map(|item| format!("{}  ({})\n", shown(&item.path()), sentence(item)))
        .collect();
    let pending: Vec<Value> = items
        .iter()
        .map(|item| {
            json!({
                "path": item.path(),
                "files": strings(&item.files),
                "state": word(&item.decision),
            })
        })
        .collect();
    Outcome::new(json!({ "environment": name, "pending": pending })).text(text)
}

/// For people.
pub fn sentence(item: &Item) -> String {
    let sentence = match &item.decision {
        Decision::Take => "you have changed nothing in it that counts",
        Decision::Merge(_) => "your changes and those of the package go together",
        Decision::Leave(why) => why.sentence(),
    };
    // Only then it matters which of several files it is.
    match (item.kind, item.files.last()) {
        (Kind::New, _) | (_, None) => sentence.to_owned(),
        (Kind::Unfinished | Kind::Old, Some(file)) => {
            format!("{sentence}: {}", shown(&file.to_string_lossy()))
        }
    }
}

/// For scripts.
fn word(decision: &Decision) -> Value {
    match decision {
        Decision::Take => json!("unchanged"),
        Decision::Merge(_) => json!("clean"),
        Decision::Leave(why) => json!(why),
    }
}
