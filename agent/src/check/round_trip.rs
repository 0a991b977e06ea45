//! The proof: WAL that is written now arrives in the repository.

use std::time::{Duration, Instant};

use proto::Lsn;
use proto::wal::SegmentName;
use restore::conf::identifier;
use tokio::time::sleep;

use super::gather::Sources;
use super::observed::{Observed, Server};
use crate::backup::facts::Sql;
use crate::finding::Finding;

const CODE: &str = "round_trip";

/// Between two looks into the repository.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Has the server write something and end its segment, and waits until that segment is in the repository.
pub(super) async fn prove(observed: &Observed, sources: &Sources, timeout: Duration) -> Finding {
    let skipped = |why: &str, fix: &str| Finding::error(CODE, format!("nothing is proven: {why}"), fix);
    let Ok(server) = &observed.server else { return skipped("the server does not answer", "see above") };
    let (Some(sql), Some(branch), Some((identity, size))) =
        (&sources.sql, &sources.branch, &sources.identity)
    else {
        return skipped("the findings above have to be mended first", "see above");
    };
    if server.in_recovery {
        return Finding::warning(
            CODE,
            "nothing is proven: a standby writes no WAL of its own",
            "run `walkeep check` against the primary",
        );
    }
    if !server.may_switch_wal {
        return Finding::warning(
            CODE,
            format!("nothing is proven: the role \"{}\" may not end a WAL segment", server.role),
            format!(
                "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO {};  -- in the database {}",
                identifier(&server.role),
                observed.database
            ),
        );
    }
    if !somebody_ships(observed, server) {
        return skipped(
            "neither does an agent stream, nor does the archiver hand WAL to walkeep",
            "see above",
        );
    }
    let begun = Instant::now();
    let end = match switch(sql).await {
        Ok(end) => end,
        Err(error) => return skipped(&format!("{error:#}"), "see the server's log"),
    };
    let segment = SegmentName::new(identity.timeline, size.segment_before(end), *size);
    let mut last = None;
    while begun.elapsed() < timeout {
        // Durable: the repository lists it, and a segment is visible only when all of it is stored.
        match branch.segment_digest(segment).await {
            Ok(Some(_)) => {
                let took = begun.elapsed().as_secs_f64();
                return Finding::ok(
                    CODE,
                    format!(
                        "WAL up to {end} was written and is in the repository {took:.2} s later ({segment})"
                    ),
                );
            }
            Ok(None) => {}
            Err(error) => last = Some(error.to_string()),
        }
        sleep(LOOK_AGAIN).await;
    }
    let why = last.map(|error| format!(": {error}")).unwrap_or_default();
    Finding::error(
        CODE,
        format!(
            "WAL up to {end} was written and is not in the repository {} s later{why}",
            timeout.as_secs()
        ),
        "walkeep status  # what the agent does; the server's log has what archive-cmd says",
    )
}

/// Whether waiting makes sense at all.
fn somebody_ships(observed: &Observed, server: &Server) -> bool {
    let streams = observed.agent.as_ref().is_ok_and(|agent| agent.state == "streaming");
    streams || server.archives_to_us()
}

/// Ends the current segment, which gets a record of ours first: a server that has written nothing would not switch.
async fn switch(sql: &Sql) -> anyhow::Result<Lsn> {
    sql.rows("SELECT pg_logical_emit_message(false, 'walkeep', 'check')").await?;
    let rows = sql.rows("SELECT pg_switch_wal()").await?;
    let end = rows.into_iter().next().and_then(|row| row.into_iter().next().flatten());
    Ok(end.unwrap_or_default().parse()?)
}
