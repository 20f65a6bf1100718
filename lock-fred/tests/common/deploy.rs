//! The conformance suite on a deployment that all cases of a test program share: each uses keys of its own.

use std::marker::PhantomData;
use std::sync::Arc;

use lock_core::{ForceRelease, LockKey};
use lock_testkit::server::Reply;
use lock_testkit::{Fixture, Gap};

use super::Backend;

/// What a shared deployment lacks at least: nobody stops it under the others' feet, and another process would start its own.
pub const SHARED: &[Gap] = &[
    Gap::Order,
    Gap::SurvivesRestart,
    Gap::Restart,
    Gap::Stop,
    Gap::Stall,
    Gap::CutConnections,
    Gap::Processes,
];

/// Servers that stand as long as the test program, which started them when they were first needed.
pub trait Deployment: Send + Sync + 'static {
    const GAPS: &'static [Gap] = SHARED;
    const PREFIX: &'static str = "";

    fn is_here() -> bool {
        true
    }

    fn client() -> impl Future<Output = Backend> + Send;

    /// Asks the server that has `key`.
    fn cli(key: &str, command: &[&str]) -> Reply;
}

pub struct On<D>(PhantomData<D>);

impl<D: Deployment> Fixture for On<D> {
    type Backend = Backend;
    const GAPS: &'static [Gap] = D::GAPS;

    fn is_here() -> bool {
        D::is_here()
    }

    async fn start() -> Self {
        Self(PhantomData)
    }

    async fn client(&self) -> Backend {
        D::client().await
    }

    fn prefix(&self) -> &str {
        D::PREFIX
    }

    async fn evict(&self, key: &LockKey) -> bool {
        D::cli(key.as_str(), &["DEL", key.as_str()]);
        true
    }

    async fn expire(&self, key: &LockKey) -> bool {
        D::cli(key.as_str(), &["PEXPIRE", key.as_str(), "1"]);
        true
    }

    async fn obstruct(&self, key: &LockKey) -> bool {
        D::cli(key.as_str(), &["HSET", key.as_str(), "a", "b"]);
        true
    }

    async fn operator(&self) -> Option<Arc<dyn ForceRelease>> {
        if D::GAPS.contains(&Gap::ForceRelease) {
            return None;
        }
        Some(Arc::new(D::client().await))
    }
}
