//! How to use these locks well, in five short chapters. Not the reference: each type documents itself.

#[doc = include_str!("guide/stores.md")]
pub mod stores {}

#[doc = include_str!("guide/time.md")]
pub mod time {}

#[doc = include_str!("guide/loss.md")]
pub mod loss {}

#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/migrating.md")]
pub mod migrating {}
