//! What the tests need to know of the client.

/// What is tested.
pub use lock_redis::{RedisBackend as Backend, RedisBackendBuilder as BackendBuilder};

/// Whether it may send again by itself what was under way to a node of a cluster.
pub const CLUSTER_RESENDS: bool = true;

/// Commands that the client sends with each connection, and does without if they are refused.
pub const ASKED_WHEN_CONNECTING: [&str; 0] = [];

/// The rights to ask that, so that nothing is refused.
pub const RIGHTS_TO_ASK: &str = "";

/// The URLs of settings of the client's own with these credentials and this address.
pub fn configured(rest: &str) -> Vec<String> {
    vec![format!("redis://{rest}")]
}

/// A backend on a client that was made elsewhere with such settings, and has not connected.
pub fn given(url: &str) -> Backend {
    Backend::from_client(lock_redis::redis::Client::open(url).unwrap())
}

/// What a program that uses TLS does once: it chooses who does the cryptography.
#[cfg(feature = "tls")]
pub fn choose_provider() {
    static CHOSEN: std::sync::Once = std::sync::Once::new();
    CHOSEN.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// For `with_certificates`: whoever this certificate vouches for.
#[cfg(feature = "tls")]
pub fn trusting(authority: &str) -> lock_redis::redis::TlsCertificates {
    lock_redis::redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(authority.into()),
    }
}

/// The same, and shows who we are.
#[cfg(feature = "tls")]
pub fn showing(
    identity: &lock_testkit::server::Identity,
    authority: &lock_testkit::server::Authority,
) -> lock_redis::redis::TlsCertificates {
    let client_tls = lock_redis::redis::ClientTlsConfig {
        client_cert: identity.certificate().as_bytes().to_vec(),
        client_key: identity.key().as_bytes().to_vec(),
    };
    lock_redis::redis::TlsCertificates {
        client_tls: Some(client_tls),
        ..trusting(&authority.certificate())
    }
}
