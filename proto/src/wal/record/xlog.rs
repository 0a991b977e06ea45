//! What the WAL says about itself.

use super::{Record, Rmgr};
use crate::bytes::{u32_at, u64_at};
use crate::{Lsn, ServerTime, TimelineId};

const CHECKPOINT_SHUTDOWN: u8 = 0x00;
const CHECKPOINT_ONLINE: u8 = 0x10;
pub(super) const SWITCH: u8 = 0x40;
const RESTORE_POINT: u8 = 0x70;
const END_OF_RECOVERY: u8 = 0x90;
const OVERWRITE: u8 = 0xD0;

/// Bytes in a restore point's name, the zero at its end included.
const NAME: usize = 64;

/// What happened to the server as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Milestone<'a> {
    /// A checkpoint.
    Checkpoint {
        /// Whether the server was shut down with it.
        shutdown: bool,
        /// Where replay from it begins.
        redo: Lsn,
        /// When it began, in seconds since 1970.
        time: i64,
    },
    /// `pg_create_restore_point`.
    RestorePoint {
        /// When.
        time: ServerTime,
        /// Its name, in the encoding of the database in which it was made.
        name: &'a [u8],
    },
    /// Recovery ended, and a timeline began.
    EndOfRecovery {
        /// When.
        time: ServerTime,
        /// The timeline.
        timeline: TimelineId,
    },
    /// After a crash: a record that was torn then is given up.
    Overwritten {
        /// Where it begins.
        record: Lsn,
        /// When.
        time: ServerTime,
    },
    /// The segment ends here.
    Switch,
}

/// What the record says, if it is one of these. `None` also where it does not hold what it announces.
pub fn milestone<'a>(record: &Record<'a>) -> Option<Milestone<'a>> {
    if record.rmgr != Rmgr::XLOG {
        return None;
    }
    if record.kind() == SWITCH {
        return Some(Milestone::Switch);
    }
    let main = || Some(record.parts().ok()?.main);
    let time = |bytes: &[u8], at| Some(ServerTime(u64_at(bytes, at)? as i64));
    match record.kind() {
        kind @ (CHECKPOINT_SHUTDOWN | CHECKPOINT_ONLINE) => {
            let main = main()?;
            Some(Milestone::Checkpoint {
                shutdown: kind == CHECKPOINT_SHUTDOWN,
                redo: Lsn(u64_at(main, 0)?),
                time: u64_at(main, 64)? as i64,
            })
        }
        RESTORE_POINT => {
            let main = main()?;
            let name = main.get(8..)?;
            let name = name.get(..NAME).unwrap_or(name);
            let length = name.iter().position(|byte| *byte == 0)?;
            Some(Milestone::RestorePoint { time: time(main, 0)?, name: &name[..length] })
        }
        END_OF_RECOVERY => {
            let main = main()?;
            Some(Milestone::EndOfRecovery {
                time: time(main, 0)?,
                timeline: TimelineId::new(u32_at(main, 8)?)?,
            })
        }
        OVERWRITE => {
            let main = main()?;
            Some(Milestone::Overwritten { record: Lsn(u64_at(main, 0)?), time: time(main, 8)? })
        }
        _ => None,
    }
}
