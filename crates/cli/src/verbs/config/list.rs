//! The list.

use be_core::config_files::Item;
use be_core::name::EnvName;
use be_core::portage::config_files::Decision;
use serde_json::{Value, json};

use super::{shown, strings};
use crate::reporter::Outcome;

pub fn outcome(name: &EnvName, items: &[Item]) -> Outcome {
    let text: String = items
        .iter()
        .map(|item| format!("{}  ({})\n", shown(&item.path()), sentence(&item.decision)))
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
pub fn sentence(decision: &Decision) -> &'static str {
    match decision {
        Decision::Take => "you have changed nothing in it that counts",
        Decision::Merge(_) => "your changes and those of the package go together",
        Decision::Leave(why) => why.sentence(),
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
