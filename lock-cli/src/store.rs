//! Finds the store that a URL names. Not what is done there.

use std::sync::Arc;

use fencelock::{ForceRelease, LockBackend, Locks};

use crate::args::LockArgs;
use crate::failure::Failure;

/// A store that answered.
pub(crate) struct Store {
    pub(crate) backend: Arc<dyn ForceRelease>,
    pub(crate) locks: Locks,
}

impl Store {
    pub(crate) async fn connect(lock: &LockArgs) -> Result<Self, Failure> {
        let Some(url) = &lock.url else {
            return Err(Failure::usage(
                "which store? set LOCK_URL, or give --url redis://host[:port]",
            ));
        };
        let backend = backend(url).await?;
        let shared: Arc<dyn LockBackend> = Arc::<dyn ForceRelease>::clone(&backend);
        let locks = Locks::from_arc(shared).with_prefix(&lock.prefix);
        Ok(Self { backend, locks })
    }
}

#[cfg_attr(
    not(any(feature = "fred", feature = "redis")),
    allow(
        clippy::unused_async,
        reason = "without a store there is nothing to wait for"
    )
)]
async fn backend(url: &str) -> Result<Arc<dyn ForceRelease>, Failure> {
    // The URL may hold a password: no message shows more than its scheme.
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    match scheme {
        #[cfg(feature = "redis")]
        Some("redis" | "rediss" | "redis+unix" | "unix" | "valkey" | "valkeys" | "valkey+unix") => {
            Ok(Arc::new(fencelock::RedisBackend::connect(url).await?))
        }
        #[cfg(feature = "fred")]
        Some(
            "fred+redis" | "fred+rediss" | "fred+redis+unix" | "fred+unix" | "fred+valkey"
            | "fred+valkeys" | "fred+valkey+unix",
        ) => {
            let url = url.strip_prefix("fred+").unwrap_or(url);
            Ok(Arc::new(fencelock::FredBackend::connect(url).await?))
        }
        Some(scheme) => Err(Failure::usage(format!(
            "this build knows no store for {scheme:?} URLs"
        ))),
        None => Err(Failure::usage(
            "the URL has no scheme; it starts like redis://",
        )),
    }
}
