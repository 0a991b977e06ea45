//! What the agent does by itself, and when: `[schedule]`.
//!
//! `plan` computes what is due, from times alone. The `keeper` waits, and runs one job at a time, each as a `process` of its
//! own. The agent is stateless: what was run when is read from the repository (`memory`), and shown by `state`.

mod keeper;
mod lines;
mod memory;
mod plan;
mod process;
mod state;

pub use keeper::Keeper;
pub use memory::LastRun;
pub(crate) use plan::time_zone;
pub use plan::{Due, LastTimes, Schedule, ScheduleError};
pub use process::Runner;
pub(crate) use process::end_with_the_agent;
pub(crate) use state::ShownSchedule;
pub use state::{JobStatus, ScheduleState, ScheduleStatus};
