//! Calls that are not to be left half done: they run in the caller, and go on without it. Not for waiting.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;

/// Runs a single call to the store in the caller's own future, without a task. Dropped after it was begun and before
/// it is done, it hands what is left of the call to the runtime, where it runs to its end and its output is dropped.
pub(crate) struct Shield<'a, T: Send + 'static> {
    call: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    begun: bool,
    runtime: &'a Handle,
}

impl<'a, T: Send + 'static> Shield<'a, T> {
    pub(crate) fn new(runtime: &'a Handle, call: impl Future<Output = T> + Send + 'static) -> Self {
        Self {
            call: Some(Box::pin(call)),
            begun: false,
            runtime,
        }
    }
}

impl<T: Send + 'static> Future for Shield<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        self.begun = true;
        // Taken out while it is polled, so that a call that panics is dropped and not handed over.
        let Some(mut call) = self.call.take() else {
            return Poll::Pending;
        };
        let polled = call.as_mut().poll(context);
        if polled.is_pending() {
            self.call = Some(call);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Shield<'_, T> {
    fn drop(&mut self) {
        if let Some(call) = self.call.take()
            && self.begun
        {
            self.runtime.spawn(call);
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Shield<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shield")
            .field("begun", &self.begun)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::timer;

    fn call(done: &Arc<AtomicBool>) -> impl Future<Output = ()> + Send + 'static {
        let done = Arc::clone(done);
        async move {
            timer::sleep(Duration::from_secs(1)).await;
            done.store(true, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_begun_runs_to_its_end() {
        let done = Arc::new(AtomicBool::new(false));
        let runtime = Handle::current();
        let shield = Shield::new(&runtime, call(&done));
        assert!(
            timer::timeout(Duration::from_millis(1), shield)
                .await
                .is_none()
        );
        timer::sleep(Duration::from_secs(2)).await;
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_was_not_begun_never_is() {
        let done = Arc::new(AtomicBool::new(false));
        drop(Shield::new(&Handle::current(), call(&done)));
        timer::sleep(Duration::from_secs(2)).await;
        assert!(!done.load(Ordering::SeqCst));
    }
}
