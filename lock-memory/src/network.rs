//! What is between a client and the store: nothing, until a test puts something there. Not what the store does.

use std::collections::VecDeque;
use std::future;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use lock_core::BackendError;
use tokio::sync::watch;

/// The way from one client to the store, shared by its clones.
#[derive(Default)]
pub(crate) struct Network {
    /// There as soon as a lever was pulled, so that nobody else pays for them.
    levers: OnceLock<Levers>,
}

#[derive(Default)]
struct Levers {
    faults: Mutex<VecDeque<Fault>>,
    /// What every call fails with.
    refusal: Mutex<Option<BackendError>>,
    is_cut: watch::Sender<bool>,
}

/// What happens to one call.
pub(crate) enum Fault {
    /// Not applied; answered with the error.
    Fail(BackendError),
    /// Applied; nobody knows.
    LoseReply,
}

impl Network {
    /// Sends one call to the store, whose `step` applies it.
    pub(crate) async fn call<T>(&self, step: impl FnOnce() -> T) -> Result<T, BackendError> {
        let Some(levers) = self.levers.get() else {
            return Ok(step());
        };
        if *levers.is_cut.borrow() {
            return future::pending().await;
        }
        if let Some(error) = levers.refusal().clone() {
            return Err(error);
        }
        match levers.next_fault() {
            None => Ok(step()),
            Some(Fault::Fail(error)) => Err(error),
            Some(Fault::LoseReply) => {
                step();
                Err(BackendError::unknown("the test lost the reply"))
            }
        }
    }

    /// Resolves when messages of the store get through.
    pub(crate) async fn connected(&self) {
        if let Some(levers) = self.levers.get() {
            // The sender lives as long as this.
            let _ = levers.is_cut.subscribe().wait_for(|is_cut| !is_cut).await;
        }
    }

    pub(crate) fn add(&self, fault: Fault) {
        self.levers().faults().push_back(fault);
    }

    pub(crate) fn refuse(&self, error: Option<BackendError>) {
        *self.levers().refusal() = error;
    }

    pub(crate) fn cut(&self, is_cut: bool) {
        self.levers().is_cut.send_replace(is_cut);
    }

    fn levers(&self) -> &Levers {
        self.levers.get_or_init(Levers::default)
    }
}

impl Levers {
    fn next_fault(&self) -> Option<Fault> {
        self.faults().pop_front()
    }

    fn faults(&self) -> MutexGuard<'_, VecDeque<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refusal(&self) -> MutexGuard<'_, Option<BackendError>> {
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
