//! One client's connection, and the one to the server behind it. Not which requests are meant: that is `rule.rs`.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Sleep;

use super::rule::{Fate, Way};
use super::{Shared, resp};

/// A client's connection.
struct Link {
    shared: Arc<Shared>,
    /// What is to become of the replies that are yet to come, in their order.
    slots: Mutex<VecDeque<Slot>>,
    more: Notify,
    /// Whether the client has closed the connection, or must believe that the server has.
    gone: watch::Sender<bool>,
}

struct Slot {
    /// How many replies the request gets: a subscription one for each channel.
    replies: usize,
    fate: Fate,
    at_once: bool,
}

/// A request or a reply on its way, and when it arrives.
struct Frame {
    bytes: Vec<u8>,
    due: Option<Pin<Box<Sleep>>>,
}

impl Frame {
    async fn arrive(self) -> Vec<u8> {
        if let Some(due) = self.due {
            due.await;
        }
        self.bytes
    }
}

/// Counts as an open connection for as long as it lives.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.total.fetch_add(1, Ordering::SeqCst);
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Serves `client` until one of the ends closes, or the proxy resets it.
pub(super) async fn serve(
    shared: Arc<Shared>,
    client: TcpStream,
    server: SocketAddr,
    silent: bool,
) {
    let _open = Open::new(&shared);
    let mut epoch = shared.epoch.subscribe();
    let born = *epoch.borrow();
    if silent {
        let _ = epoch.wait_for(|now| now.resets > born.resets).await;
        let _ = client.set_zero_linger();
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut to_client = Some(to_client);
    let link = Link {
        shared: Arc::clone(&shared),
        slots: Mutex::default(),
        more: Notify::new(),
        gone: watch::Sender::new(false),
    };
    let was_reset = {
        let traffic = async {
            tokio::select! {
                () = link.replies(from_server, &mut to_client) => {}
                // The server closes too when it has read all.
                () = async { link.requests(from_client, to_server).await; std::future::pending().await } => {}
            }
        };
        let disturbed = async { epoch.wait_for(|now| *now != born).await.is_ok() };
        tokio::pin!(traffic);
        let disturbed = tokio::select! {
            () = &mut traffic => false,
            disturbed = disturbed => disturbed,
        };
        if disturbed {
            // Frozen, nobody looks at the connections any more, and both stay open.
            let _ = epoch.wait_for(|now| now.resets > born.resets).await;
        }
        disturbed
    };
    if was_reset && let Some(client) = to_client.take() {
        let _ = client.as_ref().set_zero_linger();
        // Dropped, it would say an orderly goodbye first.
        client.forget();
    }
}

impl Link {
    fn slots(&self) -> MutexGuard<'_, VecDeque<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn is_gone(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    fn close_client(&self, client: &mut Option<OwnedWriteHalf>) {
        self.gone.send_replace(true);
        *client = None;
    }

    /// Cuts what `from` says into frames until its end.
    async fn read(
        &self,
        mut from: OwnedReadHalf,
        length: fn(&[u8]) -> Option<usize>,
        queue: mpsc::UnboundedSender<Frame>,
    ) {
        let mut bytes = Vec::new();
        while from.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            while let Some(length) = length(&bytes) {
                let rest = bytes.split_off(length);
                let bytes = std::mem::replace(&mut bytes, rest);
                let latency = self.shared.settings().latency;
                let due = (!latency.is_zero()).then(|| Box::pin(tokio::time::sleep(latency)));
                let _ = queue.send(Frame { bytes, due });
            }
        }
    }

    /// Client to server.
    async fn requests(&self, from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let (queue, mut queued) = mpsc::unbounded_channel();
        let read = async move {
            tokio::select! {
                () = self.read(from, resp::request_length, queue) => {}
                () = self.is_gone() => {}
            }
            self.gone.send_replace(true);
        };
        let write = async move {
            while let Some(frame) = queued.recv().await {
                if !self.forward(frame.arrive().await, &mut to).await {
                    break;
                }
            }
            let _ = to.shutdown().await;
        };
        tokio::join!(read, write);
    }

    /// Does to one request what the rules say. Whether others may follow.
    async fn forward(&self, request: Vec<u8>, to: &mut OwnedWriteHalf) -> bool {
        let arguments = resp::arguments(&request);
        if arguments.is_empty() {
            // The server does not answer this either.
            return self.write(to, &request).await.is_ok();
        }
        let action = self.shared.decide(&arguments);
        self.slots().push_back(Slot {
            replies: replies(&arguments),
            fate: action.reply,
            at_once: action.at_once,
        });
        self.more.notify_one();
        match action.request {
            Way::Forward => {}
            Way::Hold(gate) => gate.opened().await,
            Way::Skip => return true,
            Way::Cut => return false,
            Way::Freeze => {
                self.is_gone().await;
                return false;
            }
        }
        self.write(to, &request).await.is_ok()
    }

    /// Server to client.
    async fn replies(&self, from: OwnedReadHalf, client: &mut Option<OwnedWriteHalf>) {
        let (queue, mut queued) = mpsc::unbounded_channel();
        let read = self.read(from, resp::reply_length, queue);
        let write = async {
            loop {
                if let Some(fate) = self.next_at_once() {
                    self.meet(fate, &[], client).await;
                    continue;
                }
                tokio::select! {
                    frame = queued.recv() => match frame {
                        Some(frame) => self.deliver(frame.arrive().await, client).await,
                        None => return,
                    },
                    () = self.more.notified() => {}
                    () = self.is_gone(), if client.is_some() => *client = None,
                }
            }
        };
        tokio::join!(read, write);
    }

    /// What is due now and does not wait for the server.
    fn next_at_once(&self) -> Option<Fate> {
        let mut slots = self.slots();
        let at_once = slots.front().is_some_and(|slot| slot.at_once);
        at_once
            .then(|| slots.pop_front())
            .flatten()
            .map(|slot| slot.fate)
    }

    async fn deliver(&self, reply: Vec<u8>, client: &mut Option<OwnedWriteHalf>) {
        if resp::is_message(&reply) {
            if !self.shared.settings().loses_messages {
                self.meet(Fate::Pass, &reply, client).await;
            }
            return;
        }
        let fate = {
            let mut slots = self.slots();
            match slots.front_mut() {
                Some(slot) if slot.replies > 1 && !resp::is_error(&reply) => {
                    slot.replies -= 1;
                    std::mem::replace(&mut slot.fate, Fate::Pass)
                }
                _ => slots.pop_front().map_or(Fate::Pass, |slot| slot.fate),
            }
        };
        self.meet(fate, &reply, client).await;
    }

    /// Does to one reply what `fate` says.
    async fn meet(&self, mut fate: Fate, reply: &[u8], client: &mut Option<OwnedWriteHalf>) {
        let injected;
        let mut reply = reply;
        if let Fate::Instead(bytes, then) = fate {
            injected = bytes;
            self.hand_over(&injected, client).await;
            (reply, fate) = (&[], *then);
        }
        match fate {
            Fate::Pass | Fate::Instead(..) => {}
            Fate::Hold(gate) => tokio::select! {
                () = gate.opened() => {}
                () = self.is_gone() => {}
            },
            Fate::Stall => self.is_gone().await,
            Fate::Cut => self.close_client(client),
        }
        self.hand_over(reply, client).await;
    }

    /// Writes to the client, if it is there.
    async fn hand_over(&self, reply: &[u8], client: &mut Option<OwnedWriteHalf>) {
        if *self.gone.borrow() {
            *client = None;
        }
        if let Some(to) = client
            && self.write(to, reply).await.is_err()
        {
            self.close_client(client);
        }
    }

    async fn write(&self, to: &mut OwnedWriteHalf, bytes: &[u8]) -> io::Result<()> {
        let Some(slice) = self.shared.settings().slice else {
            return to.write_all(bytes).await;
        };
        for piece in bytes.chunks(slice) {
            to.write_all(piece).await?;
            // Time for the other end to read it alone.
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

/// How many replies a request gets.
fn replies(arguments: &[Vec<u8>]) -> usize {
    if arguments[0].to_ascii_uppercase().ends_with(b"SUBSCRIBE") {
        arguments.len().saturating_sub(1).max(1)
    } else {
        1
    }
}
