//! The questions, each in one place. They need no more than `pg_monitor`, and are answered from the catalogue and from what the
//! server counts: no table is read.
//!
//! Each answers with one row for each thing, whose columns are called as the fields of `observed` are.

use std::time::Duration;

/// How our sessions behave: they change nothing, wait for nobody for long, and need no temporary files.
pub(super) const SETTINGS: &str = "SET statement_timeout = '10s'; SET lock_timeout = '500ms'; \
    SET default_transaction_read_only = on; SET search_path = pg_catalog; SET work_mem = '8MB'";

/// How much of a statement is shown.
const SHOWN: u32 = 300;

/// The beginning of a statement. Of one that may have a password in it nothing is told.
fn shown(query: &str) -> String {
    format!(
        "CASE WHEN {query} ILIKE '%password%' THEN '(not shown: PASSWORD)' ELSE left({query}, {SHOWN}) END"
    )
}

/// So many tables of each kind of interest are looked at in a database.
const MOST_TABLES: u32 = 30;

/// So many sessions are shown.
const MOST_SESSIONS: u32 = 100;

/// So many slow statements are shown.
const MOST_STATEMENTS: u32 = 10;

/// The end of the WAL that this server has.
const END_OF_WAL: &str =
    "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END";

/// The server, in one row.
pub(super) const SERVER: &str = "SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS in_recovery, \
     pg_postmaster_start_time() AS started_at, (SELECT stats_reset FROM pg_stat_bgwriter) AS counted_since, \
     current_setting('autovacuum_freeze_max_age')::bigint AS freeze_max_age, \
     current_setting('autovacuum_multixact_freeze_max_age')::bigint AS multixact_freeze_max_age, \
     pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint AS replay_lag_bytes, \
     CASE WHEN pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn() \
     THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) END AS replay_lag_seconds, \
     (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory, \
     current_setting('max_wal_size') AS max_wal_size";

/// Connections that are to be had by those who are no superusers. `reserved_connections` came with 16.
pub(super) const LIMIT: &str = "SELECT current_setting('max_connections')::int \
     - current_setting('superuser_reserved_connections')::int \
     - coalesce(current_setting('reserved_connections', true), '0')::int AS connections";

/// Connections by state.
pub(super) const CONNECTIONS: &str = "SELECT coalesce(state, 'unknown') AS state, count(*) AS connections \
     FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1";

/// Sessions of which there is something to tell. Who blocks whom is only asked of those that wait for a lock: it takes
/// the lock manager's own locks.
pub(super) fn sessions(open_for: Duration) -> String {
    format!(
        "WITH waiting AS MATERIALIZED (SELECT pid, pg_blocking_pids(pid) AS blocked_by FROM pg_stat_activity \
         WHERE wait_event_type = 'Lock') \
         SELECT a.pid, a.datname AS database, a.usename AS role, a.application_name AS application, a.state, \
         a.wait_event_type || ': ' || a.wait_event AS wait_event, \
         extract(epoch FROM clock_timestamp() - a.xact_start) AS transaction_seconds, \
         extract(epoch FROM clock_timestamp() - a.query_start) AS statement_seconds, \
         extract(epoch FROM clock_timestamp() - a.state_change) AS state_seconds, \
         coalesce(w.blocked_by, '{{}}') AS blocked_by, {} AS query \
         FROM pg_stat_activity a LEFT JOIN waiting w USING (pid) \
         WHERE a.pid <> pg_backend_pid() AND (w.pid IS NOT NULL \
         OR a.pid IN (SELECT unnest(blocked_by) FROM waiting) \
         OR a.backend_type = 'client backend' AND a.xact_start < clock_timestamp() - interval '{} s') \
         ORDER BY a.xact_start LIMIT {MOST_SESSIONS}",
        shown("a.query"),
        open_for.as_secs_f64()
    )
}

