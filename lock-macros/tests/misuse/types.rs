//! What only the compiler's types know.
#![allow(unused)]

use std::fmt;

use fencelock::{LockError, Locks, locked};

#[locked("a")]
async fn no_result() -> u32 {
    5
}

#[locked("a")]
async fn an_option() -> Option<u32> {
    Some(5)
}

#[locked("a")]
async fn no_conversion() -> Result<u32, fmt::Error> {
    Ok(5)
}

struct Order {
    id: u64,
}

#[locked("order:{order}")]
async fn not_printed(order: Order) -> Result<(), LockError> {
    Ok(())
}

#[locked("order:{order.number}")]
async fn no_field(order: Order) -> Result<(), LockError> {
    let _ = order.id;
    Ok(())
}

#[locked("a", locks = number)]
async fn no_locks(number: u8) -> Result<(), LockError> {
    Ok(())
}

#[locked("a", locks = self.locks)]
async fn no_self(locks: Locks) -> Result<(), LockError> {
    Ok(())
}

#[locked("a", crate = elsewhere)]
async fn no_crate() -> Result<(), LockError> {
    Ok(())
}

#[locked("a")]
async fn another_type() -> Result<u32, LockError> {
    Ok("five")
}

fn main() {}
