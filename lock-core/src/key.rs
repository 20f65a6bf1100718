//! The key: what is locked. Not how a store spells it or where a store keeps its helpers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::LockError;
use crate::name::{LockName, NameWriter};

/// The longest key, prefix included, in bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// Room for a name that needs no second allocation.
const USUAL_NAME_BYTES: usize = 64;

/// Endings that stores use for entries of their own beside a lock's entry.
const RESERVED_ENDINGS: [&str; 6] = [
    ":fencelock:fence",
    ":fencelock:line",
    ":fencelock:wake",
    ":fencelock:tag:fence",
    ":fencelock:tag:line",
    ":fencelock:tag:wake",
];

/// What is locked: a prefix (possibly empty) followed by a name.
///
/// Two keys are one lock exactly if prefix + name are the same bytes. Everybody who uses a lock must also
/// use one prefix for it, because a store derives the place of the fencing counter from the prefix.
///
/// Cloning is cheap: the text is shared.
///
/// ```
/// use lock_core::LockKey;
///
/// let key = LockKey::with_prefix("shop:", "order:7")?;
/// assert_eq!(key.as_str(), "shop:order:7");
/// assert_eq!((key.prefix(), key.name()), ("shop:", "order:7"));
/// assert!(LockKey::new("").is_err());
/// # Ok::<(), lock_core::LockError>(())
/// ```
#[derive(Clone)]
pub struct LockKey {
    full: Arc<str>,
    prefix_bytes: usize,
}

impl LockKey {
    /// A key without a prefix. `name` is 1 to [`MAX_KEY_BYTES`] bytes of any UTF-8: text, or a tuple of parts such as
    /// `("order", 7)` ([`LockName`]).
    ///
    /// # Errors
    ///
    /// [`LockError::Invalid`] for an empty or overlong name, and for one with an ending that is reserved for
    /// the entries a store keeps beside a lock (`:fencelock:fence`, `:fencelock:line`, `:fencelock:wake`, and
    /// the same with `:tag` in the middle).
    pub fn new(name: impl LockName) -> Result<Self, LockError> {
        Self::with_prefix("", name)
    }

    /// A key made of `prefix` and `name`; together at most [`MAX_KEY_BYTES`] bytes, the name not empty.
    ///
    /// # Errors
    ///
    /// As for [`LockKey::new`].
    pub fn with_prefix(prefix: &str, name: impl LockName) -> Result<Self, LockError> {
        match Self::checked(prefix, &name) {
            (key, None) => Ok(key),
            (_, Some(flaw)) => Err(flaw),
        }
    }

    /// The key, and what is wrong with it if anything is. A flawed key is never sent anywhere.
    pub(crate) fn checked(prefix: &str, name: &impl LockName) -> (Self, Option<LockError>) {
        let mut full = String::with_capacity(prefix.len().saturating_add(USUAL_NAME_BYTES));
        full.push_str(prefix);
        let mut writer = NameWriter::new(&mut full);
        name.write_to(&mut writer);
        let is_whole = !writer.failed();
        let key = Self {
            full: full.into(),
            prefix_bytes: prefix.len(),
        };
        let flaw = if is_whole {
            key.flaw()
        } else {
            Some(
                "a part of the name failed to print itself: its Display returned an error"
                    .to_owned(),
            )
        };
        (key, flaw.map(|advice| LockError::invalid("key", advice)))
    }

    fn flaw(&self) -> Option<String> {
        if self.name().is_empty() {
            return Some(
                "the name is empty; name what is locked, for example \"order:7\"".to_owned(),
            );
        }
        let bytes = self.full.len();
        if bytes > MAX_KEY_BYTES {
            return Some(format!(
                "prefix and name are {bytes} bytes together; use at most {MAX_KEY_BYTES}, \
                 for example a digest of the long part"
            ));
        }
        let ending = RESERVED_ENDINGS
            .iter()
            .find(|ending| self.full.ends_with(**ending))?;
        Some(format!(
            "{self} ends in {ending:?}, which is reserved; choose another name"
        ))
    }

    /// Prefix and name together: exactly the bytes that stores use.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The prefix, possibly empty.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.full.get(..self.prefix_bytes).unwrap_or_default()
    }

    /// The name without the prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        self.full.get(self.prefix_bytes..).unwrap_or_default()
    }
}

/// A key without a prefix: [`LockKey::new`].
impl FromStr for LockKey {
    type Err = LockError;

    fn from_str(name: &str) -> Result<Self, LockError> {
        Self::new(name)
    }
}

/// A key without a prefix: [`LockKey::new`].
impl TryFrom<&str> for LockKey {
    type Error = LockError;

    fn try_from(name: &str) -> Result<Self, LockError> {
        Self::new(name)
    }
}

/// A key without a prefix: [`LockKey::new`].
impl TryFrom<String> for LockKey {
    type Error = LockError;

    fn try_from(name: String) -> Result<Self, LockError> {
        Self::new(name)
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Escaped, so that a name with line breaks cannot forge a line in a log.
        write!(f, "{:?}", &*self.full)
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LockKey({:?})", &*self.full)
    }
}

impl PartialEq for LockKey {
    fn eq(&self, other: &Self) -> bool {
        self.full == other.full
    }
}

impl Eq for LockKey {}

impl std::hash::Hash for LockKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.full.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_or_overlong_or_reserved_key_is_invalid() {
        for name in [
            "".to_owned(),
            "x".repeat(MAX_KEY_BYTES + 1),
            "x".repeat(64 << 20),
        ] {
            let error = LockKey::new(&name).unwrap_err();
            assert!(matches!(error, LockError::Invalid { .. }), "{error:?}");
            assert!(error.to_string().len() < 300, "the error repeats the name");
        }
        for ending in RESERVED_ENDINGS {
            assert!(matches!(
                LockKey::new(format!("a{ending}")),
                Err(LockError::Invalid { .. })
            ));
        }
        assert!(LockKey::with_prefix("p:", "").is_err());
        assert!(LockKey::new("x".repeat(MAX_KEY_BYTES)).is_ok());
    }

    #[test]
    fn text_converts_into_a_key() {
        let key = LockKey::new("a").unwrap();
        assert_eq!("a".parse::<LockKey>().unwrap(), key);
        assert_eq!(LockKey::try_from("a").unwrap(), key);
        assert_eq!(LockKey::try_from("a".to_owned()).unwrap(), key);
        assert!("".parse::<LockKey>().is_err());
    }

    #[test]
    fn names_are_compared_byte_for_byte() {
        // "é" composed and decomposed look alike and are two names.
        assert_ne!(
            LockKey::new("\u{e9}").unwrap(),
            LockKey::new("e\u{301}").unwrap()
        );
        assert_ne!(LockKey::new("a").unwrap(), LockKey::new("A").unwrap());
        assert_eq!(
            LockKey::new("a:b").unwrap(),
            LockKey::with_prefix("a:", "b").unwrap()
        );
    }

    #[test]
    fn a_key_is_printed_on_one_line() {
        let key = LockKey::new("a\r\nb\0").unwrap();
        assert_eq!(key.to_string(), r#""a\r\nb\0""#);
    }
}
