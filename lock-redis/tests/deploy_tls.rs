//! Locks over TLS: every promise is kept, and a server that is not who it says is refused.
#![cfg(feature = "tls")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::sync::LazyLock;

use common::alone::{Alone, Kind};
use common::*;
use lock_core::BackendErrorKind;
use lock_testkit::server::{Authority, Identity, RedisOptions, RedisServer};

static AUTHORITY: LazyLock<Authority> = LazyLock::new(Authority::new);

fn options(identity: Identity) -> RedisOptions {
    RedisOptions::new().with_tls(identity).with_password("pw")
}

struct Tls;

impl Kind for Tls {
    fn options() -> RedisOptions {
        options(AUTHORITY.localhost())
    }

    fn address(url: String) -> String {
        // And whom to trust, which another process does not know.
        format!("{url} {}", AUTHORITY.certificate())
    }

    async fn client(address: &str) -> Backend {
        choose_provider();
        let (url, authority) = address.split_once(' ').unwrap();
        let builder = Backend::builder(url).with_certificates(trusting(authority));
        // Handshakes of many tests at once.
        let builder = builder.with_connect_timeout(10 * SECOND);
        builder.connect().await.unwrap()
    }
}

mod conformance {
    lock_testkit::conformance!(super::Alone<super::Tls>);
}

#[tokio::test]
async fn a_server_that_is_not_who_it_says_is_refused() {
    choose_provider();
    let stranger = Authority::new();
    for (identity, authority, reason) in [
        (AUTHORITY.elsewhere(), &*AUTHORITY, "not valid for name"),
        (AUTHORITY.expired(), &*AUTHORITY, "expired"),
        (AUTHORITY.localhost(), &stranger, "invalid peer certificate"),
    ] {
        let server = options(identity).start();
        let builder =
            Backend::builder(server.url()).with_certificates(trusting(&authority.certificate()));
        let error = patient(builder).connect().await.unwrap_err();
        assert_eq!(error.kind(), BackendErrorKind::Permanent, "{error}");
        assert!(error.to_string().contains(reason), "{reason}: {error}");
        assert!(!format!("{error:?}").contains(":pw@"), "{error:?}");
        // The system's authorities do not know ours either.
        Backend::connect(server.url()).await.unwrap_err();
    }
}

#[tokio::test]
async fn plain_text_to_a_tls_port_and_tls_to_a_plain_port_are_refused() {
    choose_provider();
    let server = options(AUTHORITY.localhost()).start();
    let plain = format!("redis://127.0.0.1:{}", server.port());
    let error = soon("a refusal", Backend::connect(plain))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");

    let server = RedisServer::start();
    let url = format!("rediss://localhost:{}", server.port());
    let builder = Backend::builder(url).with_certificates(trusting(&AUTHORITY.certificate()));
    let error = soon("a refusal", builder.connect()).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn certificates_for_a_plain_url_are_a_mistake_that_is_told() {
    let builder =
        Backend::builder("redis://127.0.0.1").with_certificates(trusting(&AUTHORITY.certificate()));
    let error = builder.connect().await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("rediss://"), "{error}");
}

#[tokio::test]
async fn who_shows_no_certificate_is_not_let_in_where_one_is_wanted() {
    choose_provider();
    let server = options(AUTHORITY.localhost()).with_args(["--tls-auth-clients", "yes"]);
    let server = server.start();
    let builder = Backend::builder(server.url());
    let ours = showing(&AUTHORITY.localhost(), &AUTHORITY);
    let backend = patient(builder.clone())
        .with_certificates(ours)
        .connect()
        .await;
    round_trip(&backend.unwrap()).await;
    let strangers = showing(&Authority::new().localhost(), &AUTHORITY);
    for certificates in [trusting(&AUTHORITY.certificate()), strangers] {
        let connecting = builder.clone().with_certificates(certificates).connect();
        soon("a refusal", connecting).await.unwrap_err();
    }
}
