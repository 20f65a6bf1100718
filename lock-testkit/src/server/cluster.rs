//! Servers that share the keys among them.

use std::time::Duration;

use super::options::{RedisOptions, Role};
use super::oracle::Reply;
use super::redis::{REPLICATION, RedisServer};

/// How many slots there are in any cluster.
const SLOTS: usize = 16384;

/// A cluster of masters with replicas of their own.
#[derive(Debug)]
pub struct RedisCluster {
    /// The nodes: first those that start as masters, then their replicas, in the same order.
    pub nodes: Vec<RedisServer>,
    ids: Vec<String>,
}

impl RedisCluster {
    /// How long a node is silent until it is taken for down.
    pub const NODE_TIMEOUT: Duration = Duration::from_secs(2);

    /// Three masters with no replicas.
    ///
    /// # Panics
    ///
    /// If they do not come up together.
    #[must_use]
    pub fn start() -> Self {
        Self::with(&RedisOptions::new(), 3, 0)
    }

    /// Three masters with a replica each.
    ///
    /// # Panics
    ///
    /// If they do not come up together.
    #[must_use]
    pub fn start_with_replicas() -> Self {
        Self::with(&RedisOptions::new(), 3, 1)
    }

    /// So many masters, each with so many replicas, of such servers. (Without a password.)
    ///
    /// # Panics
    ///
    /// If they do not come up together.
    #[must_use]
    pub fn with(options: &RedisOptions, masters: usize, replicas: usize) -> Self {
        let timeout = Self::NODE_TIMEOUT.as_millis().to_string();
        let options = options
            .clone()
            .with_role(Role::Cluster)
            .with_args(REPLICATION)
            .with_args(["--repl-diskless-sync-delay", "0"])
            .with_args(["--cluster-node-timeout", &timeout])
            // A replica that was cut off may be promoted all the same, and a slot without a master concerns no other.
            .with_args(["--cluster-replica-validity-factor", "0"])
            .with_args(["--cluster-require-full-coverage", "no"])
            .with_args(["--cluster-allow-replica-migration", "no"]);
        let count = masters * (1 + replicas);
        let nodes: Vec<_> = (0..count).map(|_| options.clone().start()).collect();
        let ids = nodes.iter().map(id).collect();
        let cluster = Self { nodes, ids };
        cluster.form(masters);
        cluster
    }

