//! Every promise of a backend is kept: over RESP3 as the default user, over RESP2 as one with the least rights, and on a server
//! that keeps its data; also with locks that are never passed on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::alone::{Alone, Kind};
use common::{Backend, LEAST_RIGHTS, RIGHTS_TO_ASK, connected, patient};
use lock_core::PassingOn;
use lock_testkit::Gap;
use lock_testkit::server::RedisOptions;

struct Plain;

impl Kind for Plain {
    async fn client(url: &str) -> Backend {
        connected(url).await
    }
}

mod resp3 {
    lock_testkit::conformance!(super::Alone<super::Plain>);
}

struct LeastRights;

impl Kind for LeastRights {
    const PREFIX: &'static str = "lock:";

    fn options() -> RedisOptions {
        // In its configuration, so that the user is there from the first connection on, also after a restart.
        let options = RedisOptions::new().with_args(["--user", "locks", "on", ">pw"]);
        let rights = [LEAST_RIGHTS, RIGHTS_TO_ASK];
        options.with_args(rights.into_iter().flat_map(str::split_whitespace))
    }

    async fn client(url: &str) -> Backend {
        let url = url.replace("redis://", "redis://locks:pw@");
        let url = format!("{url}?protocol=resp2");
        connected(url).await
    }
}

mod resp2_with_the_least_rights {
    lock_testkit::conformance!(super::Alone<super::LeastRights>);
}

struct KeepsData;

impl Kind for KeepsData {
    const GAPS: &'static [Gap] = &[Gap::Order];

    fn options() -> RedisOptions {
        RedisOptions::new().with_args(["--appendonly", "yes", "--appendfsync", "always"])
    }

    async fn client(url: &str) -> Backend {
        let builder = patient(Backend::builder(url));
        let builder = builder.with_survives_restart(true);
        builder.connect().await.unwrap()
    }
}

mod on_a_server_that_keeps_its_data {
    lock_testkit::conformance!(super::Alone<super::KeepsData>);
}

struct WithoutPassingOn;

impl Kind for WithoutPassingOn {
    const PASSING_ON: PassingOn = PassingOn::never();

    async fn client(url: &str) -> Backend {
        connected(url).await
    }
}

mod without_passing_on {
    lock_testkit::conformance!(super::Alone<super::WithoutPassingOn>);
}
