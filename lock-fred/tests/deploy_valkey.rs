//! Locks on Valkey: every promise is kept, on one server and on a cluster.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::LazyLock;

use common::deploy::{Deployment, On};
use common::*;
use lock_testkit::server::{Program, RedisOptions, RedisServer, Reply};

static SERVER: LazyLock<RedisServer> =
    LazyLock::new(|| RedisOptions::new().with_program(Program::Valkey).start());

struct Valkey;

impl Deployment for Valkey {
    fn is_here() -> bool {
        Program::Valkey.is_here()
    }

    async fn client() -> Backend {
        Backend::connect(SERVER.url()).await.unwrap()
    }

    fn cli(_: &str, command: &[&str]) -> Reply {
        SERVER.cli(command)
    }
}

mod one_server {
    lock_testkit::conformance!(super::On<super::Valkey>);
}

#[cfg(feature = "cluster")]
mod cluster {
    use lock_testkit::server::RedisCluster;

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
