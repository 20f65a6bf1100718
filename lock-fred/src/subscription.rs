//! The task that holds a backend's subscriptions, on a connection of its own. Not who waits: that is `wakeups.rs`.
//!
//! It is started by the first subscription and ends when nothing has been subscribed to for a while. A message
//! lost is a delay, not a loss: whenever messages may have been missed, everybody is woken to look.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::{Arc, Weak};
use std::time::Duration;

use lock_core::BackendError;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use crate::client::{Event, Messages, Subscriber, Target};
use crate::error::{self, Failure};
use crate::wakeups::Hub;

/// How often the connection is asked whether it is alive. Unused for two of these it is closed.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The delay before connecting again; doubled each time, with jitter.
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// How many channels one command names.
const CHANNELS_AT_ONCE: usize = 256;

/// What the task is told. Which channels are wanted it sees for itself, so that the order does not matter.
pub(crate) enum Command {
    /// Somebody new waits for a channel: tell when it is subscribed to.
    Subscribe(String, oneshot::Sender<Result<(), BackendError>>),
    /// The last one who waited for a channel has gone.
    Unsubscribe(String),
}

/// Resolves when `channel`, which somebody waits for already, is subscribed to.
pub(crate) async fn confirm(hub: &Arc<Hub>, channel: &str) -> Result<(), BackendError> {
    let runtime = Handle::try_current().map_err(|_| {
        BackendError::transient("a subscription needs a tokio runtime, and there is none here")
    })?;
    let (answer, answered) = oneshot::channel();
    let mut started = None;
    let number = hub.tell(Command::Subscribe(channel.to_owned(), answer), |number| {
        let (commands, receiver) = mpsc::unbounded_channel();
        started = Some(Task {
            hub: Arc::downgrade(hub),
            target: Arc::clone(&hub.target),
            number,
            commands: receiver,
            delay: FIRST_DELAY,
        });
        commands
    });
    // Not under the hub's lock: a runtime that is ending drops the task at once, and that takes the lock.
    if let Some(task) = started {
        runtime.spawn(task.serve());
    }
    let patience = hub
        .target
        .connect_timeout
        .saturating_add(hub.target.response_timeout);
    match tokio::time::timeout(patience, answered).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(BackendError::transient(
            "the connection for subscriptions ended",
        )),
        Err(_) => {
            // Perhaps nobody drives the runtime that the task is on.
            hub.forget(number);
            Err(BackendError::transient(
                "the server did not confirm the subscription in time",
            ))
        }
    }
}

struct Task {
    hub: Weak<Hub>,
    target: Arc<Target>,
    number: u64,
    commands: UnboundedReceiver<Command>,
    /// Before connecting again. Short again when a connection has lasted a while.
    delay: Duration,
}

/// However the task ends, also with its runtime: those who wait must not rely on it any more.
impl Drop for Task {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.forget(self.number);
            hub.wake_all();
        }
    }
}

impl Task {
    async fn serve(mut self) {
        loop {
            let next = match self.target.subscribe().await {
                Ok((subscriber, messages)) => {
                    Session {
                        task: &mut self,
                        subscriber,
                        active: HashSet::new(),
                    }
                    .listen(messages)
                    .await
                }
                Err(error) => self.decline(&error).await,
            };
            if next.is_break() {
                return;
            }
        }
    }

    fn next_delay(&mut self) -> Duration {
        let delay = self.delay.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.delay = self.delay.saturating_mul(2).min(LONGEST_DELAY);
        delay
    }

    /// Answers everybody with `error` for a while. Ends the task if nobody waits any more.
    async fn decline(&mut self, error: &BackendError) -> ControlFlow<()> {
        let sleep = tokio::time::sleep(self.next_delay());
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                command = self.commands.recv() => match command {
                    None => return Break(()),
                    Some(Command::Subscribe(_, answer)) => drop(answer.send(Err(error.clone()))),
                    Some(Command::Unsubscribe(_)) => {}
                },
                () = &mut sleep => break,
            }
        }
        match self.hub.upgrade() {
            Some(hub) if !hub.retire(self.number) => Continue(()),
            _ => Break(()),
        }
    }
}

/// One connection's life.
struct Session<'a> {
    task: &'a mut Task,
    subscriber: Subscriber,
    active: HashSet<String>,
}

/// The connection is broken or silent.
struct Disconnected;

