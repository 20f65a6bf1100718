//! Many want one key: how often it changes hands, and who gets it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::client::{Client, Enter};
use crate::rotation::{Run, Sample, Stage};

/// `waiters` tasks, spread over `instances` clients with a connection each, take one key over and over.
pub(crate) struct Contended<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) waiters: usize,
    pub(crate) instances: usize,
    pub(crate) duration: Duration,
    pub(crate) runs: Vec<Run<'a>>,
}

impl Enter for Contended<'_> {
    fn enter<C: Client>(&mut self) {
        if !self.stage.admits(&C::name()) {
            return;
        }
        let (stage, waiters, duration) = (self.stage, self.waiters, self.duration);
        let clients: Vec<C> = stage.runtime.block_on(async {
            let mut clients = Vec::new();
            for _ in 0..self.instances.min(waiters) {
                clients.push(C::connect(&stage.target()).await);
            }
            clients
        });
        let repetition = move || {
            let commands = stage.commands(C::SENDS);
            let seen = stage.runtime.block_on(contend(&clients, waiters, duration));
            let sent = stage.commands(C::SENDS) - commands;
            let all: usize = seen.by_task.iter().sum();
            let mut sample = Sample::new();
            let seconds = duration.as_secs_f64();
            sample.set("owner changes a second", seen.changes as f64 / seconds);
            sample.set("acquisitions a second", all as f64 / seconds);
            sample.set("Jain index", jain(&seen.by_task));
            let unserved = seen.by_task.iter().filter(|count| **count == 0).count();
            sample.set("never served", unserved as f64);
            sample.set("longest wait, ms", seen.longest.as_secs_f64() * 1e3);
            // Those that come after the end are sent as well.
            sample.set("commands an acquisition", sent as f64 / seen.granted as f64);
            sample
        };
        self.runs.push(Run::new(C::name(), repetition));
    }
}

/// What a repetition showed until its end.
struct Seen {
    changes: usize,
    by_task: Vec<usize>,
    longest: Duration,
    /// Those after the end included.
    granted: usize,
}

#[derive(Default)]
struct Book {
    last: Option<usize>,
    changes: usize,
    by_task: Vec<usize>,
    longest: Duration,
}

async fn contend<C: Client>(clients: &[C], waiters: usize, duration: Duration) -> Seen {
    let book = Arc::new(Mutex::new(Book {
        by_task: vec![0; waiters],
        ..Book::default()
    }));
    let (over, granted) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut running = JoinSet::new();
    for (task, client) in (0..waiters).zip(clients.iter().cycle()) {
        let (client, book) = (client.clone(), Arc::clone(&book));
        let (over, granted) = (Arc::clone(&over), Arc::clone(&granted));
        running.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let held = client.take("compare:contended").await;
                granted.fetch_add(1, Ordering::Relaxed);
                if !over.load(Ordering::Relaxed) {
                    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                    book.changes += usize::from(book.last != Some(task));
                    book.last = Some(task);
                    book.by_task[task] += 1;
                    book.longest = book.longest.max(begun.elapsed());
                }
                client.give_back(held).await;
                // In memory nothing else lets others run.
                tokio::task::consume_budget().await;
            }
        });
    }
    tokio::time::sleep(duration).await;
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = running.join_next().await {
        ended.expect("no task fails");
    }
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    Seen {
        changes: book.changes,
        by_task: std::mem::take(&mut book.by_task),
        longest: book.longest,
        granted: granted.load(Ordering::Relaxed),
    }
}

/// Jain's index of fairness: 1 where all got the same, 1/n where one got everything.
fn jain(counts: &[usize]) -> f64 {
    if counts.iter().all(|count| *count == 0) {
        return 0.0;
    }
    let sum: f64 = counts.iter().map(|count| *count as f64).sum();
    let squares: f64 = counts.iter().map(|count| (*count as f64).powi(2)).sum();
    sum.powi(2) / (counts.len() as f64 * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_one_where_all_got_the_same_and_least_where_one_got_everything() {
        assert_eq!(jain(&[3, 3, 3, 3]), 1.0);
        assert_eq!(jain(&[8, 0, 0, 0]), 0.25);
    }
}
