//! Locks on Valkey: every promise is kept, on one server and on a cluster.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::alone::{Alone, Kind};
use common::*;
use lock_testkit::server::{Program, RedisOptions};

struct Valkey;

impl Kind for Valkey {
    fn is_here() -> bool {
        Program::Valkey.is_here()
    }

    fn options() -> RedisOptions {
        RedisOptions::new().with_program(Program::Valkey)
    }

    async fn client(url: &str) -> Backend {
        Backend::connect(url).await.unwrap()
    }
}

mod one_server {
    lock_testkit::conformance!(super::Alone<super::Valkey>);
}

#[cfg(feature = "cluster")]
mod cluster {
    use std::sync::LazyLock;

    use lock_testkit::server::{RedisCluster, Reply};

    use super::common::deploy::{Deployment, On};
    use super::*;

    static CLUSTER: LazyLock<RedisCluster> = LazyLock::new(|| {
        RedisCluster::with(&RedisOptions::new().with_program(Program::Valkey), 3, 0)
    });

    struct ValkeyCluster;

    impl Deployment for ValkeyCluster {
        fn is_here() -> bool {
            Program::Valkey.is_here()
        }

        async fn client() -> Backend {
            Backend::cluster(CLUSTER.urls()).connect().await.unwrap()
        }

        fn cli(key: &str, command: &[&str]) -> Reply {
            CLUSTER.server_of(key).cli(command)
        }
    }

    mod conformance {
        lock_testkit::conformance!(super::On<super::ValkeyCluster>);
    }
}
