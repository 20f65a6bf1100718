//! A server that may throw locks away is told apart from one that does not, by all who may ask.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use common::{Backend, refusals};
use lock_testkit::server::{Program, RedisOptions, RedisServer};

/// All that a user needs for locks of the prefix `lock:`, and nothing else.
const MINIMAL: &str = "resetchannels ~lock:* &lock:* +evalsha +eval +set +get +getrange +type +del +pexpire +pttl +time \
                       +publish +subscribe +unsubscribe +ping";

fn options(limit: &str, policy: &str) -> RedisOptions {
    RedisOptions::new().with_args(["--maxmemory", limit, "--maxmemory-policy", policy])
}

fn server(limit: &str, policy: &str) -> RedisServer {
    options(limit, policy).start()
}

#[tokio::test]
async fn a_server_says_whether_it_may_evict_locks() {
    for (limit, policy, evicts) in [
        ("100mb", "noeviction", false),
        ("100mb", "allkeys-lru", true),
        ("100mb", "volatile-lru", true),
        ("100mb", "volatile-ttl", true),
        // Without a limit nothing is ever evicted.
        ("0", "allkeys-lru", false),
    ] {
        let server = server(limit, policy);
        for url in [server.url(), format!("{}?protocol=resp2", server.url())] {
            let backend = Backend::connect(url).await.unwrap();
            let answer = backend.may_evict().await.unwrap();
            assert_eq!(answer, Some(evicts), "{limit} {policy}");
        }
    }
}

#[tokio::test]
async fn who_must_not_ask_does_not_and_is_told_nothing() {
    let server = server("100mb", "allkeys-lru");
    for (user, more, answer) in [("least", "", None), ("more", " +info", Some(true))] {
        server.add_user(user, "pw", &format!("-@all {MINIMAL}{more}"));
        let backend = Backend::connect(server.url_for(user, "pw")).await.unwrap();
        assert_eq!(backend.may_evict().await.unwrap(), answer, "{user}");
    }
    assert_eq!(refusals(&server), Vec::<String>::new());
}

#[tokio::test]
async fn valkey_says_it_too() {
    if !Program::Valkey.is_here() {
        return;
    }
    let valkey = options("100mb", "volatile-lru").with_program(Program::Valkey);
    let server = valkey.start();
    server.add_user("least", "pw", &format!("-@all {MINIMAL}"));
    for (url, answer) in [
        (server.url(), Some(true)),
        (server.url_for("least", "pw"), None),
    ] {
        let backend = Backend::connect(url).await.unwrap();
        assert_eq!(backend.may_evict().await.unwrap(), answer);
    }
    assert_eq!(refusals(&server), Vec::<String>::new());
}

#[tokio::test]
async fn without_scripts_it_is_not_known() {
    let server = server("100mb", "allkeys-lru");
    let builder = Backend::builder(server.url()).with_native_commands();
    let backend = builder.connect().await.unwrap();
    assert_eq!(backend.may_evict().await.unwrap(), None);
    assert_eq!(common::calls(&server, "evalsha"), 0);
}

#[cfg(feature = "tracing")]
mod warning {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use lock_testkit::proxy::{Action, Gate, Match, Proxy};
    use tracing::Level;
    use tracing::subscriber::set_default;

    use super::*;
    use crate::common::{MS, SECOND, calls, soon};

    /// A writer that keeps what is logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Connects to `url` and answers what was logged meanwhile, as a subscriber of warnings hears it.
    async fn log_of_connecting(url: &str) -> String {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::WARN)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let listening = set_default(subscriber);
        let builder = Backend::builder(url).with_connect_timeout(10 * SECOND);
        builder.connect().await.unwrap();
        drop(listening);
        let logged = log.0.lock().unwrap();
        String::from_utf8(logged.clone()).unwrap()
    }

    #[tokio::test]
    async fn who_connects_to_a_server_that_evicts_locks_is_warned() {
        let server = server("100mb", "allkeys-lru");
        server.add_user("least", "very-secret", &format!("-@all {MINIMAL} +info"));
        let log = log_of_connecting(&server.url_for("least", "very-secret")).await;
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(log.contains("WARN fencelock"), "{log}");
        assert!(log.contains("allkeys-lru"), "{log}");
        assert!(log.contains(&server.port().to_string()), "{log}");
        assert!(!log.contains("very-secret"), "{log}");
    }

    #[tokio::test]
    async fn who_must_not_ask_or_has_nothing_to_fear_is_not_warned() {
        let evicts = server("100mb", "allkeys-lru");
        evicts.add_user("least", "pw", &format!("-@all {MINIMAL}"));
        assert_eq!(log_of_connecting(&evicts.url_for("least", "pw")).await, "");
        assert_eq!(refusals(&evicts), Vec::<String>::new());
        let keeps = server("100mb", "noeviction");
        assert_eq!(log_of_connecting(&keeps.url()).await, "");
    }

    /// Nobody listens here, or to nothing as mild as a warning.
    #[tokio::test]
    async fn a_server_is_not_asked_for_nobody() {
        let server = server("100mb", "allkeys-lru");
        Backend::connect(server.url()).await.unwrap();
        let subscriber = tracing_subscriber::fmt().with_max_level(Level::ERROR);
        let listening = set_default(subscriber.finish());
        Backend::connect(server.url()).await.unwrap();
        drop(listening);
        assert_eq!(calls(&server, "evalsha"), 0);
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_this_does_not_keep_anybody_from_connecting() {
        let server = server("100mb", "allkeys-lru");
        let proxy = Proxy::start(server.port()).await;
        let gate = Gate::new();
        let asked = proxy
            .on(Match::command(["EVALSHA"]))
            .action(Action::hold_request(&gate));
        let listening = set_default(tracing_subscriber::fmt().finish());
        let builder = Backend::builder(proxy.url()).with_connect_timeout(500 * MS);
        soon("a connection", builder.connect()).await.unwrap();
        drop(listening);
        assert_eq!(asked.count(), 1);
        // It may be that of a user who may not even run scripts.
        server.add_user("none", "pw", "-@all +ping");
        assert_eq!(log_of_connecting(&server.url_for("none", "pw")).await, "");
    }
}
