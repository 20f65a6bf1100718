//! What a failure means: whether the request may have been applied, and whether trying again can help. Not how the
//! client library words it: `client.rs` makes a [`Failure`] of that.
//!
//! The one place that knows the server's errors. No message carries a URL, a password, or what was sent: a server's
//! text is shown only where it is known to name nothing but commands, keys and channels.

use lock_core::{BackendError, BackendErrorKind};

use crate::answer::Reply;
use crate::client;

/// The longest text of a server that is passed on, in characters.
const LONGEST_TEXT: usize = 200;

/// Why there is no reply.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    cause: Cause,
    text: String,
    source: Option<client::Error>,
    /// Whether the client may have sent the request before, so that this says nothing of the first copy.
    resent: bool,
    /// Whether we take the server for the only one.
    alone: bool,
}

/// What is known about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The server answered with an error; the text is what it wrote, code first.
    Answer,
    /// The server did not let us in.
    Credentials,
    /// The client cannot work with its settings.
    Settings,
    /// There is no connection, and nothing was sent.
    NotSent,
    /// The same, and it would be the same at the next attempt.
    #[allow(dead_code, reason = "not every client connects for a request")]
    NotLetIn,
    /// No answer came in time. The connection may be fine.
    Late,
    /// The connection is of no use any more, perhaps since after the request was sent.
    Broken,
    /// The client's task that has the connections to a cluster ended, with its runtime.
    #[allow(dead_code, reason = "not every client has such a task")]
    Gone,
    /// Anything else.
    Odd,
}

impl Failure {
    pub(crate) fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self {
            cause,
            text: text.into(),
            source: None,
            resent: false,
            alone: false,
        }
    }

    /// The same, of a request that the client may have sent before.
    #[allow(dead_code, reason = "not every client sends again")]
    pub(crate) const fn resent(mut self) -> Self {
        self.resent = true;
        self
    }

    /// The same, of a server that we take for the only one.
    pub(crate) const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The same with the client's error behind it, which must not print what was sent or received.
    pub(crate) fn with_source(mut self, source: client::Error) -> Self {
        self.source = Some(source);
        self
    }

    #[cfg(test)]
    pub(crate) fn cause(&self) -> Cause {
        self.cause
    }

    /// What the server said, so that the connection works.
    pub(crate) fn answer(&self) -> Option<&str> {
        (self.cause == Cause::Answer).then_some(&*self.text)
    }

    /// Whether the server said this.
    pub(crate) fn is_answer(&self) -> bool {
        self.answer().is_some()
    }

    fn has_code(&self, wanted: &str) -> bool {
        self.answer().is_some_and(|text| code(text) == wanted)
    }

    /// The same with the names that the request was about, if its user may not use one of them: the server does not say which.
    pub(crate) fn about(mut self, names: &[&str]) -> Self {
        if self.has_code("NOPERM") && self.text.contains("to access") {
            let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
            self.text = format!("{}: {}", self.text, quoted.join(", "));
        }
        self
    }

    /// Whether the server does not know the script (yet, or any more). It then did nothing.
    pub(crate) fn is_no_script(&self) -> bool {
        self.has_code("NOSCRIPT")
    }

    /// Whether the keys of the request are in two places right now, because their slot is on the move.
    pub(crate) fn is_split(&self) -> bool {
        self.has_code("TRYAGAIN")
    }

    /// Whether the keys of the request are elsewhere.
    #[allow(dead_code, reason = "not every client leaves that to us")]
    pub(crate) fn leads_elsewhere(&self) -> bool {
        ["ASK", "MOVED"].iter().any(|code| self.has_code(code))
    }

    /// Whether the server has no such command.
    pub(crate) fn lacks_command(&self) -> bool {
        self.answer().is_some_and(lacks_command)
    }

    /// Whether the key holds something else than the command is for.
    pub(crate) fn is_about_type(&self) -> bool {
        // The other is what Redis says to a DELEX, under the code of all and sundry.
        self.has_code("WRONGTYPE")
            || self
                .answer()
                .is_some_and(|text| text.starts_with("ERR Key should be of string type"))
    }

    /// Whether nothing was sent.
    #[allow(dead_code, reason = "not every client tells how it is connected")]
    pub(crate) fn is_not_sent(&self) -> bool {
        self.cause == Cause::NotSent
    }

    /// Whether the server is a read-only replica.
    pub(crate) fn is_read_only(&self) -> bool {
        self.has_code("READONLY")
    }

    /// Whether another connection is needed: this one broke, or leads to a read-only replica, so that the address may
    /// lead to another server by now. One to a cluster leads to many servers, and the client looks after each of them.
    pub(crate) fn ends_connection(&self, cluster: bool) -> bool {
        match self.cause {
            Cause::Answer => !cluster && self.is_read_only(),
            Cause::Credentials | Cause::Gone => true,
            Cause::NotSent | Cause::Broken => !cluster,
            Cause::NotLetIn | Cause::Settings | Cause::Late | Cause::Odd => false,
        }
    }

    /// Whether it may mean that the other end is not there any more, although the connection says nothing of that.
    pub(crate) fn is_silence(&self, cluster: bool) -> bool {
        match self.cause {
            Cause::Answer => false,
            Cause::NotSent | Cause::NotLetIn => !cluster,
            _ => true,
        }
    }

    /// Whether it would be the same at the next attempt.
    pub(crate) fn is_lasting(&self) -> bool {
        self.is_about_credentials()
            || match self.cause {
                Cause::Answer => not_applied(&self.text) == BackendErrorKind::Permanent,
                Cause::Settings | Cause::NotLetIn => true,
                _ => false,
            }
    }

    /// Whether the server refused RESP3 and may speak RESP2.
    pub(crate) fn is_about_protocol(&self) -> bool {
        let may_be = |text: &str| code(text) == "NOPROTO" || code(text) == "ERR" && !is_full(text);
        self.answer().is_some_and(may_be)
    }

    fn is_about_credentials(&self) -> bool {
        self.cause == Cause::Credentials || self.answer().is_some_and(is_about_credentials)
    }

    fn behind(self, what: BackendError) -> BackendError {
        match self.source {
            Some(source) => what.with_source(source),
            None => what,
        }
    }
}

