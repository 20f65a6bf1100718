//! The seed of what tests try at random.

/// The seed of all that a test tries at random: that of the environment variable `FENCELOCK_SEED`, or a new one. It is printed, for
/// who looks at a failure.
///
/// # Panics
///
/// If the variable holds no number.
#[must_use]
pub fn seed() -> u64 {
    let seed = match std::env::var("FENCELOCK_SEED") {
        Ok(seed) => {
            let number = seed.parse();
            number.unwrap_or_else(|_| panic!("FENCELOCK_SEED is no number: {seed:?}"))
        }
        Err(_) => fastrand::u64(..),
    };
    eprintln!("seed {seed}");
    seed
}
