//! What is measured. Not who takes part.

pub(crate) mod contended;
pub(crate) mod held;
pub(crate) mod memory;
pub(crate) mod pairs;
pub(crate) mod passed;
