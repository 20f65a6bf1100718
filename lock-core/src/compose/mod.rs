//! Backends made of backends: each is one, and keeps every promise of one.

mod observed;

pub use observed::{BackendCall, Observed, Observer};
