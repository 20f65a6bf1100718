//! Why the tool itself failed, and the exit code that says so. Not how the command that it runs failed.

use std::fmt;
use std::io;

use fencelock::{BackendError, BackendErrorKind, LockError};

use crate::exit;

/// A message for people and a code for scripts.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, message)
    }

    pub(crate) fn system(doing: &str, error: &io::Error) -> Self {
        Self::new(exit::SYSTEM, format!("cannot {doing}: {error}"))
    }

    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let code = match &error {
            LockError::Invalid { .. }
            | LockError::Conflict { .. }
            | LockError::Unsupported { .. } => exit::USAGE,
            LockError::Busy { .. } | LockError::TimedOut { .. } => exit::BUSY,
            LockError::Lost { .. } => exit::LOST,
            LockError::Entropy { .. } | LockError::NoRuntime { .. } => exit::SYSTEM,
            // Late, Backend, Unknown, Closed: the store did not do its part in time.
            _ => exit::UNAVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        let code = match error.kind() {
            BackendErrorKind::Invalid | BackendErrorKind::Conflict => exit::USAGE,
            _ => exit::UNAVAILABLE,
        };
        Self::new(code, error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
