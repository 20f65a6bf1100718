//! Scripts, and the digests by which a server knows them.

pub(crate) struct Script {
    pub(crate) source: &'static str,
    pub(crate) sha1: String,
}

impl Script {
    pub(crate) fn new(source: &'static str) -> Self {
        Self {
            source,
            sha1: sha1_smol::Sha1::from(source).digest().to_string(),
        }
    }
}

macro_rules! script {
    ($name:ident, $source:expr) => {
        pub(crate) static $name: std::sync::LazyLock<crate::contestants::script::Script> =
            std::sync::LazyLock::new(|| crate::contestants::script::Script::new($source));
    };
}
