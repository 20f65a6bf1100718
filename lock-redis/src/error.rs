//! What a failure means: whether the request may have been applied, and whether trying again can help.
//!
//! The one place that knows the client's and the server's errors. No message carries a URL, a password, or what
//! was sent: a server's text is shown only where it is known to name nothing but commands, keys and channels.

use lock_core::{BackendError, BackendErrorKind};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

/// The longest text of a server that is passed on, in characters.
const LONGEST_TEXT: usize = 200;

/// No connection could be made, so that nothing was applied.
pub(crate) fn not_connected(address: &str, error: &RedisError) -> BackendError {
    let kind = match error.kind() {
        ErrorKind::AuthenticationFailed => return refused_credentials(address),
        ErrorKind::InvalidClientConfig => BackendErrorKind::Permanent,
        _ => match server_text(error) {
            None => BackendErrorKind::Transient,
            Some(text) if is_about_credentials(&text) => return refused_credentials(address),
            Some(text) => not_applied(&text),
        },
    };
    let why = server_text(error).map_or_else(|| io_text(error), |text| presentable(&text));
    let what = BackendError::new(kind, format!("cannot connect to {address}: {why}"));
    with_source(what, error)
}

/// The server did not let us in.
fn refused_credentials(address: &str) -> BackendError {
    BackendError::permanent(format!(
        "{address} refused the credentials: check user and password"
    ))
}

/// A request that was handed to a connection got this instead of a reply.
pub(crate) fn not_answered(error: &RedisError) -> BackendError {
    let what = match server_text(error) {
        Some(text) if is_about_credentials(&text) => {
            BackendError::permanent("the server refused the credentials: check user and password")
        }
        // Answers of this kind come before a script runs; any other may come from the middle of it.
        Some(text) => {
            let kind = if is_refusal(&text) {
                not_applied(&text)
            } else {
                BackendErrorKind::Unknown
            };
            BackendError::new(kind, format!("the server answered: {}", presentable(&text)))
        }
        None if error.kind() == ErrorKind::AuthenticationFailed => {
            BackendError::permanent("the server refused the credentials: check user and password")
        }
        None if error.is_connection_refusal() => {
            BackendError::transient(format!("cannot connect: {}", io_text(error)))
        }
        None if error.is_timeout() => BackendError::unknown("the server did not answer in time"),
        None => BackendError::unknown(format!("the connection failed: {}", io_text(error))),
    };
    with_source(what, error)
}

/// The server refused `command` inside a script that changed nothing.
pub(crate) fn refused_in_script(command: &str, text: &str) -> BackendError {
    let text = without_place(text);
    BackendError::new(
        not_applied(text),
        format!("the server refused {command}: {}", presentable(text)),
    )
}

/// The server answered something that the script never answers.
pub(crate) fn senseless() -> BackendError {
    BackendError::unknown(
        "the server's answer makes no sense: is there something between us and Redis?",
    )
}

/// The URL is not one of redis-rs.
pub(crate) fn malformed_url(error: &RedisError) -> BackendError {
    let mut advice = "use redis://[user:password@]host[:port][/database]".to_owned();
    if error.kind() == ErrorKind::InvalidClientConfig && error.to_string().contains("TLS") {
        advice.push_str("; rediss:// needs one of the TLS features of the redis crate");
    }
    BackendError::new(
        BackendErrorKind::Invalid,
        format!("the URL of the Redis server is malformed: {advice}"),
    )
}

/// Whether the server does not know the script (yet, or any more). It then did nothing.
pub(crate) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Whether the server is a read-only replica, so that the address may lead to another server by now.
pub(crate) fn is_read_only(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
}

/// Whether a script of ours answers that the server is a read-only replica.
pub(crate) fn answers_read_only(reply: &Value) -> bool {
    let Value::Array(items) = reply else {
        return false;
    };
    match items.as_slice() {
        [Value::BulkString(word), _, Value::BulkString(text)]
            if *word == b"failed" || *word == b"left" =>
        {
            without_place(&String::from_utf8_lossy(text)).starts_with("READONLY")
        }
        _ => items.iter().any(answers_read_only),
    }
}

