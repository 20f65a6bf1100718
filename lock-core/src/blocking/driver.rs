//! The thread that runs what blocking locks need: their calls, their renewals, their client's tasks. Not a pool: what a
//! caller computes, it computes itself.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::mpsc;
use std::task::Poll;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::error::{BackendError, LockError};

pub(super) struct Driver {
    runtime: Handle,
    /// The thread ends when this is dropped.
    alive: Option<oneshot::Sender<Infallible>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    pub(super) fn start() -> Result<Self, BackendError> {
        Self::try_start().map_err(|error| {
            BackendError::permanent("the system has no thread for the locks").with_source(error)
        })
    }

    fn try_start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, ended) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("fencelock".to_owned())
            .spawn(move || {
                let _ = runtime.block_on(ended);
                // Without waiting for what its tasks may have started on other threads, such as a name's resolution.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            runtime: handle,
            alive: Some(alive),
            thread: Some(thread),
        })
    }

    /// Runs `call` on the driver's thread and waits for it. A panic in it is one here.
    ///
    /// # Errors
    ///
    /// [`LockError::Invalid`] on the driver's own thread, which would wait for itself.
    pub(super) fn wait<T, F>(&self, call: F) -> Result<T, LockError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        if self.is_here() {
            return Err(LockError::invalid(
                "blocking call",
                "it was made on the thread that serves it, by an observer perhaps; make it on another thread",
            ));
        }
        let (done, outcome) = mpsc::sync_channel(1);
        self.runtime.spawn(async move {
            let _ = done.send(caught(call).await);
        });
        match outcome.recv() {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => Err(LockError::invalid(
                "blocking call",
                "the thread that served it has ended",
            )),
        }
    }

    fn is_here(&self) -> bool {
        Handle::try_current().is_ok_and(|here| here.id() == self.runtime.id())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take()
            && !self.is_here()
        {
            let _ = thread.join();
        }
    }
}

/// The output of `future`, or how it panicked.
async fn caught<F: Future>(future: F) -> thread::Result<F::Output> {
    let mut future = pin!(future);
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}
