//! What all locks on one backend share in this process. Not what one lock or one lease needs.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

use crate::backend::{Capabilities, LockBackend, Wakeups};
use crate::error::LockError;
use crate::key::LockKey;
use crate::lease::Lease;
use crate::line::Lines;
use crate::observe::contained;
use crate::renewer::Renewer;
use crate::timer;

/// One backend instance with everything that core keeps beside it. Shared by all clones of a
/// [`Locks`](crate::Locks), and kept alive by its leases.
pub(crate) struct Store {
    pub(crate) backend: Arc<dyn LockBackend>,
    pub(crate) capabilities: Capabilities,
    pub(crate) wakeups: Option<Arc<dyn Wakeups>>,
    pub(crate) lines: Lines,
    /// One for each runtime: few.
    renewers: RwLock<Vec<(Id, Arc<Renewer>)>>,
    closed: AtomicBool,
    closing: Notify,
    calls: AtomicUsize,
    idle: Notify,
    /// How many wait for `idle`.
    idlers: AtomicUsize,
}

impl Store {
    pub(crate) fn new(backend: Arc<dyn LockBackend>) -> Arc<Self> {
        Arc::new(Self {
            capabilities: backend.capabilities(),
            wakeups: backend.wakeups(),
            backend,
            lines: Lines::new(),
            renewers: RwLock::default(),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            calls: AtomicUsize::new(0),
            idle: Notify::new(),
            idlers: AtomicUsize::new(0),
        })
    }

    /// The renewer of the current runtime.
    pub(crate) fn renewer(&self, key: &LockKey) -> Result<Arc<Renewer>, LockError> {
        let no_runtime = || LockError::NoRuntime { key: key.clone() };
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        let id = runtime.id();
        let known = |renewers: &[(Id, Arc<Renewer>)]| {
            let one = renewers.iter().find(|(one, _)| *one == id);
            one.map(|(_, renewer)| Arc::clone(renewer))
        };
        let renewers = self.renewers.read();
        if let Some(renewer) = known(&renewers.unwrap_or_else(PoisonError::into_inner)) {
            return Ok(renewer);
        }
        if !timers_work(&runtime) {
            return Err(no_runtime());
        }
        let renewers = self.renewers.write();
        let mut renewers = renewers.unwrap_or_else(PoisonError::into_inner);
        if let Some(renewer) = known(&renewers) {
            return Ok(renewer);
        }
        // Runtimes come and go, in tests above all: forget those that have nothing left here, not even a waiter.
        renewers.retain(|(_, renewer)| Arc::strong_count(renewer) > 1);
        let renewer = Renewer::new(runtime);
        renewers.push((id, Arc::clone(&renewer)));
        Ok(renewer)
    }

    /// Whether who has a lock again and again has to see that others get it.
    pub(crate) fn rests(&self) -> bool {
        self.wakeups.is_some() && !self.capabilities.order
    }

    /// All leases that are held now, and some that were until now; a lease may be there twice.
    pub(crate) fn leases(&self) -> Vec<Arc<Lease>> {
        let renewers = self.renewers.read().unwrap_or_else(PoisonError::into_inner);
        renewers
            .iter()
            .flat_map(|(_, renewer)| renewer.leases())
            .collect()
    }

    // Who counts a call looks at `closed` afterwards, and who closes looks at `calls` afterwards: in one total order, one
    // of them sees the other.

    /// Counts a call to the backend, or a series of them, until the token is dropped.
    pub(crate) fn call(&self) -> Call<&Self> {
        Call::at(self)
    }

    /// The same for who may outlive whoever knows the store.
    pub(crate) fn kept_call(self: &Arc<Self>) -> Call {
        Call::at(Arc::clone(self))
    }

    /// How many calls are under way.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Resolves when no call is under way.
    pub(crate) async fn idle(&self) {
        let _idler = Idler::new(&self.idlers);
        loop {
            let idle = self.idle.notified();
            if self.calls() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Refuses everything new from now on.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        contained(|| self.closing.notify_waiters());
        self.lines.close();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn check_open(&self, key: &LockKey) -> Result<(), LockError> {
        if self.is_closed() {
            return Err(LockError::Closed { key: key.clone() });
        }
        Ok(())
    }

    /// Resolves when the store is closed.
    pub(crate) async fn closed(&self) {
        loop {
            let closing = self.closing.notified();
            if self.is_closed() {
                return;
            }
            closing.await;
        }
    }
}

fn timers_work(runtime: &Handle) -> bool {
    let _entered = runtime.enter();
    timer::timers_work_here()
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

impl AsRef<Self> for Store {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// A call to the backend that [`Store::idle`] waits for.
#[derive(Debug)]
pub(crate) struct Call<S: AsRef<Store> = Arc<Store>>(S);

impl<S: AsRef<Store>> Call<S> {
    /// Counts a call at the store of `whose`.
    pub(crate) fn at(whose: S) -> Self {
        whose.as_ref().calls.fetch_add(1, Ordering::SeqCst);
        Self(whose)
    }

    /// Whose call it is.
    pub(crate) fn whose(&self) -> &S {
        &self.0
    }
}

impl<S: AsRef<Store>> Drop for Call<S> {
    fn drop(&mut self) {
        let store = self.0.as_ref();
        // Whoever waits says so before it looks at `calls`.
        if store.calls.fetch_sub(1, Ordering::SeqCst) == 1
            && store.idlers.load(Ordering::SeqCst) > 0
        {
            contained(|| store.idle.notify_waiters());
        }
    }
}

/// Somebody who waits until no call is under way.
struct Idler<'a>(&'a AtomicUsize);

impl<'a> Idler<'a> {
    fn new(idlers: &'a AtomicUsize) -> Self {
        idlers.fetch_add(1, Ordering::SeqCst);
        Self(idlers)
    }
}

impl Drop for Idler<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
