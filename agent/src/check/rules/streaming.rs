//! The slot, the connections, and the agent that uses them.

use super::super::observed::{Observed, Server};
use super::{literal, set, set_and_restart};
use crate::finding::Finding;

/// Connections that must be left for a backup: its own, and one for the WAL that it receives by itself.
const FOR_A_BACKUP: i64 = 2;

pub(super) fn max_wal_senders(_: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "max_wal_senders";
    let most = server.number(CODE)?;
    let free = most - i64::from(server.senders_used);
    let fix = || set_and_restart(CODE, &(most.max(0) + 10).to_string());
    Some(if most == 0 {
        Finding::error(CODE, "max_wal_senders is 0: nobody can replicate", fix())
    } else if free < FOR_A_BACKUP {
        Finding::warning(
            CODE,
            format!("of {most} replication connections {free} are free: a backup needs {FOR_A_BACKUP}"),
            fix(),
        )
    } else {
        Finding::ok(CODE, format!("{free} of {most} replication connections are free"))
    })
}

pub(super) fn max_replication_slots(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "max_replication_slots";
    if !observed.config.stream.enabled {
        return None;
    }
    let most = server.number(CODE)?;
    let used = i64::from(server.slots_used);
    Some(if most <= used && server.slot.is_none() {
        Finding::error(
            CODE,
            format!("all {most} replication slots are in use, and none of them is ours"),
            set_and_restart(CODE, &(most + 10).to_string()),
        )
    } else {
        Finding::ok(CODE, format!("{used} of {most} replication slots are in use"))
    })
}

pub(super) fn slot(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "slot";
    if !observed.config.stream.enabled {
        return None;
    }
    let name = &observed.config.stream.slot;
    let quoted = literal(name.as_str());
    let create = format!("SELECT pg_create_physical_replication_slot({quoted}, true);");
    let Some(slot) = &server.slot else {
        return Some(Finding::error(
            CODE,
            format!(
                "there is no replication slot \"{name}\": the server may remove WAL before the agent has it"
            ),
            create,
        ));
    };
    let anew = || format!("SELECT pg_drop_replication_slot({quoted});\n{create}");
    Some(if !slot.physical {
        Finding::error(
            CODE,
            format!("the replication slot \"{name}\" is for logical replication: it is somebody else's"),
            super::toml("stream", "slot = \"walkeep_physical\""),
        )
    } else if slot.lost {
        Finding::error(
            CODE,
            format!(
                "the replication slot \"{name}\" is lost: the server has removed WAL that the agent did not have yet"
            ),
            anew() + "\n-- then take a backup: `walkeep list` shows whether there is a gap",
        )
    } else {
        let Some(from) = slot.restart_lsn else {
            return Some(Finding::error(
                CODE,
                format!("the replication slot \"{name}\" keeps no WAL"),
                anew(),
            ));
        };
        Finding::ok(CODE, format!("the replication slot \"{name}\" keeps WAL from {from} on"))
    })
}

pub(super) fn max_slot_wal_keep_size(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "max_slot_wal_keep_size";
    if !observed.config.stream.enabled {
        return None;
    }
    let megabytes = server.number(CODE)?;
    if megabytes >= 0 {
        return Some(Finding::ok(
            CODE,
            format!(
                "while the agent is away the slot keeps up to {megabytes} MB of WAL; beyond that the server goes on, and \
                 there may be a gap"
            ),
        ));
    }
    // Half of what is free now; where that cannot be seen, what most disks can spare.
    let free = server.space.as_ref().map_or(20 << 30, |space| space.free);
    Some(Finding::warning(
        CODE,
        "max_slot_wal_keep_size is -1: while the agent is away the slot keeps all WAL, until the disk is full and the \
         server stops",
        set(CODE, &format!("{}MB", (free / 2) >> 20)),
    ))
}

pub(super) fn idle_replication_slot_timeout(observed: &Observed, server: &Server) -> Option<Finding> {
    const CODE: &str = "idle_replication_slot_timeout";
    if !observed.config.stream.enabled || server.major() < 18 {
        return None;
    }
    Some(match server.number(CODE)? {
        0 => Finding::ok(CODE, "an idle slot is not taken away"),
        after => Finding::warning(
            CODE,
            format!(
                "idle_replication_slot_timeout is {after} s: an agent that is away for longer loses its slot"
            ),
            set(CODE, "0"),
        ),
    })
}

pub(super) fn agent(observed: &Observed) -> Finding {
    const CODE: &str = "agent";
    const START: &str = "walkeep run  # under your service manager";
    let stream = observed.config.stream.enabled;
    match &observed.agent {
        Err(why) if stream => Finding::error(CODE, format!("no agent is running: {why}"), START),
        Err(why) => {
            Finding::warning(CODE, format!("no agent is running ({why}): archive-cmd ships by itself"), START)
        }
        Ok(agent) if !stream || agent.state == "streaming" => {
            let lag = agent.lag_seconds.map(|lag| format!(", {lag:.1} s behind")).unwrap_or_default();
            Finding::ok(
                CODE,
                format!("the agent is running{}", if stream { format!(" and streams{lag}") } else { lag }),
            )
        }
        Ok(agent) => {
            let why = agent.last_error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
            Finding::error(
                CODE,
                format!("the agent is running, but does not stream ({}){why}", agent.state),
                "walkeep status  # and the agent's log",
            )
        }
    }
}
