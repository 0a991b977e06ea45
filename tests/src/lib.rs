//! The harness: real PostgreSQL servers, a real S3 server with faults to switch on, object stores of other makers, and
//! the programs under test.
//!
//! A scenario takes a [`World`] (a folder of its own), starts a [`Postgres`] in it, chooses a [`Repo`], points an
//! [`Agent`] at both, and tells its story. Everything that a scenario started ends with it. Nothing sleeps for luck:
//! [`wait_for`] asks again until a deadline.
//!
//! Servers and programs run as an unprivileged [`Account`], since PostgreSQL refuses root.

pub mod account;
pub mod agent;
pub mod bad;
pub mod browser;
pub mod certificates;
pub mod http;
pub mod keys;
pub mod ledger;
pub mod objects;
pub mod output;
pub mod port;
pub mod postgres;
pub mod programs;
pub mod repo;
pub mod restless;
pub mod s3;
pub mod seeds;
pub mod servers;
pub mod skip;
pub mod small;
pub mod stores;
pub mod wait;
pub mod waldump;
pub mod workload;
pub mod world;

pub use account::Account;
pub use agent::Agent;
pub use browser::Browser;
pub use certificates::Certificates;
pub use keys::Holder;
pub use ledger::{Audit, Ledger};
pub use output::Output;
pub use port::Port;
pub use postgres::{Mark, Postgres, Stop};
pub use repo::{Repo, StoreKind};
pub use restless::Restless;
pub use s3::S3Server;
pub use servers::Installation;
pub use skip::skip;
pub use small::Small;
pub use wait::wait_for;
pub use world::World;

use std::sync::OnceLock;

/// The runtime behind the harness: SQL and the S3 server run on it, while scenarios stay plain functions.
pub fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        built.expect("the runtime of the harness must start")
    })
}
