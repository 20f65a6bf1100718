//! Everything goes wrong, as a seed says: processes are stopped and killed, connections cut, requests lost, and the
//! server made to forget. Not what uses locks meanwhile: that is yours. (On Linux.)
//!
//! What a run is made of: a [`RedisServer`], a [`Proxy`] before it, [`Processes`] that take locks through the proxy and
//! record them in a [`History`](crate::History) each, a [`Register`] to which they write under their locks, and a
//! [`Schedule`] of faults. [`unleash`] lets it happen; [`Audit`] says afterwards whether what the processes believed and
//! wrote can be. `examples/nemesis` of the crate `fencelock` is a whole run.
//!
//! None of the faults but those that [lose data](Fault::loses_data) breaks what exclusion rests on. The schedule is a
//! function of the seed; when exactly a fault meets a process is up to the operating system.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::Moment;

use crate::history;
use crate::proxy::{Action, Gate, Match, Proxy};
use crate::server::RedisServer;

mod audit;
mod processes;
mod register;
mod schedule;

pub use audit::{Audit, Breach};
pub use processes::Processes;
pub use register::{Register, Write, Writer};
pub use schedule::{Calls, Fault, Mishap, Schedule, Settings};

/// A fault that has been done: from when to when, in nanoseconds on the clock of
/// [`History::new`](crate::History::new).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// What was done.
    pub fault: Fault,
    /// Just before it began.
    pub from: u64,
    /// Just after it was over.
    pub to: u64,
}

/// Does all that `schedule` says, and mends what can be mended at the end. What was done, and when.
///
/// Processes are started on the thread that polls this. It should live as long as they do: a process that called
/// [`end_with_parent`] ends with that thread.
///
/// # Errors
///
/// Those of starting a process.
///
/// # Panics
///
/// If the server does not answer.
pub async fn unleash(
    schedule: &Schedule,
    processes: &mut Processes,
    proxy: &Proxy,
    server: &Arc<Mutex<RedisServer>>,
) -> io::Result<Vec<Done>> {
    let start = Moment::now();
    let (of_processes, of_network, of_server) = tokio::join!(
        track(start, &schedule.processes, async |fault| {
            to_processes(fault, processes).await
        }),
        track(start, &schedule.network, async |fault| {
            to_network(fault, proxy).await;
            Ok(())
        }),
        track(start, &schedule.server, async |fault| {
            to_server(fault, server).await;
            Ok(())
        }),
    );
    // Also those connections that a silence left open.
    proxy.reset_all();
    let mut done = [of_processes?, of_network?, of_server?].concat();
    done.sort_by_key(|done| done.from);
    Ok(done)
}

/// Lets this process be killed when the thread that started it ends, also if it is stopped then.
///
/// # Errors
///
/// Those of prctl(2).
pub fn end_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

async fn track(
    start: Moment,
    faults: &[(Duration, Fault)],
    mut act: impl AsyncFnMut(Fault) -> io::Result<()>,
) -> io::Result<Vec<Done>> {
    let mut done = Vec::new();
    for &(at, fault) in faults {
        tokio::time::sleep(at.saturating_sub(start.elapsed())).await;
        let from = history::now();
        act(fault).await?;
        let to = history::now();
        done.push(Done { fault, from, to });
    }
    Ok(done)
}

async fn to_processes(fault: Fault, processes: &mut Processes) -> io::Result<()> {
    match fault {
        Fault::StopProcess(place, time) => {
            processes.stop(place);
            tokio::time::sleep(time).await;
            processes.resume(place);
        }
        Fault::KillProcess(place, time) => {
            processes.kill(place);
            tokio::time::sleep(time).await;
            processes.restart(place)?;
        }
        _ => unreachable!("{fault} on the track of processes"),
    }
    Ok(())
}

async fn to_network(fault: Fault, proxy: &Proxy) {
    match fault {
        Fault::Cut => proxy.reset_all(),
        Fault::Latency { each_way, time } => {
            proxy.set_latency(each_way);
            tokio::time::sleep(time).await;
            proxy.set_latency(Duration::ZERO);
        }
        Fault::BlackHole(time) => {
            proxy.ignore_new().await;
            proxy.blackhole();
            tokio::time::sleep(time).await;
            proxy.serve_new().await;
        }
        Fault::Request(calls, mishap, time) => {
            let requests = match calls {
                Calls::Acquire => Match::acquire(),
                Calls::Renew => Match::renew(),
                Calls::Release => Match::release(),
            };
            let gate = Gate::new();
            let _seen = proxy.on(requests).action(match mishap {
                Mishap::RequestLost => Action::cut_before_forwarding(),
                Mishap::ReplyLost => Action::cut_after_forwarding(),
                Mishap::Silence => Action::stall_replies(),
                Mishap::Zombie => Action::hold_request_and_cut(&gate),
            });
            tokio::time::sleep(time).await;
            proxy.clear();
            gate.open();
        }
        Fault::LoseMessages(time) => {
            proxy.lose_messages(true);
            tokio::time::sleep(time).await;
            proxy.lose_messages(false);
        }
        _ => unreachable!("{fault} on the track of the network"),
    }
}

async fn to_server(fault: Fault, server: &Arc<Mutex<RedisServer>>) {
    match fault {
        Fault::FlushScripts => on(server, |server| tell(server, &["SCRIPT", "FLUSH"])).await,
        Fault::KillClients { subscribers } => {
            let which = if subscribers { "pubsub" } else { "normal" };
            on(server, move |server| {
                let _how_many = server.cli(&["CLIENT", "KILL", "TYPE", which]).integer();
            })
            .await;
        }
        Fault::PauseClients { writers, time } => {
            let which = if writers { "WRITE" } else { "ALL" };
            let milliseconds = time.as_millis().to_string();
            on(server, move |server| {
                tell(server, &["CLIENT", "PAUSE", &milliseconds, which]);
            })
            .await;
            tokio::time::sleep(time).await;
        }
        Fault::StopServer(time) => {
            on(server, |server| server.pause()).await;
            tokio::time::sleep(time).await;
            on(server, |server| server.resume()).await;
        }
        Fault::FlushData => on(server, |server| tell(server, &["FLUSHALL"])).await,
        Fault::RestartServer => on(server, RedisServer::restart_empty).await,
        _ => unreachable!("{fault} on the track of the server"),
    }
}

fn tell(server: &RedisServer, command: &[&str]) {
    let reply = server.cli(command).text();
    assert_eq!(reply, "OK", "{command:?}");
}

/// What blocks, where it may.
async fn on(server: &Arc<Mutex<RedisServer>>, act: impl FnOnce(&mut RedisServer) + Send + 'static) {
    let server = Arc::clone(server);
    let act = move || act(&mut server.lock().unwrap_or_else(PoisonError::into_inner));
    let done = tokio::task::spawn_blocking(act).await;
    if let Err(error) = done {
        std::panic::resume_unwind(error.into_panic());
    }
}
