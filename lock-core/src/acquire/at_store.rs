//! What a waiter has at the store: a place in the store's line, and a subscription to its wake-ups. Not the waiting.

use crate::backend::{Place, Wakeup};
use crate::clock::Moment;

use super::place::KeptPlace;

/// What the head of a line has at the store. It outlives the head: the next one takes it over.
#[derive(Default)]
pub(crate) struct AtStore {
    pub(super) place: Option<KeptPlace>,
    pub(super) wakeup: Subscription,
}

/// A subscription and the place in the store's line that it was made for.
#[derive(Default)]
pub(super) enum Subscription {
    #[default]
    NotTried,
    /// Refused or not answered, at that moment.
    None(Option<Place>, Moment),
    Some(Box<dyn Wakeup>, Option<Place>),
}
