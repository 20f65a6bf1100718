//! What does not name a lock: said by `LockName` itself, and the same without #[locked].
#![allow(unused)]

use fencelock::Locks;

struct Order;

fn names(locks: &Locks) {
    locks.lock(7);
    locks.lock(Order);
    locks.lock(["order", "7"]);
    locks.lock(("order", Order));
}

fn main() {}
