//! What the tests need to know of the client.

#[cfg(feature = "tls")]
use lock_fred::fred::rustls::pki_types::pem::PemObject;
#[cfg(feature = "tls")]
use lock_fred::fred::rustls::pki_types::{CertificateDer, PrivateKeyDer};
#[cfg(feature = "tls")]
use lock_fred::fred::rustls::{ClientConfig, RootCertStore};

/// What is tested.
pub use lock_fred::{FredBackend as Backend, FredBackendBuilder as BackendBuilder};

/// Whether it may send again by itself what was under way to a node of a cluster.
pub const CLUSTER_RESENDS: bool = false;

/// Commands that the client sends with each connection, and does without if they are refused.
pub const ASKED_WHEN_CONNECTING: [&str; 2] = ["client|id", "info"];

/// The rights to ask that, so that nothing is refused.
pub const RIGHTS_TO_ASK: &str = "+client|id +info";

/// The URLs of settings of the client's own with these credentials and this address.
pub fn configured(rest: &str) -> Vec<String> {
    let (password, _) = rest.trim_start_matches(':').split_once('@').unwrap();
    let service = format!("sentinelServiceName=x&sentinelPassword={password}");
    vec![
        format!("redis://{rest}"),
        format!("redis-cluster://{rest}"),
        format!("redis-sentinel://{rest}?{service}"),
    ]
}

/// A backend on a client that was made elsewhere with such settings, and has not connected.
pub fn given(url: &str) -> Backend {
    use lock_fred::fred::prelude::{Builder, Config, ReconnectPolicy};

    let mut builder = Builder::from_config(Config::from_url(url).unwrap());
    builder.set_policy(ReconnectPolicy::new_constant(0, 10));
    Backend::from_client(builder.build().unwrap()).unwrap()
}

/// The client comes with the one who does the cryptography.
#[cfg(feature = "tls")]
pub const fn choose_provider() {}

/// For `with_certificates`: whoever this certificate vouches for.
#[cfg(feature = "tls")]
pub fn trusting(authority: &str) -> lock_fred::fred::types::config::TlsConnector {
    let builder = ClientConfig::builder().with_root_certificates(authorities(authority));
    builder.with_no_client_auth().into()
}

/// The same, and shows who we are.
#[cfg(feature = "tls")]
pub fn showing(
    identity: &lock_testkit::server::Identity,
    authority: &lock_testkit::server::Authority,
) -> lock_fred::fred::types::config::TlsConnector {
    let certificate = CertificateDer::from_pem_slice(identity.certificate().as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key().as_bytes()).unwrap();
    let authorities = authorities(&authority.certificate());
    let builder = ClientConfig::builder().with_root_certificates(authorities);
    let config = builder.with_client_auth_cert(vec![certificate], key);
    config.unwrap().into()
}

#[cfg(feature = "tls")]
fn authorities(authority: &str) -> RootCertStore {
    let mut authorities = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(authority.as_bytes());
    authorities.add(certificate.unwrap()).unwrap();
    authorities
}
