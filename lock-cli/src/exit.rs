//! The exit codes of the command: one a cause, so that scripts can tell them apart. Not the command's own codes, which are
//! passed on.

/// The arguments make no sense, or the lock cannot be asked for like that (`EX_USAGE` of sysexits).
pub(crate) const USAGE: u8 = 64;

/// The store is down, refused, or did not answer (`EX_UNAVAILABLE`).
pub(crate) const UNAVAILABLE: u8 = 69;

/// Something on this machine failed (`EX_OSERR`).
pub(crate) const SYSTEM: u8 = 71;

/// Somebody else holds the lock (`EX_TEMPFAIL`: try again later).
pub(crate) const BUSY: u8 = 75;

/// The lock was lost while the command ran, and the command was ended.
pub(crate) const LOST: u8 = 79;

/// The command cannot be executed, as in shells.
pub(crate) const NOT_EXECUTABLE: u8 = 126;

/// The command was not found, as in shells.
pub(crate) const NOT_FOUND: u8 = 127;

/// What shells say of a command that a signal ended: 128 + the signal's number.
pub(crate) fn of_signal(number: i32) -> u8 {
    u8::try_from(number).map_or(u8::MAX, |number| number.saturating_add(128))
}
