//! walkeep's repository: immutable, sealed objects over any object store.
//!
//! From the bottom up: [`store`] makes files, S3, GCS and Azure behave alike; [`sealed`] gives every object a
//! header, compression, encryption and a digest; [`repository`] and [`branch`] know which objects there are;
//! the WAL's are in [`wal`], a base backup's in [`pack`], [`manifest`] and [`backup`]; [`catalogue`] says
//! what can be restored from them, [`retention`] what may go, [`drill`] what was proven, [`dump`] what was taken logically,
//! [`run`] what the agent did by itself, [`look`] what the server was like. The layout of the
//! keys is in [`branch`], the bytes of each object in `docs/format.md`.

pub mod audit;
pub mod backup;
pub mod branch;
pub mod catalogue;
pub mod chance;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod drill;
pub mod dump;
pub mod error;
pub mod key;
pub mod look;
pub mod manifest;
pub mod pack;
pub mod repository;
pub mod retention;
pub mod run;
pub mod sealed;
pub mod store;
mod task;
pub mod wal;

pub use branch::{Branch, BranchFacts};
pub use error::{Error, Result};
pub use key::Key;
pub use repository::Repository;
pub use sealed::{
    ContentReader, Expected, Header, Kind, SealWriter, Sealed, Sealing, UnsealReader, Unsealing, WriterId,
    seal, unseal,
};
pub use store::{Folder, ObjectInfo, Store, Upload};
pub use wal::{
    Epoch, EpochFacts, FragmentName, FragmentParcel, HistoryFile, Journal, JournalName, Parcel, Place,
    SegmentParcel, Stored, Tail, TimelineWal, WalListing,
};
