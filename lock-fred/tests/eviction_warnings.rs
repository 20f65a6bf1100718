//! Who connects to a server that may throw locks away is warned, if anybody listens.
#![cfg(feature = "tracing")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::io::Write;
use std::sync::{Arc, Mutex};

use common::{Backend, LEAST_RIGHTS, MS, SECOND, calls, refusals, soon};
use lock_testkit::proxy::{Action, Gate, Match, Proxy};
use lock_testkit::server::{RedisOptions, RedisServer};
use tracing::Level;
use tracing::subscriber::set_default;

fn server(policy: &str) -> RedisServer {
    let args = ["--maxmemory", "100mb", "--maxmemory-policy", policy];
    RedisOptions::new().with_args(args).start()
}

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
    let server = server("allkeys-lru");
    server.add_user("least", "very-secret", &format!("{LEAST_RIGHTS} +info"));
    let log = log_of_connecting(&server.url_for("least", "very-secret")).await;
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.contains("WARN fencelock"), "{log}");
    assert!(log.contains("allkeys-lru"), "{log}");
    assert!(log.contains(&server.port().to_string()), "{log}");
    assert!(!log.contains("very-secret"), "{log}");
}

#[tokio::test]
async fn who_must_not_ask_or_has_nothing_to_fear_is_not_warned() {
    let evicts = server("allkeys-lru");
    evicts.add_user("least", "pw", LEAST_RIGHTS);
    assert_eq!(log_of_connecting(&evicts.url_for("least", "pw")).await, "");
    assert_eq!(refusals(&evicts), Vec::<String>::new());
    let keeps = server("noeviction");
    assert_eq!(log_of_connecting(&keeps.url()).await, "");
}

/// Nobody listens here, or to nothing as mild as a warning.
#[tokio::test]
async fn a_server_is_not_asked_for_nobody() {
    let server = server("allkeys-lru");
    Backend::connect(server.url()).await.unwrap();
    let subscriber = tracing_subscriber::fmt().with_max_level(Level::ERROR);
    let listening = set_default(subscriber.finish());
    Backend::connect(server.url()).await.unwrap();
    drop(listening);
    assert_eq!(calls(&server, "evalsha"), 0);
}

#[tokio::test]
async fn a_server_that_does_not_answer_this_does_not_keep_anybody_from_connecting() {
    let server = server("allkeys-lru");
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
