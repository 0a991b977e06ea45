//! The agent as a service: what its manager is told, and what SIGHUP takes from the configuration anew.

mod manager;
mod reload;

pub use manager::{Manager, pulse};
pub use reload::{Changes, compare};
