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
        connected(url).await
    }
}

mod one_server {
    lock_testkit::conformance!(super::Alone<super::Valkey>);
}

#[cfg(feature = "cluster")]
mod cluster {
    use lock_testkit::Gap;
    use lock_testkit::server::RedisCluster;

    use super::common::deploy::{Deployment, GAPS_OF_A_CLUSTER, On, Pool};
    use super::*;

    static CLUSTERS: Pool<RedisCluster> = Pool::new(start);

    fn start() -> RedisCluster {
        RedisCluster::with(&RedisOptions::new().with_program(Program::Valkey), 3, 0)
    }

    struct ValkeyCluster;

    impl Deployment for ValkeyCluster {
        type Servers = RedisCluster;
        const GAPS: &'static [Gap] = GAPS_OF_A_CLUSTER;

        fn is_here() -> bool {
            Program::Valkey.is_here()
        }

        fn pool() -> &'static Pool<RedisCluster> {
            &CLUSTERS
        }

        fn urls(cluster: &RedisCluster) -> Vec<String> {
            cluster.urls()
        }

        async fn client(urls: Vec<String>) -> Backend {
            patient(Backend::cluster(urls)).connect().await.unwrap()
        }
    }

    mod conformance {
        lock_testkit::conformance!(super::On<super::ValkeyCluster>);
    }
}
