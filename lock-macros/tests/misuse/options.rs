//! Options that cannot be.
#![allow(unused)]

use fencelock::{LockError, locked};

#[locked("a", retries = 3)]
async fn unknown() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", ttl = "5s", wait = "5s", ttl = "6s")]
async fn twice() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", ttl)]
async fn without_value() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", locks = )]
async fn with_nothing() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", "b")]
async fn two_keys() -> Result<(), LockError> {
    Ok(())
}

#[locked("a" ttl = "5s")]
async fn without_comma() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", ttl = 5)]
async fn a_number() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", ttl = Duration::from_secs(5))]
async fn an_expression() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", ttl = "5")]
async fn without_unit() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", wait = "1.5s")]
async fn a_fraction() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", wait = "5 minutes")]
async fn another_unit() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", ttl = "9ms")]
async fn too_short() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", ttl = "24h1ms")]
async fn too_long() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", renew = "false")]
async fn no_bool() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", on_busy = "wait")]
async fn no_way() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", on_busy = skip)]
async fn no_text() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", guard = "guard")]
async fn no_name() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", guard = self)]
async fn no_new_name() -> Result<(), LockError> {
    Ok(())
}

#[locked("a", guard)]
async fn taken(guard: u8) -> Result<(), LockError> {
    Ok(())
}

#[locked("a", crate = "fencelock")]
async fn no_path() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
