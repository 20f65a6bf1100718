//! Certificates for tests: an authority of one's own, and what it vouches for.

use std::fmt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

/// A certificate authority that nobody knows.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    ///
    /// # Panics
    ///
    /// If the system has no randomness.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "fencelock tests");
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("it can sign itself"))
    }

    /// Its certificate, which clients are to trust.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// For a server at localhost.
    #[must_use]
    pub fn localhost(&self) -> Identity {
        self.vouch(&["localhost", "127.0.0.1"], 2000..4000)
    }

    /// For a server elsewhere.
    #[must_use]
    pub fn elsewhere(&self) -> Identity {
        self.vouch(&["elsewhere.invalid"], 2000..4000)
    }

    /// For a server at localhost, until years ago.
    #[must_use]
    pub fn expired(&self) -> Identity {
        self.vouch(&["localhost"], 2000..2001)
    }

    fn vouch(&self, names: &[&str], years: std::ops::Range<i32>) -> Identity {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("host names");
        params.not_before = date_time_ymd(years.start, 1, 1);
        params.not_after = date_time_ymd(years.end, 1, 1);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0).expect("it can sign");
        Identity {
            authority: self.certificate(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

/// A server's certificate and key: [`RedisOptions::with_tls`](super::RedisOptions::with_tls).
#[derive(Clone)]
pub struct Identity {
    authority: String,
    certificate: String,
    key: String,
}

impl Identity {
    /// Its certificate, as PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Its private key, as PEM.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Writes them into files: the authority's certificate, the server's, and its key. Where they are.
    pub(super) fn write_to(&self, directory: &Path) -> [PathBuf; 3] {
        [
            ("authority", &self.authority),
            ("certificate", &self.certificate),
            ("key", &self.key),
        ]
        .map(|(name, text)| {
            let file = directory.join(name);
            std::fs::write(&file, text).expect("a file can be written");
            file
        })
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}