/// Standbys. Who replays nothing, such as the agent, is measured by what it has flushed.
pub(super) fn standbys() -> String {
    format!(
        "SELECT application_name AS name, state, sync_state, \
         pg_wal_lsn_diff({END_OF_WAL}, coalesce(replay_lsn, flush_lsn, sent_lsn))::bigint AS lag_bytes \
         FROM pg_stat_replication ORDER BY 1"
    )
}

/// Slots. One that was never used has no status.
pub(super) fn slots() -> String {
    format!(
        "SELECT slot_name AS name, active, coalesce(wal_status, 'none') AS wal_status, \
         pg_wal_lsn_diff({END_OF_WAL}, restart_lsn)::bigint AS retained_bytes \
         FROM pg_replication_slots WHERE NOT temporary ORDER BY 1"
    )
}

/// Checkpoints: 17 gave them a view of their own.
pub(super) fn checkpoints(major: u32) -> &'static str {
    if major >= 17 {
        "SELECT num_timed AS timed, num_requested AS requested, stats_reset AS counted_since \
         FROM pg_stat_checkpointer"
    } else {
        "SELECT checkpoints_timed AS timed, checkpoints_req AS requested, stats_reset AS counted_since \
         FROM pg_stat_bgwriter"
    }
}

/// Databases. What one counts may have been set back on its own, or with all the rest after a crash.
pub(super) const DATABASES: &str = "SELECT d.datname AS name, coalesce(pg_database_size(d.oid), 0) AS size_bytes, age(d.datfrozenxid) AS xid_age, \
     mxid_age(d.datminmxid) AS multixact_age, coalesce(s.xact_commit, 0) AS commits, \
     coalesce(s.blks_hit, 0) AS blocks_hit, coalesce(s.blks_read, 0) AS blocks_read, \
     coalesce(s.temp_files, 0) AS temp_files, coalesce(s.temp_bytes, 0) AS temp_bytes, \
     coalesce(s.deadlocks, 0) AS deadlocks, \
     greatest(s.stats_reset, (SELECT stats_reset FROM pg_stat_bgwriter)) AS counted_since, \
     d.datallowconn AND NOT d.datistemplate AS open, has_database_privilege(d.oid, 'CONNECT') AS admits \
     FROM pg_database d LEFT JOIN pg_stat_database s ON s.datid = d.oid ORDER BY size_bytes DESC, name";

/// What is locked for its owner alone: its size cannot be asked for without waiting.
const LOCKED: &str = "locked AS MATERIALIZED (SELECT l.relation FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
     WHERE d.datname = current_database() AND l.mode = 'AccessExclusiveLock')";

/// Tables of this database: the largest, and those that stand out. Partitions count by themselves.
pub(super) fn tables() -> String {
    format!(
        "WITH {LOCKED}, t AS MATERIALIZED (SELECT c.oid, format('%I.%I', s.schemaname, s.relname) AS name, \
         greatest(c.relpages, s.n_live_tup / 100) AS pages, s.* \
         FROM pg_stat_all_tables s JOIN pg_class c ON c.oid = s.relid \
         WHERE c.relpersistence <> 't' AND s.schemaname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')), \
         chosen AS ((SELECT oid FROM t ORDER BY pages DESC LIMIT {MOST_TABLES}) \
         UNION (SELECT oid FROM t ORDER BY n_dead_tup DESC LIMIT {MOST_TABLES}) \
         UNION (SELECT oid FROM t ORDER BY seq_tup_read DESC LIMIT {MOST_TABLES}) \
         UNION (SELECT oid FROM t WHERE last_analyze IS NULL AND last_autoanalyze IS NULL \
         ORDER BY n_mod_since_analyze DESC LIMIT {MOST_TABLES})) \
         SELECT name, CASE WHEN oid NOT IN (SELECT relation FROM locked) THEN pg_total_relation_size(oid) END AS size_bytes, \
         n_live_tup AS live_rows, n_dead_tup AS dead_rows, n_mod_since_analyze AS changed_rows, \
         seq_scan AS sequential_scans, seq_tup_read AS sequential_rows, coalesce(idx_scan, 0) AS index_scans, \
         greatest(last_vacuum, last_autovacuum) AS last_vacuum, greatest(last_analyze, last_autoanalyze) AS last_analyze \
         FROM t WHERE oid IN (SELECT oid FROM chosen) ORDER BY size_bytes DESC NULLS FIRST"
    )
}

