//! Keys that cannot be.
#![allow(unused)]

use fencelock::{LockError, locked};

#[locked]
async fn no_parentheses() -> Result<(), LockError> {
    Ok(())
}

#[locked()]
async fn no_key() -> Result<(), LockError> {
    Ok(())
}

#[locked(ttl = "5s")]
async fn only_options() -> Result<(), LockError> {
    Ok(())
}

#[locked(7)]
async fn no_text() -> Result<(), LockError> {
    Ok(())
}

#[locked(concat!("a", "b"))]
async fn no_literal() -> Result<(), LockError> {
    Ok(())
}

#[locked("")]
async fn empty() -> Result<(), LockError> {
    Ok(())
}

#[locked("order:{}")]
async fn positional(id: u64) -> Result<(), LockError> {
    Ok(())
}

#[locked("order:{id")]
async fn unclosed(id: u64) -> Result<(), LockError> {
    Ok(())
}

#[locked("order:id}")]
async fn unopened(id: u64) -> Result<(), LockError> {
    Ok(())
}

#[locked("order:{id:>5}")]
async fn formatted(id: u64) -> Result<(), LockError> {
    Ok(())
}

#[locked("order:{id.to_string()}")]
async fn computed(id: u64) -> Result<(), LockError> {
    Ok(())
}

#[locked("{shop}{id}")]
async fn ambiguous(shop: &str, id: u64) -> Result<(), LockError> {
    Ok(())
}

#[locked("{shop}-{id}")]
async fn ambiguous_too(shop: &str, id: u64) -> Result<(), LockError> {
    Ok(())
}

#[locked("order:{order}")]
async fn unknown(id: u64, (shop, _): (u8, u8)) -> Result<(), LockError> {
    Ok(())
}

#[locked("order:{id}")]
async fn without_arguments() -> Result<(), LockError> {
    Ok(())
}

#[locked("order:{self.id}")]
async fn without_self(id: u64) -> Result<(), LockError> {
    Ok(())
}

fn main() {}
