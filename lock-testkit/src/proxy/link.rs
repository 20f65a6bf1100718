//! One client's connection, and the one to the server behind it. Not which requests are meant: that is `rule.rs`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Sleep;

use super::rule::{Fate, Way};
use super::slots::{Said, Slots};
use super::{Shared, resp};

/// So many bytes wait in each direction of a connection; then no more is read, until some have been passed on.
const ROOM: u32 = 16 << 20;

/// What a waiting frame takes besides its bytes.
const FRAME: usize = 128;

/// The longest request or reply: more than this ends the connection.
const LONGEST: usize = 64 << 20;

/// A client's connection.
struct Link {
    shared: Arc<Shared>,
    slots: Mutex<Slots<Due>>,
    more: Notify,
    /// Whether the client sends no more, or must believe that the server has gone.
    gone: watch::Sender<bool>,
}

/// When something arrives: now, or after the latency.
#[derive(Default)]
struct Due(Option<Pin<Box<Sleep>>>);

/// A request or a reply on its way.
struct Frame {
    bytes: Vec<u8>,
    due: Due,
    _room: Option<OwnedSemaphorePermit>,
}

impl Due {
    async fn arrive(self) {
        if let Some(due) = self.0 {
            due.await;
        }
    }
}

impl Frame {
    async fn arrive(self) -> Vec<u8> {
        self.due.arrive().await;
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
        slots: Mutex::new(Slots::default()),
        more: Notify::new(),
        gone: watch::Sender::new(false),
    };
    let was_reset = {
        let traffic = async {
            tokio::select! {
                () = link.replies(from_server, &mut to_client) => {}
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
    fn slots(&self) -> MutexGuard<'_, Slots<Due>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn is_gone(&self) {
        let _ = self.gone.subscribe().wait_for(|gone| *gone).await;
    }

    fn close_client(&self, client: &mut Option<OwnedWriteHalf>) {
        self.gone.send_replace(true);
        *client = None;
    }

    fn due(&self) -> Due {
        let latency = self.shared.settings().latency;
        Due((!latency.is_zero()).then(|| Box::pin(tokio::time::sleep(latency))))
    }

    /// Cuts what `from` says into frames until its end.
    async fn read(
        &self,
        mut from: OwnedReadHalf,
        length: fn(&[u8]) -> Option<usize>,
        queue: mpsc::UnboundedSender<Frame>,
    ) {
        let room = Arc::new(Semaphore::new(ROOM as usize));
        let mut bytes = Vec::new();
        while bytes.len() <= LONGEST && from.read_buf(&mut bytes).await.is_ok_and(|count| count > 0)
        {
            while let Some(length) = length(&bytes) {
                let rest = bytes.split_off(length);
                let bytes = std::mem::replace(&mut bytes, rest);
                let takes = u32::try_from(length + FRAME).unwrap_or(ROOM).min(ROOM);
                let frame = Frame {
                    bytes,
                    due: self.due(),
                    _room: Arc::clone(&room).acquire_many_owned(takes).await.ok(),
                };
                let _ = queue.send(frame);
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
        let at_once = action.at_once.then(|| self.due());
        self.slots().expect(&arguments, action.reply, at_once);
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

    /// Server to client. Ends with what the server says: it closes too when a client that has closed has been served.
    async fn replies(&self, from: OwnedReadHalf, client: &mut Option<OwnedWriteHalf>) {
        let (queue, mut queued) = mpsc::unbounded_channel();
        let read = self.read(from, resp::reply_length, queue);
        let write = async {
            loop {
                self.meet_what_waits_for_no_reply(client).await;
                tokio::select! {
                    frame = queued.recv() => match frame {
                        Some(frame) => self.deliver(frame.arrive().await, client).await,
                        None => return,
                    },
                    () = self.more.notified() => {}
                }
            }
        };
        tokio::join!(read, write);
    }

    async fn meet_what_waits_for_no_reply(&self, client: &mut Option<OwnedWriteHalf>) {
        // Not in the head of the loop: the lock would be held for all of it.
        let next = || self.slots().next_at_once();
        while let Some((due, fate)) = next() {
            due.arrive().await;
            self.meet(fate, &[], client).await;
        }
    }

    async fn deliver(&self, said: Vec<u8>, client: &mut Option<OwnedWriteHalf>) {
        // Requests that the server never got may stand before the one that it answered.
        self.meet_what_waits_for_no_reply(client).await;
        let belongs = self.slots().belongs(&said);
        match belongs {
            Said::Reply(fate) => self.meet(fate, &said, client).await,
            Said::Message if self.shared.settings().loses_messages => {}
            Said::Message | Said::Unasked => self.hand_over(&said, client).await,
        }
    }

    /// Does to one reply what `fate` says.
    async fn meet(&self, fate: Fate, reply: &[u8], client: &mut Option<OwnedWriteHalf>) {
        let (fate, reply) = match fate {
            Fate::Instead(instead, then) => {
                self.hand_over(&instead, client).await;
                (*then, &[][..])
            }
            fate => (fate, reply),
        };
        match fate {
            Fate::Pass | Fate::Instead(..) => {}
            Fate::Hold(gate) => tokio::select! {
                biased;
                () = gate.opened() => {}
                () = self.is_gone() => *client = None,
            },
            Fate::Stall => {
                self.is_gone().await;
                *client = None;
            }
            Fate::Cut => self.close_client(client),
        }
        self.hand_over(reply, client).await;
    }

    /// Writes to the client, if it is there.
    async fn hand_over(&self, reply: &[u8], client: &mut Option<OwnedWriteHalf>) {
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
