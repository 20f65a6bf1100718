//! Who waits for which channel, and waking them. Not the connection that hears of it: that is `subscription.rs`.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures_util::FutureExt;
use lock_core::{BackendError, LockKey, Place, Wakeup, Wakeups};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use crate::client::Target;
use crate::keys;
use crate::subscription::{self, Command};

/// All who wait at one backend. Channels are counted, so that many waiters share a subscription.
pub(crate) struct Hub {
    pub(crate) target: Arc<Target>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiters: HashMap<String, Vec<Arc<Notify>>>,
    /// How many they are.
    count: usize,
    /// The task that holds the connection, and its number.
    task: Option<(u64, UnboundedSender<Command>)>,
    tasks: u64,
}

impl Hub {
    pub(crate) fn new(target: Arc<Target>) -> Arc<Self> {
        Arc::new(Self {
            target,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those who wait for `channel`.
    pub(crate) fn wake(&self, channel: &str) {
        for waiter in self.state().waiters.get(channel).into_iter().flatten() {
            waiter.notify_one();
        }
    }

    /// Wakes everybody, because messages may have been lost.
    pub(crate) fn wake_all(&self) {
        for waiter in self.state().waiters.values().flatten() {
            waiter.notify_one();
        }
    }

    /// The channels that somebody waits for.
    pub(crate) fn channels(&self) -> Vec<String> {
        self.state().waiters.keys().cloned().collect()
    }

    /// Whether somebody waits for `channel`.
    pub(crate) fn is_wanted(&self, channel: &str) -> bool {
        self.state().waiters.contains_key(channel)
    }

    /// Gives a command to the task. `start` makes the other end of a new one, if there is none.
    pub(crate) fn tell(
        &self,
        command: Command,
        start: impl FnOnce(u64) -> UnboundedSender<Command>,
    ) -> u64 {
        let mut state = self.state();
        if state
            .task
            .as_ref()
            .is_none_or(|(_, commands)| commands.is_closed())
        {
            state.tasks = state.tasks.wrapping_add(1);
            state.task = Some((state.tasks, start(state.tasks)));
        }
        let Some((number, commands)) = &state.task else {
            return 0;
        };
        // If the task ends right now the command is dropped, and with it the answer that is waited for.
        let _ = commands.send(command);
        *number
    }

    /// Lets go of task `number`, so that the next command starts a new one.
    pub(crate) fn forget(&self, number: u64) {
        self.state().task.take_if(|(current, _)| *current == number);
    }

    /// Lets go of task `number` if nobody waits for anything.
    pub(crate) fn retire(&self, number: u64) -> bool {
        let mut state = self.state();
        let idle = state.waiters.is_empty();
        if idle {
            state.task.take_if(|(current, _)| *current == number);
        }
        idle
    }
}

/// Wakes waiters by the message that a release publishes.
#[derive(Clone)]
pub(crate) struct HubWakeups(pub(crate) Arc<Hub>);

impl fmt::Debug for HubWakeups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HubWakeups({})", self.0.target)
    }
}

#[async_trait]
impl Wakeups for HubWakeups {
    async fn subscribe(
        &self,
        key: &LockKey,
        _place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError> {
        if self.0.target.is_cluster() {
            keys::shard(key)?;
        }
        let waiter = Waiter::join(&self.0, keys::wake(key)?)?;
        subscription::confirm(&self.0, &waiter.channel).await?;
        // The caller looks at the lock after this, so that what woke it until now need not wake it again.
        let _ = waiter.notify.notified().now_or_never();
        Ok(Box::new(waiter))
    }

    /// Redis keeps no line: there is nothing to leave.
    async fn leave(&self, _key: &LockKey, _place: &Place) -> Result<(), BackendError> {
        Ok(())
    }
}

/// One who waits. What comes between two calls of `notified` is kept: a `Notify` holds one wake-up back.
struct Waiter {
    hub: Arc<Hub>,
    channel: String,
    notify: Arc<Notify>,
}

impl Waiter {
    fn join(hub: &Arc<Hub>, channel: String) -> Result<Self, BackendError> {
        let (notify, most) = (Arc::new(Notify::new()), hub.target.subscriptions);
        let mut state = hub.state();
        if state.count >= most {
            return Err(BackendError::transient(format!(
                "{most} subscriptions are in force or being made, and no more are to be"
            )));
        }
        state.count = state.count.saturating_add(1);
        let waiters = state.waiters.entry(channel.clone()).or_default();
        waiters.push(Arc::clone(&notify));
        drop(state);
        Ok(Self {
            hub: Arc::clone(hub),
            channel,
            notify,
        })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.count = state.count.saturating_sub(1);
        let Some(waiters) = state.waiters.get_mut(&self.channel) else {
            return;
        };
        waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.notify));
        if waiters.is_empty() {
            state.waiters.remove(&self.channel);
            if let Some((_, commands)) = &state.task {
                let _ = commands.send(Command::Unsubscribe(std::mem::take(&mut self.channel)));
            }
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Waiter({:?})", self.channel)
    }
}

#[async_trait]
impl Wakeup for Waiter {
    async fn notified(&mut self) {
        self.notify.notified().await;
    }
}
