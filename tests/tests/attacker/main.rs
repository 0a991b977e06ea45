//! What `docs/threat-model.md` says that an attacker cannot do is tried here, and must fail.

mod bucket_reader;
mod bucket_writer;
mod local_user;
mod network;
mod scene;
mod stolen_host;
