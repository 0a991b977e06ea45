//! Words with their values, as text: what each source contributes.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{ConnInfoError, words};

/// Values by word. Wiped when dropped: one of them may be a password.
#[derive(Default)]
pub(super) struct Settings(BTreeMap<&'static str, Zeroizing<String>>);

impl Settings {
    /// Sets a known word; a later value replaces an earlier one.
    pub(super) fn set(&mut self, word: &str, value: String) -> Result<(), ConnInfoError> {
        let value = Zeroizing::new(value);
        let word = words::known(word)?;
        if value.contains('\0') {
            let expected = "a zero byte cannot be part of a value".to_owned();
            return Err(ConnInfoError::Value { word, origin: "the value".to_owned(), expected });
        }
        self.0.insert(word, value);
        Ok(())
    }

    pub(super) fn get(&self, word: &str) -> Option<&str> {
        self.0.get(word).map(|value| value.as_str())
    }

    /// Takes what `self` does not set from `other`.
    pub(super) fn complete_from(&mut self, other: Settings) {
        for (word, value) in other.0 {
            self.0.entry(word).or_insert(value);
        }
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(word, value)| (*word, value.as_str()))
    }
}
