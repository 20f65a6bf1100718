//! What every lock backend must do, and what it takes to test that.

#[cfg(unix)]
pub mod server;
