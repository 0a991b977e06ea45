//! The targets as a library, for the programs in `fuzz_targets`.
//!
//! `cargo +nightly fuzz run config -- -max_total_time=60` runs one of them from the corpus on. What it finds goes
//! into `corpus/<target>`, where the ordinary tests replay it (`cargo xtask test corpus`).

pub mod stored;
pub mod targets;
