//! What the tests need to know of the client.

/// What is tested.
pub use lock_redis::RedisBackend as Backend;

/// Commands that the client sends with each connection, and does without if they are refused.
pub const ASKED_WHEN_CONNECTING: [&str; 0] = [];

/// What a program that uses TLS does once: it chooses who does the cryptography.
#[cfg(feature = "tls")]
pub fn choose_provider() {
    static CHOSEN: std::sync::Once = std::sync::Once::new();
    CHOSEN.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

/// For `with_certificates`.
#[cfg(feature = "tls")]
pub fn trusting(authority: &lock_testkit::server::Authority) -> lock_redis::redis::TlsCertificates {
    lock_redis::redis::TlsCertificates {
        client_tls: None,
        root_cert: Some(authority.certificate().into_bytes()),
    }
}