/// Whether the server refused RESP3 and may speak RESP2.
pub(crate) fn is_about_protocol(error: &RedisError) -> bool {
    error.kind() == ErrorKind::RESP3NotSupported
        || server_text(error)
            .is_some_and(|text| text.starts_with("NOPROTO") || text.starts_with("ERR"))
}

/// Whether the server said this, so that the connection works.
pub(crate) fn is_answer(error: &RedisError) -> bool {
    server_text(error).is_some()
}

/// An error reply as the server wrote it.
fn server_text(error: &RedisError) -> Option<String> {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension).then(|| {
        format!(
            "{} {}",
            error.code().unwrap_or("ERR"),
            error.detail().unwrap_or_default()
        )
    })
}

/// A server that has not let us in also says so by refusing requests that are long ("unauthenticated multibulk").
fn is_about_credentials(text: &str) -> bool {
    ["NOAUTH", "WRONGPASS"].contains(&code(text))
        || text.contains("Protocol error: unauthenticated")
}

/// An error as the server says it outside scripts: some put `@user_script: 12: -` in front of it.
fn without_place(text: &str) -> &str {
    match text.trim_start_matches('@').strip_prefix("user_script:") {
        Some(placed) => placed.split_once(": ").map_or(placed, |(_, text)| text),
        None => text,
    }
    .trim_start_matches('-')
}

/// Whether the server always says this instead of running a command.
fn is_refusal(text: &str) -> bool {
    const CODES: [&str; 17] = [
        "OOM",
        "MISCONF",
        "LOADING",
        "READONLY",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "TRYAGAIN",
        "NOREPLICAS",
        "BUSY",
        "MOVED",
        "ASK",
        "CROSSSLOT",
        "NOPERM",
        "NOAUTH",
        "WRONGPASS",
        "NOSCRIPT",
        "DENIED",
    ];
    CODES.contains(&code(text)) || lacks_permission(text) || lacks_command(text)
}

/// What can be done about a request that was not applied.
fn not_applied(text: &str) -> BackendErrorKind {
    match code(text) {
        "NOPERM" | "NOAUTH" | "WRONGPASS" | "DENIED" | "WRONGTYPE" | "CROSSSLOT" => {
            BackendErrorKind::Permanent
        }
        _ if lacks_permission(text) => BackendErrorKind::Permanent,
        "ERR" if !text.contains("max number of clients") => BackendErrorKind::Permanent,
        _ => BackendErrorKind::Transient,
    }
}

/// Before 7.2 a missing permission inside a script has no code of its own.
fn lacks_permission(text: &str) -> bool {
    text.contains("executing the script can't") || text.contains("ACL failure in script")
}

fn lacks_command(text: &str) -> bool {
    text.contains("unknown command") || text.contains("Unknown Redis command")
}

