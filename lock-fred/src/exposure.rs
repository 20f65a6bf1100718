//! Passwords that go over a network in the clear: whoever connects is warned. Which passwords go where, `client/` knows.

use std::net::IpAddr;

/// Whether what is sent to `host` stays on this machine.
pub(crate) fn is_local(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    match address.parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            // The unspecified address leads to this machine too.
            address.is_loopback() || address.is_unspecified()
        }
        Err(_) => {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

/// Warns, if anybody listens, that a password goes to these servers (host and port) in the clear.
pub(crate) fn warn(servers: &[String]) {
    #[cfg(feature = "tracing")]
    if !servers.is_empty() {
        tracing::warn!(
            target: "fencelock",
            servers = servers.join(", "),
            "a password goes over the network in the clear: use TLS, by rediss:// and the feature `tls`"
        );
    }
    #[cfg(not(feature = "tracing"))]
    let _ = servers;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_to_this_machine_is_told_from_what_leaves_it() {
        for host in [
            "127.0.0.1",
            "127.8.9.10",
            "::1",
            "[::1]",
            "::ffff:127.0.0.1",
            "0.0.0.0",
            "localhost",
            "LocalHost.",
            "redis.localhost",
        ] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "10.0.0.1",
            "192.168.1.1",
            "::ffff:10.0.0.1",
            "fe80::1",
            "redis",
            "localhost.example.com",
            "notlocalhost",
            "127.0.0.1.example.com",
            "",
        ] {
            assert!(!is_local(host), "{host}");
        }
    }
}
