//! What #[locked] does not go on.
#![allow(unused)]

use std::future::Future;
use std::pin::Pin;

use fencelock::{LockError, locked};

#[locked("a")]
fn blocking() -> Result<(), LockError> {
    Ok(())
}

#[locked("a")]
fn a_future() -> impl Future<Output = Result<(), LockError>> {
    async { Ok(()) }
}

#[locked("a")]
fn more_than_a_future() -> Pin<Box<dyn Future<Output = Result<(), LockError>>>> {
    println!("not under the lock");
    Box::pin(async move { Ok(()) })
}

#[locked("a")]
struct Order;

struct Shop;

#[locked("a")]
impl Shop {
    async fn pay(&self) -> Result<(), LockError> {
        Ok(())
    }
}

trait Reports {
    #[locked("a")]
    async fn daily(&self) -> Result<(), LockError>;
}

#[locked("a")]
async fn nothing() {}

#[locked("a", on_busy = "skip")]
async fn skips_a_unit() -> Result<(), LockError> {
    Ok(())
}

type Skippable = Result<Option<()>, LockError>;

#[locked("a", on_busy = "skip")]
async fn skips_an_alias() -> Skippable {
    Ok(None)
}

fn main() {}
