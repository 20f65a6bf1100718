//! What names a lock: text, or parts joined so that no two lists of parts make one name. Not the key, which is prefix and
//! name, checked.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};
use std::sync::Arc;

/// What can name a lock: text, which is taken as it is, or a tuple of parts.
///
/// A tuple of one to six values that implement [`Display`] is joined by `:`. In each part `:`, `{`, `}` and `%` are
/// written as `%3A`, `%7B`, `%7D` and `%25`, so that different lists of parts are different names, whatever was typed
/// into them, and no part is taken for a Redis hash tag. This is part of the wire format and never changes.
///
/// ```
/// use lock_core::LockKey;
///
/// let key = |name| Ok::<_, lock_core::LockError>(LockKey::new(name)?.as_str().to_owned());
/// assert_eq!(key(("order", "7"))?, "order:7");
/// assert_eq!(key(("a:b", "c"))?, "a%3Ab:c");
/// assert_eq!(key(("a", "b:c"))?, "a:b%3Ac");
/// assert_eq!(LockKey::new(format!("order:{}", 7))?, LockKey::new(("order", 7))?);
/// # Ok::<(), lock_core::LockError>(())
/// ```
///
/// A part must be printed alike by everybody who uses the lock, and differently for different values: not a float, nor
/// what prints itself as `***`.
///
/// Implement it to name locks by a type of your own:
///
/// ```
/// use lock_core::{LockKey, LockName, NameWriter};
///
/// enum Shop {
///     Order(u64),
///     Stock { shelf: String },
/// }
///
/// impl LockName for Shop {
///     fn write_to(&self, name: &mut NameWriter<'_>) {
///         match self {
///             Self::Order(id) => ("order", id).write_to(name),
///             Self::Stock { shelf } => ("stock", shelf).write_to(name),
///         }
///     }
/// }
///
/// assert_eq!(LockKey::new(Shop::Order(7))?.as_str(), "order:7");
/// assert_eq!(LockKey::new(Shop::Stock { shelf: "a:3".into() })?.as_str(), "stock:a%3A3");
/// # Ok::<(), lock_core::LockError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not name a lock",
    label = "neither text nor a tuple of parts",
    note = "a lock is named by text, such as `\"order\"` or `format!(\"order:{{id}}\")`, or by a tuple of one to six values that \
            implement `Display`, such as `(\"order\", id)`; a type of your own may implement `LockName`"
)]
pub trait LockName {
    /// Writes the name: the same bytes for the same lock, always and everywhere.
    fn write_to(&self, name: &mut NameWriter<'_>);
}

/// Where a [`LockName`] writes its name.
#[derive(Debug)]
pub struct NameWriter<'a> {
    out: &'a mut String,
    failed: bool,
}

impl<'a> NameWriter<'a> {
    pub(crate) fn new(out: &'a mut String) -> Self {
        Self { out, failed: false }
    }

    /// Text as it is, such as the `:` between two parts.
    pub fn text(&mut self, text: &str) {
        self.out.push_str(text);
    }

    /// A value, with `:`, `{`, `}` and `%` in it written as in a tuple. A value whose [`Display`] fails makes the key
    /// [`Invalid`](crate::LockError::Invalid).
    pub fn part(&mut self, part: &(impl Display + ?Sized)) {
        self.failed |= write!(Escape(self.out), "{part}").is_err();
    }

    /// Whether a part could not be printed.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }
}

/// Writes what separates parts in another way.
struct Escape<'a>(&'a mut String);

impl Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((plain, special)) = rest
            .find([':', '{', '}', '%'])
            .and_then(|at| rest.split_at_checked(at))
        {
            self.0.push_str(plain);
            let mut after = special.chars();
            self.0.push_str(match after.next() {
                Some(':') => "%3A",
                Some('{') => "%7B",
                Some('}') => "%7D",
                _ => "%25",
            });
            rest = after.as_str();
        }
        self.0.push_str(rest);
        Ok(())
    }
}

impl<T: LockName + ?Sized> LockName for &T {
    fn write_to(&self, name: &mut NameWriter<'_>) {
        (**self).write_to(name);
    }
}

macro_rules! texts {
    ($($text:ty),*) => {$(
        impl LockName for $text {
            fn write_to(&self, name: &mut NameWriter<'_>) {
                name.text(self);
            }
        }
    )*};
}
texts!(str, String, Box<str>, Arc<str>, Cow<'_, str>);

/// `format_args!("order:{id}")`: as text, without a `String` between.
impl LockName for fmt::Arguments<'_> {
    fn write_to(&self, name: &mut NameWriter<'_>) {
        name.failed |= name.out.write_fmt(*self).is_err();
    }
}

macro_rules! tuples {
    ($first:ident $($part:ident)*) => {
        impl<$first: Display, $($part: Display),*> LockName for ($first, $($part,)*) {
            #[allow(non_snake_case, reason = "parts are called like their types")]
            fn write_to(&self, name: &mut NameWriter<'_>) {
                let ($first, $($part,)*) = self;
                name.part($first);
                $(
                    name.text(":");
                    name.part($part);
                )*
            }
        }
        tuples!($($part)*);
    };
    () => {};
}
tuples!(A B C D E F);

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::error::LockError;
    use crate::key::LockKey;

    #[track_caller]
    fn assert_name(name: impl LockName, expected: &str) {
        assert_eq!(LockKey::new(name).unwrap().as_str(), expected);
    }

    /// The wire format: other processes and versions rely on it.
    #[test]
    fn the_bytes_of_a_name_never_change() {
        assert_name("a:b%{c}", "a:b%{c}");
        assert_name(String::from("order:7"), "order:7");
        assert_name(Cow::from("order:7"), "order:7");
        assert_name(&*String::from("x"), "x");
        assert_name(format_args!("order:{}", "a:7"), "order:a:7");
        assert_name(Arc::<str>::from("x"), "x");
        assert_name(Box::<str>::from("x"), "x");

        assert_name(("a:b%{c}",), "a%3Ab%25%7Bc%7D");
        assert_name(("order", 7), "order:7");
        assert_name(("order", -7_i128, true), "order:-7:true");
        assert_name(("", ""), ":");
        assert_name(("a", "b:c"), "a:b%3Ac");
        assert_name(("a:b", "c"), "a%3Ab:c");
        assert_name(("a", ":", "c"), "a:%3A:c");
        assert_name(("peer", Ipv6Addr::LOCALHOST), "peer:%3A%3A1");
        let id = uuid::Uuid::from_u128(0xa1a2_a3a4_b1b2_c1c2_d1d2_d3d4_d5d6_d7d8);
        assert_name(("user", id), "user:a1a2a3a4-b1b2-c1c2-d1d2-d3d4d5d6d7d8");
        assert_name(
            ("e\u{301}", "\u{e9}", ' ', "\n", 5_u8, "%3A"),
            "e\u{301}:\u{e9}: :\n:5:%253A",
        );
    }

    #[test]
    fn a_name_whose_display_fails_is_invalid() {
        struct Fails;
        impl Display for Fails {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        for key in [
            LockKey::new(("a", Fails)),
            LockKey::new(format_args!("a:{Fails}")),
        ] {
            let error = key.unwrap_err();
            assert!(matches!(error, LockError::Invalid { .. }), "{error:?}");
            assert!(error.to_string().contains("Display"), "{error}");
        }
    }
}
