//! A ledger: clients commit numbered rows and note, outside of the server, which commits were acknowledged to them.
//!
//! What comes back after a disaster is compared with these notes. A commit whose answer never came may be there or
//! not; nobody was told anything about it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::agent::lsn_number;
use crate::{Postgres, runtime, wait_for};

/// The table; made by [`Ledger::create`].
const TABLE: &str =
    "CREATE TABLE ledger (client int, number bigint, filler text, PRIMARY KEY (client, number))";

/// How long an acknowledgement may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// One acknowledged commit.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Which client.
    pub client: u32,
    /// Which of its rows; ascending.
    pub number: u64,
    /// How often the clients had been sent to another server before.
    pub era: u32,
    /// When the acknowledgement came.
    pub at: Instant,
    /// The commit ends at or before this position; `None` if the server was gone before it could be asked.
    pub lsn: Option<u64>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lsn = self.lsn.map_or("?".to_owned(), |lsn| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff));
        write!(f, "row {} of client {} (at or before {lsn})", self.number, self.client)
    }
}

/// Where the clients find the server: it may be another one after a failover.
type Address = Arc<Mutex<(Config, u32)>>;

#[derive(Debug, Default)]
struct Notes {
    acknowledged: Mutex<Vec<Entry>>,
}

impl Notes {
    fn acknowledged(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clients at work. They come back to the server whenever they lose it, until they are stopped.
pub struct Ledger {
    notes: Arc<Notes>,
    address: Address,
    stop: watch::Sender<bool>,
    clients: Vec<JoinHandle<()>>,
}

impl Ledger {
    /// Makes the table on an empty server.
    pub fn create(server: &Postgres) -> Result<()> {
        server.sql(TABLE).map(drop)
    }

    /// Starts so many clients. What they write depends on the seed, when they write it on the machine.
    pub fn open(server: &Postgres, clients: u32, seed: u64) -> Ledger {
        let (stop, stopped) = watch::channel(false);
        let (notes, address) = (Arc::<Notes>::default(), Address::new(Mutex::new((config(server), 0))));
        let clients = (0..clients).map(|client| {
            let (notes, address, stopped) = (Arc::clone(&notes), Arc::clone(&address), stopped.clone());
            let random = StdRng::seed_from_u64(seed ^ u64::from(client) << 32);
            let mut clerk = Clerk { client, number: 0, random, notes, address, stopped };
            std::thread::spawn(move || runtime().block_on(clerk.work()))
        });
        let clients = clients.collect();
        Ledger { notes, address, stop, clients }
    }

    /// From now on the clients go to another server.
    pub fn go_to(&self, server: &Postgres) {
        let mut address = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        *address = (config(server), address.1 + 1);
    }

    /// How many commits have been acknowledged.
    pub fn count(&self) -> usize {
        self.notes.acknowledged().len()
    }

    /// Waits until so many more commits have been acknowledged.
    pub fn wait_for_more(&self, more: usize) -> Result<()> {
        let wanted = self.count() + more;
        wait_for("commits are acknowledged", PATIENCE, || Ok((self.count() >= wanted).then_some(())))
    }

    /// Stops the clients, those that wait for an answer included, and hands out the notes.
    pub fn close(mut self) -> Result<Vec<Entry>> {
        self.stop.send_replace(true);
        for client in self.clients.drain(..) {
            ensure!(client.join().is_ok(), "a client of the ledger panicked");
        }
        Ok(std::mem::take(&mut *self.notes.acknowledged()))
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

fn config(server: &Postgres) -> Config {
    let mut config = Config::new();
    config.host_path(server.socket_folder()).port(server.port()).user("postgres").dbname("postgres");
    config.application_name("ledger");
    config
}

/// One client.
struct Clerk {
    client: u32,
    number: u64,
    random: StdRng,
    notes: Arc<Notes>,
    address: Address,
    stopped: watch::Receiver<bool>,
}

impl Clerk {
    async fn work(&mut self) {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            () = self.write() => {}
            // Whatever has not been answered by now was not acknowledged.
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }

    async fn write(&mut self) {
        loop {
            let (config, era) = self.address.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Ok((client, connection)) = config.connect(NoTls).await {
                let driver = tokio::spawn(connection);
                // It ends with an error when the server is lost; then there is a next one.
                let _ = self.write_to(&client, era).await;
                driver.abort();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn write_to(&mut self, client: &Client, era: u32) -> Result<(), tokio_postgres::Error> {
        loop {
            self.number += 1;
            let (number, length) = (self.number, self.random.random_range(0..3000));
            let row = format!("INSERT INTO ledger VALUES ({}, {number}, repeat('x', {length}))", self.client);
            client.simple_query(&row).await?;
            let at = Instant::now();
            let entry = Entry { client: self.client, number, era, at, lsn: None };
            self.notes.acknowledged().push(entry);
            let lsn = position(client).await?;
            let own = |entry: &&mut Entry| entry.client == self.client;
            if let Some(entry) = self.notes.acknowledged().iter_mut().rev().find(own) {
                entry.lsn = lsn;
            }
            match self.random.random_range(0..200) {
                0 => drop(client.simple_query("SELECT pg_switch_wal()").await?),
                1 => drop(client.simple_query("CHECKPOINT").await?),
                _ => {}
            }
        }
    }
}

async fn position(client: &Client) -> Result<Option<u64>, tokio_postgres::Error> {
    let rows = client.simple_query("SELECT pg_current_wal_flush_lsn()").await?;
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(row.and_then(|text| lsn_number(text).ok()))
}

/// What a restored server has of a ledger.
#[derive(Debug)]
pub struct Audit {
    /// Rows that are there.
    pub rows: usize,
    /// Acknowledged commits that are not, in the order of their acknowledgements.
    pub lost: Vec<Entry>,
}

impl Audit {
    /// Compares a server with the notes.
    ///
    /// # Errors
    /// A client's commit is missing although a later one of the same client and era is there: then the server came
    /// back as it never was.
    pub fn of(server: &Postgres, notes: &[Entry]) -> Result<Audit> {
        let text = server.sql("SELECT client, number FROM ledger")?;
        let mut rows = BTreeSet::new();
        for line in text.lines() {
            let (client, number) = line.split_once('|').context("two fields were asked for")?;
            rows.insert((client.parse::<u32>()?, number.parse::<u64>()?));
        }
        let lost: Vec<Entry> =
            notes.iter().filter(|entry| !rows.contains(&(entry.client, entry.number))).copied().collect();
        for entry in &lost {
            let same = |other: &&Entry| other.client == entry.client && other.era == entry.era;
            let there = |other: &&Entry| rows.contains(&(other.client, other.number));
            let later = notes.iter().filter(same).filter(|other| other.number > entry.number).find(there);
            if let Some(later) = later {
                anyhow::bail!("{entry} is missing, and {later} is there: no server was ever so");
            }
        }
        Ok(Audit { rows: rows.len(), lost })
    }

    /// How long before `moment` the oldest commit that is missing was acknowledged.
    pub fn loss(&self, moment: Instant) -> Duration {
        let oldest = self.lost.iter().map(|entry| entry.at).min();
        oldest.map_or(Duration::ZERO, |at| moment.saturating_duration_since(at))
    }

    /// Asserts that nothing is missing that the repository was said to hold: commits that end at or before `position`.
    pub fn holds_up_to(&self, position: u64) -> Result<()> {
        let broken = self.lost.iter().find(|entry| entry.lsn.is_some_and(|lsn| lsn <= position));
        match broken {
            Some(entry) => {
                anyhow::bail!("{entry} is missing, although WAL up to {position:X} was said to be durable")
            }
            None => Ok(()),
        }
    }
}
