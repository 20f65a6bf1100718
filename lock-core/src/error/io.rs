//! Errors of locks as errors of I/O, for functions that return [`io::Result`].

use std::io;

use super::LockError;

/// For functions that return [`io::Result`]: busy is [`WouldBlock`](io::ErrorKind::WouldBlock), as for a busy file
/// lock; a wait that is over, and a grant that came too late, are [`TimedOut`](io::ErrorKind::TimedOut); `Invalid` is
/// [`InvalidInput`](io::ErrorKind::InvalidInput), `Conflict` [`AlreadyExists`](io::ErrorKind::AlreadyExists),
/// `Unsupported` is called the same; the rest is [`Other`](io::ErrorKind::Other). The error itself is inside.
impl From<LockError> for io::Error {
    fn from(error: LockError) -> Self {
        let kind = match error {
            LockError::Invalid { .. } => io::ErrorKind::InvalidInput,
            LockError::Busy { .. } => io::ErrorKind::WouldBlock,
            LockError::TimedOut { .. } | LockError::Late { .. } => io::ErrorKind::TimedOut,
            LockError::Conflict { .. } => io::ErrorKind::AlreadyExists,
            LockError::Unsupported { .. } => io::ErrorKind::Unsupported,
            LockError::Backend { .. }
            | LockError::Unknown { .. }
            | LockError::Lost { .. }
            | LockError::Closed { .. }
            | LockError::NoRuntime { .. }
            | LockError::Entropy { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backend::Holder;
    use crate::key::LockKey;

    #[test]
    fn an_io_error_keeps_the_lock_error_inside() {
        let key = LockKey::new("a").unwrap();
        let holder = Holder::new();
        for (error, kind) in [
            (LockError::invalid("key", "x"), io::ErrorKind::InvalidInput),
            (
                LockError::Busy {
                    key: key.clone(),
                    holder: holder.clone(),
                },
                io::ErrorKind::WouldBlock,
            ),
            (
                LockError::TimedOut {
                    key: key.clone(),
                    waited: Duration::ZERO,
                    holder,
                },
                io::ErrorKind::TimedOut,
            ),
            (LockError::Closed { key }, io::ErrorKind::Other),
        ] {
            let text = error.to_string();
            let converted = (|| -> io::Result<()> { Err(error)? })().unwrap_err();
            assert_eq!((converted.kind(), converted.to_string()), (kind, text));
            assert!(
                converted
                    .get_ref()
                    .is_some_and(|inner| inner.is::<LockError>())
            );
        }
    }
}