    fn form(&self, masters: usize) {
        for (index, master) in self.nodes[..masters].iter().enumerate() {
            let first = (index * SLOTS / masters).to_string();
            let last = ((index + 1) * SLOTS / masters - 1).to_string();
            ok(&master.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]));
            ok(&master.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]));
        }
        let met: Vec<_> = self
            .nodes
            .iter()
            .map(|node| (node.port(), bus(node)))
            .collect();
        for (index, node) in self.nodes.iter().enumerate() {
            for (port, bus) in &met[index + 1..] {
                ok(&node.cli(&["CLUSTER", "MEET", "127.0.0.1", &port.to_string(), bus]));
            }
        }
        super::eventually("all nodes know all others", || {
            let known = |node: &RedisServer| {
                lines(node)
                    .iter()
                    .filter(|line| !line.flag("handshake"))
                    .count()
            };
            self.nodes
                .iter()
                .all(|node| known(node) == self.nodes.len())
        });
        for (index, replica) in self.nodes.iter().enumerate().skip(masters) {
            let master = &self.ids[index % masters];
            ok(&replica.cli(&["CLUSTER", "REPLICATE", master]));
        }
        self.wait_until_up();
        super::eventually("all nodes know the replicas, which are linked", || {
            let known =
                |node: &RedisServer| lines(node).iter().filter(|line| line.flag("slave")).count();
            let (masters, replicas) = self.nodes.split_at(masters);
            let counted: usize = masters.iter().map(RedisServer::replicas).sum();
            self.nodes.iter().all(|node| known(node) == replicas.len())
                && replicas.iter().all(RedisServer::is_linked)
                && counted == replicas.len()
        });
    }

    /// Waits until the cluster is up, as all nodes see it. One that was started again takes two seconds to say so.
    ///
    /// # Panics
    ///
    /// If a node was stopped, or it takes a minute.
    pub fn wait_until_up(&self) {
        super::eventually("the cluster is up", || {
            let is_up = |node: &RedisServer| {
                let info = node.cli(&["CLUSTER", "INFO"]).text();
                info.contains("cluster_state:ok")
            };
            self.nodes.iter().all(is_up)
        });
    }

    /// The URLs of all nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(RedisServer::url).collect()
    }

    /// The slot of `key`.
    ///
    /// # Panics
    ///
    /// If no node answers.
    #[must_use]
    pub fn slot_of(&self, key: &str) -> u16 {
        let node = self.nodes.iter().find(|node| node.is_started());
        let node = node.expect("a node that was not stopped");
        let slot = node.cli(&["CLUSTER", "KEYSLOT", key]).integer();
        u16::try_from(slot).expect("a slot")
    }

    /// The place among the nodes of the master that serves `slot`, as it says itself; the newest, if several do.
    ///
    /// # Panics
    ///
    /// If nobody does within a minute.
    #[must_use]
    pub fn master_of(&self, slot: u16) -> usize {
        let mut found = None;
        super::eventually("a node serves the slot", || {
            let serving = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, node)| node.is_started());
            let serving = serving.filter_map(|(index, node)| {
                let own = lines(node).into_iter().find(|line| line.flag("myself"))?;
                (own.flag("master") && own.has(slot)).then_some((own.epoch, index))
            });
            found = serving.max().map(|(_, index)| index);
            found.is_some()
        });
        found.expect("just found")
    }

    /// The server that serves `key` now.
    ///
    /// # Panics
    ///
    /// As [`master_of`](Self::master_of).
    #[must_use]
    pub fn server_of(&self, key: &str) -> &RedisServer {
        &self.nodes[self.master_of(self.slot_of(key))]
    }

    /// Begins to move `slot` to the node at `to`: from now on keys that are not there any more are looked for there.
    ///
    /// # Panics
    ///
    /// If the nodes refuse.
    pub fn begin_move(&self, slot: u16, to: usize) {
        let from = self.master_of(slot);
        let slot = slot.to_string();
        let set = |node: usize, state, other: usize| {
            let command = ["CLUSTER", "SETSLOT", &slot, state, &self.ids[other]];
            ok(&self.nodes[node].cli(&command));
        };
        set(to, "IMPORTING", from);
        set(from, "MIGRATING", to);
    }

    /// Moves up to `count` keys of a slot whose move has begun. How many were moved.
    ///
    /// # Panics
    ///
    /// If the nodes refuse.
    pub fn move_keys(&self, slot: u16, to: usize, count: u32) -> usize {
        let (from, port) = (&self.nodes[self.master_of(slot)], self.nodes[to].port());
        let keys = from.cli(&[
            "CLUSTER",
            "GETKEYSINSLOT",
            &slot.to_string(),
            &count.to_string(),
        ]);
        for key in keys.array() {
            let moved = from.cli(&[
                "MIGRATE",
                "127.0.0.1",
                &port.to_string(),
                &key.text(),
                "0",
                "5000",
            ]);
            // NOKEY: it has ended since.
            assert!(matches!(moved, Reply::Status(_)), "{moved:?}");
        }
        keys.array().len()
    }

    /// Ends the move of `slot`: the node at `to` serves it alone.
    ///
    /// # Panics
    ///
    /// If the nodes refuse.
    pub fn end_move(&self, slot: u16, to: usize) {
        let (slot, from) = (slot.to_string(), self.master_of(slot));
        for node in [to, from] {
            let command = ["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]];
            ok(&self.nodes[node].cli(&command));
        }
    }

    /// Waits until another node than the one at `index` serves `slot`, and all nodes that are up agree.
    ///
    /// # Panics
    ///
    /// If that takes a minute.
    pub fn wait_for_failover(&self, slot: u16, index: usize) -> &RedisServer {
        super::eventually("another node is the master", || {
            let knows = |node: &RedisServer| {
                let owner = lines(node).into_iter().find(|line| line.has(slot));
                owner.is_some_and(|line| line.id != self.ids[index])
            };
            let up = self
                .nodes
                .iter()
                .enumerate()
                .filter(|(other, node)| *other != index && node.is_started());
            up.map(|(_, node)| node).all(knows)
        });
        &self.nodes[self.master_of(slot)]
    }

    /// Cuts the replicas of the master at `index` off: they keep what they have and learn nothing more.
    ///
    /// # Panics
    ///
    /// If the master does not answer.
    pub fn pause_replication(&self, index: usize) {
        self.nodes[index].lock_replicas_out();
    }
}

fn ok(reply: &Reply) {
    assert_eq!(*reply, Reply::Status("OK".to_owned()));
}

fn id(node: &RedisServer) -> String {
    node.cli(&["CLUSTER", "MYID"]).text()
}

/// The port on which a node talks to other nodes.
fn bus(node: &RedisServer) -> String {
    node.cli(&["CONFIG", "GET", "cluster-port"]).array()[1].text()
}

/// A node as another one (or itself) sees it: a line of `CLUSTER NODES`.
struct Line {
    id: String,
    flags: Vec<String>,
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

impl Line {
    fn flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|one| one == flag)
    }

    fn has(&self, slot: u16) -> bool {
        self.slots
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// What `node` knows; nothing, if it does not answer.
fn lines(node: &RedisServer) -> Vec<Line> {
    let Ok(Reply::Bulk(text)) = node.ask(&[b"CLUSTER", b"NODES"]) else {
        return Vec::new();
    };
    let parse = |line: &str| {
        let cells: Vec<_> = line.split(' ').collect();
        let slots = cells.iter().skip(8).filter(|range| !range.starts_with('['));
        let slots = slots.filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        Some(Line {
            id: cells[0].to_owned(),
            flags: cells[2].split(',').map(str::to_owned).collect(),
            epoch: cells[6].parse().ok()?,
            slots: slots.collect(),
        })
    };
    String::from_utf8_lossy(&text)
        .lines()
        .filter_map(parse)
        .collect()
}
