//! Connections that were made elsewhere.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use redis::aio::ConnectionLike;
use redis::{Cmd, RedisResult, Value};

use super::{command, failure, reply};
use crate::answer::Reply;
use crate::connection::Request;
use crate::error::Failure;

/// A connection that was made elsewhere, of whatever type.
#[derive(Clone)]
pub(crate) struct Given {
    sender: Arc<Sender>,
    /// Whether it may send a request again by itself.
    resends: bool,
}

type Sender = dyn Fn(Cmd) -> BoxFuture<'static, RedisResult<Value>> + Send + Sync;

impl Given {
    pub(crate) fn new(
        connection: impl ConnectionLike + Clone + Send + Sync + 'static,
        resends: bool,
    ) -> Self {
        let sender = Arc::new(move |command: Cmd| -> BoxFuture<'static, _> {
            let mut connection = connection.clone();
            Box::pin(async move { command.query_async(&mut connection).await })
        });
        Self { sender, resends }
    }

    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let result = (self.sender)(command(request)).await;
        result.map(reply).map_err(|error| {
            let failure = failure(&error);
            if self.resends {
                failure.resent()
            } else {
                failure
            }
        })
    }
}
