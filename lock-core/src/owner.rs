//! The owner: who holds a grant. Not who the person or the process behind it is.

use std::fmt;
use std::sync::Arc;

use crate::error::LockError;

/// The longest label, in bytes.
pub const MAX_LABEL_BYTES: usize = 128;

/// Hex digits in front of the label.
const TOKEN_CHARS: usize = 32;

/// The identity behind one attempt to take a lock: 122 random bits, and an optional label for people.
///
/// lock-core makes a fresh owner for each attempt, so that no guard can release or renew the lock of a later
/// one. The text is not printed by `Debug`: whoever knows it could release the lock.
///
/// ```
/// use lock_core::Owner;
///
/// let owner = Owner::fresh(Some("web-1"))?;
/// assert_eq!(owner.label(), Some("web-1"));
/// assert_eq!(owner.expose().len(), 32 + 1 + "web-1".len());
/// assert!(!format!("{owner:?}").contains(&owner.expose()[..32]));
/// # Ok::<(), lock_core::LockError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Owner(Text);

/// An owner's text. One text has one form, so that equal owners are equal here.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Text {
    /// As long as a token is; ASCII.
    Bare(Token),
    /// Any other, shared by all who speak of it.
    Shared(Arc<str>),
}

/// Where words begin, because it is looked through word by word, each time it is shown as text.
#[derive(Clone, PartialEq, Eq, Hash)]
#[repr(align(8))]
struct Token([u8; TOKEN_CHARS]);

impl Text {
    fn new(text: &str) -> Self {
        match <[u8; TOKEN_CHARS]>::try_from(text.as_bytes()) {
            Ok(bare) if bare.is_ascii() => Self::Bare(Token(bare)),
            _ => Self::Shared(text.into()),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Bare(Token(bare)) => std::str::from_utf8(bare).unwrap_or_default(),
            Self::Shared(text) => text,
        }
    }
}

impl Owner {
    /// A new owner from the operating system's random source, with `label` (at most [`MAX_LABEL_BYTES`] bytes,
    /// no control characters) behind it.
    ///
    /// # Errors
    ///
    /// [`LockError::Invalid`] for a label that is empty, too long or has control characters;
    /// [`LockError::Entropy`] if the operating system has no randomness to give. There is no fallback.
    pub fn fresh(label: Option<&str>) -> Result<Self, LockError> {
        if let Some(label) = label {
            check_label(label)?;
        }
        let mut bytes = [0; 16];
        randomness(&mut bytes).map_err(|error| LockError::Entropy {
            source: Arc::new(error),
        })?;
        let uuid = uuid::Builder::from_random_bytes(bytes).into_uuid().simple();
        let mut token = Token([0; TOKEN_CHARS]);
        let text: &str = uuid.encode_lower(&mut token.0);
        Ok(Self(match label {
            Some(label) => Text::Shared([text, ":", label].concat().into()),
            None => Text::Bare(token),
        }))
    }

    /// The owner whose [`expose`](Self::expose)d text is `text`, as a store or a ticket carried it. Any text is
    /// taken: what a store compares is the whole of it.
    #[must_use]
    pub fn from_exposed(text: impl Into<String>) -> Self {
        Self(Text::new(&text.into()))
    }

    /// The whole text that a store keeps and compares: 32 lower-case hex digits, then `:label` if there is one.
    /// Whoever has it can release the lock: do not log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// The label, if this owner has one.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        Self::label_in(self.expose())
    }

    /// Whether this owner, made by [`fresh`](Self::fresh), has this label, or none.
    pub(crate) fn has_label(&self, label: Option<&str>) -> bool {
        match (self.expose().get(TOKEN_CHARS..), label) {
            (Some(rest), Some(label)) => rest.strip_prefix(':') == Some(label),
            (rest, None) => rest.is_none_or(str::is_empty),
            (None, Some(_)) => false,
        }
    }

    /// The label in a value found in a store, if the value is an owner of ours that has one. A value that
    /// others wrote has none: it is their token.
    #[must_use]
    pub fn label_in(value: &str) -> Option<&str> {
        let (token, label) = value.split_at_checked(TOKEN_CHARS)?;
        let ours = token
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let label = label.strip_prefix(':')?;
        (ours && check_label(label).is_ok()).then_some(label)
    }
}

/// Fills `bytes` from the operating system's random source: the only one that owners are made of.
fn randomness(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    #[cfg(test)]
    if HAS_NO_RANDOMNESS.get() {
        return Err(getrandom::Error::UNSUPPORTED);
    }
    getrandom::fill(bytes)
}

#[cfg(test)]
thread_local! {
    /// Whether the random source fails on this thread.
    pub(crate) static HAS_NO_RANDOMNESS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Refuses a label that a store should not carry.
pub(crate) fn check_label(label: &str) -> Result<(), LockError> {
    if label.is_empty() || label.len() > MAX_LABEL_BYTES || label.chars().any(char::is_control) {
        return Err(LockError::invalid(
            "label",
            format!("use 1 to {MAX_LABEL_BYTES} bytes without control characters"),
        ));
    }
    Ok(())
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Owner")
            .field("label", &self.label())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_hundred_thousand_owners_of_eight_threads_are_all_distinct() {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(|| -> Vec<_> {
                    let owners = (0..12_500).map(|_| Owner::fresh(None).unwrap());
                    owners.map(|owner| owner.expose().to_owned()).collect()
                })
            })
            .collect();
        let owners: HashSet<_> = threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(owners.len(), 100_000);
        for owner in owners.iter().take(1000) {
            assert_eq!(owner.len(), 32);
            assert_eq!(&owner[12..13], "4", "a version 4 uuid");
        }
    }

    #[test]
    fn an_owner_never_prints_its_token() {
        let owner = Owner::fresh(Some("host-1")).unwrap();
        let printed = format!("{owner:?}");
        assert!(printed.contains("host-1"));
        assert!(!printed.contains(&owner.expose()[..32]));
    }

    #[test]
    fn a_label_is_bounded_and_printable() {
        for bad in ["", "a\nb", "\0", "\u{85}", &"x".repeat(129)] {
            assert!(
                matches!(Owner::fresh(Some(bad)), Err(LockError::Invalid { .. })),
                "{bad:?}"
            );
        }
        assert!(Owner::fresh(Some(&"x".repeat(128))).is_ok());
    }

    #[test]
    fn an_owner_has_its_label_and_no_other() {
        for label in [None, Some("me"), Some("a:b")] {
            let owner = Owner::fresh(label).unwrap();
            for other in [
                None,
                Some("me"),
                Some("m"),
                Some("me2"),
                Some("a:b"),
                Some(""),
            ] {
                assert_eq!(
                    owner.has_label(other),
                    label == other,
                    "{label:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn a_value_of_others_has_no_label() {
        let hex = "0123456789abcdef0123456789abcdef";
        assert_eq!(Owner::label_in(&format!("{hex}:me:too")), Some("me:too"));
        for value in [
            hex,
            "",
            "me",
            "0123456789ABCDEF0123456789ABCDEF:me",
            &format!("{hex}me"),
        ] {
            assert_eq!(Owner::label_in(value), None, "{value:?}");
        }
        // Not on a character boundary.
        assert_eq!(Owner::label_in(&format!("{}é:x", &hex[..31])), None);
    }
}