impl Session<'_> {
    /// Listens until the connection ends (`Continue`: make another) or nobody needs it (`Break`).
    async fn listen(mut self, messages: Messages) -> ControlFlow<()> {
        let next = self.run(messages).await;
        if let Some(hub) = self.task.hub.upgrade() {
            hub.wake_all();
        }
        match next {
            Ok(done) => done,
            Err(Disconnected) => {
                tokio::time::sleep(self.task.next_delay()).await;
                Continue(())
            }
        }
    }

    async fn run(&mut self, mut messages: Messages) -> Result<ControlFlow<()>, Disconnected> {
        let Some(hub) = self.task.hub.upgrade() else {
            return Ok(Break(()));
        };
        for channels in hub.channels().chunks(CHANNELS_AT_ONCE) {
            self.subscribe(
                channels
                    .iter()
                    .map(|channel| (channel.clone(), Vec::new()))
                    .collect(),
            )
            .await?;
        }
        // What was published while there was no connection is lost.
        hub.wake_all();
        drop(hub);

        let mut ticks = tokio::time::interval(PING_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut idle = false;
        let mut commands = Vec::new();
        loop {
            tokio::select! {
                event = messages.next() => {
                    let Some(hub) = self.task.hub.upgrade() else { return Ok(Break(())) };
                    match event.ok_or(Disconnected)? {
                        Event::Message(channel) => hub.wake(&channel),
                        Event::Ended(channel) => self.restore(&hub, channel).await?,
                        Event::Missed => hub.wake_all(),
                    }
                }
                count = self.task.commands.recv_many(&mut commands, CHANNELS_AT_ONCE) => {
                    if count == 0 {
                        return Ok(Break(()));
                    }
                    self.obey(std::mem::take(&mut commands)).await?;
                }
                _ = ticks.tick() => {
                    self.task.delay = FIRST_DELAY;
                    let Some(hub) = self.task.hub.upgrade() else { return Ok(Break(())) };
                    if self.active.is_empty() && std::mem::replace(&mut idle, true) && hub.retire(self.task.number) {
                        return Ok(Break(()));
                    }
                    idle = self.active.is_empty();
                    self.subscriber.ping().await.map_err(lost)?;
                }
            }
        }
    }

    async fn obey(&mut self, commands: Vec<Command>) -> Result<(), Disconnected> {
        let Some(hub) = self.task.hub.upgrade() else {
            return Ok(());
        };
        let mut wanted: HashMap<String, Vec<_>> = HashMap::new();
        let mut unwanted = Vec::new();
        for command in commands {
            match command {
                Command::Subscribe(channel, answer) if self.active.contains(&channel) => {
                    drop(answer.send(Ok(())))
                }
                Command::Subscribe(channel, answer) => {
                    wanted.entry(channel).or_default().push(answer)
                }
                Command::Unsubscribe(channel) => unwanted.push(channel),
            }
        }
        // They may have changed their mind since.
        wanted.retain(|channel, _| hub.is_wanted(channel));
        unwanted.retain(|channel| !hub.is_wanted(channel) && self.active.remove(channel));
        if !wanted.is_empty() {
            self.subscribe(wanted).await?;
        }
        if !unwanted.is_empty() {
            self.subscriber.unsubscribe(&unwanted).await.map_err(lost)?;
        }
        Ok(())
    }

    /// The server has ended a subscription by itself. If we did not ask for that, it is to be had elsewhere.
    async fn restore(&mut self, hub: &Hub, channel: String) -> Result<(), Disconnected> {
        if !self.active.remove(&channel) || !hub.is_wanted(&channel) {
            return Ok(());
        }
        self.subscribe(HashMap::from([(channel.clone(), Vec::new())]))
            .await?;
        // What was published meanwhile is lost.
        hub.wake(&channel);
        Ok(())
    }

    /// Subscribes to channels, and tells those who wait for that.
    async fn subscribe(
        &mut self,
        mut wanted: HashMap<String, Vec<oneshot::Sender<Result<(), BackendError>>>>,
    ) -> Result<(), Disconnected> {
        let channels: Vec<String> = wanted.keys().cloned().collect();
        let results = self.subscriber.subscribe(&channels).await.map_err(lost)?;
        for (channel, result) in channels.into_iter().zip(results) {
            let result = result.map_err(|failure| error::not_answered(failure.about(&[&channel])));
            for answer in wanted.remove(&channel).into_iter().flatten() {
                drop(answer.send(result.clone()));
            }
            if result.is_ok() {
                self.active.insert(channel);
            }
        }
        Ok(())
    }
}

fn lost(_: Failure) -> Disconnected {
    Disconnected
}
