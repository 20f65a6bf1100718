//! Which server program.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

/// A server program that tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Program {
    /// `redis-server`, or what `FENCELOCK_REDIS_SERVER` names.
    #[default]
    Redis,
    /// What `FENCELOCK_VALKEY_SERVER` names, or else what `scripts/valkey` fetched.
    Valkey,
}

impl Program {
    /// How to start it; `None` if it has to be fetched first and was not.
    #[must_use]
    pub fn find(self) -> Option<OsString> {
        match self {
            Self::Redis => {
                Some(std::env::var_os("FENCELOCK_REDIS_SERVER").unwrap_or("redis-server".into()))
            }
            Self::Valkey => std::env::var_os("FENCELOCK_VALKEY_SERVER").or_else(|| {
                let fetched = concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../target/valkey/valkey-server"
                );
                Path::new(fetched).exists().then(|| fetched.into())
            }),
        }
    }

    /// Whether tests on it can run. If they cannot, says so aloud.
    ///
    /// # Panics
    ///
    /// If they cannot, in CI (`CI` is set): nothing is skipped there.
    #[must_use]
    pub fn is_here(self) -> bool {
        let found = self.find().is_some();
        if !found {
            assert!(std::env::var_os("CI").is_none(), "{}", self.advice());
            // Not `println!`, whose output the test harness swallows.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {}", self.advice());
        }
        found
    }

    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Redis => {
                "install redis-server (apt-get install redis-server), or name it in FENCELOCK_REDIS_SERVER"
            }
            Self::Valkey => {
                "no valkey-server: run scripts/valkey, or name it in FENCELOCK_VALKEY_SERVER"
            }
        }
    }
}
