//! Sentinels: they are asked who is the primary, each time that a connection is made.

use std::fmt;
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{Client, ConnectionAddr, ConnectionInfo, RedisResult, Value};

use super::failure;
use super::target::{Server, Settings, exposed};
use crate::error::{Cause, Failure};
use crate::exposure;

/// The pause before the sentinels are asked again; doubled each time, with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// Who knows where the primary is.
pub(super) struct Sentinels {
    clients: Vec<Client>,
    /// How to speak to the primary. In place of its host there is its name.
    template: ConnectionInfo,
    chosen: bool,
    settings: Settings,
    /// Whether it was told that the primary's password goes to it in the clear.
    warned: AtomicBool,
}

impl Sentinels {
    pub(super) const fn new(
        clients: Vec<Client>,
        template: ConnectionInfo,
        chosen: bool,
        settings: Settings,
    ) -> Self {
        Self {
            clients,
            template,
            chosen,
            settings,
            warned: AtomicBool::new(false),
        }
    }

    /// Those of the sentinels to whom a password goes in the clear.
    pub(super) fn exposed(&self) -> Vec<String> {
        exposed(self.clients.iter().map(Client::get_connection_info))
    }

    /// Connects to the primary. While there is none it is looked for again: whoever calls this sets a bound.
    pub(super) async fn reach<F: Future<Output = RedisResult<MultiplexedConnection>>>(
        &self,
        open: &impl Fn(Client) -> F,
    ) -> Result<(MultiplexedConnection, Server), Failure> {
        let give_up = self.settings.connect_timeout.mul_f64(0.9);
        let mut pause = FIRST_PAUSE;
        let mut last = None;
        let attempts = async {
            loop {
                match self.attempt(open).await {
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
    async fn attempt<F: Future<Output = RedisResult<MultiplexedConnection>>>(
        &self,
        open: &impl Fn(Client) -> F,
    ) -> Result<(MultiplexedConnection, Server), ControlFlow<Failure, Failure>> {
        let mut answers: FuturesUnordered<_> =
            self.clients.iter().map(|client| self.ask(client)).collect();
        let mut tried = Vec::new();
        let mut last = Failure::new(Cause::NotSent, "no sentinel answers");
        while let Some(answer) = answers.next().await {
            match answer {
                Err(failure) => last = failure,
                Ok(address) if tried.contains(&address) => {}
                Ok(address) => {
                    let patience = self.settings.connect_timeout.mul_f64(0.5);
                    match tokio::time::timeout(patience, self.try_at(&address, open)).await {
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
    async fn ask(&self, sentinel: &Client) -> Result<(String, u16), Failure> {
        let ask = async {
            let mut connection = sentinel.get_multiplexed_async_connection().await?;
            let mut question = redis::cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(self.name());
            question
                .query_async::<Option<(String, u16)>>(&mut connection)
                .await
        };
        let patience = self.settings.connect_timeout.mul_f64(0.3);
        match tokio::time::timeout(patience, ask).await {
            Ok(Ok(Some(address))) => Ok(address),
            Ok(Ok(None)) => Err(Failure::new(
                Cause::NotSent,
                format!("a sentinel knows nobody called {:?}", self.name()),
            )),
            Ok(Err(error)) => Err(failure(&error)),
            Err(_) => Err(Failure::new(Cause::NotSent, "a sentinel is silent")),
        }
    }

    /// Connects to the server at `address`, if it takes itself for the primary too.
    async fn try_at<F: Future<Output = RedisResult<MultiplexedConnection>>>(
        &self,
        (host, port): &(String, u16),
        open: &impl Fn(Client) -> F,
    ) -> Result<(MultiplexedConnection, Server), Failure> {
        let info = self
            .template
            .clone()
            .set_addr(moved(self.template.addr(), host, *port));
        let exposed = exposed([&info]);
        if !exposed.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            exposure::warn(&exposed);
        }
        let server =
            Server::new(&info, self.chosen, &self.settings).map_err(|error| failure(&error))?;
        let mut connection = server.reach(open).await?;
        match redis::cmd("ROLE")
            .query_async::<Value>(&mut connection)
            .await
        {
            Ok(Value::Array(role)) => match role.first() {
                Some(Value::BulkString(role)) if role == b"master" => Ok((connection, server)),
                _ => Err(Failure::new(
                    Cause::NotSent,
                    format!("{host}:{port} is no primary"),
                )),
            },
            // Not allowed to ask. A write will tell.
            Err(error) if error.code() == Some("NOPERM") => Ok((connection, server)),
            Ok(_) => Err(Failure::new(Cause::Odd, "an odd answer to ROLE")),
            Err(error) => Err(failure(&error)),
        }
    }

    fn name(&self) -> &str {
        match self.template.addr() {
            ConnectionAddr::Tcp(name, _) | ConnectionAddr::TcpTls { host: name, .. } => name,
            _ => "",
        }
    }
}

/// Whom they watch, and where they are.
impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the primary {:?} of the sentinels at", self.name())?;
        for client in &self.clients {
            write!(f, " {}", client.get_connection_info().addr())?;
        }
        Ok(())
    }
}

/// The same kind of address, elsewhere.
fn moved(address: &ConnectionAddr, host: &str, port: u16) -> ConnectionAddr {
    match address.clone() {
        ConnectionAddr::TcpTls {
            insecure,
            tls_params,
            ..
        } => ConnectionAddr::TcpTls {
            host: host.to_owned(),
            port,
            insecure,
            tls_params,
        },
        _ => ConnectionAddr::Tcp(host.to_owned(), port),
    }
}
