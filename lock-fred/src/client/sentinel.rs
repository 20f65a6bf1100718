//! Sentinels: they are asked who is the primary, each time that a connection is made.

use std::fmt;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Server;
use super::target::{Login, NO_MESSAGES, Settings};
use crate::answer::Reply;
use crate::error::{Cause, Failure};
use crate::exposure;

/// The pause before the sentinels are asked again; doubled each time, with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// Who knows where the primary is.
pub(super) struct Sentinels {
    sentinels: Vec<Login>,
    /// What they call the primary.
    name: String,
    /// How to speak to the primary, wherever it is.
    primary: Login,
    /// Whether it was told that the primary's password goes to it in the clear.
    warned: AtomicBool,
}

impl Sentinels {
    pub(super) const fn new(sentinels: Vec<Login>, name: String, primary: Login) -> Self {
        Self {
            sentinels,
            name,
            primary,
            warned: AtomicBool::new(false),
        }
    }

    /// Those of the sentinels to whom a password goes in the clear.
    pub(super) fn exposed(&self) -> Vec<String> {
        self.sentinels.iter().flat_map(Login::exposed).collect()
    }

    pub(super) const fn settings(&self) -> &Settings {
        self.primary.settings()
    }

    /// Connects to the primary. While there is none it is looked for again: whoever calls this sets a bound.
    pub(super) async fn reach(
        &self,
        messages: usize,
        on_disconnect: impl Fn() + Clone + Send + 'static,
    ) -> Result<Server, Failure> {
        let give_up = self.settings().connect_timeout.mul_f64(0.9);
        let mut pause = FIRST_PAUSE;
        let mut last = None;
        let attempts = async {
            loop {
                match self.attempt(messages, &on_disconnect).await {
                    Ok(reached) => return Ok(reached),
                    Err(Break(failure)) => return Err(failure),
                    Err(Continue(failure)) => last = Some(failure),
                }
                tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        };
        // So that the reason is told, and not only that time is over.
        if let Ok(result) = tokio::time::timeout(give_up, attempts).await {
            return result;
        }
        Err(last.unwrap_or_else(|| Failure::new(Cause::NotSent, "no sentinel answers")))
    }

    /// Asks all sentinels at once, and tries what they name in the order of their answers: one that has not noticed a
    /// failover yet, is silent, or refuses us keeps nobody from the primary. `Break`: it would be the same again.
    async fn attempt(
        &self,
        messages: usize,
        on_disconnect: &(impl Fn() + Clone + Send + 'static),
    ) -> Result<Server, ControlFlow<Failure, Failure>> {
        let asked = self.sentinels.iter().map(|sentinel| self.ask(sentinel));
        let mut answers: FuturesUnordered<_> = asked.collect();
        let mut tried = Vec::new();
        let mut last = Failure::new(Cause::NotSent, "no sentinel answers");
        while let Some(answer) = answers.next().await {
            match answer {
                Err(failure) => last = failure,
                Ok(address) if tried.contains(&address) => {}
                Ok(address) => {
                    let patience = self.settings().connect_timeout.mul_f64(0.5);
                    let trial = self.try_at(&address, messages, on_disconnect);
                    match tokio::time::timeout(patience, trial).await {
                        Ok(Ok(reached)) => return Ok(reached),
                        Ok(Err(failure)) if failure.is_lasting() => return Err(Break(failure)),
                        Ok(Err(failure)) => last = failure,
                        Err(_) => {
                            let text = format!("no answer from {}:{}", address.0, address.1);
                            last = Failure::new(Cause::NotSent, text);
                        }
                    }
                    tried.push(address);
                }
            }
        }
        Err(Continue(last))
    }

    /// Where a sentinel says that the primary is.
    async fn ask(&self, sentinel: &Login) -> Result<(String, u16), Failure> {
        let ask = async {
            let connection = sentinel.reach(NO_MESSAGES, || {}).await?;
            let question = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.name];
            connection.ask(&question).await
        };
        let patience = self.settings().connect_timeout.mul_f64(0.5);
        match tokio::time::timeout(patience, ask).await {
            Ok(Ok(Reply::Nil)) => Err(Failure::new(
                Cause::NotSent,
                format!("a sentinel knows nobody called {:?}", self.name),
            )),
            Ok(Ok(reply)) => address(&reply)
                .ok_or_else(|| Failure::new(Cause::Odd, "an odd answer of a sentinel")),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure::new(Cause::NotSent, "a sentinel is silent")),
        }
    }

    /// Connects to the server at `address`, if it takes itself for the primary too.
    async fn try_at(
        &self,
        (host, port): &(String, u16),
        messages: usize,
        on_disconnect: &(impl Fn() + Clone + Send + 'static),
    ) -> Result<Server, Failure> {
        let server = self.primary.at(host, *port);
        let exposed = server.exposed();
        if !exposed.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            exposure::warn(&exposed);
        }
        let connection = server.reach(messages, on_disconnect.clone()).await?;
        match connection.ask(&["ROLE"]).await {
            Ok(Reply::List(role)) => match role.first() {
                Some(Reply::Text(role)) if role == b"master" => Ok(connection),
                _ => Err(Failure::new(
                    Cause::NotSent,
                    format!("{host}:{port} is no primary"),
                )),
            },
            // Not allowed to ask. A write will tell.
            Err(failure)
                if failure
                    .answer()
                    .is_some_and(|text| text.starts_with("NOPERM")) =>
            {
                Ok(connection)
            }
            Ok(_) => Err(Failure::new(Cause::Odd, "an odd answer to ROLE")),
            Err(failure) => Err(failure),
        }
    }
}

fn address(reply: &Reply) -> Option<(String, u16)> {
    let Reply::List(parts) = reply else {
        return None;
    };
    let text = |part: &Reply| match part {
        Reply::Text(text) => String::from_utf8(text.clone()).ok(),
        _ => None,
    };
    match parts.as_slice() {
        [host, port] => Some((text(host)?, text(port)?.parse().ok()?)),
        _ => None,
    }
}

/// Whom they watch, and where they are.
impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the primary {:?} of the sentinels at", self.name)?;
        for sentinel in &self.sentinels {
            write!(f, " {}", sentinel.address())?;
        }
        Ok(())
    }
}