/// No connection could be made, so that nothing was applied.
pub(crate) fn not_connected(address: &str, failure: Failure) -> BackendError {
    let kind = match failure.cause {
        _ if failure.is_about_credentials() => {
            return BackendError::permanent(format!(
                "{address} refused the credentials: check user and password"
            ));
        }
        Cause::Answer => not_applied(&failure.text),
        Cause::Settings | Cause::NotLetIn => BackendErrorKind::Permanent,
        _ => BackendErrorKind::Transient,
    };
    let why = presentable(&failure.text);
    failure.behind(BackendError::new(
        kind,
        format!("cannot connect to {address}: {why}"),
    ))
}

/// A request that was handed to a connection got this instead of a reply.
pub(crate) fn not_answered(failure: Failure) -> BackendError {
    use BackendErrorKind::{Permanent, Transient, Unknown};
    let text = presentable(&failure.text);
    let about_credentials = failure.is_about_credentials();
    let (kind, what) = match failure.cause {
        _ if about_credentials => (
            Permanent,
            "the server refused the credentials: check user and password".to_owned(),
        ),
        Cause::Answer if is_for_subscriptions(&failure.text) => (
            Permanent,
            "the connection has subscribed to something over RESP2 and runs nothing else: give a client of its own for \
             locks, or use RESP3"
                .to_owned(),
        ),
        // Such a server has these keys for good, or never.
        Cause::Answer if failure.alone && !failure.resent && is_of_a_cluster(&failure.text) => {
            (Permanent, format!("{OF_A_CLUSTER}: {text}"))
        }
        // Answers of this kind come before a script runs; any other may come from the middle of it.
        Cause::Answer => {
            let kind = if is_refusal(&failure.text) {
                not_applied(&failure.text)
            } else {
                Unknown
            };
            (kind, format!("the server answered: {text}"))
        }
        Cause::NotSent => (Transient, format!("cannot connect: {text}")),
        Cause::NotLetIn => (Permanent, format!("cannot connect: {text}")),
        Cause::Late => (Unknown, "the server did not answer in time".to_owned()),
        _ => (Unknown, format!("the connection failed: {text}")),
    };
    // What the last copy of a request met says nothing of those before it, which a server may have applied while it was
    // let in, or had the slot. What a user or a key is not for, it was not for then either.
    let what = if failure.resent && (kind == Transient || about_credentials) {
        BackendError::unknown(format!("{what} (the request may have been sent before)"))
    } else {
        BackendError::new(kind, what)
    };
    failure.behind(what)
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

/// The URL is not one that the client understands. `what_it_lacks` is a feature that it would need.
pub(crate) fn malformed_url(what_it_lacks: Option<&str>) -> BackendError {
    let mut advice = "use redis://[user:password@]host[:port][/database]".to_owned();
    if let Some(lack) = what_it_lacks {
        advice.push_str("; ");
        advice.push_str(lack);
    }
    BackendError::new(
        BackendErrorKind::Invalid,
        format!("the URL of the Redis server is malformed: {advice}"),
    )
}

/// Whether a script of ours answers that the server is a read-only replica.
pub(crate) fn answers_read_only(reply: &Reply) -> bool {
    let Reply::List(items) = reply else {
        return false;
    };
    match items.as_slice() {
        [Reply::Text(word), _, Reply::Text(text)] if *word == b"failed" || *word == b"left" => {
            code(without_place(&String::from_utf8_lossy(text))) == "READONLY"
        }
        _ => items.iter().any(answers_read_only),
    }
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
    CODES.contains(&code(text)) || lacks_permission(text) || lacks_command(text) || is_full(text)
}

/// What can be done about a request that was not applied.
fn not_applied(text: &str) -> BackendErrorKind {
    match code(text) {
        "NOPERM" | "NOAUTH" | "WRONGPASS" | "DENIED" | "WRONGTYPE" | "CROSSSLOT" => {
            BackendErrorKind::Permanent
        }
        _ if lacks_permission(text) => BackendErrorKind::Permanent,
        "ERR" if !is_full(text) => BackendErrorKind::Permanent,
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

/// Whether the server has no room for this connection, on which it then runs nothing.
fn is_full(text: &str) -> bool {
    text.starts_with("ERR max number of clients")
}

/// Whether the server takes nothing but subscriptions over this connection.
fn is_for_subscriptions(text: &str) -> bool {
    text.starts_with("ERR Can't execute '") && text.contains("SUBSCRIBE")
}

/// Whether only a node of a cluster says this, of keys that it has not all.
fn is_of_a_cluster(text: &str) -> bool {
    ["MOVED", "ASK", "CROSSSLOT"].contains(&code(text))
}

const OF_A_CLUSTER: &str = "the server is a node of a cluster, where keys are spread over many: connect to all of it, with \
     `RedisBackend::cluster` (feature `cluster`)";

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

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, text: &str) -> Failure {
        Failure::new(Cause::Answer, format!("{code} {text}"))
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
            (
                "ERR",
                "Can't execute 'evalsha': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                Permanent,
            ),
            ("ERR", "max number of clients reached", Transient),
            ("ERR", "Error running script: something", Unknown),
            ("WHATEVER", "next year's error", Unknown),
        ] {
            let error = not_answered(server(code, text));
            assert_eq!(error.kind(), kind, "{code} {text}");
            assert!(!format!("{error:?} {error}").contains("secret"));
        }
        for (cause, kind) in [
            (Cause::Credentials, Permanent),
            (Cause::NotSent, Transient),
            (Cause::NotLetIn, Permanent),
            (Cause::Settings, Unknown),
            (Cause::Late, Unknown),
            (Cause::Broken, Unknown),
            (Cause::Odd, Unknown),
        ] {
            let error = not_answered(Failure::new(cause, "what the client says"));
            assert_eq!(error.kind(), kind, "{cause:?}");
        }
    }

    #[test]
    fn what_the_last_copy_of_a_request_met_says_nothing_of_those_before_it() {
        use BackendErrorKind::{Permanent, Unknown};
        let refused = |cause| Failure::new(cause, "");
        for (failure, kind) in [
            (server("ASK", "1 127.0.0.1:1"), Unknown),
            (server("MOVED", "1 127.0.0.1:1"), Unknown),
            (server("TRYAGAIN", "Multiple keys request"), Unknown),
            (server("CLUSTERDOWN", "The cluster is down"), Unknown),
            (server("LOADING", "Redis is loading"), Unknown),
            (server("READONLY", "You can't write"), Unknown),
            (server("OOM", "command not allowed"), Unknown),
            (server("NOAUTH", "Authentication required."), Unknown),
            (server("WRONGPASS", "invalid password"), Unknown),
            (refused(Cause::Credentials), Unknown),
            (refused(Cause::NotSent), Unknown),
            (refused(Cause::Late), Unknown),
            // Which every copy meets.
            (server("NOPERM", "no permissions"), Permanent),
            (server("CROSSSLOT", "Keys in request"), Permanent),
            (server("ERR", "unknown command 'EVALSHA'"), Permanent),
        ] {
            let error = not_answered(failure.resent());
            assert_eq!(error.kind(), kind, "{error}");
        }
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
        use BackendErrorKind::{Permanent, Transient};
        for (failure, kind) in [
            (Failure::new(Cause::Late, ""), Transient),
            (Failure::new(Cause::Broken, ""), Transient),
            (Failure::new(Cause::Credentials, ""), Permanent),
            (Failure::new(Cause::Settings, ""), Permanent),
            (server("ERR", "max number of clients reached"), Transient),
            (server("ERR", "DB index is out of range"), Permanent),
            (
                server("WRONGPASS", "invalid username-password pair"),
                Permanent,
            ),
        ] {
            let said = format!("{failure:?}");
            assert_eq!(not_connected("host:1", failure).kind(), kind, "{said}");
        }
    }

    #[test]
    fn a_connection_ends_when_it_is_broken_or_leads_to_a_replica() {
        for (failure, ends) in [
            (
                server("READONLY", "You can't write against a read only replica."),
                true,
            ),
            (
                server("LOADING", "Redis is loading the dataset in memory"),
                false,
            ),
            (Failure::new(Cause::Broken, ""), true),
            (Failure::new(Cause::Late, ""), false),
        ] {
            assert_eq!(failure.ends_connection(false), ends, "{failure:?}");
        }
    }

    #[test]
    fn names_that_a_user_may_not_use_are_told_and_those_of_other_refusals_are_not() {
        for (code, text, told) in [
            (
                "NOPERM",
                "this user has no permissions to access one of the keys used as arguments",
                true,
            ),
            ("NOPERM", "No permissions to access a channel", true),
            (
                "NOPERM",
                "User x has no permissions to run the 'get' command",
                false,
            ),
            ("OOM", "command not allowed", false),
        ] {
            let error = not_answered(server(code, text).about(&["a", "b\n"]));
            let said = error.to_string();
            assert_eq!(said.ends_with(r#": "a", "b\n""#), told, "{said}");
        }
    }

    #[test]
    fn a_servers_text_is_one_bounded_line() {
        let text = presentable(&format!("ERR a\r\nb{}", "x".repeat(1000)));
        assert!(text.len() <= LONGEST_TEXT && !text.contains('\n'), "{text}");
    }
}
