//! What the tests need to know of the client.

/// What is tested.
pub use lock_fred::FredBackend as Backend;

/// Commands that the client sends with each connection, and does without if they are refused.
pub const ASKED_WHEN_CONNECTING: [&str; 2] = ["client|id", "info"];

/// The client comes with the one who does the cryptography.
#[cfg(feature = "tls")]
pub const fn choose_provider() {}

/// For `with_certificates`.
#[cfg(feature = "tls")]
pub fn trusting(
    authority: &lock_testkit::server::Authority,
) -> lock_fred::fred::types::config::TlsConnector {
    use lock_fred::fred::rustls::pki_types::CertificateDer;
    use lock_fred::fred::rustls::pki_types::pem::PemObject;
    use lock_fred::fred::rustls::{ClientConfig, RootCertStore};

    let mut authorities = RootCertStore::empty();
    let pem = authority.certificate();
    authorities
        .add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    ClientConfig::builder()
        .with_root_certificates(authorities)
        .with_no_client_auth()
        .into()
}