fn code(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// The server's text without what it repeats of the request, on one line, bounded.
fn presentable(text: &str) -> String {
    let text = text.split(", with args").next().unwrap_or_default();
    text.chars()
        .take(LONGEST_TEXT)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>()
        .trim()
        .into()
}

/// An error of the connection itself. The client's errors of other kinds may repeat what was received.
fn io_text(error: &RedisError) -> String {
    if error.is_io_error() {
        presentable(&error.to_string())
    } else {
        error.category().to_owned()
    }
}

/// Keeps the client's error behind ours if it cannot print what was sent or received.
fn with_source(what: BackendError, error: &RedisError) -> BackendError {
    if error.is_io_error() {
        what.with_source(error.clone())
    } else {
        what
    }
}

#[cfg(test)]
mod tests {
    use redis::make_extension_error;

    use super::*;

    fn server(code: &str, text: &str) -> RedisError {
        make_extension_error(code.to_owned(), Some(text.to_owned()))
    }

    #[test]
    fn an_error_is_known_not_applied_only_if_the_server_refused_to_begin() {
        use BackendErrorKind::{Permanent, Transient, Unknown};
        for (code, text, kind) in [
            (
                "OOM",
                "command not allowed when used memory > 'maxmemory'",
                Transient,
            ),
            (
                "MISCONF",
                "Redis is configured to save RDB snapshots",
                Transient,
            ),
            (
                "LOADING",
                "Redis is loading the dataset in memory",
                Transient,
            ),
            (
                "READONLY",
                "You can't write against a read only replica.",
                Transient,
            ),
            ("CLUSTERDOWN", "The cluster is down", Transient),
            ("MASTERDOWN", "Link with MASTER is down", Transient),
            (
                "TRYAGAIN",
                "Multiple keys request during rehashing of slot",
                Transient,
            ),
            (
                "NOREPLICAS",
                "Not enough good replicas to write.",
                Transient,
            ),
            ("BUSY", "Redis is busy running a script.", Transient),
            (
                "NOPERM",
                "this user has no permissions to run the 'evalsha' command",
                Permanent,
            ),
            ("NOAUTH", "Authentication required.", Permanent),
            (
                "WRONGPASS",
                "invalid username-password pair or user is disabled.",
                Permanent,
            ),
            (
                "CROSSSLOT",
                "Keys in request don't hash to the same slot",
                Permanent,
            ),
            (
                "ERR",
                "unknown command 'EVALSHA', with args beginning with: 'secret'",
                Permanent,
            ),
            ("ERR", "Error running script: something", Unknown),
            ("WHATEVER", "next year's error", Unknown),
        ] {
            let error = not_answered(&server(code, text));
            assert_eq!(error.kind(), kind, "{code} {text}");
            assert!(!format!("{error:?} {error}").contains("secret"));
        }
        let io = |kind| not_answered(&RedisError::from(std::io::Error::from(kind))).kind();
        assert_eq!(io(std::io::ErrorKind::ConnectionRefused), Transient);
        for kind in [
            std::io::ErrorKind::TimedOut,
            std::io::ErrorKind::BrokenPipe,
            std::io::ErrorKind::ConnectionReset,
            std::io::ErrorKind::UnexpectedEof,
        ] {
            assert_eq!(io(kind), Unknown, "{kind:?}");
        }
        assert_eq!(
            not_answered(&(ErrorKind::Parse, "odd").into()).kind(),
            Unknown
        );
    }

    #[test]
    fn a_refusal_inside_a_script_was_not_applied_however_the_server_words_it() {
        use BackendErrorKind::{Permanent, Transient};
        for (text, kind) in [
            ("OOM command not allowed", Transient),
            ("@user_script: 12: OOM command not allowed", Transient),
            ("user_script:12: -OOM command not allowed", Transient),
            (
                "READONLY You can't write against a read only replica.",
                Transient,
            ),
            (
                "ERR The user executing the script can't run this command",
                Permanent,
            ),
            (
                "@user_script: 7: The user executing the script can't run this command",
                Permanent,
            ),
            (
                "NOPERM ACL failure in script: User x has no permissions",
                Permanent,
            ),
            ("ERR invalid expire time in 'set' command", Permanent),
        ] {
            let error = refused_in_script("SET", text);
            assert_eq!(error.kind(), kind, "{text}");
            let said = error.to_string();
            assert!(
                said.contains("SET") && !said.contains("user_script"),
                "{said}"
            );
        }
    }

    #[test]
    fn without_a_connection_nothing_was_applied() {
        for kind in [std::io::ErrorKind::TimedOut, std::io::ErrorKind::BrokenPipe] {
            let error = not_connected("host:1", &RedisError::from(std::io::Error::from(kind)));
            assert_eq!(error.kind(), BackendErrorKind::Transient);
        }
        let error = not_connected("host:1", &server("ERR", "max number of clients reached"));
        assert_eq!(error.kind(), BackendErrorKind::Transient);
        let error = not_connected("host:1", &server("ERR", "DB index is out of range"));
        assert_eq!(error.kind(), BackendErrorKind::Permanent);
    }

    #[test]
    fn a_servers_text_is_one_bounded_line() {
        let text = presentable(&format!("ERR a\r\nb{}", "x".repeat(1000)));
        assert!(text.len() <= LONGEST_TEXT && !text.contains('\n'), "{text}");
    }
}
