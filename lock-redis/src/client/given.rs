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
pub(crate) struct Given(Arc<Sender>);

type Sender = dyn Fn(Cmd) -> BoxFuture<'static, RedisResult<Value>> + Send + Sync;

impl Given {
    pub(crate) fn new(connection: impl ConnectionLike + Clone + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |command: Cmd| {
            let mut connection = connection.clone();
            Box::pin(async move { command.query_async(&mut connection).await })
        }))
    }

    pub(crate) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let result = (self.0)(command(request)).await;
        result.map(reply).map_err(|error| failure(&error))
    }
}
