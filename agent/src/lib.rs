//! The agent: it streams WAL, answers `archive-cmd`, takes base backups.
//!
//! A byte's way: PostgreSQL → [`stream`], [`archive`] or [`backup`] → the `repository` crate. Each verb of the
//! command line is one file under [`commands`].

pub mod archive;
pub mod backoff;
pub mod backup;
pub mod check;
pub mod checklist;
pub mod cli;
pub mod commands;
pub mod counters;
pub mod drill;
pub mod dump;
pub mod find;
pub mod finding;
pub mod health;
mod html;
pub mod http;
mod looks;
mod memory;
pub mod notify;
pub mod schedule;
pub mod server;
pub mod service;
mod stop;
pub mod stream;
pub mod troubles;
pub mod upkeep;
