//! Child processes that are stopped, killed and started anew. Not what they do.

use std::fmt;
use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use lock_core::Moment;
use rustix::process::{Pid, Signal, kill_process};

/// Several processes, each in a place of its own. Those that are left are killed on drop.
///
/// A process works until its standard input ends, and then ends itself with exit code 0. What it prints to its
/// standard output comes back with [`end`](Self::end) and should be short.
pub struct Processes {
    command: Box<dyn FnMut(usize, u32) -> Command + Send>,
    places: Vec<Place>,
    flaws: Vec<String>,
}

/// One process after the other.
struct Place {
    child: Child,
    /// How many were here before.
    generation: u32,
}

impl Processes {
    /// Starts `count` processes. `command` makes the one of a place (from 0) and a generation (from 0).
    ///
    /// # Errors
    ///
    /// Those of starting a process.
    pub fn start(
        count: usize,
        mut command: impl FnMut(usize, u32) -> Command + Send + 'static,
    ) -> io::Result<Self> {
        let mut processes = Self {
            places: Vec::new(),
            flaws: Vec::new(),
            command: Box::new(move |place, generation| {
                let mut command = command(place, generation);
                command.stdin(Stdio::piped()).stdout(Stdio::piped());
                command
            }),
        };
        for place in 0..count {
            let child = (processes.command)(place, 0).spawn()?;
            processes.places.push(Place {
                child,
                generation: 0,
            });
        }
        Ok(processes)
    }

    /// Stops the process at `place` (SIGSTOP): it stays, and does nothing.
    pub fn stop(&mut self, place: usize) {
        self.signal(place, Signal::STOP);
    }

    /// Lets a stopped process go on (SIGCONT).
    pub fn resume(&mut self, place: usize) {
        self.signal(place, Signal::CONT);
    }

    /// Kills the process at `place` (SIGKILL) and waits for its end.
    pub fn kill(&mut self, place: usize) {
        self.look(place, |_| false);
        let child = &mut self.places[place].child;
        // Fails only if it has ended already, and then `look` has seen it or nothing is wrong.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Starts the next process at `place`, where the last one has ended.
    ///
    /// # Errors
    ///
    /// Those of starting a process.
    pub fn restart(&mut self, place: usize) -> io::Result<()> {
        let generation = self.places[place].generation + 1;
        let child = (self.command)(place, generation).spawn()?;
        self.places[place] = Place { child, generation };
        Ok(())
    }

    /// How many processes there have been.
    #[must_use]
    pub fn count(&self) -> usize {
        let generations = self
            .places
            .iter()
            .map(|place| place.generation as usize + 1);
        generations.sum()
    }

    /// Tells all processes to end, and waits for that. Their outputs, place by place; or what is wrong: who ended before it
    /// was told to, and not by us, or with another exit code than 0.
    ///
    /// # Errors
    ///
    /// One line for each that is wrong.
    pub async fn end(mut self, patience: Duration) -> Result<Vec<String>, Vec<String>> {
        for place in 0..self.places.len() {
            self.look(place, |_| false);
            drop(self.places[place].child.stdin.take());
        }
        if !self.flaws.is_empty() {
            return Err(std::mem::take(&mut self.flaws));
        }
        let start = Moment::now();
        while start.elapsed() < patience && self.places.iter_mut().any(|place| place.lives()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut outputs = Vec::new();
        for place in 0..self.places.len() {
            if self.places[place].lives() {
                let flaw = format!("process {place} was not done within {patience:?}");
                self.flaws.push(flaw);
                continue;
            }
            self.look(place, ExitStatus::success);
            let mut output = String::new();
            if let Some(mut stdout) = self.places[place].child.stdout.take() {
                let _ = stdout.read_to_string(&mut output);
            }
            outputs.push(output);
        }
        if self.flaws.is_empty() {
            Ok(outputs)
        } else {
            Err(std::mem::take(&mut self.flaws))
        }
    }

    /// Notes it if the process at `place` has ended, and not as it `may`.
    fn look(&mut self, place: usize, may: fn(&ExitStatus) -> bool) {
        if let Ok(Some(status)) = self.places[place].child.try_wait()
            && !may(&status)
        {
            let generation = self.places[place].generation;
            let flaw = format!("process {place}.{generation} ended by itself: {status}");
            self.flaws.push(flaw);
        }
    }

    fn signal(&mut self, place: usize, signal: Signal) {
        let place = &mut self.places[place];
        // Of a process that has ended and was waited for, the number may be another's.
        if place.lives()
            && let Some(pid) = i32::try_from(place.child.id()).ok().and_then(Pid::from_raw)
        {
            // Fails only if it has just ended.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Place {
    fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl fmt::Debug for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processes")
            .field("places", &self.places.len())
            .finish_non_exhaustive()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for place in &mut self.places {
            let _ = place.child.kill();
            let _ = place.child.wait();
        }
    }
}
