//! What the code that `#[locked]` writes calls. Not for people: it may change with any version.

use std::fmt::Display;
use std::future::Future;

use crate::error::LockError;
use crate::guard::LockGuard;
use crate::lock::DistributedLock;
use crate::locks::Locks;
use crate::name::{LockName, NameWriter};

/// A piece of a template for a name.
#[expect(missing_debug_implementations, reason = "a value to print has none")]
pub enum Piece<'a> {
    Text(&'static str),
    Part(&'a dyn Display),
}

impl<const N: usize> LockName for [Piece<'_>; N] {
    fn write_to(&self, name: &mut NameWriter<'_>) {
        for piece in self {
            match piece {
                Piece::Text(text) => name.text(text),
                Piece::Part(part) => name.part(*part),
            }
        }
    }
}

/// The lock of a function.
pub fn lock<const N: usize>(
    locks: Result<&Locks, LockError>,
    name: [Piece<'_>; N],
    options: impl FnOnce(DistributedLock) -> DistributedLock,
) -> Result<DistributedLock, LockError> {
    Ok(options(locks?.lock(name)))
}

/// Takes it.
pub async fn acquire(lock: Result<DistributedLock, LockError>) -> Result<LockGuard, LockError> {
    lock?.acquire().await
}

/// Runs the body until it is done or the lock is lost.
pub async fn run<F: Future>(guard: &LockGuard, body: F) -> Result<F::Output, LockError> {
    guard.run_until_lost(body).await
}

/// What a function under a lock can return.
#[diagnostic::on_unimplemented(
    message = "a `#[locked]` function returns a `Result`",
    label = "not a `Result<T, E>` with `E: From<LockError>`",
    note = "the lock may be busy or lost, and its store may fail: the function's own error type has to have room for that"
)]
pub trait LockedResult {
    fn failed(&self) -> bool;
    fn refused(error: LockError) -> Self;
}

impl<T, E: From<LockError>> LockedResult for Result<T, E> {
    fn failed(&self) -> bool {
        self.is_err()
    }

    fn refused(error: LockError) -> Self {
        Err(error.into())
    }
}

/// What it returns is checked here and nowhere else, so that a wrong type is one error.
#[must_use]
pub fn returns<R: LockedResult>() -> Returns<R> {
    Returns {
        failed: R::failed,
        refused: R::refused,
    }
}

/// How a function returns.
#[derive(Debug)]
pub struct Returns<R> {
    failed: fn(&R) -> bool,
    refused: fn(LockError) -> R,
}

impl<R> Returns<R> {
    /// What a function returns that did not run.
    pub fn refused(&self, error: LockError) -> R {
        (self.refused)(error)
    }

    /// Lets go; what a function returns whose body came to `outcome`.
    pub async fn finish(self, guard: LockGuard, outcome: Result<R, LockError>) -> R {
        let result = match outcome {
            Ok(result) => result,
            Err(lost) => return self.refused(lost),
        };
        match guard.finish((self.failed)(&result)).await {
            Ok(()) => result,
            Err(lost) => self.refused(lost),
        }
    }
}
