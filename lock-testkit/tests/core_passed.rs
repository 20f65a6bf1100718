//! Every promise of the life of a held lock again, for guards that a lock was passed on to instead of granted.
#![allow(
    clippy::duplicate_mod,
    reason = "each of them has it as a file of its own"
)]

#[path = "core_extend.rs"]
mod core_extend;
#[path = "core_handover.rs"]
mod core_handover;
#[path = "core_loss.rs"]
mod core_loss;
#[path = "core_release.rs"]
mod core_release;
#[path = "core_renewal.rs"]
mod core_renewal;