/// Indexes of this database that stand out. Two do the same if they are of one method over the same columns or
/// expressions, in one order, with one condition; what is different in their expressions is where in a statement they stood.
pub(super) fn indexes() -> String {
    let plain = |tree: &str| format!("regexp_replace(x.{tree}::text, ':location -?[0-9]+', '', 'g')");
    let (expressions, condition) = (plain("indexprs"), plain("indpred"));
    format!(
        "WITH {LOCKED}, i AS MATERIALIZED (SELECT x.indexrelid AS oid, x.indrelid, \
         format('%I.%I', n.nspname, c.relname) AS name, format('%I.%I', tn.nspname, t.relname) AS table, \
         EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid) AS constrains, \
         x.indisunique OR x.indisreplident AS is_needed, NOT x.indisvalid AS invalid, \
         x.indisvalid AND s.idx_scan = 0 AS is_idle, \
         first_value(x.indexrelid) OVER (PARTITION BY x.indrelid, c.relam, x.indkey::text, x.indclass::text, \
         x.indcollation::text, x.indoption::text, {expressions}, {condition} \
         ORDER BY x.indisvalid DESC, x.indisreplident DESC, EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid) DESC, \
         x.indisunique DESC, x.indexrelid) AS first \
         FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_class t ON t.oid = x.indrelid JOIN pg_namespace tn ON tn.oid = t.relnamespace \
         JOIN pg_stat_all_indexes s ON s.indexrelid = x.indexrelid \
         WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND c.relpersistence <> 't'), \
         told AS (SELECT *, is_idle AND NOT is_needed AND NOT constrains AS unused, \
         first <> oid AND NOT constrains AND NOT invalid AS duplicate FROM i) \
         SELECT name, \"table\", CASE WHEN oid NOT IN (SELECT relation FROM locked) \
         AND indrelid NOT IN (SELECT relation FROM locked) THEN pg_relation_size(oid) END AS size_bytes, unused, invalid, \
         CASE WHEN duplicate THEN (SELECT o.name FROM i o WHERE o.oid = told.first) END AS duplicate_of \
         FROM told WHERE unused OR invalid OR duplicate ORDER BY size_bytes DESC NULLS LAST, name LIMIT 200"
    )
}

/// Whether, and in which schema, `pg_stat_statements` is to be had in this database.
pub(super) const HAS_STATEMENTS: &str = "SELECT format('%I', n.nspname) AS schema FROM pg_extension e \
     JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements' \
     AND EXISTS (SELECT FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = n.oid \
     AND c.relname = 'pg_stat_statements' AND a.attname = 'total_exec_time')";

/// What it tells of each database, and of its slowest statements. `schema` is quoted.
pub(super) fn statements(schema: &str) -> String {
    format!(
        "SELECT d.datname AS database, sum(s.calls)::bigint AS calls, sum(s.total_exec_time) / 1000 AS seconds, \
         (SELECT coalesce(json_agg(w), '[]') FROM (SELECT {} AS query, q.calls, \
         q.total_exec_time / 1000 AS seconds FROM {schema}.pg_stat_statements q WHERE q.dbid = d.oid \
         ORDER BY q.total_exec_time DESC LIMIT {MOST_STATEMENTS}) w) AS slowest \
         FROM {schema}.pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid GROUP BY d.oid, d.datname",
        shown("q.query")
    )
}
