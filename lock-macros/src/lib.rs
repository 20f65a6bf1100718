//! The attribute [`#[locked]`](macro@locked): an async function that runs under a distributed lock. Not the lock: what is
//! written here calls `fencelock`, which re-exports it under the feature `macros`.
//!
//! | Question | File |
//! |---|---|
//! | What can be written into the attribute? | `arguments.rs`; durations: `duration.rs` |
//! | What can be written into a key? | `template.rs` |
//! | What can it be put on? | `function.rs` |
//! | What does it become? | `expand.rs` |

mod arguments;
mod duration;
mod expand;
mod function;
mod template;

use proc_macro::TokenStream;

/// Runs an async function, or method, under a lock.
///
/// ```
/// use fencelock::{LockError, Locks, MemoryBackend, locked};
///
/// /// Waits for the lock for 10 s at most, holds it while the body runs, by renewal, and gives it back.
/// #[locked("report:{date}", ttl = "300s", wait = "10s")]
/// async fn daily_report(date: &str) -> Result<usize, LockError> {
///     Ok(date.len())
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), LockError> {
/// Locks::new(MemoryBackend::new()).install_global()?;
/// assert_eq!(daily_report("2026-11-25").await?, 10);
/// # Ok(()) }
/// ```
///
/// It is `DistributedLock::with` around the body: if the lock is lost, the body is dropped where it stands and the function returns `LockError::Lost`,
/// even if the body was done and had returned `Ok`. The function returns a `Result` whose error type converts from
/// `LockError` with `From`, as for `?`. A function that locks is not reentrant: called again under the same key by its
/// own body, it waits for itself until the wait is over.
///
/// # The key
///
/// Text with values in braces: arguments and their fields, `{date}`, `{order.id}`, `{pair.0}`, `{self.shop}`, also
/// those that a pattern takes out of an argument, as in `Path(id): Path<u64>`. `{{` and `}}` are braces. Values are printed
/// with `Display`, and `:`, `{`, `}` and `%` in them are written as `%3A`, `%7B`, `%7D` and `%25`. Between two values there
/// must be a `:` or a brace. So no two calls with different values lock the same key, whatever the values are; the key
/// `"order:{id}"` is the name `("order", id)` (see `LockName`).
///
/// # The rest, each of it optional
///
/// | | | Without it |
/// |---|---|---|
/// | `ttl = "300s"` | how long a grant lasts, 10 ms to 24 h | as the locks say; 30 s |
/// | `wait = "10s"` | how long to wait for the lock at most; `"0s"` is one attempt | as the locks say; 30 s |
/// | `renew = false` | the lock ends with its ttl, and the body with it; `true`: renewed three times per ttl | as the locks say; `true` |
/// | `on_busy = "skip"` | busy, also after waiting, is `Ok(None)`; needs a written `Result<Option<T>, E>` | `"error"`: `LockError::Busy` or `TimedOut` |
/// | `locks = self.locks` | the `Locks` to use: any expression, of the arguments too | `Locks::global()`; an error if none are installed |
/// | `guard` or `guard = name` | the body sees its `&LockGuard` under this name | |
/// | `crate = path` | where `fencelock` is, if it goes by another name | `::fencelock` |
///
/// Durations are whole numbers with `ms`, `s`, `m` or `h`, such as `"90s"` or `"1m30s"`.
///
/// ```
/// use fencelock::{LockError, LockGuard, Locks, locked};
///
/// struct Shop {
///     locks: Locks,
///     name: String,
/// }
///
/// impl Shop {
///     /// `Ok(None)` if another process is at it.
///     #[locked("stock:{self.name}:{item}", wait = "0s", on_busy = "skip", locks = self.locks, guard)]
///     async fn count(&self, item: u64) -> Result<Option<u64>, LockError> {
///         Ok(guard.fencing_token().map(u64::from))
///     }
/// }
/// ```
///
/// It also goes on the methods of an `#[async_trait]` impl or trait, and on functions that are written like those: with a
/// `Box::pin(async move { .. })` as their only expression. Arguments that the body does not use are dropped when the
/// function returns, those that it uses when the body ends.
#[proc_macro_attribute]
pub fn locked(arguments: TokenStream, item: TokenStream) -> TokenStream {
    expand::locked(arguments.into(), item.into()).into()
}
