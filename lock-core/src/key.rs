//! The key: what is locked. Not how a store spells it or where a store keeps its helpers.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use crate::error::LockError;
use crate::name::{LockName, NameWriter};

/// The longest key, prefix included, in bytes.
pub const MAX_KEY_BYTES: usize = 512;

/// More room than this is not kept for the next name.
const USUAL_BYTES: usize = 1024;

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
/// Cloning is cheap: the text is shared. So is hashing, in a map with [`KeyHasher`].
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
    prefix_bytes: u32,
    /// Of the whole text.
    hash: u32,
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
        // A name may make keys while it prints itself: the next one then has a buffer of its own.
        let mut full = BUFFER.try_with(Cell::take).unwrap_or_default();
        full.clear();
        full.push_str(prefix);
        let mut writer = NameWriter::new(&mut full);
        name.write_to(&mut writer);
        let is_whole = !writer.failed();
        let key = Self {
            full: full.as_str().into(),
            prefix_bytes: u32::try_from(prefix.len()).unwrap_or(u32::MAX),
            hash: hash_of(&full),
        };
        if full.capacity() <= USUAL_BYTES {
            // A thread that ends has none.
            let _ = BUFFER.try_with(|buffer| buffer.set(full));
        }
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
        self.full.get(..self.prefix_end()).unwrap_or_default()
    }

    /// The name without the prefix.
    #[must_use]
    pub fn name(&self) -> &str {
        self.full.get(self.prefix_end()..).unwrap_or_default()
    }

    /// Which of `parts` (a power of two) it falls into.
    pub(crate) fn part_of(&self, parts: usize) -> usize {
        usize::try_from(self.hash >> 8).unwrap_or_default() & parts.wrapping_sub(1)
    }

    fn prefix_end(&self) -> usize {
        usize::try_from(self.prefix_bytes).unwrap_or(usize::MAX)
    }
}

thread_local! {
    /// Where a key is written before it is as long as it will be.
    static BUFFER: Cell<String> = const { Cell::new(String::new()) };
}

/// Differs from process to process, so that nobody can choose keys that hash alike.
static SEED: LazyLock<RandomState> = LazyLock::new(RandomState::new);

#[allow(clippy::cast_possible_truncation, reason = "the half of a hash is one")]
fn hash_of(text: &str) -> u32 {
    SEED.hash_one(text) as u32
}

/// Hashes a [`LockKey`] by the hash that it keeps: made once with the key, and different in each process. For maps whose keys
/// are lock keys, and for nothing else.
///
/// ```
/// use std::collections::HashMap;
/// use std::hash::BuildHasherDefault;
/// use lock_core::{KeyHasher, LockKey};
///
/// let mut held: HashMap<LockKey, u32, BuildHasherDefault<KeyHasher>> = HashMap::default();
/// held.insert(LockKey::new("order:7")?, 1);
/// assert!(held.contains_key(&LockKey::new(("order", 7))?));
/// # Ok::<(), lock_core::LockError>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct KeyHasher(u64);

/// Of what makes a [`KeyHasher`].
pub(crate) type KeyHash = BuildHasherDefault<KeyHasher>;

impl Hasher for KeyHasher {
    /// Spreads the bits of a key's hash over all of the answer.
    fn write_u32(&mut self, hash: u32) {
        self.0 = (self.0 ^ u64::from(hash)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Not what a key calls; FNV-1a.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        // A map goes by the lowest bits, which a product has from the lowest of its factor alone.
        self.0 ^ (self.0 >> 32)
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
        self.hash == other.hash && self.full == other.full
    }
}

impl Eq for LockKey {}

impl Hash for LockKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u32(self.hash);
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
