//! The corpus of the fuzz targets, as it is and with a few bytes changed.

#[path = "../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

fn corpus(target: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let files = fs::read_dir(dir.join(target)).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 3, "{target}");
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    texts.collect()
}

#[test]
fn the_corpus_as_it_is() {
    corpus("updates")
        .iter()
        .for_each(|t| properties::updates(t));
    corpus("depend").iter().for_each(|t| properties::depend(t));
}

/// A text of the corpus, cut and patched in a few places.
fn changed(target: &str) -> impl Strategy<Value = String> + use<> {
    let piece = prop::sample::select(vec![
        " ", "\n", "(", ")", "||", "?", "!", "/", "-", ":", "=", "*", "[", "]", "0", "a/old",
        "a/mid", "move", "\u{e9}", "",
    ]);
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, piece), 0..5);
    (prop::sample::select(corpus(target)), edits).prop_map(|(text, edits)| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, cut, piece) in edits {
            let at = at.index(chars.len() + 1);
            let end = (at + cut).min(chars.len());
            chars.splice(at..end, piece.chars());
        }
        chars.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn updates_like_those_of_the_corpus(text in changed("updates")) {
        properties::updates(&text);
    }

    #[test]
    fn dependencies_like_those_of_the_corpus(text in changed("depend")) {
        properties::depend(&text);
    }
}
